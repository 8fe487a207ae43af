"""The area under the ROC curve as a count of ordered pairs."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.errors import InputError
from study.stats.resampling import Counts, Metric
from study.stats.samples import NAN, Floats


class Ranking:
    """Scores of one class against the rest, sorted once. Area = share of pairs in the right order; ties count half.

    Args:
        scores_n: shape [N].
        is_positive_n: shape [N].
    """

    def __init__(self, scores_n: Floats, is_positive_n: NDArray[np.bool_]) -> None:
        order = np.argsort(scores_n, kind="stable")
        self.positives = order[is_positive_n[order]]
        self.negatives = order[~is_positive_n[order]]
        sorted_negatives = scores_n[self.negatives]
        num_below = np.searchsorted(sorted_negatives, scores_n[self.positives], side="left")
        num_not_above = np.searchsorted(sorted_negatives, scores_n[self.positives], side="right")
        self.num_below = num_below
        # Without ties between the classes both lookups are one, which halves the work.
        self.num_not_above = None if (num_below == num_not_above).all() else num_not_above
        self.cumulated = np.zeros(len(self.negatives) + 1, dtype=np.int64)

    def area(self, count_n: Counts) -> float:
        """Area of a set with each row as often as ``count_n`` says; NaN when a side has none.

        Whole numbers keep it exact, and their running sums are several times faster than those of floats.
        """
        np.cumsum(count_n.take(self.negatives), out=self.cumulated[1:])
        count_p = count_n.take(self.positives)
        num_pairs = int(count_p.sum()) * int(self.cumulated[-1])
        if num_pairs == 0:
            return NAN
        below_p = self.cumulated.take(self.num_below)
        above_p = below_p if self.num_not_above is None else self.cumulated.take(self.num_not_above)
        return float(count_p @ (below_p + above_p)) / (2 * num_pairs)


def area_metric(scores: ArrayLike, labels: ArrayLike) -> Metric:
    """The area as a metric of counts, for ``bootstrap``; what does not depend on the counts is done once.

    Args:
        scores: shape [N] with labels 0 and 1 (or False and True), or class probabilities [N, K] with labels 0..K-1,
            which give the mean area of each class against the rest.
        labels: shape [N].

    Raises:
        InputError: shapes or labels that do not fit, or scores that are not finite.
    """
    values, classes = checked_scores(scores, labels)
    if values.ndim == 1:
        return Ranking(values, classes == 1).area
    rankings = [Ranking(values[:, k], classes == k) for k in range(values.shape[1])]
    return lambda count_n: float(np.mean([ranking.area(count_n) for ranking in rankings]))


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve, NaN when a class is missing; arguments and errors as ``area_metric``."""
    area: Callable[[Counts], float] = area_metric(scores, labels)
    return area(np.ones(len(np.asarray(labels)), dtype=np.int64))


def midranks(values_n: ArrayLike) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs, shape [N]."""
    _, inverse, counts = np.unique(np.asarray(values_n), return_inverse=True, return_counts=True)
    ranks: Floats = (counts.cumsum() - (counts - 1) / 2)[inverse]
    return ranks


def checked_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Scores [N] or [N, K] and labels [N] as numbers.

    Raises:
        InputError: shapes or labels that do not fit, or scores that are not finite.
    """
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


def checked_binary(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores of one class [N] and whether each row belongs to it [N].

    Raises:
        InputError: as ``checked_scores``, or one column per class.
    """
    column, classes = checked_scores(scores, labels)
    if column.ndim != 1:
        raise InputError(f"scores have shape {column.shape}; expected [N]", "take one class against the rest")
    return column, classes == 1


def missing_class(labels: ArrayLike, *, num_classes: int = 2) -> str:
    """Why an area is undefined: the classes without a row, in words; empty when all have one."""
    support = np.bincount(np.asarray(labels).astype(np.int64), minlength=num_classes)
    missing = [str(k) for k in range(num_classes) if support[k] == 0]
    return f"no row of class {' and '.join(missing)}" if missing else ""
