"""How strongly losses push a logit: figure 1 of paper alpa, from the losses that train here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from study.losses import make_criterion
from study.losses.sigmoid import OneVersusRest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = npt.NDArray[np.float64]

# What the paper derives for ALPA has one focusing power, s^(g+1) with g = 4; its code has two, s^g (s - clip)^(g+1).
# The former is the latter with half the exponent and no clip.
CURVES: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "ALPA, as derived (gamma 4)": ("alpa", {"preset": "v1", "gamma_neg": 2.0, "clip": 0.0}),
    "ASL (clip 0.01, gamma 0.01)": (
        "asl",
        {"gamma_neg": 0.01, "gamma_pos": 0.0, "clip": 0.01, "detach": False},
    ),
    "cross-entropy": ("bce", {}),
    "focal (gamma 0.5)": ("focal_sigmoid", {"gamma": 0.5, "alpha": None}),
    "alpa v1, as coded": ("alpa", {"preset": "v1"}),
    "alpa v2, as coded": ("alpa", {"preset": "v2"}),
}
STYLES: Final[tuple[dict[str, Any], ...]] = (
    {"color": "#D55E00"},
    {"color": "#0072B2"},
    {"color": "#4D4D4D"},
    {"color": "#009E73"},
    {"color": "#D55E00", "linestyle": "--", "linewidth": 1.2},
    {"color": "#D55E00", "linestyle": ":", "linewidth": 1.6},
)
_DPI: Final = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Size of the derivative of a loss by the logit, for a negative and for a positive, each at P probabilities [P]."""

    negative_p: FloatArray
    positive_p: FloatArray


def gradients_of(name: str, params: Mapping[str, Any], *, probability_p: FloatArray) -> Gradients:
    """``|dL/dz|`` of a one-versus-rest loss where the sigmoid of the logit is ``probability_p``.

    Raises:
        InputError: the loss has no cost of a single logit, or an argument outside its range.
    """
    criterion = make_criterion(name, num_classes=2, **params)
    if not isinstance(criterion, OneVersusRest):
        raise TypeError(f"{name} is no loss on sigmoids")
    logits_p = torch.logit(torch.from_numpy(probability_p)).requires_grad_()
    sizes: list[Tensor] = []
    for cost_p in criterion.costs(logits_p):
        (slope_p,) = torch.autograd.grad(cost_p.sum(), logits_p, retain_graph=True)
        sizes.append(slope_p.abs())
    return Gradients(positive_p=sizes[0].numpy(), negative_p=sizes[1].numpy())


def write_gradient_figure(path: Path) -> Path:
    """Draw the gradients of ``CURVES`` over the predicted probability into a PNG file; returns ``path``.

    Left: a negative, which is figure 1 of paper alpa (the four solid lines), and what its code really computes
    (dashed and dotted). Right: a positive, which the paper does not show. An older file is replaced as a whole.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    probability_p = np.linspace(0.001, 0.999, 999)
    found = {label: gradients_of(*curve, probability_p=probability_p) for label, curve in CURVES.items()}
    figure = Figure(figsize=(12, 4.8), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw(left, probability_p, {label: each.negative_p for label, each in found.items()}, title="negative: y = 0")
    _draw(right, probability_p, {label: each.positive_p for label, each in found.items()}, title="positive: y = 1")
    left.legend(fontsize=8, frameon=False)
    figure.suptitle("How strongly a loss pushes a logit (paper alpa, figure 1)", fontsize=12, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(partial, format="png")
    partial.replace(path)
    return path


def _draw(axes: "Axes", probability_p: FloatArray, sizes: Mapping[str, FloatArray], *, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set(xlabel="predicted probability s", ylabel="size of the gradient by the logit", xlim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    for (label, size_p), style in zip(sizes.items(), STYLES, strict=True):
        axes.plot(probability_p, size_p, label=label, **style)
