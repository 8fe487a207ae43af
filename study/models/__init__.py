"""Networks by name: any timm backbone with a linear head. Nothing here knows which loss will train it."""

from collections.abc import Callable, Mapping
from typing import Final

from torch import nn

from study.models.backbones import list_backbones, make_timm_classifier, nearest_backbones
from study.models.heads import MakeHead, exchange_head
from study.models.torchvision_ops import declare_missing_operators

__all__ = ["MODELS", "declare_missing_operators", "list_backbones", "make_model", "nearest_backbones"]

MODELS: Final[Mapping[str, Callable[..., nn.Module]]] = {"timm": make_timm_classifier}


def make_model(
    name: str,
    *,
    num_outputs: int,
    in_channels: int = 1,
    pretrained: bool | str = False,
    drop_rate: float = 0.0,
    image_hw: tuple[int, int] | None = None,
    make_head: MakeHead | None = None,
) -> nn.Module:
    """Build a network that maps images [N, in_channels, H, W] to logits [N, num_outputs].

    Args:
        name: any timm backbone, with or without the tag of its pretrained weights (``efficientnet_b3.ra2_in1k``).
        num_outputs: size of the head, >= 1; the criterion knows it.
        in_channels: channels of the images; pretrained first convolutions are summed up or repeated to fit.
        pretrained: False for random weights, True for timm's hub (or its local cache), or a local ``.safetensors`` or
            ``.pth`` file with a state dict of the same backbone (read without unpickling code); the head is always
            fresh.
        drop_rate: dropout before the head, in [0, 1).
        image_hw: height and width of the images in pixels; only backbones of fixed input size (vision transformers)
            look at it.
        make_head: makes the last layer from the number of pooled features, or gives None for a linear one; a criterion
            has such a method.

    Raises:
        InputError: an unknown name (with the nearest spellings), a number outside its range, a file that does not hold
            the weights of this backbone, or a backbone whose last layer cannot be exchanged for the wanted one.
        EnvironmentFault: pretrained weights are neither cached nor reachable.
    """
    network = MODELS["timm"](
        name,
        num_outputs=num_outputs,
        in_channels=in_channels,
        pretrained=pretrained,
        drop_rate=drop_rate,
        image_hw=image_hw,
    )
    if make_head is not None:
        exchange_head(network, make_head)
    return network
