"""Transforms that albumentations lacks, or has for 8 bits alone. They are made on first use: their bases are its."""

import functools
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16

PIXEL_DROPOUT_RATE: Final = 0.01  # the paper gives none; the library's default
SIGMOID_CUTOFF: Final = 0.5  # of the range: the usual middle


@functools.cache
def place_transforms(albumentations: Any) -> dict[str, Any]:
    """Classes that move or drop pixels, by name."""

    class HalfTurn(albumentations.ImageOnlyTransform):  # type: ignore[misc]  # untyped base
        """Turn by 180 degrees."""

        def apply(self, img: Pixels, **_params: Any) -> Pixels:
            return np.ascontiguousarray(img[::-1, ::-1])

    class SparsePixelDropout(albumentations.ImageOnlyTransform):  # type: ignore[misc]  # untyped base
        """Set each pixel to 0 with probability ``PIXEL_DROPOUT_RATE``, independently.

        It draws positions, not one number per pixel: the same distribution from far fewer numbers.
        """

        def apply(self, img: Pixels, **_params: Any) -> Pixels:
            pixels = img.shape[0] * img.shape[1]
            count = self.random_generator.binomial(pixels, PIXEL_DROPOUT_RATE)
            out = img.copy()
            places = self.random_generator.choice(pixels, count, replace=False, shuffle=False)
            out.reshape(pixels, -1)[places] = 0
            return out

    return {"HalfTurn": HalfTurn, "SparsePixelDropout": SparsePixelDropout}


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
        """1 / (1 + exp(gain (0.5 - x))) for brightness x of 0 .. 1, with a gain of 5 to 10."""

        def get_params(self) -> dict[str, float]:
            return {"gain": self.py_random.uniform(5.0, 10.0)}

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
