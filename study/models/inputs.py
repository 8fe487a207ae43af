"""From stored pixels to what a network sees."""

from torch import Tensor

# Grey means of the statistics that timm's pretrained weights were trained with (mean of the three colour channels).
MEAN = 0.449
SD = 0.226


def to_input(pixels_n1hw: Tensor) -> Tensor:
    """Scale uint8 pixels [N, 1, H, W] to float32 of the same shape with about zero mean and unit standard deviation."""
    return pixels_n1hw.float().div_(255.0).sub_(MEAN).div_(SD)
