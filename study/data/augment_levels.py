"""Changes of brightness, and dropped pixels, in place: the second half of a recipe.

Each equals albumentations' transform of the same name, bit for bit on 8 bits, for the same numbers. Everything between
equalisation and sharpening is one table of all levels.
"""

import functools
from typing import Any

import cv2
import numpy as np
import stringzilla
from numpy.typing import NDArray

from study.data.augment_recipe import Recipe
from study.data.augment_spec import CLAHE_TILES
from study.data.augment_transforms import SIGMOID_CUTOFF, Pixels

Table = NDArray[np.unsignedinteger[Any]]  # [256] or [65536], of the type of the pixels


_CENTRE = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)


def relevelled(image: Pixels, recipe: Recipe) -> None:
    """Change brightness, sharpness and dropped pixels of ``image`` [H, W] or [H, W, 3] in place."""
    if recipe.clip_limit is not None:
        equalised(image, recipe.clip_limit)
    table = level_table(recipe, bits=8 * image.dtype.itemsize)
    if table is not None:
        if image.dtype == np.uint8:
            stringzilla.translate(image.data, table.data, inplace=True)
        else:
            image[...] = table[image]
    if recipe.sharpening is not None:
        cv2.filter2D(image, -1, sharpening_kernel(*recipe.sharpening), dst=image)
    if recipe.dropped_n is not None:
        image.reshape(image.shape[0] * image.shape[1], -1)[recipe.dropped_n] = 0
    if recipe.holes_n4 is not None:
        for left, top, right, bottom in recipe.holes_n4.tolist():
            image[top:bottom, left:right] = 0


def equalised(image: Pixels, clip_limit: float) -> None:
    """Contrast-limited equalisation in 8 x 8 tiles, in place; of colour the lightness alone.

    Of 16 bits the upper 8 are equalised and the change is added to all: on 65,536 levels the clip limit would be below
    one pixel, and nothing would be equalised.
    """
    if image.dtype == np.uint16:
        coarse = (image >> 8).astype(np.uint8)
        before = coarse.astype(np.int32)
        equalised(coarse, clip_limit)
        image[...] = np.clip(image + 257 * (coarse - before), 0, 65535)
        return
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(CLAHE_TILES, CLAHE_TILES))
    if image.ndim == 2:
        clahe.apply(image, dst=image)
        return
    lab: Any = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[:, :, 0] = clahe.apply(lab[:, :, 0])
    cv2.cvtColor(lab, cv2.COLOR_LAB2RGB, dst=image)


def level_table(recipe: Recipe, *, bits: int) -> Table | None:
    """Brightness and contrast, then gamma, then the sigmoid, as one table of all levels; null when nothing changes.

    A gamma of 1 changes nothing (the library's lowers some levels by one).
    """
    tables = []
    if recipe.contrast is not None:
        tables.append(_contrast(*recipe.contrast, bits=bits))
    if recipe.gamma not in {None, 1.0}:
        tables.append(_gamma(recipe.gamma, bits=bits))
    if recipe.gain is not None:
        levels = _levels(bits)
        tables.append(_rounded(1 / (1 + np.exp(recipe.gain * (SIGMOID_CUTOFF - levels))), bits=bits))
    return functools.reduce(lambda first, then: then[first], tables) if tables else None


def sharpening_kernel(alpha: float, lightness: float) -> NDArray[np.float32]:
    """``alpha`` parts of an edge filter whose centre is 8 + lightness, the rest the picture itself; [3, 3]."""
    edges = np.full((3, 3), -1, dtype=np.float32)
    edges[1, 1] = 8 + lightness
    return np.asarray((1 - alpha) * _CENTRE + alpha * edges, dtype=np.float32)


def _contrast(factor: float, summand: float, *, bits: int) -> Table:
    """Cut, not rounded, to whole levels, and counted as albumentations does: 8 bits in float32, 16 in float64."""
    top, dtype = _depth(bits)
    levels = np.arange(top + 1, dtype=np.float32)
    changed = levels * factor if bits == 8 else levels.astype(np.float64) * np.float64(np.float32(factor))
    return np.clip(changed + summand * top, 0, top).astype(dtype)


def _gamma(gamma: float, *, bits: int) -> Table:
    if bits == 8:  # cut to whole levels, as albumentations does
        return ((np.arange(0, 256.0 / 255, 1.0 / 255)[:256] ** gamma) * 255).astype(np.uint8)
    return _rounded(_levels(bits) ** gamma, bits=bits)


def _rounded(brightness: NDArray[np.float64], *, bits: int) -> Table:
    top, dtype = _depth(bits)
    return np.rint(brightness * top).astype(dtype)


@functools.cache
def _levels(bits: int) -> NDArray[np.float64]:
    """All brightnesses, as 0 .. 1."""
    top = 2**bits - 1
    return np.asarray(np.arange(top + 1) / top)


def _depth(bits: int) -> tuple[int, type[np.unsignedinteger[Any]]]:
    return 2**bits - 1, np.uint8 if bits == 8 else np.uint16
