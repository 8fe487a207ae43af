"""Grad-CAM++ (Chattopadhyay et al., WACV 2018) for every head of the project.

For class k with score S, activations A [C, h, w] of the last convolutional layer and g = dS/dA, equation 19 of the
paper with its relu (equation 7) is, for each place::

    alpha = g^2 / (2 g^2 + sum(A) g^3) = 1 / (2 + sum(A) g)      weight_c = sum over places of alpha * relu(g)
    map = relu(sum over c of weight_c * A_c)

The right form of alpha needs no small number in the denominator. pytorch-grad-cam adds 1e-6 to the left one, which is
larger than g^2 on large maps (g is about 1 / (h w) of a weight) and then makes alpha a power of g.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.errors import InputError
from study.losses.base import Criterion

SMALLEST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMaps:
    """Where each class is seen: ``maps_nkhw`` >= 0 and coarser than the images, ``probs_nk`` of the same pass."""

    maps_nkhw: NDArray[np.float32]
    probs_nk: NDArray[np.float64]


def class_scores(criterion: Criterion, logits_no: Tensor) -> Tensor:
    """One score per class from the outputs of any head, [N, O] to [N, K].

    Those of a softmax are its logits, as in the paper. Cumulative and conditional heads (CORAL, CORN, ...) and scaled
    cosines (LDAM) have no logit of a class: their score is the logarithm of its probability.
    """
    probs_nk = criterion.probabilities(logits_no)
    is_softmax = logits_no.shape == probs_nk.shape and torch.allclose(
        probs_nk.to(logits_no.dtype), logits_no.softmax(dim=1), atol=1e-5
    )
    return logits_no if is_softmax else probs_nk.clamp(min=SMALLEST).log()


def find_layer(network: nn.Module, images_nchw: Tensor) -> nn.Module:
    """The module that gives the activations of the last convolutional layer: the convolution with what follows it.

    Layers that see one place alone (squeeze and excite) and those of a decoder do not count.

    Raises:
        InputError: the network has no convolution after its first.
    """
    seen: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    names = {module: name for name, module in network.named_modules() if name and not name.startswith("decoder")}

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1:
            seen.append((names[module], module, tuple(output.shape)))

    handles = [module.register_forward_hook(note) for module in names]
    try:
        with torch.no_grad(), evaluating(network):
            network(images_nchw[:1])
    finally:
        for handle in handles:
            handle.remove()
    places = [place for place, (_, module, _) in enumerate(seen) if isinstance(module, nn.Conv2d)]
    if len(places) < 2:
        raise InputError(
            "this network has no convolutional layer after its first, so it has no map of classes",
            "explain a convolutional network, such as an EfficientNet or the hourglass",
        )
    shape = seen[places[-1]][2]
    return [module for _, module, found in seen[places[-1] :] if found == shape][-1]


class evaluating:  # noqa: N801 - used as a context manager, like torch.no_grad
    """Evaluation mode within the block; every module's own mode is put back afterwards."""

    def __init__(self, network: nn.Module) -> None:
        self.modes = {module: module.training for module in network.modules()}
        self.network = network

    def __enter__(self) -> None:
        self.network.eval()

    def __exit__(self, *_: object) -> None:
        for module, mode in self.modes.items():
            module.training = mode


def class_maps(
    network: nn.Module,
    criterion: Criterion,
    images_nchw: Tensor,
    *,
    columns: slice | None = None,
    layer: nn.Module | None = None,
) -> ClassMaps:
    """Grad-CAM++ of every class for a batch of images.

    Args:
        network: on the images' device.
        criterion: of the task that is explained.
        images_nchw: scaled as the network expects, [N, C, H, W].
        columns: the task's columns among the network's outputs; all of them by default.
        layer: whose output is looked at; that of ``find_layer`` by default.

    Raises:
        InputError: as ``find_layer``.
    """
    layer = layer or find_layer(network, images_nchw)
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # what follows may change it in its place

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad(), evaluating(network):
            outputs_no = network(images_nchw.detach().requires_grad_())
            logits_no = outputs_no if columns is None else outputs_no[:, columns]
            scores_nk = class_scores(criterion, logits_no)
            probs_nk = criterion.probabilities(logits_no)
            maps = [_map(kept[0], scores_nk[:, k]) for k in range(scores_nk.shape[1])]
    finally:
        handle.remove()
    return ClassMaps(
        maps_nkhw=torch.stack(maps, dim=1).float().cpu().numpy(), probs_nk=probs_nk.detach().double().cpu().numpy()
    )


def _map(activations_nchw: Tensor, score_n: Tensor) -> Tensor:
    """The map of one class, [N, h, w]; images do not touch one another in evaluation mode, so one pass serves all."""
    (gradient,) = torch.autograd.grad(score_n.sum(), activations_nchw, retain_graph=True)
    # The paper's activations are outputs of a ReLU; a smooth unit can sum up to a little below 0.
    total = activations_nchw.detach().sum(dim=(2, 3), keepdim=True).clamp(min=0)
    rising = gradient.clamp(min=0)
    weights = (rising / (2 + total * rising)).sum(dim=(2, 3), keepdim=True)
    return (weights * activations_nchw.detach()).sum(dim=1).clamp(min=0)
