"""The augmentation policies as lists of albumentations transforms, with the numbers of ``SPECS``."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2

from study.data.augment_spec import CLAHE_TILES, GRID_STEPS, PIXEL_DROPOUT_RATE, SPECS
from study.data.augment_transforms import half_turn, level_transforms, quick_transforms


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

    A frame that is not square is turned by 180 degrees alone, as often as a square one.
    """
    albumentations, quick = library(), quick_transforms(library())
    spec: Any = SPECS["mammogram"]  # its ranges are all there
    border = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0}  # zero padding
    turn = quick["RandomRotate90"](p=spec.turn) if kind.is_square else half_turn(albumentations)(p=spec.turn / 4)
    return [
        turn,
        albumentations.HorizontalFlip(p=spec.flip_x),
        albumentations.VerticalFlip(p=spec.flip_y),
        albumentations.Affine(
            translate_percent=(-spec.move.shift, spec.move.shift),
            scale=spec.move.zoom,
            keep_ratio=True,
            rotate=(-spec.move.rotate, spec.move.rotate),
            p=spec.move.p,
            **border,
        ),
        quick["OpticalDistortion"](distort_limit=(spec.lens.low, spec.lens.high), p=spec.lens.p, **border),
        quick["GridDistortion"](
            num_steps=GRID_STEPS, distort_limit=(spec.grid.low, spec.grid.high), p=spec.grid.p, **border
        ),
        _clahe(kind)(
            clip_limit=(spec.clahe.low, spec.clahe.high), tile_grid_size=(CLAHE_TILES, CLAHE_TILES), p=spec.clahe.p
        ),
        albumentations.RandomBrightnessContrast(
            brightness_limit=spec.contrast.brightness, contrast_limit=spec.contrast.contrast, p=spec.contrast.p
        ),
        _gamma(kind, "mammogram"),
        albumentations.Sharpen(alpha=spec.sharpening.alpha, lightness=spec.sharpening.lightness, p=spec.sharpening.p),
        quick["PixelDropout"](dropout_prob=PIXEL_DROPOUT_RATE, p=spec.dropout),
        albumentations.GridDropout(ratio=spec.holes_ratio, p=spec.holes),
    ]


def _multitask(_kind: Kind) -> list[Any]:
    """Translation, zoom and vertical flip, after paper multitask, section 3.2; what comes in from outside is black."""
    albumentations = library()
    spec: Any = SPECS["multitask"]
    border = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0}
    limits = (-spec.move.shift, spec.move.shift)
    return [
        albumentations.Affine(translate_percent={"x": limits, "y": limits}, p=spec.move.p, **border),
        albumentations.Affine(scale=spec.zoom.zoom, keep_ratio=True, p=spec.zoom.p, **border),
        albumentations.VerticalFlip(p=spec.flip_y),
    ]


def _fundus(kind: Kind) -> list[Any]:
    """Gamma, sigmoid contrast and flips, after paper imbalance, appendix B.2.2; both axes flip on their own."""
    albumentations = library()
    spec: Any = SPECS["fundus"]
    return [
        _gamma(kind, "fundus"),
        level_transforms(albumentations)["SigmoidContrast"](p=spec.gain.p),
        albumentations.HorizontalFlip(p=spec.flip_x),
        albumentations.VerticalFlip(p=spec.flip_y),
    ]


POLICIES: Final[dict[str, Callable[[Kind], list[Any]]]] = {
    "none": _none,
    "mammogram": _mammogram,
    "multitask": _multitask,
    "fundus": _fundus,
}


def _clahe(kind: Kind) -> Any:
    return library().CLAHE if kind.bits == 8 else level_transforms(library())["DeepCLAHE"]


def _gamma(kind: Kind, policy: str) -> Any:
    spec: Any = SPECS[policy]
    made = library().RandomGamma if kind.bits == 8 else level_transforms(library())["DeepGamma"]
    return made(gamma_limit=(100 * spec.gamma.low, 100 * spec.gamma.high), p=spec.gamma.p)  # in percent
