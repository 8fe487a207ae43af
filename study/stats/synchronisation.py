"""Does one threshold mean the same everywhere? Operating points of each segment, and how far they lie apart.

The periodic-sampling paper (2022, figures 4 and 6) shows by eye that a network with a shortcut works at other points of
the ROC plane in each segment. Here the eye is replaced by distances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from study.stats.operating import THRESHOLDS, OperatingPoint, operating_points
from study.stats.ranking import checked_binary
from study.stats.resampling import named
from study.stats.samples import NAN


@dataclass(frozen=True, slots=True, kw_only=True)
class Synchronisation:
    """Operating points of segments at the same thresholds, and their spread, one number per threshold.

    ``sensitivity_spread`` and ``specificity_spread`` are largest minus smallest; ``distance`` is the largest distance
    of two segments in the ROC plane, at most the square root of 2; ``mean_distance`` is its mean over thresholds: 0
    when a threshold means the same in all segments. Only segments with both classes count; with fewer than two of them
    the spreads are NaN, and ``reason`` says so.
    """

    thresholds: tuple[float, ...]
    points: Mapping[str, tuple[OperatingPoint, ...]]
    sensitivity_spread: tuple[float, ...]
    specificity_spread: tuple[float, ...]
    distance: tuple[float, ...]
    mean_distance: float
    reason: str = ""


def synchronisation(
    scores: ArrayLike, labels: ArrayLike, segments: ArrayLike, *, thresholds: Sequence[float] = THRESHOLDS
) -> Synchronisation:
    """Compare the operating points of segments at the same thresholds.

    Args:
        scores: shape [N], of one class.
        labels: 0 and 1 (or False and True), shape [N].
        segments: names, shape [N]; a missing one is ``unknown``.
        thresholds: at least one, in units of the scores.

    Raises:
        InputError: shapes or labels that do not fit, or scores that are not finite.
    """
    column, is_positive = checked_binary(scores, labels)
    segment_n = named(segments, num_rows=len(column), name="segments")
    points = {}
    for segment in np.unique(segment_n):
        rows = segment_n == segment
        points[str(segment)] = operating_points(column[rows], is_positive[rows], thresholds=thresholds)
    usable = [found for found in points.values() if found and not found[0].reason]
    spreads = (NAN,) * len(thresholds)
    if len(usable) < 2:
        return Synchronisation(
            thresholds=tuple(thresholds),
            points=points,
            sensitivity_spread=spreads,
            specificity_spread=spreads,
            distance=spreads,
            mean_distance=NAN,
            reason=f"{len(usable)} of {len(points)} segments have both classes; two are needed",
        )
    plane_st2 = np.array([[(point.sensitivity, point.specificity) for point in found] for found in usable])
    apart_sst = np.linalg.norm(plane_st2[:, None] - plane_st2[None, :], axis=-1)
    distance = tuple(float(value) for value in apart_sst.max(axis=(0, 1)))
    spread_t2 = np.ptp(plane_st2, axis=0)
    return Synchronisation(
        thresholds=tuple(thresholds),
        points=points,
        sensitivity_spread=tuple(float(value) for value in spread_t2[:, 0]),
        specificity_spread=tuple(float(value) for value in spread_t2[:, 1]),
        distance=distance,
        mean_distance=float(np.mean(distance)),
    )
