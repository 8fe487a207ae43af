"""The order of trials, and what a confirmation establishes."""

import math
from collections.abc import Sequence
from typing import Final

from study.config import mode_of
from study.report.words import and_list
from study.types import ConfirmRow, StudyResult, TrialRow

BASELINE: Final = "baseline"
SIGNIFICANT: Final = 0.05
_STATE_ORDER: Final = {"complete": 0, "pruned": 1, "failed": 2, "running": 3, "waiting": 4}


def ranked(result: StudyResult) -> list[TrialRow]:
    """The rows, best first: complete by value, then pruned by value, then failed, then what still runs.

    Complete trials that miss a constraint stand behind those that keep all. With several metrics the Pareto front comes
    first, then the next one, and so on; the first metric orders a front.
    """
    sign = -1.0 if result.mode == "max" else 1.0
    fronts = fronts_of(result)

    def key(row: TrialRow) -> tuple[int, bool, int, float, int, str]:
        value = row.value if row.value is not None and not math.isnan(row.value) else math.inf
        by_value = sign * value if math.isfinite(value) else math.inf
        missed = row.state == "complete" and not row.is_feasible
        return _STATE_ORDER[row.state], missed, fronts.get(row.trial, 0), by_value, len(row.trial), row.trial

    return sorted(result.rows, key=key)


def fronts_of(result: StudyResult) -> dict[str, int]:
    """With several metrics, the Pareto front of each complete trial that keeps the constraints, from 1; else empty."""
    if len(result.metrics) < 2:
        return {}
    from study.stats.fronts import front_numbers  # with scipy, half a second

    rows = [row for row in result.rows if row.state == "complete" and row.is_feasible]
    rows = [row for row in rows if len(row.values) == len(result.metrics)]
    modes = [mode_of(metric) for metric in result.metrics]
    numbers = front_numbers([row.values for row in rows], modes)
    return {row.trial: number for row, number in zip(rows, numbers, strict=True)}


def per_device_hour(row: TrialRow) -> float:
    """The metric divided by the device-hours of the trial; NaN without either."""
    return math.nan if row.value is None or row.device_seconds <= 0 else row.value * 3600 / row.device_seconds


def per_cost_ranked(rows: Sequence[TrialRow], *, mode: str) -> list[TrialRow]:
    """Trials with a known cost by what they bring for it, best first; those of unknown cost stand last.

    Where more is better, by the metric per device-hour; where less is better, by the metric times the device-hours.
    """

    def key(row: TrialRow) -> tuple[bool, float, int]:
        hours = row.device_seconds / 3600
        is_known = row.value is not None and hours > 0
        gain = 0.0 if not is_known else -per_device_hour(row) if mode == "max" else float(row.value or 0.0) * hours
        return not (is_known and row.is_feasible), gain, int(row.trial)

    return sorted(rows, key=key)


def cost_front(rows: Sequence[TrialRow], *, mode: str) -> set[str]:
    """Trials that no other beats in value at the same cost or less."""
    from study.stats.fronts import front_numbers  # with scipy, half a second

    known = [row for row in rows if row.value is not None and row.device_seconds > 0 and row.is_feasible]
    numbers = front_numbers([(float(row.value or 0.0), row.device_seconds) for row in known], (mode, "min"))
    return {row.trial for row, number in zip(known, numbers, strict=True) if number == 1}


def confirm_ranked(result: StudyResult) -> list[ConfirmRow]:
    """The confirmed trials by their mean on the test split, best first; the baseline stands last."""
    sign = -1.0 if result.mode == "max" else 1.0
    return sorted(
        result.confirmed,
        key=lambda row: (row.trial == BASELINE, math.inf if math.isnan(row.mean) else sign * row.mean, row.trial),
    )


def test_metric(result: StudyResult) -> str:
    """The study's metric as it is called on the test split: ``test/auroc_macro``."""
    return f"test/{result.metric.split('/', 1)[-1]}"


def verdict(result: StudyResult) -> str:
    """What the confirmation establishes, in one sentence."""
    candidates = [row for row in confirm_ranked(result) if row.trial != BASELINE]
    baseline = next((row for row in result.confirmed if row.trial == BASELINE), None)
    if not candidates:
        return "No trial was confirmed."
    if baseline is None:
        return "No baseline was confirmed, so a difference from it cannot be judged."
    seeds = _seeds_text([*candidates, baseline])
    told = [row for row in candidates if not math.isnan(row.p_holm) and row.p_holm < SIGNIFICANT]
    if not told:
        return f"No difference from the baseline is established with {seeds}."
    parts = [
        part
        for part in (_side(told, baseline, result, better=True), _side(told, baseline, result, better=False))
        if part
    ]
    sentence = " and ".join(parts)
    return (
        f"{sentence[0].upper()}{sentence[1:]} on the test split (p < {SIGNIFICANT:g} after Holm's correction, {seeds})."
    )


def _side(told: Sequence[ConfirmRow], baseline: ConfirmRow, result: StudyResult, *, better: bool) -> str:
    def is_better(row: ConfirmRow) -> bool:
        return row.mean > baseline.mean if result.mode == "max" else row.mean < baseline.mean

    names = [row.trial for row in told if is_better(row) == better]
    if not names:
        return ""
    subject = f"trial {names[0]} is" if len(names) == 1 else f"trials {and_list(names)} are"
    return f"{subject} {'better' if better else 'worse'} than the baseline"


def _seeds_text(rows: Sequence[ConfirmRow]) -> str:
    counts = sorted({len(row.values) for row in rows})
    text = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text} {'seed' if counts[-1] == 1 else 'seeds'}"
