"""Classification metrics of class probabilities, with numpy alone.

Whether a metric is defined depends on the labels, never on the predictions, so a curve has no holes of its own making.
Undefined is NaN:

* ``auroc_<class>``: without a row of the class, or without a row of another class;
* ``auroc_macro``, ``f1_macro``, ``precision_macro``, ``recall_macro``, ``balanced_accuracy``: unless all K classes are
present; * ``specificity_macro``, ``mcc``, ``qwk``: unless at least two classes are present;
* everything: without a row, or when a probability is not finite.

A class that is present but never predicted has precision 0, and constant predictions have ``mcc`` and ``qwk`` 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.errors import InputError

METRIC_MODE: Final[Mapping[str, Literal["max", "min"]]] = {
    "auroc_macro": "max",
    "f1_macro": "max",
    "accuracy": "max",
    "balanced_accuracy": "max",
    "precision_macro": "max",
    "recall_macro": "max",
    "specificity_macro": "max",
    "mcc": "max",
    "qwk": "max",
    "grade_mae": "min",
    "log_loss": "min",
    "weighted_log_loss": "min",
    "ece": "min",
    "brier": "min",
    "segment_gap_auroc": "min",
    "pooled_minus_local_auroc": "min",
}
METRIC_RANGE: Final[Mapping[str, tuple[float, float]]] = {
    **dict.fromkeys(("mcc", "qwk", "pooled_minus_local_auroc"), (-1.0, 1.0)),
    **dict.fromkeys(("grade_mae", "log_loss", "weighted_log_loss"), (0.0, float("inf"))),
    "brier": (0.0, 2.0),
}  # all others lie between 0 and 1
SEGMENT_SUMMARIES: Final = ("segment_gap_auroc", "pooled_minus_local_auroc")
METRIC_NAMES: Final = tuple(name for name in METRIC_MODE if name not in SEGMENT_SUMMARIES)
CALIBRATION_BINS: Final = 15
SMALLEST_PROBABILITY: Final = float(np.finfo(np.float32).eps)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fold:
    """Checked input: rows of weight > 0."""

    probs_nk: Floats
    labels_n: Integers
    predicted_n: Integers
    weight_n: Floats
    class_names: tuple[str, ...]


def range_of(metric: str) -> tuple[float, float]:
    """Smallest and largest value that a metric, with or without its prefix, can have."""
    return METRIC_RANGE.get(metric.rsplit("/", maxsplit=1)[-1], (0.0, 1.0))


def classification_metrics(
    probs_nk: ArrayLike,
    labels_n: ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    sample_weight: ArrayLike | None = None,
    predicted_n: ArrayLike | None = None,
) -> dict[str, float]:
    """All metrics of one evaluated set; see the module for when they are NaN.

    ``auroc_<class>`` is one class against the rest, ties count half, ``auroc_macro`` their plain mean. ``qwk`` is
    Cohen's kappa with quadratic weights, ``mcc`` the multi-class R_K. ``grade_mae`` is the mean distance in classes.
    ``log_loss`` takes probabilities of at least 1.2e-7; ``weighted_log_loss`` weighs rows so that the classes present
    count alike. ``ece`` has 15 equal bins of the highest probability. ``brier`` sums the squared error over classes,
    range 0 to 2.

    Args:
        probs_nk: class probabilities, shape [N, K], K >= 2; rows sum to 1.
        labels_n: true classes 0..K-1, shape [N].
        class_names: K names for the keys ``auroc_<class>``; the class index by default.
        sample_weight: weight of each row, shape [N], >= 0; a row of weight 0 may have any label.
        predicted_n: predicted classes, shape [N], for the metrics of hard predictions; the most probable class by
            default.

    Returns:
        ``METRIC_NAMES`` and ``auroc_<class>``, as plain floats.

    Raises:
        InputError: shapes, labels, weights or probabilities that do not fit.
    """
    fold = _checked_fold(
        probs_nk, labels_n, class_names=class_names, sample_weight=sample_weight, predicted_n=predicted_n
    )
    per_class = [f"auroc_{name}" for name in fold.class_names]
    if len(fold.labels_n) == 0 or not np.isfinite(fold.probs_nk).all():
        return dict.fromkeys((*METRIC_NAMES, *per_class), float("nan"))
    auroc_k = [
        _auroc(fold.probs_nk[:, k], is_class_n=fold.labels_n == k, weight_n=fold.weight_n)
        for k in range(len(per_class))
    ]
    # An absent class has no area, which makes the mean NaN.
    found = {"auroc_macro": float(np.mean(auroc_k)), **_confusion_metrics(fold), **_probability_metrics(fold)}
    return {name: found[name] for name in METRIC_NAMES} | dict(zip(per_class, auroc_k, strict=True))


def segment_metrics(
    probs_nk: ArrayLike,
    labels_n: ArrayLike,
    segments_n: ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    sample_weight: ArrayLike | None = None,
    predicted_n: ArrayLike | None = None,
) -> dict[str, float]:
    """All metrics within each segment, and two summaries that tell a shortcut from skill (Periodic sampling, 2022).

    A network that recognises the segment instead of the lesion has a higher AUROC on the pooled set than within
    segments.

    Args:
        probs_nk: as in ``classification_metrics``, like all arguments but the next.
        labels_n: shape [N].
        segments_n: segment names, shape [N].
        class_names, sample_weight, predicted_n: shapes [K], [N], [N].

    Returns:
        ``segment/<name>/<metric>`` for each segment; ``segment_gap_auroc``, the largest minus the smallest local
        ``auroc_macro`` (NaN with fewer than two defined ones); ``pooled_minus_local_auroc``, that of the whole set
        minus the plain mean of the defined local ones (NaN without any).

    Raises:
        InputError: as ``classification_metrics``, or another number of segments than rows.
    """
    probs_nk, labels_n = np.asarray(probs_nk), np.asarray(labels_n)
    segments = np.asarray(segments_n).astype(str)
    if segments.shape != labels_n.shape:
        raise InputError(f"segments have shape {segments.shape}; expected {labels_n.shape}", "pass one name per row")
    columns = {"sample_weight": sample_weight, "predicted_n": predicted_n}
    options = {key: np.asarray(column) for key, column in columns.items() if column is not None}
    result: dict[str, float] = {}
    local = []
    for segment in np.unique(segments):
        rows = segments == segment
        inside = {key: column[rows] for key, column in options.items()}
        found = classification_metrics(probs_nk[rows], labels_n[rows], class_names=class_names, **inside)
        result |= {f"segment/{segment}/{name}": value for name, value in found.items()}
        local.append(found["auroc_macro"])
    pooled = classification_metrics(probs_nk, labels_n, class_names=class_names, **options)
    return result | _segment_summaries(local, pooled=pooled["auroc_macro"])


def _segment_summaries(local: Sequence[float], *, pooled: float) -> dict[str, float]:
    defined = [value for value in local if np.isfinite(value)]
    gap = max(defined) - min(defined) if len(defined) > 1 else float("nan")
    mean_local = float(np.mean(defined)) if defined else float("nan")
    return {"segment_gap_auroc": gap, "pooled_minus_local_auroc": pooled - mean_local}


def _auroc(scores_n: Floats, *, is_class_n: NDArray[np.bool_], weight_n: Floats) -> float:
    """Weighted share of (class, other) pairs in which the class scores higher; ties count half."""
    if is_class_n.all() or not is_class_n.any():
        return float("nan")
    rank_n = np.unique(scores_n, return_inverse=True)[1]
    positive_r = np.bincount(rank_n, weight_n * is_class_n)
    negative_r = np.bincount(rank_n, weight_n * ~is_class_n)
    wins = positive_r @ (negative_r.cumsum() - negative_r / 2)
    return float(wins / (positive_r.sum() * negative_r.sum()))


def _confusion_metrics(fold: _Fold) -> dict[str, float]:
    """Metrics of hard predictions, from the weighted confusion matrix [true, predicted]."""
    num_classes = len(fold.class_names)
    cells = np.bincount(fold.labels_n * num_classes + fold.predicted_n, fold.weight_n, minlength=num_classes**2)
    confusion = cells.astype(np.float64).reshape(num_classes, num_classes)
    total, hit = confusion.sum(), confusion.diagonal()
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    correct_rest = total - support - predicted + hit
    step = np.abs(np.subtract.outer(np.arange(num_classes), np.arange(num_classes)))
    found = {
        "f1_macro": _ratio(2 * hit, support + predicted).mean(),
        "precision_macro": _ratio(hit, predicted).mean(),
        "recall_macro": _ratio(hit, support).mean(),
        "balanced_accuracy": _ratio(hit, support).mean(),
        "specificity_macro": _ratio(correct_rest, total - support).mean(),
        "mcc": _mcc(hit=hit, support=support, predicted=predicted),
        "qwk": 1 - _ratio((step**2 * confusion).sum() * total, (step**2 * np.outer(support, predicted)).sum()),
        "accuracy": hit.sum() / total,
        "grade_mae": (step * confusion).sum() / total,
    }
    num_present = np.count_nonzero(support)
    if num_present < num_classes:
        found |= dict.fromkeys(("f1_macro", "precision_macro", "recall_macro", "balanced_accuracy"), np.nan)
    if num_present < 2:
        found |= dict.fromkeys(("specificity_macro", "mcc", "qwk"), np.nan)
    return {name: float(value) for name, value in found.items()}


def _mcc(*, hit: Floats, support: Floats, predicted: Floats) -> float:
    """Multi-class Matthews correlation R_K (Gorodkin 2004); 0 when only one class was predicted."""
    total = support.sum()
    if np.count_nonzero(predicted) < 2 or np.count_nonzero(support) < 2:
        return 0.0
    spread = np.sqrt(total**2 - predicted @ predicted) * np.sqrt(total**2 - support @ support)
    return float((hit.sum() * total - support @ predicted) / spread)


def _probability_metrics(fold: _Fold) -> dict[str, float]:
    weight_n = fold.weight_n / fold.weight_n.sum()
    rows = np.arange(len(fold.labels_n))
    surprise_n = -np.log(np.clip(fold.probs_nk[rows, fold.labels_n], SMALLEST_PROBABILITY, 1.0))
    support = np.bincount(fold.labels_n, weight_n)
    surprise = np.bincount(fold.labels_n, weight_n * surprise_n)
    is_present = support > 0
    error_nk = fold.probs_nk.copy()
    error_nk[rows, fold.labels_n] -= 1
    confidence_n = fold.probs_nk.max(axis=1)
    is_right_n = fold.probs_nk.argmax(axis=1) == fold.labels_n
    bin_n = np.minimum((confidence_n * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap_per_bin = np.bincount(bin_n, weight_n * (is_right_n - confidence_n))
    return {
        "log_loss": float(weight_n @ surprise_n),
        "weighted_log_loss": float((surprise[is_present] / support[is_present]).mean()),
        "ece": float(np.abs(gap_per_bin).sum()),
        "brier": float(weight_n @ np.square(error_nk).sum(axis=1)),
    }


def _ratio(numerator: Any, denominator: Any) -> Any:
    """The quotient, 0 where the denominator is 0."""
    denominator = np.asarray(denominator, dtype=np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def _checked_fold(
    probs_nk: ArrayLike,
    labels_n: ArrayLike,
    *,
    class_names: Sequence[str] | None,
    sample_weight: ArrayLike | None,
    predicted_n: ArrayLike | None,
) -> _Fold:
    probs = np.asarray(probs_nk, dtype=np.float64)
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise InputError(f"probabilities have shape {probs.shape}; expected [N, K], K >= 2", "pass one row per image")
    num_rows, num_classes = probs.shape
    names = tuple(map(str, range(num_classes))) if class_names is None else tuple(class_names)
    if len(set(names)) != num_classes:
        raise InputError(f"class names are {names}; expected {num_classes} different ones", "name each class once")
    labels = _column(labels_n, name="labels", num_rows=num_rows)
    chosen = probs.argmax(axis=1) if predicted_n is None else predicted_n
    predicted = _column(chosen, name="predictions", num_rows=num_rows)
    weight = _column(np.ones(num_rows) if sample_weight is None else sample_weight, name="weights", num_rows=num_rows)
    if not ((weight >= 0) & np.isfinite(weight)).all():
        raise InputError("a sample weight is negative or not finite; expected numbers >= 0", "use 0 to leave a row out")
    kept = weight > 0
    fold = _Fold(
        probs_nk=probs[kept],
        labels_n=labels[kept].astype(np.int64),
        predicted_n=predicted[kept].astype(np.int64),
        weight_n=weight[kept].astype(np.float64),
        class_names=names,
    )
    _check_values(fold)
    return fold


def _column(values: ArrayLike, *, name: str, num_rows: int) -> NDArray[Any]:
    column = np.asarray(values)
    if column.shape != (num_rows,):
        fix = "pass one per row of probabilities"
        raise InputError(f"{name} have shape {column.shape}; expected ({num_rows},)", fix)
    return column


def _check_values(fold: _Fold) -> None:
    num_classes = len(fold.class_names)
    for name, column in (("labels", fold.labels_n), ("predictions", fold.predicted_n)):
        if len(column) and not (column.min() >= 0 and column.max() < num_classes):
            raise InputError(
                f"{name} range from {column.min()} to {column.max()}; expected 0 to {num_classes - 1}",
                "give rows without a label the weight 0",
            )
    sums = fold.probs_nk.sum(axis=1)
    finite = sums[np.isfinite(sums)]
    if len(finite) and (np.abs(finite - 1).max() > 1e-3 or np.nanmin(fold.probs_nk) < 0):
        raise InputError("a row of probabilities does not sum to 1", "pass criterion.probabilities(logits), not logits")
