"""Drawing one made-up breast, chest wall at the left: outline, glandular tissue, fibres, and lesions."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.special import expit

from study.data.phantom_lesions import draw_graded, draw_lesions

F32 = npt.NDArray[np.float32]

# Share of the breast that is glandular: near the middle of each ACR density class.
GLANDULAR: Final = {"A": 0.12, "B": 0.32, "C": 0.58, "D": 0.82}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """One breast on one view, in px.

    ``width`` runs from chest wall to nipple, ``centre`` is the nipple's row, ``half`` the height below it (and above
    it, on CC); ``pectoral`` is the muscle's width at the top edge, 0 on CC.
    """

    width: float
    centre: float
    half: float
    pectoral: float


def draw_breast(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    breast_seed: int,
    view: str,
    label: str,
    density: str,
    slope: float,
    severity: float | None = None,
) -> F32:
    """Brightness float32 [rows, columns]: 0 outside, up to about 1 inside.

    With a ``severity``, 0 to 1, the lesion follows from it and not from ``label``.
    Size, kind of lesion and its strength belong to the breast and agree between its views; texture does not.
    ``slope`` is the exponent of the texture's amplitude spectrum, 1/f**slope: real tissue has a power spectrum of about
    1/f**3 (Burgess et al., Medical Physics 28, 2001).
    """
    outline = _outline(shape, np.random.default_rng(breast_seed), view=view)
    y, x = _grid(shape)
    radius = _radius(x, y, outline)
    depth = np.sqrt(np.clip((1 - radius) * 4, 0, 1))
    coarse, fine = _noise(shape, rng, slope=slope)
    muscle = _pectoral(x, y, outline)
    gland = _gland(x, y, coarse, outline=outline, density=density, radius=radius) * (1 - muscle)
    image = depth * (0.27 + 0.03 * coarse) + depth * (0.29 + 0.03 * fine) * gland
    image += 0.10 * depth * np.exp(-np.square(fine / 0.12)) * np.clip(0.8 + 0.5 * coarse, 0.2, 1.5)
    image += 0.12 * np.exp(-np.square((radius - 0.985) / 0.012))
    image += (0.26 + 0.02 * fine) * muscle
    place = (outline.centre, (outline.width, outline.half))
    if severity is not None:
        image += depth * draw_graded(shape, place, seed=breast_seed, rng=rng, severity=severity, view=view)
    elif label != "normal":
        image += depth * draw_lesions(shape, place, seed=breast_seed, rng=rng, label=label, view=view)
    nipple = np.square(x - outline.width) + np.square(y - outline.centre)
    image += 0.35 * np.exp(-nipple / np.float32(np.square(0.018 * shape[0])))
    image[(radius >= 1) & (nipple > np.square(0.03 * shape[0]))] = 0
    return np.asarray(np.clip(image, 0, 1), dtype=np.float32)


@lru_cache(maxsize=4)
def _grid(shape: tuple[int, int]) -> tuple[F32, F32]:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return y, x


def _outline(shape: tuple[int, int], breast: np.random.Generator, *, view: str) -> Outline:
    rows, cols = shape
    size = breast.uniform(0.8, 1.1)
    if view == "CC":
        return Outline(
            width=0.62 * size * cols, centre=rows * breast.uniform(0.46, 0.54), half=0.38 * size * rows, pectoral=0
        )
    centre = rows * breast.uniform(0.56, 0.62)
    return Outline(
        width=0.60 * size * cols,
        centre=centre,
        half=min(0.36 * size * rows, 0.96 * rows - centre),
        pectoral=cols * breast.uniform(0.22, 0.34),
    )


def _radius(x: F32, y: F32, outline: Outline) -> F32:
    """0 at the middle of the chest wall, 1 on the skin line; an ellipse, drawn out to the axilla on MLO."""
    rise = (y - np.float32(outline.centre)) / np.float32(outline.half)
    ellipse = np.sqrt(np.square(x / np.float32(outline.width)) + np.square(rise))
    if not outline.pectoral:
        return np.asarray(ellipse, dtype=np.float32)
    up = np.clip(-rise * np.float32(outline.half / outline.centre), 0, 1)
    width = outline.width * (0.74 + 0.26 * np.cos(np.pi * np.clip(up * 1.1, 0, 1)) - 0.06 * up)
    axilla = x / np.maximum(width, 1).astype(np.float32)
    return np.asarray(np.where(rise < 0, axilla, ellipse), dtype=np.float32)


@lru_cache(maxsize=16)
def _spectrum(shape: tuple[int, int], slope: float) -> tuple[F32, F32]:
    """Amplitude filters of the coarse and the fine texture; frequencies in cycles per image height."""
    rows = np.fft.fftfreq(shape[0])[:, None] * shape[0]
    cols = np.fft.rfftfreq(shape[1])[None, :] * shape[0]
    frequency = np.hypot(rows, cols)
    coarse = np.where(frequency > 0, np.maximum(frequency, 2.0) ** -slope, 0)
    across = np.hypot(rows, 2 * cols)  # fibres run from the chest wall towards the nipple
    fine = np.where(across > 5, np.maximum(across, 1.0) ** -1.2, 0) * np.exp(-np.square(across / 45))
    return coarse.astype(np.float32), fine.astype(np.float32)


def _noise(shape: tuple[int, int], rng: np.random.Generator, *, slope: float) -> tuple[F32, F32]:
    """Two fields of unit SD from one draw of white noise."""
    white = scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    coarse, fine = (scipy.fft.irfft2(white * kind, s=shape) for kind in _spectrum(shape, slope))
    return coarse / coarse.std(), fine / fine.std()


def _gland(x: F32, y: F32, noise: F32, *, outline: Outline, density: str, radius: F32) -> F32:
    """Glandular share 0 .. 1: a cone behind the nipple, broken up by the texture, as large as the density says."""
    share = GLANDULAR[density]
    across = (x / np.float32(outline.width) - 0.55) / 0.5
    along = (y - np.float32(outline.centre)) / np.float32(0.75 * outline.half)
    prior = 1.1 - np.square(across) - np.square(along) - 2 * np.clip(radius - 0.85, 0, 1)
    level = 1.6 * (0.5 - share)
    return np.asarray(expit((prior + 0.45 * noise - 0.55 - level) / np.float32(0.25)), dtype=np.float32)


def _pectoral(x: F32, y: F32, outline: Outline) -> F32:
    """The chest muscle, 0 .. 1: on MLO a triangle in the upper corner with a soft, slightly bowed edge."""
    if not outline.pectoral:
        return np.zeros_like(x)
    fall = y / np.float32(0.75 * (outline.centre + 0.3 * outline.half))
    edge = np.float32(outline.pectoral) * (1 - fall + 0.25 * fall * (1 - fall))
    return np.asarray(expit((edge - x) / np.float32(0.006 * x.shape[0])), dtype=np.float32)
