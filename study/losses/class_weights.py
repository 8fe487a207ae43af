"""Class weights from class counts."""

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from study.errors import InputError
from study.losses.checks import check_choice, check_number, is_number

CLASS_WEIGHTS: Final = ("none", "balanced", "inv_sum1", "inv_meanK", "sqrt_inv", "effective_number")


def class_weights_from_counts(
    name: str, *, num_classes: int, class_counts: Sequence[float] | None, beta: float = 0.9999
) -> Tensor:
    """Weight of each class, from the number n_c of training images that it has.

    ``none``: 1. ``balanced``: (sum n) / (K n_c). ``inv_sum1``: 1/n_c, scaled to sum 1. ``inv_meanK``: 1/n_c, scaled to
    mean 1. ``sqrt_inv``: 1/sqrt(n_c), scaled to mean 1. ``effective_number``: (1 - beta) / (1 - beta^n_c), scaled to
    mean 1 (Cui et al. 2019, equation 2). The scale matters only where a loss divides by the number of rows.

    Args:
        name: one of ``CLASS_WEIGHTS``.
        num_classes: K, at least 2.
        class_counts: K counts > 0; may be None for ``none``.
        beta: for ``effective_number``, in [0, 1): 0 weights nothing, towards 1 it becomes ``inv_meanK``.

    Returns:
        Shape [K], float32.

    Raises:
        InputError: an unknown name, or counts that are missing, of another length, or not > 0.
    """
    check_choice("class_weights", name, CLASS_WEIGHTS)
    if name == "none":
        return torch.ones(num_classes)
    counts = checked_counts(f"class_weights {name!r}", num_classes=num_classes, class_counts=class_counts)
    counts_k = torch.tensor(counts, dtype=torch.float64)
    if name == "balanced":
        return (counts_k.sum() / (num_classes * counts_k)).float()
    if name == "effective_number":
        inverse_k = _inverse_effective_number(counts_k, beta=beta)
    else:
        inverse_k = counts_k.rsqrt() if name == "sqrt_inv" else counts_k.reciprocal()
    scale = 1 if name == "inv_sum1" else num_classes
    return (scale * inverse_k / inverse_k.sum()).float()


def checked_counts(who: str, *, num_classes: int, class_counts: Sequence[float] | None) -> list[float]:
    """K counts > 0.

    Args:
        who: what needs them, for the message.
        num_classes: K.
        class_counts: what was given.

    Raises:
        InputError: they are missing, of another length, or not > 0.
    """
    if class_counts is None:
        raise InputError(f"{who} needs class counts but no class counts were given", "pass class_counts")
    if not all(map(is_number, found := _listed(class_counts))):
        raise InputError(f"class counts are {found!r}; expected {num_classes} numbers", "pass one count per class")
    counts = [float(count) for count in found]
    if len(counts) != num_classes:
        raise InputError(f"{len(counts)} class counts were given; expected {num_classes}", "pass one count per class")
    faults = [index for index, count in enumerate(counts) if not (count > 0 and math.isfinite(count))]
    if faults:
        raise InputError(
            f"{who} needs training images of every class; class {faults[0]} has {counts[faults[0]]:g}",
            "take a loss without class weights and margins, or merge or fill the class",
        )
    return counts


def _listed(counts: object) -> list[Any]:
    """A sequence, array or tensor as a list; what is none of these as its only item."""
    plain = getattr(counts, "tolist", lambda: counts)()
    return list(plain) if isinstance(plain, Sequence) and not isinstance(plain, str) else [plain]


def _inverse_effective_number(counts_k: Tensor, *, beta: float) -> Tensor:
    """``expm1`` keeps the digits that ``1 - beta**n`` loses for a beta near 1."""
    beta = check_number("class_weight_beta", beta, below=1.0)
    if beta == 0:
        return torch.ones_like(counts_k)
    return (1 - beta) / -torch.expm1(counts_k * math.log(beta))
