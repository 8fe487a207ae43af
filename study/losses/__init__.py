"""Losses by name. A loss owns its link: the number of outputs, and how they become probabilities and classes."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from study.errors import InputError
from study.losses.alpa import Alpa
from study.losses.balanced import ClassBalanced
from study.losses.base import Criterion
from study.losses.cdw_ce import CdwCe
from study.losses.coral import Coral
from study.losses.corn import Corn
from study.losses.cross_entropy import CrossEntropy
from study.losses.emd import SquaredEmd
from study.losses.focal import Focal
from study.losses.kappa import Mce, MceWk, WeightedKappa
from study.losses.ldam import Ldam
from study.losses.metric_losses import CeF1, CeMcc, SoftF1, SoftMcc
from study.losses.setup import make_setup
from study.losses.sigmoid import Asl, Bce, FocalSigmoid, Hill, Ral
from study.losses.slace import Slace
from study.losses.soft_labels import (
    BetaLabels,
    BinomialLabels,
    ExponentialLabels,
    GeometricLabels,
    PoissonLabels,
    TriangularLabels,
)

__all__ = ["LOSSES", "LOSS_PARAMS", "Criterion", "make_criterion"]

LOSSES: Final[Mapping[str, type[Criterion]]] = {
    "cross_entropy": CrossEntropy,
    "focal": Focal,
    "coral": Coral,
    "corn": Corn,
    "cdw_ce": CdwCe,
    "emd": SquaredEmd,
    "wk": WeightedKappa,
    "mce": Mce,
    "mce_wk": MceWk,
    "soft_label_beta": BetaLabels,
    "soft_label_binomial": BinomialLabels,
    "soft_label_exponential": ExponentialLabels,
    "soft_label_geometric": GeometricLabels,
    "soft_label_poisson": PoissonLabels,
    "soft_label_triangular": TriangularLabels,
    "slace": Slace,
    "soft_f1": SoftF1,
    "soft_mcc": SoftMcc,
    "ce_f1": CeF1,
    "ce_mcc": CeMcc,
    "bce": Bce,
    "focal_sigmoid": FocalSigmoid,
    "asl": Asl,
    "alpa": Alpa,
    "hill": Hill,
    "ral": Ral,
    "cb": ClassBalanced,
    "ldam": Ldam,
}

_WEIGHTS: Final = ("class_weights", "class_weight_source", "class_weight_beta")
_ROWS: Final = (*_WEIGHTS, "normaliser")
_PLACED: Final = (*_WEIGHTS, "class_weight_on")
_COLUMNS: Final = (*_PLACED, "normaliser")
_SHARED: Final = frozenset(_COLUMNS)

LOSS_PARAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "cross_entropy": (*_ROWS, "label_smoothing"),
    "focal": (*_ROWS, "gamma", "alpha"),
    "coral": (*_ROWS, "importance_weights"),
    "corn": _ROWS,
    "cdw_ce": (*_ROWS, "alpha", "margin", "normalise_distance"),
    "emd": _ROWS,
    "wk": (*_PLACED, "penalty", "log", "legacy_pred_norm"),
    "mce": _COLUMNS,
    "mce_wk": (*_COLUMNS, "kappa_share", "penalty", "legacy_pred_norm"),
    "soft_label_beta": (*_COLUMNS, "eta"),
    "soft_label_binomial": (*_COLUMNS, "eta"),
    "soft_label_exponential": (*_COLUMNS, "eta", "exponent", "tau"),
    "soft_label_geometric": (*_COLUMNS, "eta", "alpha"),
    "soft_label_poisson": (*_COLUMNS, "eta"),
    "soft_label_triangular": (*_COLUMNS, "eta", "alpha2"),
    "slace": (*_ROWS, "alpha"),
    "soft_f1": (*_PLACED, "absent", "positive"),
    "soft_mcc": (*_WEIGHTS, "kind", "absent"),
    "ce_f1": (*_ROWS, "ce_weight", "metric_weight", "metric_weighting", "absent"),
    "ce_mcc": (*_ROWS, "ce_weight", "metric_weight", "metric_weighting", "kind", "absent"),
    "bce": _COLUMNS,
    "focal_sigmoid": (*_COLUMNS, "gamma", "alpha"),
    "asl": (*_COLUMNS, "preset", "gamma_neg", "gamma_pos", "clip", "detach", "link", "label_smoothing"),
    "alpa": (*_COLUMNS, "preset", "alpha", "beta", "gamma_pos", "gamma_neg", "clip", "hill", "hill_lambda"),
    "hill": (*_COLUMNS, "hill_lambda", "margin", "gamma"),
    "ral": (*_COLUMNS, "gamma_neg", "gamma_pos", "clip", "hill_lambda", "epsilon_pos", "epsilon_pos_pow"),
    "cb": ("class_weight_source", "normaliser", "kind", "beta", "gamma"),
    "ldam": ("class_weight_source", "normaliser", "max_m", "scale", "drw", "drw_start", "drw_beta"),
}


def make_criterion(
    name: str,
    *,
    num_classes: int,
    class_counts: Sequence[float] | None = None,
    raw_class_counts: Sequence[float] | None = None,
    **params: Any,
) -> Criterion:
    """Build a loss.

    Args:
        name: a key of ``LOSSES``.
        num_classes: K, the number of ordered classes, at least 2.
        class_counts: training images per class as the sampler draws them, shape [K], on the scale of the training
            split; needed only for class weights, ``cb`` and ``ldam``.
        raw_class_counts: training images per class before any sampler, shape [K]; None means the same.
        params: the loss's own parameters, as listed in ``LOSS_PARAMS``; docs/losses.md explains them.

    Raises:
        InputError: an unknown name or parameter (with the nearest spelling), or a value outside its range.
    """
    kind = LOSSES.get(name) if _is_text(name) else None
    if kind is None:
        raise _unknown("loss", name, LOSSES)
    for param in params:
        if param not in LOSS_PARAMS[name]:
            raise _unknown(f"parameter of loss {name}", param, LOSS_PARAMS[name])
    shared = {key: value for key, value in params.items() if key in _SHARED}
    own = {key: value for key, value in params.items() if key not in _SHARED}
    setup = make_setup(num_classes=num_classes, class_counts=class_counts, raw_class_counts=raw_class_counts, **shared)
    return kind(setup, **own)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _unknown(kind: str, found: object, known: Collection[str]) -> InputError:
    nearest = difflib.get_close_matches(str(found), known, n=1, cutoff=0.5)
    fix = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of {', '.join(known)}"
    return InputError(f"unknown {kind}: {found!r}; expected one of {', '.join(known)}", fix)
