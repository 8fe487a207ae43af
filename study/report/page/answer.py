"""The answer in one sentence: by how much, is it real, and does it hold after correction."""

import math
from dataclasses import dataclass
from typing import Final

from study.report.page.evidence import Arm, Evidence
from study.report.ranking import BASELINE, SIGNIFICANT, test_metric
from study.report.words import number, params_text, probability
from study.stats import welch
from study.types import ConfirmRow, TrialRow

NAMES: Final = {
    "auroc_macro": "macro AUROC",
    "f1_macro": "macro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
    "specificity_macro": "macro specificity",
    "mcc": "Matthews correlation",
    "qwk": "quadratic kappa",
    "grade_mae": "grade MAE",
    "log_loss": "log loss",
    "weighted_log_loss": "weighted log loss",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
    "segment_gap_auroc": "gap of segments' AUROC",
    "pooled_minus_local_auroc": "pooled minus local AUROC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The chosen configuration against the baseline: mean difference over seeds with its Welch interval."""

    row: ConfirmRow
    base: ConfirmRow
    difference: float
    low: float
    high: float
    is_better: bool

    @property
    def holds(self) -> bool:
        """Whether the difference holds after Holm's correction."""
        return not math.isnan(self.row.p_holm) and self.row.p_holm < SIGNIFICANT


def metric_name(metric: str) -> str:
    """A metric in words, with where it was read: ``macro AUROC`` for ``val/auroc_macro``."""
    *where, name = metric.split("/")
    place = [part for part in where if part not in ("val", "test")]
    if name.startswith("auroc_") and name != "auroc_macro":
        words = f"AUROC of {name.removeprefix('auroc_')}"
    else:
        words = NAMES.get(name, name.replace("_", " "))
    return f"{words} ({' '.join(place)})" if place else words


def chosen_row(evidence: Evidence) -> ConfirmRow | None:
    """The confirmed configuration that validation puts first over all its seeds; the test split has no say in it."""
    row = next(iter(evidence.rows_to_show()), None)
    return row if isinstance(row, ConfirmRow) and row.trial != BASELINE else None


def compared(evidence: Evidence) -> Comparison | None:
    """The comparison that the answer is about; None without both sides."""
    row, base = chosen_row(evidence), evidence.confirmed(BASELINE)
    if row is None or base is None:
        return None
    test = welch(row.values, base.values)
    more = evidence.result.mode == "max"
    return Comparison(
        row=row,
        base=base,
        difference=test.difference,
        low=test.low,
        high=test.high,
        is_better=test.difference > 0 if more else test.difference < 0,
    )


def answer(evidence: Evidence) -> tuple[str, str]:
    """The one-line answer, and what has to be kept in mind with it."""
    result, comparison = evidence.result, compared(evidence)
    if comparison is not None:
        return _of_comparison(evidence, comparison)
    best = evidence.chosen
    confirm = evidence.command("confirm")
    if not result.confirmed and best is not None:
        row = next(row for row in result.rows if row.trial == best.trial)
        text = (
            f"Trial {best.trial} ({params_text(best.params) or 'the study file as it is'}) is the best so far: "
            f"{metric_name(result.metric)} {number(row.value)} on validation, {_of_runs(row)}."
        )
        return text, f"Nothing is confirmed: the search has chosen on these images. To repeat it with seeds: {confirm}"
    if result.confirmed:
        text = f"{_subject(result.confirmed[0])}: {metric_name(test_metric(result))} {_interval(result.confirmed[0])}."
        return text, "There is no confirmed baseline, so no difference can be judged: set confirm.baseline to true."
    return "No trial is complete yet.", f"Go on with: {evidence.command('resume')}"


def _of_runs(row: TrialRow) -> str:
    if not row.runs:
        return "with one seed"
    kind = "folds" if row.runs[0].fold else "seeds"
    sd = "" if math.isnan(row.sd) else f" (SD {number(row.sd)})"
    return f"the mean of {len(row.runs)} {kind}{sd}"


def _of_comparison(evidence: Evidence, found: Comparison) -> tuple[str, str]:
    result, row = evidence.result, found.row
    name = metric_name(test_metric(result))
    num_compared = sum(each.trial != BASELINE for each in result.confirmed)
    caveat = f"Chosen on validation, read on test: {len(row.values)} against {len(found.base.values)} seeds. "
    caveat += "The interval says how another training would come out on these images, not on other patients."
    size = number(abs(found.difference))
    if math.isnan(found.low) or math.isnan(found.difference):
        text = f"{_subject(row)} differs from the baseline by {number(found.difference)} in {name}; "
        return text + "with fewer than two seeds on a side no interval can be given.", caveat
    sign = 1 if found.difference > 0 else -1
    low, high = sorted((sign * found.low, sign * found.high))
    side = "better" if found.is_better else "worse"
    of = f"Holm's correction over {num_compared} {'comparison' if num_compared == 1 else 'comparisons'}"
    interval = f"(95 % CI {number(low)} to {number(high)})"
    if found.holds:
        text = f"{_subject(row)} is {side} than the baseline by {size} {name} {interval}, {_p(row.p)}; "
        return f"{text}it holds after {of} ({_p(row.p_holm)}).", caveat
    text = f"{_subject(row)} is not shown to be {side} than the baseline: "
    text += f"it has {size} {'more' if found.difference > 0 else 'less'} {name} {interval}, {_p(row.p)}; "
    text += f"the difference does not hold after {of} ({_p(row.p_holm)})."
    return text, caveat


def _p(value: float) -> str:
    text = probability(value)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def _subject(row: ConfirmRow | Arm) -> str:
    return f"Trial {row.trial} ({params_text(row.params) or 'the study file as it is'})"


def _interval(row: ConfirmRow) -> str:
    known = not math.isnan(row.low)
    return f"{number(row.mean)} (95 % CI {number(row.low)} to {number(row.high)})" if known else number(row.mean)
