"""Where each output pixel of a recipe comes from: all its changes of place as one map.

It is the chain of the steps, last one first: distorted grid, lens, affine changes, flips, turns. The grid depends on x
and y apart, the lens multiplies the distance d from the middle, in shares of the sides, by 1 + k d^2 + k d^4. So both
coordinates of the source are polynomials of degree 5 in y with coefficients that depend on x alone, and the whole map
is a product of a thin matrix [H, 6] with a flat one [6, 2 W].
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.data.augment_recipe import Affine, Grid, Recipe
from study.data.augment_spec import GRID_STEPS

Matrix = NDArray[np.float64]  # [3, 3], px of the output to px of the source


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """Source coordinates of every output pixel: ``rows_hk @ columns_k2w`` is [H, 2 W], x in the left half, y right."""

    rows_hk: NDArray[np.float32]
    columns_k2w: NDArray[np.float32]


def is_exact(recipe: Recipe) -> bool:
    """Whether pixels only change places, so that nothing is interpolated."""
    return recipe.move is None and recipe.zoom is None and not is_bent(recipe)


def is_bent(recipe: Recipe) -> bool:
    """Whether grid or lens change anything; without an amount they do not (the library's lens shifts half a pixel)."""
    return bool(recipe.lens) or _bends(recipe.grid)


def _bends(grid: Grid | None) -> bool:
    return grid is not None and len({*grid.steps_x, *grid.steps_y}) > 1


def source_matrix(recipe: Recipe, image_hw: tuple[int, int]) -> Matrix:
    """From output px, behind grid and lens, to source px: all turns, flips and affine changes."""
    return _early(recipe, image_hw) @ _late(recipe, image_hw)


def source_map(recipe: Recipe, image_hw: tuple[int, int]) -> Map:
    """From output px to source px, with grid and lens."""
    return _map(recipe, image_hw, source_matrix(recipe, image_hw))


def loses_pixels(recipe: Recipe) -> bool:
    """Whether a later step could bring back what the first affine change had moved out of the frame."""
    return recipe.move is not None and (recipe.zoom is not None or (recipe.lens or 0.0) > 0)


def border_map(recipe: Recipe, image_hw: tuple[int, int]) -> Map:
    """From output px to px behind the first affine change, counted from the middle of the frame."""
    to_middle = np.array([[1, 0, -(image_hw[1] - 1) / 2], [0, 1, -(image_hw[0] - 1) / 2], [0, 0, 1]])
    return _map(recipe, image_hw, to_middle @ _late(recipe, image_hw))


def _early(recipe: Recipe, image_hw: tuple[int, int]) -> Matrix:
    """From px behind the first affine change to source px."""
    matrix = _turn(recipe.quarter_turns, image_hw)
    if not recipe.is_flipped_last:
        matrix = matrix @ _flips(recipe, image_hw)
    return matrix if recipe.move is None else matrix @ inverse_affine(recipe.move, image_hw)


def _late(recipe: Recipe, image_hw: tuple[int, int]) -> Matrix:
    """From output px, behind grid and lens, to px behind the first affine change."""
    matrix = np.eye(3) if recipe.zoom is None else inverse_affine(recipe.zoom, image_hw)
    return matrix @ _flips(recipe, image_hw) if recipe.is_flipped_last else matrix


def inverse_affine(affine: Affine, image_hw: tuple[int, int]) -> Matrix:
    """From px behind an affine change to px before it."""
    centre_x, centre_y = (image_hw[1] - 1) / 2, (image_hw[0] - 1) / 2
    cosine, sine = (
        math.cos(math.radians(affine.rotate)) / affine.zoom,
        math.sin(math.radians(affine.rotate)) / affine.zoom,
    )
    x, y = centre_x + affine.shift_xy[0], centre_y + affine.shift_xy[1]
    return np.array(
        [
            [cosine, -sine, centre_x - cosine * x + sine * y],
            [sine, cosine, centre_y - sine * x - cosine * y],
            [0, 0, 1],
        ]
    )


def _turn(quarters: int, image_hw: tuple[int, int]) -> Matrix:
    right, bottom = image_hw[1] - 1, image_hw[0] - 1
    rows = {
        0: [[1, 0, 0], [0, 1, 0]],
        1: [[0, -1, right], [1, 0, 0]],
        2: [[-1, 0, right], [0, -1, bottom]],
        3: [[0, 1, 0], [-1, 0, bottom]],
    }
    return np.array([*rows[quarters], [0, 0, 1]], dtype=np.float64)


def _flips(recipe: Recipe, image_hw: tuple[int, int]) -> Matrix:
    x, y = -1 if recipe.is_mirrored_x else 1, -1 if recipe.is_mirrored_y else 1
    right, bottom = image_hw[1] - 1, image_hw[0] - 1
    return np.array([[x, 0, right if x < 0 else 0], [0, y, bottom if y < 0 else 0], [0, 0, 1]], dtype=np.float64)


def _map(recipe: Recipe, image_hw: tuple[int, int], matrix: Matrix) -> Map:
    height, width = image_hw
    x = (_axis(recipe, width, axis=0) - (width - 1) / 2) / width
    y = (_axis(recipe, height, axis=1) - (height - 1) / 2) / height
    k = recipe.lens or 0.0
    # OpenCV's lens takes (w - 1) / 2 for the middle of a side in the output and w / 2 in the source.
    offset = 0.5 if k else 0.0
    middle = matrix[:2, :2] @ ((width - 1) / 2 + offset, (height - 1) / 2 + offset) + matrix[:2, 2]
    # 1 + k d^2 + k d^4 with d^2 = x^2 + y^2, sorted by powers of y: e0 + e2 y^2 + e4 y^4
    x2 = x * x
    e0, e2, e4 = 1 + k * x2 + k * x2 * x2, k + 2 * k * x2, np.full_like(x, k)
    columns = np.empty((6, 2, width))
    for side in range(2):
        along, across = matrix[side, 0] * width * x, matrix[side, 1] * height
        columns[:, side] = (e0 * along + middle[side], e0 * across, e2 * along, e2 * across, e4 * along, e4 * across)
    powers = 6 if k else 2
    rows = np.vander(y, powers, increasing=True)
    return Map(
        rows_hk=rows.astype(np.float32), columns_k2w=columns[:powers].reshape(powers, 2 * width).astype(np.float32)
    )


def _axis(recipe: Recipe, side: int, *, axis: int) -> NDArray[np.float64]:
    """Where the pixels along one side come from, before lens and affine changes."""
    if recipe.grid is None or not _bends(recipe.grid):
        return _plain(side)
    steps = np.array((recipe.grid.steps_x, recipe.grid.steps_y)[axis])
    cell, share = _cells(side)
    step = max(1, side // GRID_STEPS)
    steps[-1] *= (min(side, (GRID_STEPS + 1) * step) - GRID_STEPS * step) / step  # the rest of the side
    nodes = np.concatenate([[0.0], np.cumsum(steps * (side / steps.sum()))])
    return np.asarray(nodes[cell] + share * (nodes[cell + 1] - nodes[cell]))


@functools.lru_cache(maxsize=8)
def _plain(side: int) -> NDArray[np.float64]:
    return np.arange(side, dtype=np.float64)


@functools.lru_cache(maxsize=8)
def _cells(side: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each pixel along a side its cell of the grid, and its place between the cell's two ends, 0 to 1."""
    step = max(1, side // GRID_STEPS)
    cell = np.minimum(np.arange(side) // step, GRID_STEPS)
    size = np.minimum(step, side - cell * step)
    return cell, (np.arange(side) - cell * step) / np.maximum(1, size - 1)
