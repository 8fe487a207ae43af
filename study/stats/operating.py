"""What a model does at a threshold: sensitivity, specificity, Matthews correlation, and cases ruled out.

A case is called positive when its score is at least the threshold. A threshold that was chosen on some data looks too
good on them: choose it on validation, and read ``operating_points(test_scores, test_labels, thresholds=[chosen])``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from study.errors import InputError
from study.stats.ranking import checked_binary, missing_class
from study.stats.samples import NAN, Floats, Interval, check_level

THRESHOLDS: Final = (0.2, 0.4, 0.6, 0.8)  # those of the periodic-sampling paper (2022)
TRIAGE_SENSITIVITY: Final = 0.95  # that of the multi-task paper (2021)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """The four counts at a threshold. Ratios are NaN where their class has no case; ``reason`` then says so.

    ``threshold`` is NaN where none was found, and then all counts are 0.
    """

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    reason: str = ""

    @property
    def sensitivity(self) -> float:
        """Share of positive cases that are called positive."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float:
        """Share of negative cases that are called negative."""
        return _ratio(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def ruled_out(self) -> float:
        """Share of all cases that are called negative: what triage would not send to a reader."""
        called_negative = self.true_negatives + self.false_negatives
        return _ratio(called_negative, called_negative + self.true_positives + self.false_positives)

    @property
    def safely_ruled_out(self) -> float:
        """Share of all cases that are called negative and are: what triage saves without harm."""
        called_negative = self.true_negatives + self.false_negatives
        return _ratio(self.true_negatives, called_negative + self.true_positives + self.false_positives)

    @property
    def mcc(self) -> float:
        """Matthews correlation; NaN when a class is missing or all cases are called alike."""
        called_positive = self.true_positives + self.false_positives
        called_negative = self.true_negatives + self.false_negatives
        positives = self.true_positives + self.false_negatives
        negatives = self.true_negatives + self.false_positives
        product = called_positive * called_negative * positives * negatives
        gain = self.true_positives * self.true_negatives - self.false_positives * self.false_negatives
        return gain / math.sqrt(product) if product else NAN


def operating_points(
    scores: ArrayLike, labels: ArrayLike, *, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[OperatingPoint, ...]:
    """The counts at each threshold.

    Args:
        scores: shape [N], of one class.
        labels: 0 and 1 (or False and True), shape [N].
        thresholds: in units of the scores.

    Raises:
        InputError: shapes or labels that do not fit, or scores that are not finite.
    """
    column, is_positive = checked_binary(scores, labels)
    return tuple(_point(column, is_positive, threshold=float(threshold)) for threshold in thresholds)


def triage_point(scores: ArrayLike, labels: ArrayLike, *, sensitivity: float = TRIAGE_SENSITIVITY) -> OperatingPoint:
    """The highest threshold that finds at least a given share of the positive cases.

    Args:
        scores: shape [N], of one class.
        labels: 0 and 1 (or False and True), shape [N].
        sensitivity: share to find, above 0 and at most 1.

    Returns:
        Without a positive case the threshold is NaN and ``reason`` says so.

    Raises:
        InputError: as ``operating_points``, or a sensitivity outside (0, 1].
    """
    if not 0 < sensitivity <= 1:
        raise InputError(f"sensitivity is {sensitivity}; expected above 0 and at most 1", "use 0.95 for 95 %")
    column, is_positive = checked_binary(scores, labels)
    descending = np.sort(column[is_positive])[::-1]
    if len(descending) == 0:
        return _no_point(missing_class(is_positive))
    # 0.95 of 20 positives are 19, though the product of the two floats may lie a hair above.
    num_needed = math.ceil(sensitivity * len(descending) - 1e-9)
    return _point(column, is_positive, threshold=float(descending[num_needed - 1]))


def best_mcc_point(scores: ArrayLike, labels: ArrayLike) -> OperatingPoint:
    """The threshold with the largest Matthews correlation among all scores; the highest of equally good ones.

    Args:
        scores: shape [N], of one class.
        labels: 0 and 1 (or False and True), shape [N].

    Returns:
        Without one of the classes, or with equal scores throughout, the threshold is NaN and ``reason`` says so.

    Raises:
        InputError: as ``operating_points``.
    """
    column, is_positive = checked_binary(scores, labels)
    reason = missing_class(is_positive)
    if not reason and np.ptp(column) == 0:
        reason = "all scores are equal"
    if reason:
        return _no_point(reason)
    order = np.argsort(-column, kind="stable")
    sorted_scores = column[order]
    # Only behind the last of equal scores can a threshold lie; behind all of them every case is called alike.
    last = np.flatnonzero(np.diff(sorted_scores))
    true_positives = np.cumsum(is_positive[order])[last].astype(np.float64)
    called = (last + 1).astype(np.float64)
    num_rows, positives = len(column), int(is_positive.sum())
    gain = true_positives * num_rows - called * positives
    # The square, with its sign, is a ratio of whole numbers: equal correlations stay equal, and the first is taken.
    best = int(np.argmax(gain * np.abs(gain) / (called * (num_rows - called))))
    return _point(column, is_positive, threshold=float(sorted_scores[last[best]]))


def proportion_interval(hits: int, total: int, *, level: float = 0.95) -> Interval:
    """A share such as a sensitivity with Wilson's interval (1927), which holds for small counts and for 0 and 1.

    Returns:
        NaN when the total is 0.

    Raises:
        InputError: counts that do not fit, or a level outside (0, 1).
    """
    check_level(level)
    if not 0 <= hits <= total:
        raise InputError(f"{hits} of {total} is no share; expected 0 <= hits <= total", "pass counts of cases")
    if total == 0:
        return Interval(value=NAN, low=NAN, high=NAN, reason="there is no case")
    z = float(special.ndtri((1 + level) / 2))
    share, shrink = hits / total, 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrink
    margin = z / shrink * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # At the ends the formula gives exactly 0 and 1, but for the last digit.
    return Interval(value=share, low=centre - margin if hits else 0.0, high=centre + margin if hits < total else 1.0)


def _point(column: Floats, is_positive: NDArray[np.bool_], *, threshold: float) -> OperatingPoint:
    is_called = column >= threshold
    return OperatingPoint(
        threshold=threshold,
        true_positives=int((is_called & is_positive).sum()),
        false_positives=int((is_called & ~is_positive).sum()),
        true_negatives=int((~is_called & ~is_positive).sum()),
        false_negatives=int((~is_called & is_positive).sum()),
        reason=missing_class(is_positive),
    )


def _no_point(reason: str) -> OperatingPoint:
    return OperatingPoint(
        threshold=NAN, true_positives=0, false_positives=0, true_negatives=0, false_negatives=0, reason=reason
    )


def _ratio(part: int, total: int) -> float:
    return part / total if total else NAN
