"""Changes of brightness as one table of all levels, and the filter that sharpens; as albumentations counts them."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.augment_recipe import Recipe
from study.data.augment_spec import SIGMOID_CUTOFF

Table = NDArray[np.unsignedinteger[Any]]  # [256] or [65536], of the type of the pixels

_CENTRE = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)


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
