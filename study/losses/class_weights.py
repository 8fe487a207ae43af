"""Class weights from class counts, and the checks that all losses share at construction."""

import math
from collections.abc import Collection, Sequence
from typing import Final

import torch
from torch import Tensor

from study.errors import InputError

CLASS_WEIGHTS: Final = ("none", "balanced", "inv_sum1", "inv_meanK", "sqrt_inv")


def class_weights_from_counts(name: str, *, num_classes: int, class_counts: Sequence[float] | None) -> Tensor:
    """Weight of each class, from the number n_c of training images that it has.

    ``none``: 1. ``balanced``: (sum n) / (K n_c). ``inv_sum1``: 1/n_c, scaled to sum 1. ``inv_meanK``: 1/n_c, scaled to
    mean 1. ``sqrt_inv``: 1/sqrt(n_c), scaled to mean 1. The scale matters only where a loss divides by the number of
    rows.

    Args:
        name: one of ``CLASS_WEIGHTS``.
        num_classes: K, at least 2.
        class_counts: K counts > 0 of what the loss will see (after a balancing sampler: the sampled counts); may be
            None for ``none``.

    Returns:
        Shape [K], float32.

    Raises:
        InputError: K < 2, an unknown name, or counts that are missing, of another length, or not > 0.
    """
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes!r}; expected a whole number of at least 2", "check the labels")
    check_choice("class_weights", name, CLASS_WEIGHTS)
    if name == "none":
        return torch.ones(num_classes)
    counts = _checked_counts(name, num_classes=num_classes, class_counts=class_counts)
    counts_k = torch.tensor(counts, dtype=torch.float64)
    if name == "balanced":
        return (counts_k.sum() / (num_classes * counts_k)).float()
    inverse_k = counts_k.rsqrt() if name == "sqrt_inv" else counts_k.reciprocal()
    scale = 1 if name == "inv_sum1" else num_classes
    return (scale * inverse_k / inverse_k.sum()).float()


def check_choice(param: str, value: object, choices: Collection[str]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        InputError: with the parameter, the value and all choices.
    """
    if value not in choices:
        raise InputError(f"{param} is {value!r}; expected one of {', '.join(choices)}", f"choose one for {param}")


def check_number(param: str, value: object, *, below: float = math.inf) -> float:
    """Refuse what is not a finite number in [0, below).

    Raises:
        InputError: with the parameter, the value and the range.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(number := float(value)) or not 0 <= number < below:  # type: ignore[arg-type]
        upper = "" if below == math.inf else f" and < {below:g}"
        raise InputError(f"{param} is {value!r}; expected a number >= 0{upper}", f"change {param}")
    return number


def _checked_counts(name: str, *, num_classes: int, class_counts: Sequence[float] | None) -> list[float]:
    if class_counts is None:
        raise InputError(f"class_weights is {name!r} but no class counts were given", "pass class_counts")
    counts = [float(count) for count in class_counts]
    if len(counts) != num_classes:
        raise InputError(f"{len(counts)} class counts were given; expected {num_classes}", "pass one count per class")
    faults = [index for index, count in enumerate(counts) if not (count > 0 and math.isfinite(count))]
    if faults:
        raise InputError(
            f"class_weights {name!r} need training images of every class; class {faults[0]} has {counts[faults[0]]:g}",
            "use class_weights: none, or merge or fill the class",
        )
    return counts
