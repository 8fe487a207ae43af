"""Checkpoints of one run, without a pickle: written whole or not at all, checked on loading."""

from study.checkpoint.store import (
    TrainState,
    best_path,
    claim,
    load_best,
    load_last,
    load_step,
    save,
)
from study.remote import StaleAttempt

__all__ = ["StaleAttempt", "TrainState", "best_path", "claim", "load_best", "load_last", "load_step", "save"]
