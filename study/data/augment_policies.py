"""The augmentation policies, as lists of albumentations transforms.

docs/pictures.md has them as tables, with what the papers print and what is our reading.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2

from study.data.augment_transforms import level_transforms, place_transforms


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a policy is made for: height and width in px, and the depth in bits."""

    image_hw: tuple[int, int]
    bits: int = 8

    @property
    def is_square(self) -> bool:
        """Whether a quarter turn keeps the shape."""
        return self.image_hw[0] == self.image_hw[1]


@functools.cache
def library() -> Any:
    """Albumentations, without its look-up of newer versions on the network."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    cv2.setNumThreads(0)  # one reader per core is faster than many threads per reader
    return albumentations


def _none(_kind: Kind) -> list[Any]:
    return []


def _mammogram(kind: Kind) -> list[Any]:
    """Geometry, then exposure, then occlusion, with the probabilities and ranges of paper ordinal, section 2.2.

    Not in the paper and taken from the library: probability 0.5 of rotation by 90 degrees and of both flips, the limit
    0.3 and 5 steps of the grid distortion, 1 % dropped pixels, lightness of the sharpened image, and that a single clip
    limit means the range from 1. One scale for both axes, since the paper says that the breast is never stretched. A
    frame that is not square is turned by 180 degrees alone, as often as a square one.
    """
    albumentations, own = library(), place_transforms(library())
    border = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0}  # zero padding
    return [
        albumentations.RandomRotate90(p=0.5) if kind.is_square else own["HalfTurn"](p=0.125),
        albumentations.HorizontalFlip(p=0.5),
        albumentations.VerticalFlip(p=0.5),
        albumentations.Affine(
            translate_percent=(-0.0625, 0.0625), scale=(0.9, 1.1), keep_ratio=True, rotate=(-45, 45), p=0.35, **border
        ),
        albumentations.OpticalDistortion(distort_limit=(-0.3, 0.3), p=0.5, **border),
        albumentations.GridDistortion(num_steps=5, distort_limit=(-0.3, 0.3), p=0.2, **border),
        _clahe(kind)(clip_limit=1.5, p=0.35),
        albumentations.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.5),
        _gamma(kind)(gamma_limit=(80, 120), p=0.5),  # percent: gamma from 0.8 to 1.2
        albumentations.Sharpen(alpha=(0.02, 0.2), p=0.35),
        own["SparsePixelDropout"](p=0.3),
        albumentations.GridDropout(ratio=0.35, p=0.1),
    ]


def _multitask(_kind: Kind) -> list[Any]:
    """Translation, zoom and vertical flip, each with probability 0.5, after paper multitask, section 3.2.

    No shear and no horizontal flip, as the paper says. It gives no ranges; ours are a tenth of each side and zoom by
    0.8 to 1.2. What comes in from outside is black.
    """
    albumentations = library()
    border = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0}
    return [
        albumentations.Affine(translate_percent={"x": (-0.1, 0.1), "y": (-0.1, 0.1)}, p=0.5, **border),
        albumentations.Affine(scale=(0.8, 1.2), keep_ratio=True, p=0.5, **border),
        albumentations.VerticalFlip(p=0.5),
    ]


def _fundus(kind: Kind) -> list[Any]:
    """Gamma, sigmoid contrast and flips, each with probability 0.5, after paper imbalance, appendix B.2.2.

    Gamma 0.5 to 1.5; gain 5 to 10, which is that of a sigmoid around the middle of the range; both axes flip on their
    own.
    """
    albumentations = library()
    return [
        _gamma(kind)(gamma_limit=(50, 150), p=0.5),
        level_transforms(albumentations)["SigmoidContrast"](p=0.5),
        albumentations.HorizontalFlip(p=0.5),
        albumentations.VerticalFlip(p=0.5),
    ]


POLICIES: Final[dict[str, Callable[[Kind], list[Any]]]] = {
    "none": _none,
    "mammogram": _mammogram,
    "multitask": _multitask,
    "fundus": _fundus,
}


def _clahe(kind: Kind) -> Any:
    return library().CLAHE if kind.bits == 8 else level_transforms(library())["DeepCLAHE"]


def _gamma(kind: Kind) -> Any:
    return library().RandomGamma if kind.bits == 8 else level_transforms(library())["DeepGamma"]
