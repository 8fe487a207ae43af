"""Areas under the ROC curve: bootstrap and DeLong's test."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from study.errors import InputError
from study.stats.bootstrap import (
    RESAMPLES,
    BootstrapInterval,
    IntervalKind,
    PairedDifference,
    bootstrap,
    bootstrap_difference,
)
from study.stats.ranking import area_metric, checked_binary, midranks, missing_class
from study.stats.resampling import Resampling, resampling
from study.stats.samples import NAN, Floats, Interval, check_level, sample_variance


def bootstrap_auc(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    rows: Resampling | None = None,
    interval: IntervalKind = "percentile",
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Area under the ROC curve with its bootstrap interval.

    Args:
        scores: shape [N] with labels 0 and 1 (or False and True), or class probabilities [N, K] with labels 0..K-1,
            which give the mean area of each class against the rest.
        labels: shape [N].
        rows: what is drawn, from ``resampling``: images by default, or patients, or either within strata.
        interval: as in ``bootstrap``.
        resamples: how many; those in which a class is missing are left out and not counted in the result.
        level: coverage, between 0 and 1.
        seed: of the draws; equal seeds give equal results.

    Returns:
        All NaN and 0 resamples when a class is missing altogether; ``standard_error`` is NaN with fewer than two
        resamples.

    Raises:
        InputError: shapes or labels that do not fit, scores that are not finite, or a level outside (0, 1).
    """
    area = area_metric(scores, labels)
    rows = _fitting(rows, num_rows=len(np.asarray(labels)))
    return bootstrap(area, rows, interval=interval, resamples=resamples, level=level, seed=seed)


def bootstrap_auc_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    *,
    rows: Resampling | None = None,
    interval: IntervalKind = "percentile",
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Difference of two areas on the same rows, by the paired bootstrap; the p-value is that of ``p_from_interval``.

    Args:
        scores_a: scores of the first model, as in ``bootstrap_auc``.
        scores_b: scores of the second model for the same rows.
        labels: shape [N].
        rows, interval, resamples, level, seed: as in ``bootstrap_auc``.

    Returns:
        All NaN when a class is missing; the p-value is NaN when the interval has no width (identical rankings).

    Raises:
        InputError: as ``bootstrap_auc``.
    """
    area_a, area_b = area_metric(scores_a, labels), area_metric(scores_b, labels)
    rows = _fitting(rows, num_rows=len(np.asarray(labels)))
    return bootstrap_difference(area_a, area_b, rows, interval=interval, resamples=resamples, level=level, seed=seed)


def delong_test(
    scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike, *, level: float = 0.95
) -> PairedDifference:
    """Difference of two areas on the same rows (DeLong et al. 1988), by mid-ranks (Sun and Xu 2014).

    Rows count as independent: with several images per patient the bootstrap by patient is the honest one.

    Args:
        scores_a: scores of the first model, shape [N].
        scores_b: scores of the second model for the same rows, shape [N].
        labels: 0 and 1 (or False and True), shape [N].
        level: coverage of the normal interval, between 0 and 1.

    Returns:
        Interval, error and p-value are NaN with fewer than two rows of a class, and the p-value and interval also when
        the variance is 0 (identical rankings); all NaN when a class is missing.

    Raises:
        InputError: shapes or labels that do not fit, scores that are not finite, or a level outside (0, 1).
    """
    check_level(level)
    first_p, first_n = _placements(scores_a, labels)
    second_p, second_n = _placements(scores_b, labels)
    num_least = min(len(first_p), len(first_n))
    auc_a, auc_b = (float(part.mean()) if num_least else NAN for part in (first_p, second_p))
    difference = auc_a - auc_b
    error = low = high = p = NAN
    reason = missing_class(labels)
    if num_least > 1:
        error = (_mean_variance(first_p - second_p) + _mean_variance(first_n - second_n)) ** 0.5
        reason = "" if error > 0 else "the variance of the difference is 0"
    elif num_least == 1:
        reason = "a class has a single row"
    if error > 0:
        margin = error * float(special.ndtri((1 + level) / 2))
        low, high = difference - margin, difference + margin
        p = 2 * float(special.ndtr(-abs(difference) / error))
    return PairedDifference(
        value_a=auc_a,
        value_b=auc_b,
        difference=difference,
        low=low,
        high=high,
        standard_error=error,
        p=p,
        reason=reason,
    )


def delong_interval(scores: ArrayLike, labels: ArrayLike, *, level: float = 0.95) -> Interval:
    """Area with DeLong's normal interval on the logit scale, which stays inside (0, 1).

    Returns:
        Bounds are NaN with fewer than two rows of a class and when the area is 0 or 1; all NaN without a class.

    Raises:
        InputError: as ``delong_test``.
    """
    check_level(level)
    above_p, above_n = _placements(scores, labels)
    if min(len(above_p), len(above_n)) == 0:
        return Interval(value=NAN, low=NAN, high=NAN, reason=missing_class(labels))
    area = float(above_p.mean())
    if min(len(above_p), len(above_n)) < 2 or not 0 < area < 1:
        reason = "the classes are separated" if area in (0, 1) else "a class has a single row"
        return Interval(value=area, low=NAN, high=NAN, reason=reason)
    error = (_mean_variance(above_p) + _mean_variance(above_n)) ** 0.5
    centre = float(special.logit(area))
    margin = error / (area * (1 - area)) * float(special.ndtri((1 + level) / 2))
    return Interval(value=area, low=float(special.expit(centre - margin)), high=float(special.expit(centre + margin)))


def _fitting(rows: Resampling | None, *, num_rows: int) -> Resampling:
    if rows is None:
        return resampling(num_rows)
    if rows.num_rows != num_rows:
        raise InputError(f"the resampling is of {rows.num_rows} rows; expected {num_rows}", "pass one row per score")
    return rows


def _mean_variance(values: Floats) -> float:
    return sample_variance(values) / len(values)


def _placements(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Share of the other class that each positive outranks, and that outranks each negative; ties count half."""
    column, is_positive = checked_binary(scores, labels)
    ranks = midranks(column)
    positives, negatives = column[is_positive], column[~is_positive]
    if not (len(positives) and len(negatives)):
        return positives[:0], negatives[:0]
    above_p = (ranks[is_positive] - midranks(positives)) / len(negatives)
    above_n = 1 - (ranks[~is_positive] - midranks(negatives)) / len(positives)
    return above_p, above_n
