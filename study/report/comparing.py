"""Studies side by side: what differs in their files, what came out, what it cost, and whether the difference is real.

Values are compared only where they are of one kind: the same metric, the same prepared dataset (so the same test split)
and several seeds on each side. The configuration that speaks for a study is its best one on the validation split, so
that the test split chooses nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from study.config import StudyConfig, changed_paths
from study.report.ranking import BASELINE, SIGNIFICANT, ranked, test_metric
from study.report.words import and_list, number, probability
from study.types import ConfirmRow, StudyResult, TrialRow

POOLED: Final = ("val/breast/", "val/exam/")
NO_VALUE: Final = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A study that is compared; ``fingerprint`` is that of its prepared dataset, empty before it has one."""

    config: StudyConfig
    result: StudyResult
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """The study's name."""
        return self.config.study

    @property
    def best(self) -> TrialRow | None:
        """The best complete trial that keeps the constraints."""
        rows = [row for row in ranked(self.result) if row.state == "complete" and row.is_feasible and not row.repeats]
        return rows[0] if rows else None

    @property
    def confirmed(self) -> ConfirmRow | None:
        """The confirmed configuration that was the best on the validation split; else the baseline."""
        rows = {row.trial: row for row in self.result.confirmed}
        order = [row.trial for row in ranked(self.result) if row.state == "complete"]
        return next((rows[trial] for trial in [*order, BASELINE] if trial in rows), None)

    @property
    def cost(self) -> dict[str, float]:
        """What the trials of the search have cost together: seconds, device-seconds, images."""
        rows = self.result.rows
        return {
            "seconds": sum(row.seconds for row in rows),
            "device_seconds": sum(row.device_seconds for row in rows),
            "images": sum(row.images for row in rows),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One study against the first: ``difference`` is its mean on the test split minus that of the first.

    ``low`` to ``high`` is its 95 % interval and ``p`` the p-value by Welch's test over seeds, ``p_holm`` the same after
    Holm's correction over all comparisons. ``reason`` says why there is none; numbers are NaN then.
    """

    first: str
    other: str
    reason: str = ""
    metric: str = ""
    trials: tuple[str, str] = ("", "")
    seeds: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    effect: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All sides, the values of their files that differ by dotted path and study, and each side against the first."""

    sides: tuple[Side, ...]
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compared: tuple[Compared, ...] = ()


def compare_studies(sides: Sequence[Side]) -> Comparison:
    """Compare two or more studies; the first is what the others are held against."""
    first, *others = sides
    found = [_compare(first, other) for other in others]
    return Comparison(sides=tuple(sides), differences=_differences(sides), compared=tuple(_corrected(found)))


def _differences(sides: Sequence[Side]) -> dict[str, dict[str, Any]]:
    """Values by path and study, of the paths in which any study differs from the first; names of studies left out."""
    first = sides[0]
    paths = dict.fromkeys(path for other in sides[1:] for path in changed_paths(first.config, other.config))
    trees = {side.name: side.config.model_dump(mode="json") for side in sides}
    return {path: {name: value_at(tree, path) for name, tree in trees.items()} for path in paths if path != "study"}


def value_at(tree: object, path: str) -> Any:
    """The value at a dotted path of plain data; ``absent`` where there is none."""
    here = tree
    for key in path.split("."):
        if isinstance(here, Mapping) and key in here:
            here = here[key]
        elif isinstance(here, list) and key.isdecimal() and int(key) < len(here):
            here = here[int(key)]
        else:
            return NO_VALUE
    return here


def _compare(first: Side, other: Side) -> Compared:
    from study.stats import hedges_g, welch  # with scipy, half a second

    reason = why_not(first, other)
    if reason:
        return Compared(first=first.name, other=other.name, reason=reason)
    left, right = first.confirmed, other.confirmed
    assert left is not None  # noqa: S101 - why_not has looked
    assert right is not None  # noqa: S101 - why_not has looked
    test = welch(right.values, left.values)
    return Compared(
        first=first.name,
        other=other.name,
        reason=test.reason,
        metric=test_metric(first.result),
        trials=(left.trial, right.trial),
        seeds=(left.seeds, right.seeds),
        difference=test.difference,
        low=test.low,
        high=test.high,
        p=test.p,
        effect=float(hedges_g(right.values, left.values)),
    )


def why_not(first: Side, other: Side) -> str:
    """Why two studies cannot be compared, in words; empty when they can."""
    names = f"{first.name} and {other.name}"
    if first.config.metric != other.config.metric:
        return f"{first.name} optimises {first.config.metric}, {other.name} {other.config.metric}"
    unknown = [side.name for side in (first, other) if not side.fingerprint]
    if unknown:
        return f"{and_list(unknown)} {'has' if len(unknown) == 1 else 'have'} not begun, so the dataset is unknown"
    if first.fingerprint != other.fingerprint:
        return (
            f"{names} have other prepared datasets (fingerprints {first.fingerprint[:12]} and "
            f"{other.fingerprint[:12]}), so other test splits"
        )
    own, its = first.config.evaluate, other.config.evaluate
    if first.config.metric.startswith(POOLED) and (own.pool, own.pooling) != (its.pool, its.pooling):
        return f"{names} pool images into breasts or exams in other ways (evaluate.pool, evaluate.pooling)"
    return next(filter(None, map(_lacks_values, (first, other))), "")


def _lacks_values(side: Side) -> str:
    if side.confirmed is None:
        return f"{side.name} has nothing confirmed on the test split (`study confirm {side.name}`)"
    if len(side.confirmed.values) < 2:
        return f"{side.name} is confirmed with one seed, and a p-value needs two at least (confirm.seeds)"
    return ""


def _corrected(found: Sequence[Compared]) -> list[Compared]:
    known = [one.p for one in found if not math.isnan(one.p)]
    if not known:
        return list(found)
    from study.stats import holm

    corrected = iter(holm(known))
    return [one if math.isnan(one.p) else replace(one, p_holm=float(next(corrected))) for one in found]


def sentence(one: Compared, *, mode: str, several: bool) -> str:
    """What one comparison establishes, and between what."""
    if one.reason:
        return f"{one.other} against {one.first}: not compared: {one.reason}."
    names = [f"{study}'s {_spokesman(trial)}" for study, trial in zip((one.first, one.other), one.trials, strict=True)]
    p = one.p_holm if several else one.p
    counts = " and ".join(str(len(seeds)) for seeds in reversed(one.seeds))
    test = f"Welch's test over {counts} seeds{', after Holm' if several else ''}"
    text = (
        f"{one.metric}, {names[1]} minus {names[0]}: {_signed(one.difference)} "
        f"(95 % interval {_signed(one.low)} to {_signed(one.high)}), p {_p_text(p)} ({test})"
    )
    if p >= SIGNIFICANT:
        return f"{text}: no difference is established."
    is_better = one.difference > 0 if mode == "max" else one.difference < 0
    return f"{text}: {one.other} is {'better' if is_better else 'worse'}."


def _spokesman(trial: str) -> str:
    return BASELINE if trial == BASELINE else f"trial {trial}"


def _p_text(p: float) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"
