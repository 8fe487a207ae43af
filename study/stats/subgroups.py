"""The same metrics in every part of a set: segment, density, view, vendor, age; with counts."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.errors import InputError
from study.stats.calibration import calibration_curve
from study.stats.operating import THRESHOLDS, best_mcc_point, operating_points
from study.stats.ranking import missing_class
from study.stats.resampling import UNKNOWN, named
from study.stats.roc import delong_interval

AGE_EDGES: Final = (40, 50, 60, 70)
NO_THRESHOLDS: Final[Mapping[str, float]] = {}
WHOLE: Final = "all"
RowMetrics = Callable[[NDArray[np.int64]], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """One part of a set: those rows whose ``column`` is ``value``; the first is the whole set, ``all`` of ``all``.

    ``class_counts`` counts rows of class 0, 1, ...; ``metrics`` are NaN where undefined, and ``reason`` says why.
    """

    column: str
    value: str
    num_rows: int
    class_counts: tuple[int, ...]
    metrics: Mapping[str, float]
    reason: str = ""


def subgroup_metrics(
    metrics: RowMetrics, labels: ArrayLike, columns: Mapping[str, ArrayLike], *, num_classes: int = 2
) -> tuple[Subgroup, ...]:
    """Metrics of the whole set and of each value of each column.

    Args:
        metrics: from row numbers, shape [n], to named numbers, as in
            ``lambda rows: classification_metrics(probs[rows], labels[rows])``.
        labels: 0..K-1, shape [N].
        columns: names of rows, each of shape [N], as ``dict(frame[["segment", "view"]])``; missing ones form the part
            ``unknown``, so that the parts of a column always add up to the set. Numbers go through ``age_bins`` first.
        num_classes: K.

    Returns:
        The whole set, then the parts in the order of the columns, sorted by value.

    Raises:
        InputError: labels outside 0..K-1, or columns of another length.
    """
    classes = np.asarray(labels)
    if classes.ndim != 1 or not np.isin(classes, range(num_classes)).all():
        raise InputError(
            f"labels of shape {classes.shape} are not all among 0 to {num_classes - 1}", "pass one class per row"
        )
    classes = classes.astype(np.int64)

    def part(column: str, value: str, rows: NDArray[np.int64]) -> Subgroup:
        found = dict(metrics(rows)) if len(rows) else {}
        undefined = [name for name, number in found.items() if np.isnan(number)]
        reason = missing_class(classes[rows], num_classes=num_classes)
        return Subgroup(
            column=column,
            value=value,
            num_rows=len(rows),
            class_counts=tuple(map(int, np.bincount(classes[rows], minlength=num_classes))),
            metrics=found,
            reason=(reason or f"undefined: {', '.join(undefined)}") if undefined or not len(rows) else "",
        )

    parts = [part(WHOLE, WHOLE, np.arange(len(classes)))]
    for column, names in columns.items():
        value_n = named(names, num_rows=len(classes), name=f"column {column}")
        parts += [part(column, str(value), np.flatnonzero(value_n == value)) for value in np.unique(value_n)]
    return tuple(parts)


def binary_metrics(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    chosen: Mapping[str, float] = NO_THRESHOLDS,
) -> dict[str, float]:
    """What a paper tells of a binary classifier, for ``subgroup_metrics``.

    Args:
        probs: of class 1, shape [N].
        labels: 0 and 1 (or False and True), shape [N].
        thresholds: where to read sensitivity and specificity.
        chosen: further thresholds by name, found on validation, as ``{"triage": triage_point(...).threshold}``. The
            same threshold goes to every part: one that is chosen anew in each would hide that they differ.

    Returns:
        ``auc``, ``auc_low``, ``auc_high`` (DeLong, 95 %); ``sensitivity@T``, ``specificity@T`` for each threshold T or
        its name, and for the named ones ``mcc@T`` and ``safely_ruled_out@T``; ``best_mcc`` over all thresholds, which
        is optimistic; ``ece``.

    Raises:
        InputError: shapes or labels that do not fit, or probabilities outside [0, 1].
    """
    area = delong_interval(probs, labels)
    found = {"auc": area.value, "auc_low": area.low, "auc_high": area.high}
    named_thresholds = {f"{threshold:g}": threshold for threshold in thresholds} | dict(chosen)
    points = operating_points(probs, labels, thresholds=tuple(named_thresholds.values()))
    for name, point in zip(named_thresholds, points, strict=True):
        found |= {f"sensitivity@{name}": point.sensitivity, f"specificity@{name}": point.specificity}
        if name in chosen:
            found |= {f"mcc@{name}": point.mcc, f"safely_ruled_out@{name}": point.safely_ruled_out}
    return found | {
        "best_mcc": best_mcc_point(probs, labels).mcc,
        "ece": calibration_curve(probs, labels).expected_error,
    }


def age_bins(ages: ArrayLike, *, edges: Sequence[int] = AGE_EDGES) -> NDArray[np.str_]:
    """Ages in years as names of bins, shape [N]: ``<40``, ``40-49``, ..., ``>=70``; ``unknown`` where not finite.

    Raises:
        InputError: edges that do not rise, or more dimensions than one.
    """
    years = np.asarray(ages, dtype=np.float64)
    if years.ndim != 1 or not edges or (np.diff(edges) <= 0).any():
        raise InputError(
            f"ages have shape {years.shape}, edges are {tuple(edges)}; expected [N] and rising numbers",
            "pass one age per row, and edges as 40, 50, 60, 70",
        )
    between = [f"{low}-{high - 1}" for low, high in itertools.pairwise(edges)]
    names = np.array([f"<{edges[0]}", *between, f">={edges[-1]}", UNKNOWN])
    index_n = np.where(np.isfinite(years), np.searchsorted(edges, years, side="right"), len(names) - 1)
    named_n: NDArray[np.str_] = names[index_n]
    return named_n
