"""Names that the study file may use: metrics with their direction, classes of each task, values that come later.

Mirrored here as literals, because the tables themselves live in rooms that import torch; a test holds both equal.
"""

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
CLASS_NAMES: Final[dict[str, tuple[str, ...]]] = {"birads3": ("normal", "benign", "malignant")}
SEGMENT_COLUMNS: Final = ("source", "manufacturer", "model", "view", "laterality", "density", "image_kind")
LATER: Final[dict[str, tuple[str, ...]]] = {
    "search.algorithm": ("grid", "gp", "nsga2"),
    "search.pruner.name": ("median", "percentile", "hyperband", "asha", "patient", "threshold", "wilcoxon"),
}
NOW: Final = {"search.algorithm": "tpe or random", "search.pruner.name": "none or successive_halving"}


def mode_of(metric: str) -> Mode:
    """Direction in which a metric of the table, with or without its prefix, gets better."""
    name = metric.rsplit("/", maxsplit=1)[-1]
    return METRIC_MODE.get(name, "max")
