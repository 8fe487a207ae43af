"""MLflow as a mirror of the study: one parent run, one child run per (trial, seed).

Everything goes to a journal in the study directory first; a thread copies the journal to MLflow. A server that is down
delays nothing and loses nothing, and what is delivered twice is there once.
"""

from study.tracking.delivery import has_undelivered
from study.tracking.readback import best_rows, study_config_text
from study.tracking.server import check_answers, default_uri
from study.tracking.tracker import SentRow, Tracker

__all__ = [
    "SentRow",
    "Tracker",
    "best_rows",
    "check_answers",
    "default_uri",
    "has_undelivered",
    "study_config_text",
]
