"""Where each output pixel of a recipe comes from: all its changes of place as one map.

It is the chain of the steps, last one first: distorted grid, lens, affine changes, flips, turns. The grid depends on x
and y apart, the lens multiplies the distance d from the middle, in shares of the sides, by 1 + k d^2 + k d^4. So both
coordinates of the source are polynomials of degree 5 in y with coefficients that depend on x alone, and the whole map
is a product of a thin matrix [H, 6] with a flat one [6, 2 W].
"""

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from study.data.augment_recipe import Affine, Grid, Recipe
from study.data.augment_spec import GRID_STEPS

# An affine change of (x, y) in px: x' = a x + b y + c, y' = d x + e y + f. Plain numbers: numpy takes longer for six.
Matrix = tuple[float, float, float, float, float, float]
IDENTITY: Final[Matrix] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


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
    return _after(_early(recipe, image_hw), _late(recipe, image_hw))


def _after(second: Matrix, first: Matrix) -> Matrix:
    """Both changes as one, ``first`` first."""
    a, b, c, d, e, f = second
    g, h, i, j, k, m = first
    return a * g + b * j, a * h + b * k, a * i + b * m + c, d * g + e * j, d * h + e * k, d * i + e * m + f


def source_map(recipe: Recipe, image_hw: tuple[int, int]) -> Map:
    """From output px to source px, with grid and lens."""
    return _map(recipe, image_hw, source_matrix(recipe, image_hw))


def loses_pixels(recipe: Recipe) -> bool:
    """Whether a later step could bring back what the first affine change had moved out of the frame."""
    return recipe.move is not None and (recipe.zoom is not None or (recipe.lens or 0.0) > 0)


def border_map(recipe: Recipe, image_hw: tuple[int, int]) -> Map:
    """From output px to px behind the first affine change, counted from the middle of the frame."""
    to_middle = (1.0, 0.0, -(image_hw[1] - 1) / 2, 0.0, 1.0, -(image_hw[0] - 1) / 2)
    return _map(recipe, image_hw, _after(to_middle, _late(recipe, image_hw)))


def _early(recipe: Recipe, image_hw: tuple[int, int]) -> Matrix:
    """From px behind the first affine change to source px."""
    matrix = _turn(recipe.quarter_turns, image_hw)
    if not recipe.is_flipped_last:
        matrix = _after(matrix, _flips(recipe, image_hw))
    return matrix if recipe.move is None else _after(matrix, inverse_affine(recipe.move, image_hw))


def _late(recipe: Recipe, image_hw: tuple[int, int]) -> Matrix:
    """From output px, behind grid and lens, to px behind the first affine change."""
    matrix = IDENTITY if recipe.zoom is None else inverse_affine(recipe.zoom, image_hw)
    return _after(matrix, _flips(recipe, image_hw)) if recipe.is_flipped_last else matrix


def inverse_affine(affine: Affine, image_hw: tuple[int, int]) -> Matrix:
    """From px behind an affine change to px before it."""
    centre_x, centre_y = (image_hw[1] - 1) / 2, (image_hw[0] - 1) / 2
    angle = math.radians(affine.rotate)
    cosine, sine = math.cos(angle) / affine.zoom, math.sin(angle) / affine.zoom
    x, y = centre_x + affine.shift_xy[0], centre_y + affine.shift_xy[1]
    return cosine, -sine, centre_x - cosine * x + sine * y, sine, cosine, centre_y - sine * x - cosine * y


def _turn(quarters: int, image_hw: tuple[int, int]) -> Matrix:
    right, bottom = image_hw[1] - 1.0, image_hw[0] - 1.0
    turns: tuple[Matrix, ...] = (
        IDENTITY,
        (0.0, -1.0, right, 1.0, 0.0, 0.0),
        (-1.0, 0.0, right, 0.0, -1.0, bottom),
        (0.0, 1.0, 0.0, -1.0, 0.0, bottom),
    )
    return turns[quarters]


def _flips(recipe: Recipe, image_hw: tuple[int, int]) -> Matrix:
    x, right = (-1.0, image_hw[1] - 1.0) if recipe.is_mirrored_x else (1.0, 0.0)
    y, bottom = (-1.0, image_hw[0] - 1.0) if recipe.is_mirrored_y else (1.0, 0.0)
    return x, 0.0, right, 0.0, y, bottom


def _map(recipe: Recipe, image_hw: tuple[int, int], matrix: Matrix) -> Map:
    height, width = image_hw
    grid = recipe.grid if _bends(recipe.grid) else None
    terms_6w = _even_terms(width) if grid is None else _terms(_axis(grid, width, axis=0))
    powers_h6 = _even_powers(height) if grid is None else _powers(_axis(grid, height, axis=1))
    k = recipe.lens or 0.0
    # OpenCV's lens takes (w - 1) / 2 for the middle of a side in the output and w / 2 in the source.
    middle_x, middle_y = (width - 1) / 2 + (0.5 if k else 0.0), (height - 1) / 2 + (0.5 if k else 0.0)
    # Rows: powers 0 to 5 of y, for x and then y of the source; columns: 1, x, p, x p, q, x q of ``_terms``.
    factors = []
    for a, b, c in (matrix[:3], matrix[3:]):
        along, across = a * width, b * height
        ends = a * middle_x + b * middle_y + c
        factors.append(
            (
                (ends, along, 0.0, k * along, 0.0, 0.0),
                (across, 0.0, k * across, 0.0, 0.0, 0.0),
                (0.0, 0.0, 0.0, 0.0, 0.0, k * along),
                (0.0, 0.0, 0.0, 0.0, k * across, 0.0),
                (0.0, k * along, 0.0, 0.0, 0.0, 0.0),
                (k * across, 0.0, 0.0, 0.0, 0.0, 0.0),
            )[: 6 if k else 2]
        )
    columns = np.array(factors) @ terms_6w
    powers = columns.shape[1]
    columns_k2w = columns.transpose(1, 0, 2).astype(np.float32).reshape(powers, 2 * width)
    return Map(rows_hk=powers_h6[:, :powers], columns_k2w=columns_k2w)


def _terms(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """1, x, p, x p, q, x q with p = x^2 + x^4 and q = 1 + 2 x^2, for x from the middle in shares of the side; [6, W].

    With them 1 + k d^2 + k d^4 is (1 + k p) + k q y^2 + k y^4.
    """
    side = len(places)
    x = (places - (side - 1) / 2) / side
    x2 = x * x
    p, q = x2 + x2 * x2, 1 + 2 * x2
    return np.stack([np.ones_like(x), x, p, x * p, q, x * q])


def _powers(places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Powers 0 to 5 of y from the middle in shares of the side; [H, 6]."""
    side = len(places)
    return np.vander((places - (side - 1) / 2) / side, 6, increasing=True).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _even_terms(side: int) -> NDArray[np.float64]:
    return _terms(np.arange(side, dtype=np.float64))


@functools.lru_cache(maxsize=8)
def _even_powers(side: int) -> NDArray[np.float32]:
    return _powers(np.arange(side, dtype=np.float64))


def _axis(grid: Grid, side: int, *, axis: int) -> NDArray[np.float64]:
    """Where the pixels along one side of a distorted grid come from."""
    steps = np.array((grid.steps_x, grid.steps_y)[axis])
    cell, share = _cells(side)
    step = max(1, side // GRID_STEPS)
    steps[-1] *= (min(side, (GRID_STEPS + 1) * step) - GRID_STEPS * step) / step  # the rest of the side
    nodes = np.concatenate([[0.0], np.cumsum(steps * (side / steps.sum()))])
    return np.asarray(nodes[cell] + share * (nodes[cell + 1] - nodes[cell]))


@functools.lru_cache(maxsize=8)
def _cells(side: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each pixel along a side its cell of the grid, and its place between the cell's two ends, 0 to 1."""
    step = max(1, side // GRID_STEPS)
    cell = np.minimum(np.arange(side) // step, GRID_STEPS)
    size = np.minimum(step, side - cell * step)
    return cell, (np.arange(side) - cell * step) / np.maximum(1, size - 1)
