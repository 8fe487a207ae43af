"""Areas under the ROC curve: bootstrap and DeLong's test."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from study.errors import InputError
from study.stats.samples import NAN, Floats, check_level, sample_variance


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapInterval:
    """A value of the whole set with its percentile interval; ``resamples`` counts those that had all classes."""

    value: float
    low: float
    high: float
    standard_error: float
    resamples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AucDifference:
    """Area of a minus area of b on the same rows, with interval, standard error and two-sided p-value."""

    auc_a: float
    auc_b: float
    difference: float
    low: float
    high: float
    standard_error: float
    p: float


def bootstrap_auc(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Area under the ROC curve with Efron's percentile bootstrap.

    Args:
        scores: shape [N] with labels 0 and 1 (or False and True), or class probabilities [N, K] with labels 0..K-1,
            which give the mean area of each class against the rest.
        labels: shape [N].
        groups: shape [N], rows that are drawn together (a patient's images); each row is its own group by default.
        resamples: how many; those in which a class is missing are left out and not counted in the result.
        level: coverage, between 0 and 1.
        seed: of the draws; equal seeds give equal results.

    Returns:
        All NaN and 0 resamples when a class is missing altogether; ``standard_error`` is NaN with fewer than two
        resamples.

    Raises:
        InputError: shapes or labels that do not fit, scores that are not finite, or a level outside (0, 1).
    """
    check_level(level)
    area = _area_of(scores, labels)
    value = area(np.ones(len(np.asarray(labels))))
    draws = _bootstrap([area], num_rows=len(np.asarray(labels)), groups=groups, resamples=resamples, seed=seed)[:, 0]
    low, high, error = _spread(draws, level=level)
    return BootstrapInterval(value=value, low=low, high=high, standard_error=error, resamples=len(draws))


def bootstrap_auc_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> AucDifference:
    """Difference of two areas on the same rows, by the paired bootstrap; the p-value is that of ``p_from_interval``.

    Args:
        scores_a: scores of the first model, as in ``bootstrap_auc``.
        scores_b: scores of the second model for the same rows.
        labels: shape [N].
        groups: as in ``bootstrap_auc``.
        resamples: as in ``bootstrap_auc``.
        level: coverage, between 0 and 1.
        seed: of the draws.

    Returns:
        All NaN when a class is missing; the p-value is NaN when the interval has no width (identical rankings).

    Raises:
        InputError: as ``bootstrap_auc``.
    """
    check_level(level)
    areas = [_area_of(scores_a, labels), _area_of(scores_b, labels)]
    num_rows = len(np.asarray(labels))
    auc_a, auc_b = (area(np.ones(num_rows)) for area in areas)
    draws = _bootstrap(areas, num_rows=num_rows, groups=groups, resamples=resamples, seed=seed)
    low, high, error = _spread(draws[:, 0] - draws[:, 1], level=level)
    difference = auc_a - auc_b
    return AucDifference(
        auc_a=auc_a,
        auc_b=auc_b,
        difference=difference,
        low=low,
        high=high,
        standard_error=error,
        p=p_from_interval(difference, low, high, level=level),
    )


def p_from_interval(value: float, low: float, high: float, *, level: float = 0.95) -> float:
    """Two-sided p-value of "the value is 0" from its interval, taken as normal (Altman and Bland 2011).

    Returns:
        NaN when the interval has no width or is NaN.
    """
    error = (high - low) / (2 * float(special.ndtri((1 + level) / 2)))
    return 2 * float(special.ndtr(-abs(value) / error)) if error > 0 else NAN


def delong_test(scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike, *, level: float = 0.95) -> AucDifference:
    """Difference of two areas on the same rows (DeLong et al. 1988), by mid-ranks (Sun and Xu 2014).

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
    if min(len(first_p), len(first_n)) == 0:
        return AucDifference(auc_a=NAN, auc_b=NAN, difference=NAN, low=NAN, high=NAN, standard_error=NAN, p=NAN)
    auc_a, auc_b = float(first_p.mean()), float(second_p.mean())
    difference = auc_a - auc_b
    error = low = high = p = NAN
    if min(len(first_p), len(first_n)) > 1:
        error = (
            sample_variance(first_p - second_p) / len(first_p) + sample_variance(first_n - second_n) / len(first_n)
        ) ** 0.5
    if error > 0:
        margin = error * float(special.ndtri((1 + level) / 2))
        low, high = difference - margin, difference + margin
        p = 2 * float(special.ndtr(-abs(difference) / error))
    return AucDifference(auc_a=auc_a, auc_b=auc_b, difference=difference, low=low, high=high, standard_error=error, p=p)


def _placements(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Share of the other class that each positive outranks, and that outranks each negative; ties count half."""
    column, is_positive = _checked_scores(scores, labels)
    if column.ndim != 1:
        raise InputError(f"scores have shape {column.shape}; expected [N]", "test one class against the rest")
    ranks = _midranks(column)
    positives, negatives = column[is_positive == 1], column[is_positive == 0]
    if not (len(positives) and len(negatives)):
        return positives[:0], negatives[:0]
    above_p = (ranks[is_positive == 1] - _midranks(positives)) / len(negatives)
    above_n = 1 - (ranks[is_positive == 0] - _midranks(negatives)) / len(positives)
    return above_p, above_n


def _midranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (counts.cumsum() - (counts - 1) / 2)[inverse]
    return ranks


def _area_of(scores: ArrayLike, labels: ArrayLike) -> Callable[[Floats], float]:
    """A function from row weights [N] to the area; what does not depend on the weights is done once."""
    values, classes = _checked_scores(scores, labels)
    if values.ndim == 1:
        return _Ranking(values, classes == 1).area
    rankings = [_Ranking(values[:, k], classes == k) for k in range(values.shape[1])]
    return lambda weight_n: float(np.mean([ranking.area(weight_n) for ranking in rankings]))


class _Ranking:
    """Scores of one class against the rest, sorted once. Area = weighted share of pairs in the right order."""

    def __init__(self, scores_n: Floats, is_positive_n: NDArray[np.bool_]) -> None:
        order = np.argsort(scores_n, kind="stable")
        self.positives = order[is_positive_n[order]]
        self.negatives = order[~is_positive_n[order]]
        sorted_negatives = scores_n[self.negatives]
        self.num_below = np.searchsorted(sorted_negatives, scores_n[self.positives], side="left")
        self.num_not_above = np.searchsorted(sorted_negatives, scores_n[self.positives], side="right")
        self.cumulated = np.zeros(len(self.negatives) + 1)

    def area(self, weight_n: Floats) -> float:
        """Weighted area, NaN when a side has no weight."""
        np.cumsum(weight_n[self.negatives], out=self.cumulated[1:])
        weight_p = weight_n[self.positives]
        num_pairs = weight_p.sum() * self.cumulated[-1]
        if num_pairs == 0:
            return NAN
        wins = weight_p @ (self.cumulated[self.num_below] + self.cumulated[self.num_not_above])
        return float(wins / (2 * num_pairs))


def _bootstrap(
    areas: list[Callable[[Floats], float]], *, num_rows: int, groups: ArrayLike | None, resamples: int, seed: int
) -> Floats:
    """Areas [R, A] on resampled rows, without the resamples in which one of them is undefined.

    One resample at a time stays in the processor's cache, which is faster than many at once.
    """
    group_n = np.arange(num_rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if group_n.shape != (num_rows,):
        raise InputError(f"groups have shape {group_n.shape}; expected ({num_rows},)", "pass one group per row")
    num_groups = int(group_n.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    draws = np.full((resamples, len(areas)), np.nan)
    for index in range(resamples if num_groups else 0):
        picked = rng.integers(num_groups, size=num_groups)
        weight_n = np.bincount(picked, minlength=num_groups).astype(np.float64)[group_n]
        draws[index] = [area(weight_n) for area in areas]
    kept: Floats = draws[np.isfinite(draws).all(axis=1)]
    return kept


def _spread(draws: Floats, *, level: float) -> tuple[float, float, float]:
    """Percentile interval and SD of bootstrap draws."""
    if len(draws) < 2:
        return NAN, NAN, NAN
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high), sample_variance(draws) ** 0.5


def _checked_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    values, classes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim not in (1, 2) or classes.shape != values.shape[:1]:
        raise InputError(
            f"scores have shape {values.shape} and labels {classes.shape}; expected [N] or [N, K], and [N]",
            "pass the scores first, then one label per row",
        )
    if not np.isfinite(values).all():
        raise InputError("a score is not finite; expected finite numbers", "leave out rows without a prediction")
    num_classes = 2 if values.ndim == 1 else values.shape[1]
    if not np.isin(classes, range(num_classes)).all():
        raise InputError(f"a label is not among 0 to {num_classes - 1}", "pass the scores first, then the labels")
    return values, classes.astype(np.int64)
