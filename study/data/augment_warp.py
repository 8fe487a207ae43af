"""All changes of place of one recipe as one warp: a picture is interpolated once, however much it was moved.

Where an output pixel comes from is the chain of the steps, last one first: distorted grid, lens, affine changes, flips,
turns. The grid depends on x and y apart, the lens multiplies the distance d from the middle, in shares of the sides, by
1 + k d^2 + k d^4. So both coordinates of the source are polynomials of degree 5 in y with coefficients that depend on x
alone, and the whole map is a product of a thin matrix [H, 6] with a flat one [6, 2 W].
"""

import functools
import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.augment_recipe import Affine, Grid, Recipe
from study.data.augment_spec import GRID_STEPS
from study.data.augment_transforms import Pixels

Matrix = NDArray[np.float64]  # [3, 3], px of the output to px of the source

STRIPE_BYTES: Final = 2**18  # of the map; larger ones leave the cache before they are used
LATTICE_STEP: Final = 8  # px
NEAR: Final = 24  # px: half a step along both axes, stretched by 4
SMALLEST_FRAME: Final = 2**16  # px; in smaller ones looking for the content costs more than it spares
_TURNS: Final = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """Source coordinates of every output pixel: ``rows_hk @ columns_k2w`` is [H, 2 W], x in the left half, y right."""

    rows_hk: NDArray[np.float32]
    columns_k2w: NDArray[np.float32]


def warped(image: Pixels, recipe: Recipe, out: Pixels) -> None:
    """Write ``image`` [H, W] or [H, W, C], moved as the recipe says, into ``out``; what comes in is black.

    Turns and flips alone are exact. What an earlier step moved out of the frame does not come back in a later one.
    """
    if is_exact(recipe):
        _turned(image, recipe, out)
        return
    hw = (image.shape[0], image.shape[1])
    if not is_bent(recipe):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(image, source_matrix(recipe, hw)[:2], hw[::-1], dst=out, flags=flags)
    else:
        _remapped(image, source_map(recipe, hw), out)
    if loses_pixels(recipe):
        _blackened(out, border_map(recipe, hw))


def is_exact(recipe: Recipe) -> bool:
    """Whether pixels only change places, so that nothing is interpolated."""
    return recipe.move is None and recipe.zoom is None and not is_bent(recipe)


def is_bent(recipe: Recipe) -> bool:
    """Whether grid or lens change anything; without an amount they do not (the library's lens shifts half a pixel)."""
    return bool(recipe.lens) or _bends(recipe.grid)


def _bends(grid: Grid | None) -> bool:
    return grid is not None and len({*grid.steps_x, *grid.steps_y}) > 1


def _turned(image: Pixels, recipe: Recipe, out: Pixels) -> None:
    if recipe.quarter_turns:
        image = cv2.rotate(image, _TURNS[recipe.quarter_turns])  # type: ignore[assignment]  # integers stay integers
    if recipe.is_mirrored_x or recipe.is_mirrored_y:
        cv2.flip(image, -1 if recipe.is_mirrored_x and recipe.is_mirrored_y else int(recipe.is_mirrored_x), dst=out)
    else:
        np.copyto(out, image)


def _remapped(image: Pixels, path: Map, out: Pixels) -> None:
    """In stripes, each no wider than what can show something: most of a mammogram's frame is black."""
    height, width = image.shape[:2]
    rows = _stripe_rows(path)
    places = np.empty(2 * rows * width, dtype=np.float32)
    columns_k2w = path.columns_k2w.reshape(-1, 2, width)
    for top, (left, right) in zip(range(0, height, rows), _shown(image, path, rows), strict=True):
        target = out[top : top + rows]
        target[:, :left], target[:, right:] = 0, 0
        if left >= right:
            continue
        part = path.rows_hk[top : top + rows]
        wide = right - left
        stripe = places[: len(part) * 2 * wide].reshape(len(part), 2 * wide)
        np.matmul(part, columns_k2w[:, :, left:right].reshape(-1, 2 * wide), out=stripe)
        cv2.remap(image, stripe[:, :wide], stripe[:, wide:], cv2.INTER_LINEAR, dst=target[:, left:right])


def _stripe_rows(path: Map) -> int:
    """Rows of a stripe: a multiple of the lattice's step."""
    rows = STRIPE_BYTES // (4 * int(path.columns_k2w.shape[1]))
    return max(LATTICE_STEP, rows - rows % LATTICE_STEP)


def _shown(image: Pixels, path: Map, rows: int) -> list[tuple[int, int]]:
    """For each stripe the first column and the one behind the last that can show a pixel that is not black.

    The map is looked at on a lattice. An output pixel is at most half a step from a lattice point along each axis, and
    no policy stretches by more than 4: a pixel that shows the content is near a point that is less than ``NEAR``
    away from it.
    """
    height, width = image.shape[:2]
    stripes = range(0, height, rows)
    if height * width < SMALLEST_FRAME:
        return [(0, width)] * len(stripes)
    flat = image.reshape(height, -1).view(np.uint8)
    each = flat.shape[1] // width
    left, top, wide, high = cv2.boundingRect(flat)
    y, x = (np.minimum(np.arange(0, side + LATTICE_STEP, LATTICE_STEP), side - 1) for side in (height, width))
    places = path.rows_hk[y] @ path.columns_k2w[:, np.concatenate([x, width + x])]
    source_x, source_y = places[:, : len(x)], places[:, len(x) :]
    near = (source_x > left // each - NEAR) & (source_x < (left + wide) // each + NEAR)
    near &= (source_y > top - NEAR) & (source_y < top + high + NEAR)
    starts = np.arange(len(stripes)) * (rows // LATTICE_STEP)
    shows = np.logical_or.reduceat(near, starts, axis=0) | near[np.minimum(starts + rows // LATTICE_STEP, len(y) - 1)]
    first, last = shows.argmax(axis=1), len(x) - 1 - shows[:, ::-1].argmax(axis=1)
    lefts, rights = np.maximum(x[first] - LATTICE_STEP, 0), np.minimum(x[last] + LATTICE_STEP, width)
    rights[~shows.any(axis=1)] = 0
    return list(zip(lefts.tolist(), rights.tolist(), strict=True))


def _blackened(out: Pixels, path: Map) -> None:
    """Black where the map is more than half a side away from the middle."""
    height, width = out.shape[:2]
    rows = _stripe_rows(path)
    memory = np.empty((rows, 2 * width), dtype=np.float32)
    for top in range(0, height, rows):
        target = out[top : top + rows]
        places = np.matmul(path.rows_hk[top : top + rows], path.columns_k2w, out=memory[: len(target)])
        np.abs(places, out=places)
        kept = (places[:, :width] <= width / 2) & (places[:, width:] <= height / 2)
        np.multiply(target, kept.reshape(*kept.shape, *[1] * (out.ndim - 2)), out=target)


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
