"""From stored pixels to what a network sees."""

import functools
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Statistics that timm's pretrained weights were trained with (ImageNet); grey pictures take the mean of the channels.
COLOUR_MEAN: Final = (0.485, 0.456, 0.406)
COLOUR_SD: Final = (0.229, 0.224, 0.225)
GREY_MEAN: Final = 0.449
GREY_SD: Final = 0.226
LARGEST: Final = {torch.uint8: 255.0, torch.uint16: 65535.0}


def to_tensor(pixels: npt.NDArray[Any]) -> Tensor:
    """Stored pixels [N, H, W] or [N, H, W, C] as a tensor [N, C, H, W] of the same type (uint8 or uint16)."""
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)


def to_pixels(images_nchw: Tensor) -> Tensor:
    """Undo the scaling of ``to_input``: pixels [N, C, H, W] from 0 to 1, C being 1 or 3."""
    if images_nchw.shape[1] == 1:
        return images_nchw * GREY_SD + GREY_MEAN
    mean, sd = (
        torch.tensor(numbers, device=images_nchw.device).view(1, -1, 1, 1) for numbers in (COLOUR_MEAN, COLOUR_SD)
    )
    return images_nchw * sd + mean


def to_input(pixels_nchw: Tensor) -> Tensor:
    """Scale pixels [N, C, H, W], uint8 or uint16, to float32 with about zero mean and unit standard deviation.

    The full range of the type is 0 to 1 before that, so that 8- and 16-bit copies of one picture look the same.
    """
    images = pixels_nchw.float().div_(LARGEST[pixels_nchw.dtype])
    if images.shape[1] == 1:
        return images.sub_(GREY_MEAN).div_(GREY_SD)
    return images.sub_(_by_channel(COLOUR_MEAN, images.device)).div_(_by_channel(COLOUR_SD, images.device))


@functools.cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Constants [1, C, 1, 1], kept on the device: sending them with every batch would make a GPU wait."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
