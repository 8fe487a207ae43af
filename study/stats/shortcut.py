"""An alarm for shortcuts: is the area of the pooled set much above those within its segments?

A pooled area counts pairs of a positive and a negative case from one segment and pairs from two segments. A network
that recognises the segment gains only on the second kind, and most when positives come from one place and negatives
from another (periodic-sampling paper, 2022, figure 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.stats.bootstrap import RESAMPLES, bootstrap_difference
from study.stats.ranking import area_metric, checked_binary
from study.stats.resampling import Counts, Metric, Resampling, named, resampling
from study.stats.samples import NAN, Floats

ALARM_MARGIN: Final = 0.05
ALARM_SHARE: Final = 0.2  # of what the local areas lack to 1: a strong network leaves a shortcut little room


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortcutAlarm:
    """Pooled area, plain mean of the local ones, their difference with its interval, and whether that is alarming.

    ``state`` is ``raised`` when the difference exceeds ``threshold`` and its interval lies above 0, ``quiet`` when not,
    and ``undefined`` when it cannot be told; ``reason`` then says why. ``local`` holds the area of each segment, NaN
    where it lacks a class, and ``class_counts`` its negative and positive rows.
    """

    pooled: float
    local: dict[str, float]
    class_counts: dict[str, tuple[int, int]]
    state: Literal["raised", "quiet", "undefined"] = "undefined"
    local_mean: float = NAN
    difference: float = NAN
    threshold: float = NAN
    low: float = NAN
    high: float = NAN
    reason: str = ""


def shortcut_alarm(
    scores: ArrayLike,
    labels: ArrayLike,
    segments: ArrayLike,
    *,
    rows: Resampling | None = None,
    margin: float = ALARM_MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ShortcutAlarm:
    """Compare the pooled area with the local ones, on the same resamples.

    The threshold is 0.05, or a fifth of what the mean local area lacks to 1 where that is less. Both conditions are
    needed: the interval keeps small sets from crying wolf, the threshold keeps large ones from calling a harmless
    difference in case mix a shortcut. ``docs/statistics.md`` says where the numbers come from.

    Args:
        scores: shape [N], of one class.
        labels: 0 and 1 (or False and True), shape [N].
        segments: names, shape [N]; a missing one is ``unknown``.
        rows: what is drawn, from ``resampling``; images within each segment by default. For patients pass
            ``resampling(N, groups=patients)``.
        margin: in place of 0.05.
        resamples: of the interval (95 %).
        seed: of the draws.

    Raises:
        InputError: shapes or labels that do not fit, or scores that are not finite.
    """
    column, is_positive = checked_binary(scores, labels)
    segment_n = named(segments, num_rows=len(column), name="segments")
    members = {str(name): np.flatnonzero(segment_n == name) for name in np.unique(segment_n)}
    areas = {name: _area_within(column, is_positive, member) for name, member in members.items()}
    once = np.ones(len(column), dtype=np.int64)
    local = {name: area(once) for name, area in areas.items()}
    usable = [areas[name] for name, value in local.items() if np.isfinite(value)]
    counts = {name: _class_counts(is_positive[member]) for name, member in members.items()}
    pooled_area = area_metric(column, is_positive)
    alarm = ShortcutAlarm(pooled=pooled_area(once), local=local, class_counts=counts)
    if len(members) < 2 or not usable:
        trouble = "there are fewer than two segments" if len(members) < 2 else "no segment has both classes"
        return replace(alarm, reason=trouble)
    found = bootstrap_difference(
        pooled_area,
        _mean_of(usable),
        rows or resampling(len(column), strata=segment_n),
        resamples=resamples,
        seed=seed,
    )
    threshold = min(margin, ALARM_SHARE * (1 - found.value_b))
    is_raised = found.difference > threshold and found.low > 0
    return replace(
        alarm,
        state="raised" if is_raised else "quiet" if np.isfinite(found.low) else "undefined",
        local_mean=found.value_b,
        difference=found.difference,
        threshold=threshold,
        low=found.low,
        high=found.high,
        reason=found.reason,
    )


def _area_within(column: Floats, is_positive: NDArray[np.bool_], member: Counts) -> Metric:
    inside = area_metric(column[member], is_positive[member])
    return lambda count_n: inside(count_n[member])


def _mean_of(areas: Sequence[Metric]) -> Metric:
    return lambda count_n: float(np.mean([area(count_n) for area in areas]))


def _class_counts(is_positive_n: NDArray[np.bool_]) -> tuple[int, int]:
    num_positive = int(is_positive_n.sum())
    return len(is_positive_n) - num_positive, num_positive
