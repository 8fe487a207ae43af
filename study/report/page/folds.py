"""Which predictions the figures are drawn from, and numbers over their seeds."""

from collections.abc import Sequence

import numpy as np

from study.report.page.evidence import Arm, Evidence, Fold
from study.report.page.parts import Note, Section


def read_folds(arm: Arm | None) -> tuple[list[Fold], str]:
    """The test folds of all seeds of a configuration; without any those of validation; and which of both."""
    if arm is None:
        return [], ""
    if arm.test:
        return list(arm.test.values()), "test"
    return list(arm.val.values()), "val"


def missing_predictions(evidence: Evidence, *, key: str, title: str) -> Section:
    """A section that says why it is empty."""
    if evidence.chosen is None:
        note = Note(
            text="No trial is complete, so there are no predictions.",
            kind="missing",
            command=evidence.command("resume"),
        )
    else:
        text = "The predictions of the runs are not in the study's folder (runs/*/predictions_*.parquet)."
        note = Note(text=text, kind="missing", command=evidence.command("resume"))
    return Section(key=key, title=title, finding="There is nothing to draw this from.", blocks=(note,))


def on_validation(split: str, evidence: Evidence) -> list[Note]:
    """The warning that stands where validation has to serve."""
    if split == "test":
        return []
    text = "Drawn on validation, on which the search has chosen: these numbers are too good. "
    text += "Confirming reads the test split."
    return [Note(text=text, kind="warning", command=evidence.command("confirm"))]


def split_name(split: str) -> str:
    """``test`` or ``validation``."""
    return "test" if split == "test" else "validation"


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample SD; NaN where a value is, and no SD of a single one."""
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean()) if len(sample) else float("nan")
    return mean, float(sample.std(ddof=1)) if len(sample) > 1 else float("nan")
