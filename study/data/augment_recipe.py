"""What a policy does to one picture, drawn from (seed, draw) alone.

The numbers come from a counter-based generator (Philox, Salmon et al. 2011) whose key is made of seed and draw. Every
parameter has its own place among them whether it is used or not, so a picture's recipe does not depend on the batch,
block or process in which the picture arrives.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from study.data.augment_spec import GRID_STEPS, PIXEL_DROPOUT_RATE, Move, Range, Spec

UNIFORMS: Final = 64  # numbers of one draw before those of dropped pixels and holes

Holes = NDArray[np.int64]  # [N, 4]: left, top, right, bottom in px, the last two excluded


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """A zoom and a counter-clockwise turn about the frame's centre, then a shift by whole pixels."""

    shift_xy: tuple[int, int] = (0, 0)
    zoom: float = 1.0
    rotate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Widths of the columns and heights of the rows of a distorted grid, relative to each other."""

    steps_x: tuple[float, ...]
    steps_y: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What happens to one picture, in the order of the fields; null is what does not happen.

    ``quarter_turns`` counter-clockwise, ``lens`` the coefficient of the radial distortion, ``contrast`` factor and
    summand (in shares of the range), ``sharpening`` alpha and lightness, ``dropped_n`` flat positions of black pixels.
    """

    quarter_turns: int = 0
    is_mirrored_x: bool = False
    is_mirrored_y: bool = False
    move: Affine | None = None
    zoom: Affine | None = None
    is_flipped_last: bool = False
    lens: float | None = None
    grid: Grid | None = None
    clip_limit: float | None = None
    contrast: tuple[float, float] | None = None
    gamma: float | None = None
    gain: float | None = None
    sharpening: tuple[float, float] | None = None
    dropped_n: NDArray[np.int64] | None = None
    holes_n4: Holes | None = None


def draw_recipe(spec: Spec, *, image_hw: tuple[int, int], seed: int, draw: int) -> Recipe:
    """The recipe of one picture of height and width ``image_hw`` px: a pure function of its arguments."""
    generator = np.random.Generator(np.random.Philox(key=mixed_key(seed, draw)))
    numbers = _Numbers(generator.random(UNIFORMS).tolist())
    turns = numbers.turns(spec.turn, is_square=image_hw[0] == image_hw[1])
    mirrored_x, mirrored_y = numbers.happens(spec.flip_x), numbers.happens(spec.flip_y)
    move, zoom = numbers.affine(spec.move, image_hw), numbers.affine(spec.zoom, image_hw)
    lens, grid = numbers.amount(spec.lens), numbers.grid(spec.grid)
    clip_limit = numbers.amount(spec.clahe)
    contrast = numbers.contrast(spec)
    gamma, gain = numbers.amount(spec.gamma), numbers.amount(spec.gain)
    sharpening = numbers.sharpening(spec)
    is_dropped, has_holes = numbers.happens(spec.dropout), numbers.happens(spec.holes)
    return Recipe(
        quarter_turns=turns,
        is_mirrored_x=mirrored_x,
        is_mirrored_y=mirrored_y,
        move=move,
        zoom=zoom,
        is_flipped_last=spec.is_flipped_last,
        lens=lens,
        grid=grid,
        clip_limit=clip_limit,
        contrast=contrast,
        gamma=gamma,
        gain=gain,
        sharpening=sharpening,
        dropped_n=dropped_pixels(image_hw, generator) if is_dropped else None,
        holes_n4=grid_holes(image_hw, spec.holes_ratio, generator) if has_holes else None,
    )


class _Numbers:
    """The evenly distributed numbers of one draw, read in a fixed order."""

    def __init__(self, numbers: list[float]) -> None:
        self._next = iter(numbers).__next__

    def happens(self, p: float) -> bool:
        return self._next() < p

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._next()

    def turns(self, p: float, *, is_square: bool) -> int:
        happens, quarters = self._next(), int(4 * self._next())
        if not is_square:
            return 2 if happens < p / 4 else 0
        return quarters if happens < p else 0

    def amount(self, about: Range | None) -> float | None:
        happens, share = self._next(), self._next()
        if about is None or happens >= about.p:
            return None
        return about.low + (about.high - about.low) * share

    def affine(self, about: Move | None, image_hw: tuple[int, int]) -> Affine | None:
        about_or_none = about or Move(p=0.0)
        happens = self.happens(about_or_none.p)
        height, width = image_hw
        shift = about_or_none.shift
        x, y = int(self.between(-shift, shift) * width), int(self.between(-shift, shift) * height)
        zoom, rotate = self.between(*about_or_none.zoom), self.between(-about_or_none.rotate, about_or_none.rotate)
        return Affine(shift_xy=(x, y), zoom=zoom, rotate=rotate) if happens else None

    def grid(self, about: Range | None) -> Grid | None:
        happens = self.happens(about.p if about else 0.0)
        low, high = (about.low, about.high) if about else (0.0, 0.0)
        steps = [1 + self.between(low, high) for _ in range(2 * (GRID_STEPS + 1))]
        if not happens:
            return None
        return Grid(steps_x=tuple(steps[: GRID_STEPS + 1]), steps_y=tuple(steps[GRID_STEPS + 1 :]))

    def contrast(self, spec: Spec) -> tuple[float, float] | None:
        happens, factor, summand = self._next(), self._next(), self._next()
        about = spec.contrast
        if about is None or happens >= about.p:
            return None
        return 1 + about.contrast * (2 * factor - 1), about.brightness * (2 * summand - 1)

    def sharpening(self, spec: Spec) -> tuple[float, float] | None:
        happens, alpha, lightness = self._next(), self._next(), self._next()
        about = spec.sharpening
        if about is None or happens >= about.p:
            return None
        return _inside(about.alpha, alpha), _inside(about.lightness, lightness)


def _inside(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share


def dropped_pixels(image_hw: tuple[int, int], generator: np.random.Generator) -> NDArray[np.int64]:
    """Flat positions of the pixels of which each is dropped with probability ``PIXEL_DROPOUT_RATE``.

    A binomial number of different positions: the same distribution as one number per pixel, from a hundredth of them.
    """
    pixels = image_hw[0] * image_hw[1]
    count = generator.binomial(pixels, PIXEL_DROPOUT_RATE)
    return np.asarray(generator.choice(pixels, count, replace=False, shuffle=False), dtype=np.int64)


def grid_holes(image_hw: tuple[int, int], ratio: float, generator: np.random.Generator) -> Holes:
    """One hole in each cell of a grid of about ten by ten, at a random place of the cell.

    Sides are divided into cells that differ by one pixel at most, in random order; a hole has ``ratio`` of the cell's
    height and width, rounded down, at least one pixel and less than the cell.
    """
    tops, heights = _cells(image_hw[0], generator)
    lefts, widths = _cells(image_hw[1], generator)
    holes_h, holes_w = (np.clip(sides * ratio, 1, sides - 1).astype(np.int64) for sides in (heights, widths))
    shape = (len(tops), len(lefts))
    top = tops[:, None] + generator.integers(0, np.broadcast_to((heights - holes_h + 1)[:, None], shape))
    left = lefts[None, :] + generator.integers(0, np.broadcast_to((widths - holes_w + 1)[None, :], shape))
    return np.stack([left, top, left + holes_w[None, :], top + holes_h[:, None]], axis=2).reshape(-1, 4)


def _cells(side: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and sizes of the cells along one side; none where it is shorter than two pixels."""
    count = side // max(2, side // 10)
    sizes = np.full(count, side // max(1, count), dtype=np.int64)
    sizes[: side - int(sizes.sum())] += 1
    generator.shuffle(sizes)
    return np.cumsum(sizes) - sizes, sizes


def mixed_key(seed: int, draw: int) -> int:
    """A 64-bit key in which every bit depends on every bit of seed and draw (splitmix64, applied twice)."""
    return _splitmix(_splitmix(seed) ^ draw)


def _splitmix(value: int) -> int:
    mask = (1 << 64) - 1
    mixed = (value + 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return mixed ^ (mixed >> 31)
