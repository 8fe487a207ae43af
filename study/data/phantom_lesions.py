"""Lesions whose shape alone tells their class: size, place and contrast are drawn alike for both.

Graded lesions are masses which follow one number, so that the order of grades is in the picture.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

KINDS: Final = ("mass", "calcifications", "both")
KIND_SHARES: Final = (0.6, 0.2, 0.2)
SPREAD: Final = 3.0  # half the side of a lesion's patch, in radii


def draw_lesions(
    shape: tuple[int, int],
    place: tuple[float, tuple[float, float]],
    *,
    seed: int,
    rng: np.random.Generator,
    label: str,
    view: str,
) -> F32:
    """Added brightness float32 [rows, columns] of the lesion of one breast.

    ``place`` is the nipple's row and the reach (width, half height) of the breast in px; ``seed`` is the breast's, so
    both views show the same lesion, at the same depth and in another projection.
    """
    breast = np.random.default_rng([seed, 1])
    kind = str(breast.choice(KINDS, p=KIND_SHARES))
    radius = breast.uniform(0.042, 0.07) * shape[0]
    contrast = breast.uniform(0.2, 0.4)
    image = np.zeros(shape, dtype=np.float32)
    patch, y, x = _patch(image, _centre(breast, place, view=view), radius=radius)
    if kind != "calcifications":
        draw = _round_mass if label == "benign" else _spiculated_mass
        patch += np.float32(contrast) * draw(y / np.float32(radius), x / np.float32(radius), rng)
    if kind != "mass":
        draw_cluster = _coarse_cluster if label == "benign" else _fine_cluster
        patch += np.float32(0.25 + contrast) * draw_cluster(y, x, rng, radius=radius)
    return image


def draw_graded(
    shape: tuple[int, int],
    place: tuple[float, tuple[float, float]],
    *,
    seed: int,
    rng: np.random.Generator,
    severity: float,
    view: str,
) -> F32:
    """Added brightness float32 [rows, columns] of a mass of a severity from 0 to 1; nothing up to 1/6, the first grade.

    Contrast and size grow in proportion to severity; between 0.4 and 0.8 the smooth margin gives way to spicules.
    Arguments as in :func:`draw_lesions`.
    """
    image = np.zeros(shape, dtype=np.float32)
    if severity <= 1 / 6:
        return image
    radius = (0.05 + 0.045 * severity) * shape[0]
    centre = _centre(np.random.default_rng([seed, 2]), place, view=view)
    patch, y, x = _patch(image, centre, radius=radius)
    y, x = y / np.float32(radius), x / np.float32(radius)
    ragged = np.float32(np.clip((severity - 0.4) / 0.4, 0, 1))
    smooth, spiculated = _round_mass(y, x, rng), _spiculated_mass(y, x, rng)
    patch += np.float32(0.05 + 0.35 * severity) * ((1 - ragged) * smooth + ragged * spiculated)
    return image


def _centre(breast: np.random.Generator, place: tuple[float, tuple[float, float]], *, view: str) -> tuple[float, float]:
    """Row and column, px, of a lesion: both views at the same depth, each with a height of its own."""
    depth, offsets = breast.uniform(0.3, 0.68), breast.uniform(-0.4, 0.4, size=2)
    centre_row, (width, half) = place
    return centre_row + offsets[0 if view == "CC" else 1] * half, depth * width


def _patch(image: F32, centre: tuple[float, float], *, radius: float) -> tuple[F32, F32, F32]:
    """The part of an image around a lesion, to draw into, and the rows and columns of its pixels from the centre."""
    reach = SPREAD * radius
    top, left = (max(0, int(at - reach)) for at in centre)
    patch = image[top : int(centre[0] + reach), left : int(centre[1] + reach)]
    y, x = np.mgrid[: patch.shape[0], : patch.shape[1]].astype(np.float32)
    return patch, y + np.float32(top - centre[0]), x + np.float32(left - centre[1])


def _round_mass(y: F32, x: F32, rng: np.random.Generator) -> F32:
    """A smooth oval with a sharp margin; coordinates in radii."""
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.85, 1.0)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = (y * np.cos(angle) - x * np.sin(angle)) / aspect
    return _edge(np.hypot(along, across).astype(np.float32), width=0.06)


def _spiculated_mass(y: F32, x: F32, rng: np.random.Generator) -> F32:
    """A lobed core with an ill-defined margin and straight rays that taper away; coordinates in radii."""
    angle, distance = np.arctan2(y, x), np.asarray(np.hypot(y, x))
    lobes = sum(rng.uniform(0.03, 0.11) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5, 7))
    core = _edge((distance / (0.85 * (1 + lobes))).astype(np.float32), width=0.13)
    rays = np.zeros_like(core)
    count = int(rng.integers(8, 12))
    for number in range(count):
        towards = 2 * np.pi * (number + rng.uniform(-0.35, 0.35)) / count
        length = rng.uniform(1.9, SPREAD - 0.1)
        along = x * np.cos(towards) + y * np.sin(towards)
        across = np.abs(y * np.cos(towards) - x * np.sin(towards))
        taper = np.clip(1 - along / length, 0, 1)
        rays = np.maximum(rays, (along > 0) * taper**0.6 * np.exp(-np.square(across / (0.15 * taper + 0.04))))
    return np.asarray(np.maximum(core, 0.8 * rays), dtype=np.float32)


def _edge(distance: F32, *, width: float) -> F32:
    """1 inside radius 1, 0 outside, with a soft step."""
    return np.asarray(expit((1 - distance) / width), dtype=np.float32)


def _coarse_cluster(y: F32, x: F32, rng: np.random.Generator, *, radius: float) -> F32:
    """A few large round calcifications, well apart."""
    count = int(rng.integers(4, 8))
    places = rng.uniform(-1.4, 1.4, size=(count, 2)) * radius
    sizes = np.repeat(rng.uniform(0.12, 0.2, size=(count, 1)) * radius, 2, axis=1)
    return _specks(y, x, places, sizes=sizes, rng=rng)


def _fine_cluster(y: F32, x: F32, rng: np.random.Generator, *, radius: float) -> F32:
    """Many small calcifications of differing size and direction, close together."""
    count = int(rng.integers(22, 36))
    places = rng.normal(0, 0.5, size=(count, 2)) * radius
    sizes = rng.uniform([0.04, 0.03], [0.13, 0.05], size=(count, 2)) * radius
    return _specks(y, x, places, sizes=sizes, rng=rng)


def _specks(y: F32, x: F32, places: F64, *, sizes: F64, rng: np.random.Generator) -> F32:
    """Soft ellipses of the given half axes (px), turned at random, the brightest winning where they overlap."""
    image = np.zeros_like(y)
    for (row, col), (long, short), angle in zip(places, sizes, rng.uniform(0, np.pi, len(places)), strict=True):
        dy, dx = y - np.float32(row), x - np.float32(col)
        along = (dx * np.float32(np.cos(angle)) + dy * np.float32(np.sin(angle))) / np.float32(max(long, 0.7))
        across = (dy * np.float32(np.cos(angle)) - dx * np.float32(np.sin(angle))) / np.float32(max(short, 0.7))
        image = np.maximum(image, np.exp(-np.square(np.square(along) + np.square(across))))
    return np.asarray(image, dtype=np.float32)
