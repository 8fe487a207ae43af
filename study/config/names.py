"""Names that the study file may use: metrics with their direction, classes of each task, values that come later.

Mirrored here as literals, because the tables themselves live in rooms that import torch; a test holds both equal.
"""

from collections.abc import Sequence
from typing import Final, Literal

DEFAULT_METRIC: Final = "val/auroc_macro"

Mode = Literal["max", "min"]

METRIC_MODE: Final[dict[str, Mode]] = {
    "auroc_macro": "max",
    "f1_macro": "max",
    "accuracy": "max",
    "balanced_accuracy": "max",
    "precision_macro": "max",
    "recall_macro": "max",
    "specificity_macro": "max",
    "mcc": "max",
    "qwk": "max",
    "grade_mae": "min",
    "log_loss": "min",
    "weighted_log_loss": "min",
    "ece": "min",
    "brier": "min",
    "segment_gap_auroc": "min",
    "pooled_minus_local_auroc": "min",
}
SEGMENT_SUMMARIES: Final = ("segment_gap_auroc", "pooled_minus_local_auroc")
CLASS_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "birads3": ("normal", "benign", "malignant"),
    "birads": ("birads_1", "birads_2", "birads_3", "birads_4", "birads_5", "birads_6"),
    "acr": ("acr_1", "acr_2", "acr_3", "acr_4", "acr_5", "acr_6"),
    "binary": ("benign", "malignant"),
    "density": ("A", "B", "C", "D"),
    "view": ("CC", "MLO"),
    "classes": (),  # the file names them
}
SUB_GRADES: Final = (*CLASS_NAMES["birads"][:3], "birads_4a", "birads_4b", "birads_4c", *CLASS_NAMES["birads"][4:])
SPLITS: Final = ("train", "val", "test")
NUMBER_COLUMNS: Final = ("age", "rows", "cols", "bits_stored", "n_findings", "file_bytes")
SEGMENT_COLUMNS: Final = ("source", "manufacturer", "model", "view", "laterality", "density", "image_kind")


def class_names(task: str, *, classes: Sequence[str] = (), sub_grades: bool = False) -> tuple[str, ...]:
    """Names of a task's classes in order of grade; empty for an unknown task.

    ``classes`` are those of the task ``classes``; ``sub_grades`` parts BI-RADS 4 into 4a, 4b and 4c.
    """
    if task == "classes":
        return tuple(classes)
    return SUB_GRADES if task == "birads" and sub_grades else CLASS_NAMES.get(task, ())


def mode_of(metric: str) -> Mode:
    """Direction in which a metric of the table, with or without its prefix, gets better."""
    name = metric.rsplit("/", maxsplit=1)[-1]
    return METRIC_MODE.get(name, "max")
