"""Networks by name: any timm backbone, and the hourglass. Nothing here knows which loss will train them."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn

from study.errors import InputError
from study.models.backbones import list_backbones, make_classifier, nearest_backbones, nearest_names
from study.models.heads import MakeHead
from study.models.hourglass import make_hourglass
from study.models.setup import Setup
from study.models.torchvision_ops import declare_missing_operators

__all__ = [
    "MODELS",
    "MODEL_PARAMS",
    "declare_missing_operators",
    "is_model",
    "list_backbones",
    "make_model",
    "nearest_backbones",
    "nearest_models",
]

CLASSIFIER: Final = "classifier"

MODELS: Final[Mapping[str, Callable[..., nn.Module]]] = {
    "classifier": make_classifier,
    "hourglass": make_hourglass,
}

MODEL_PARAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "classifier": (),
    "hourglass": ("fusion", "reconstruct"),
}


def make_model(
    name: str,
    *,
    num_outputs: int,
    in_channels: int = 1,
    pretrained: bool | str = False,
    drop_rate: float = 0.0,
    image_hw: tuple[int, int] | None = None,
    make_head: MakeHead | None = None,
    **params: Any,
) -> nn.Module:
    """Build a network that maps images [N, in_channels, H, W] to outputs [N, num_outputs].

    Args:
        name: ``hourglass``, or for a ``classifier`` any timm backbone, with or without the tag of its pretrained
            weights (``efficientnet_b3.ra2_in1k``).
        num_outputs: size of the head, >= 1; the criterion knows it.
        in_channels: channels of the images; pretrained first convolutions are summed up or repeated to fit.
        pretrained: False for random weights, True for timm's hub (or its local cache), or a local ``.safetensors`` or
            ``.pth`` file with a state dict of the same network (read without unpickling code). The head of a
            classifier is always fresh; that of an hourglass is taken where it fits.
        drop_rate: dropout before the head, in [0, 1).
        image_hw: height and width of the images in pixels; only backbones of fixed input size (vision transformers)
            look at it.
        make_head: makes the last layer from the number of pooled features, or gives None for a linear one; a criterion
            has such a method.
        params: the network's own parameters, as listed in ``MODEL_PARAMS``; see ``make_hourglass``.

    Raises:
        InputError: an unknown name or parameter (with the nearest spellings), a number outside its range, a file that
            does not hold the weights of this network, or a backbone whose last layer cannot be exchanged for the wanted
            one.
        EnvironmentFault: pretrained weights are neither cached nor reachable.
    """
    kind = name if name in MODELS and name != CLASSIFIER else CLASSIFIER
    for param in params:
        if param not in MODEL_PARAMS[kind]:
            near = nearest_names(param, MODEL_PARAMS[kind])
            owners = [other for other, known in MODEL_PARAMS.items() if param in known]
            fix = f"did you mean {near[0]}?" if near else f"it belongs to {owners[0]}" if owners else "leave it out"
            raise InputError(f"unknown parameter of network {name}: {param!r}", fix)
    setup = Setup(
        num_outputs=num_outputs,
        in_channels=in_channels,
        pretrained=pretrained,
        drop_rate=drop_rate,
        image_hw=image_hw,
        make_head=make_head,
    )
    return MODELS[kind](name, setup, **params)


def is_model(name: str) -> bool:
    """Whether ``make_model`` knows the name."""
    return name != CLASSIFIER and (name in MODELS or name.partition(".")[0] in list_backbones())


def nearest_models(name: str) -> list[str]:
    """Up to three known networks whose spelling is nearest to ``name``, the nearest first."""
    own = [known for known in MODELS if known != CLASSIFIER]
    return [*nearest_names(name, own), *nearest_backbones(name)][:3]
