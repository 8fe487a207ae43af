"""All changes of place of one recipe as one warp: a picture is interpolated once, however much it was moved."""

import functools
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.augment_map import Map, border_map, is_bent, is_exact, loses_pixels, source_map, source_matrix
from study.data.augment_recipe import Recipe
from study.data.augment_transforms import Pixels

STRIPE_BYTES: Final = 2**18  # of the map; larger ones leave the cache before they are used
LATTICE_STEP: Final = 8  # px
NEAR: Final = 24  # px: half a step along both axes, stretched by 4
SMALLEST_FRAME: Final = 2**16  # px; in smaller ones looking for the content costs more than it spares
_TURNS: Final = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


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
        cv2.warpAffine(image, np.array(source_matrix(recipe, hw)).reshape(2, 3), hw[::-1], dst=out, flags=flags)
    else:
        _remapped(image, source_map(recipe, hw), out)
    if loses_pixels(recipe):
        _blackened(out, border_map(recipe, hw))


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
    y, x, both = _lattice(height, width)
    places = path.rows_hk[y] @ path.columns_k2w[:, both]
    middle = np.repeat([(left / each + (left + wide) / each) / 2, top + high / 2], len(x)).astype(np.float32)
    reach = np.repeat([wide / each / 2 + 1 + NEAR, high / 2 + 1 + NEAR], len(x)).astype(np.float32)
    within = np.abs(places - middle) < reach
    near = within[:, : len(x)] & within[:, len(x) :]
    starts = np.arange(len(stripes)) * (rows // LATTICE_STEP)
    shows = np.logical_or.reduceat(near, starts, axis=0) | near[np.minimum(starts + rows // LATTICE_STEP, len(y) - 1)]
    first, last = shows.argmax(axis=1), len(x) - 1 - shows[:, ::-1].argmax(axis=1)
    lefts, rights = np.maximum(x[first] - LATTICE_STEP, 0), np.minimum(x[last] + LATTICE_STEP, width)
    rights[~shows.any(axis=1)] = 0
    return list(zip(lefts.tolist(), rights.tolist(), strict=True))


@functools.lru_cache(maxsize=8)
def _lattice(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the lattice, and its columns in a map: of x, then of y."""
    y, x = (np.minimum(np.arange(0, side + LATTICE_STEP, LATTICE_STEP), side - 1) for side in (height, width))
    return y, x, np.concatenate([x, width + x])


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
