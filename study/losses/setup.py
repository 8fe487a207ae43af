"""What every loss is built from besides its own parameters: classes, their weights and counts, the divisor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from study.losses.checks import check_choice, check_whole
from study.losses.class_weights import class_weights_from_counts

COUNT_SOURCES: Final = ("sampled", "raw")
WEIGHT_PLACES: Final = ("rows", "columns")
NORMALISERS: Final = ("weight", "batch", "labelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every loss is built from.

    Attributes:
        num_classes: K, at least 2.
        class_weight_k: weight of each class, shape [K].
        class_weight_on: ``rows``: the weight of a row's class multiplies the row, as a sample weight would;
            ``columns``: weights multiply the classes that the loss sums over, as dlordinal does.
        normaliser: what the sum over rows is divided by; "" where the loss decides.
        counts: training images per class as ``class_weight_source`` says, None where unknown.
        raw_counts: training images per class before any sampler, None where unknown.
    """

    num_classes: int
    class_weight_k: Tensor
    class_weight_on: str = "rows"
    normaliser: str = ""
    counts: Sequence[float] | None = None
    raw_counts: Sequence[float] | None = None


def make_setup(
    *,
    num_classes: int,
    class_counts: Sequence[float] | None = None,
    raw_class_counts: Sequence[float] | None = None,
    class_weights: str = "none",
    class_weight_source: str = "sampled",
    class_weight_beta: float = 0.9999,
    class_weight_on: str = "rows",
    normaliser: str = "",
) -> Setup:
    """Check the parameters that losses share.

    Args:
        num_classes: K, at least 2.
        class_counts: images per class as the sampler draws them, shape [K].
        raw_class_counts: images per class in the training split; None means the same as ``class_counts``.
        class_weights: a name of ``CLASS_WEIGHTS``.
        class_weight_source: which counts the weights come from, ``sampled`` or ``raw``.
        class_weight_beta: beta of ``effective_number``, in [0, 1).
        class_weight_on: ``rows`` or ``columns``.
        normaliser: a name that the loss knows, or "" for its own.

    Raises:
        InputError: a value outside its range, or counts that are missing or do not fit.
    """
    num_classes = check_whole("num_classes", num_classes, low=2)
    check_choice("class_weight_source", class_weight_source, COUNT_SOURCES)
    check_choice("class_weight_on", class_weight_on, WEIGHT_PLACES)
    raw_counts = class_counts if raw_class_counts is None else raw_class_counts
    counts = raw_counts if class_weight_source == "raw" else class_counts
    return Setup(
        num_classes=num_classes,
        class_weight_k=class_weights_from_counts(
            class_weights, num_classes=num_classes, class_counts=counts, beta=class_weight_beta
        ),
        class_weight_on=class_weight_on,
        normaliser=normaliser,
        counts=counts,
        raw_counts=raw_counts,
    )
