"""Albumentations' transforms from less work, and those that it lacks or has for 8 bits alone.

They are made on first use: their bases are its.
"""

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.augment_spec import SIGMOID_CUTOFF, SPECS

Pixels = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16


@functools.cache
def quick_transforms(albumentations: Any) -> dict[str, Any]:
    """Classes that draw the same numbers as their bases and give the same bytes, in less time, by the bases' names."""

    class RandomRotate90(albumentations.RandomRotate90):  # type: ignore[misc]  # untyped base
        """Turned row by row, not through a strided view."""

        def apply(self, img: Pixels, factor: int, **_params: Any) -> Pixels:
            turns = {
                1: cv2.ROTATE_90_COUNTERCLOCKWISE,
                2: cv2.ROTATE_180,
                3: cv2.ROTATE_90_CLOCKWISE,
            }
            return np.asarray(cv2.rotate(img, turns[factor]) if factor else img)

    class OpticalDistortion(albumentations.OpticalDistortion):  # type: ignore[misc]  # untyped base
        """Both maps as they are, not copied into one."""

        def apply(self, img: Pixels, map_x: NDArray[Any], map_y: NDArray[Any], **_params: Any) -> Pixels:
            return np.asarray(
                cv2.remap(img, map_x, map_y, self.interpolation, borderMode=self.border_mode, borderValue=self.fill)
            )

    class GridDistortion(albumentations.GridDistortion):  # type: ignore[misc]  # untyped base
        """Both maps as they are, not copied into one."""

        apply = OpticalDistortion.apply

    class PixelDropout(albumentations.PixelDropout):  # type: ignore[misc]  # untyped base
        """The same numbers compared with the rate, not looked up among the shares of a choice; black alone."""

        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            del data
            return {"drop_mask": self.random_generator.random(params["shape"][:2]) < self.dropout_prob}

        def apply(self, img: Pixels, drop_mask: NDArray[np.bool_], **_params: Any) -> Pixels:
            out = img.copy()
            out[drop_mask] = 0
            return out

    made = (RandomRotate90, OpticalDistortion, GridDistortion, PixelDropout)
    return {transform.__name__: transform for transform in made}


@functools.cache
def half_turn(albumentations: Any) -> Any:
    """A class that the library lacks: turn by 180 degrees."""

    class HalfTurn(albumentations.ImageOnlyTransform):  # type: ignore[misc]  # untyped base
        """Turn by 180 degrees."""

        def apply(self, img: Pixels, **_params: Any) -> Pixels:
            return np.ascontiguousarray(img[::-1, ::-1])

    return HalfTurn


@functools.cache
def level_transforms(albumentations: Any) -> dict[str, Any]:
    """Classes that change brightness, by name."""

    class DeepGamma(albumentations.RandomGamma):  # type: ignore[misc]  # untyped base
        """Gamma correction of 16-bit images by a table."""

        def apply(self, img: Pixels, gamma: float, **_params: Any) -> Pixels:
            return _mapped(img, _levels(img) ** gamma)

    class DeepCLAHE(albumentations.CLAHE):  # type: ignore[misc]  # untyped base
        """What equalisation does to the upper 8 bits, added to all 16.

        On 65,536 levels the clip limit would be below one pixel, and nothing would be equalised.
        """

        def apply(self, img: Pixels, clip_limit: float, **params: Any) -> Pixels:
            coarse = (img >> 8).astype(np.uint8)
            change = super().apply(coarse, clip_limit, **params).astype(np.int32) - coarse
            return np.asarray(np.clip(img + 257 * change, 0, 65535), dtype=np.uint16)

    class SigmoidContrast(albumentations.ImageOnlyTransform):  # type: ignore[misc]  # untyped base
        """1 / (1 + exp(gain (0.5 - x))) for brightness x of 0 .. 1, with the gain of ``SPECS``."""

        def get_params(self) -> dict[str, float]:
            gain: Any = SPECS["fundus"].gain
            return {"gain": self.py_random.uniform(gain.low, gain.high)}

        def apply(self, img: Pixels, gain: float, **_params: Any) -> Pixels:
            return _mapped(img, 1 / (1 + np.exp(gain * (SIGMOID_CUTOFF - _levels(img)))))

    return {"DeepGamma": DeepGamma, "DeepCLAHE": DeepCLAHE, "SigmoidContrast": SigmoidContrast}


def _levels(img: Pixels) -> NDArray[np.float64]:
    """All brightnesses of the image's depth, as 0 .. 1."""
    top = np.iinfo(img.dtype).max
    return np.arange(top + 1) / top


def _mapped(img: Pixels, brightness: NDArray[np.float64]) -> Pixels:
    """The image through a table of brightnesses 0 .. 1."""
    table = np.rint(brightness * np.iinfo(img.dtype).max).astype(img.dtype)
    return np.asarray(np.take(table, img), dtype=img.dtype)
