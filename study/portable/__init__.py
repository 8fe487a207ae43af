"""Trained networks on their own: one folder that predicts image files, without Ray, MLflow or the study it came from.

::

    from study.portable import load_model
    model = load_model("exports/quickstart-3-s0")
    model.predict_files(["a.dcm", "b.png"])
"""

from study.portable.folder import load_model, save_model
from study.portable.model import Answers, PortableModel, Sampling
from study.portable.record import ModelRecord, TaskRecord

__all__ = ["Answers", "ModelRecord", "PortableModel", "Sampling", "TaskRecord", "load_model", "save_model"]
