"""Losses by name. A loss owns its link: the number of outputs, and how they become probabilities and classes."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from study.errors import InputError
from study.losses.base import Criterion
from study.losses.corn import Corn
from study.losses.cross_entropy import CrossEntropy
from study.losses.emd import SquaredEmd
from study.losses.focal import Focal

__all__ = ["LOSSES", "LOSS_PARAMS", "Criterion", "make_criterion"]

LOSSES: Final[Mapping[str, Callable[..., Criterion]]] = {
    "cross_entropy": CrossEntropy,
    "emd": SquaredEmd,
    "corn": Corn,
    "focal": Focal,
}

LOSS_PARAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "cross_entropy": ("class_weights", "normaliser", "label_smoothing"),
    "emd": ("class_weights",),
    "corn": ("class_weights", "normaliser"),
    "focal": ("gamma", "class_weights"),
}


def make_criterion(
    name: str, *, num_classes: int, class_counts: Sequence[float] | None = None, **params: Any
) -> Criterion:
    """Build a loss.

    Args:
        name: a key of ``LOSSES``.
        num_classes: K, the number of ordered classes, at least 2.
        class_counts: training images per class (raw or as sampled), shape [K]; needed only for class weights.
        params: the loss's own parameters, as listed in ``LOSS_PARAMS``.

    Raises:
        InputError: an unknown name or parameter (with the nearest spelling), or a value outside its range.
    """
    if name not in LOSSES:
        raise _unknown("loss", name, LOSSES)
    for param in params:
        if param not in LOSS_PARAMS[name]:
            raise _unknown(f"parameter of loss {name}", param, LOSS_PARAMS[name])
    return LOSSES[name](num_classes=num_classes, class_counts=class_counts, **params)


def _unknown(kind: str, found: str, known: Collection[str]) -> InputError:
    nearest = difflib.get_close_matches(found, known, n=1, cutoff=0.5)
    fix = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of {', '.join(known)}"
    return InputError(f"unknown {kind}: {found!r}; expected one of {', '.join(known)}", fix)
