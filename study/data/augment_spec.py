"""Probabilities and ranges of the augmentation policies: read by every engine, so that they cannot differ.

docs/pictures.md has them as tables, with what the papers print and what is our reading.
"""

from dataclasses import dataclass
from typing import Final

PIXEL_DROPOUT_RATE: Final = 0.01  # the paper gives none; the library's default
GRID_STEPS: Final = 5  # cells of the grid distortion along each side
CLAHE_TILES: Final = 8  # along each side
SIGMOID_CUTOFF: Final = 0.5  # of the range: the usual middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Something that happens with probability ``p``, by an amount drawn evenly from ``low`` to ``high``."""

    p: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An affine change with probability ``p``.

    ``shift`` is a share of each side either way, ``zoom`` one factor for both axes, ``rotate`` degrees either way.
    """

    p: float
    shift: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    rotate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """With probability ``p``, times 1 + c and plus b of the range, both drawn evenly either way."""

    p: float
    brightness: float
    contrast: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharpening:
    """With probability ``p``, ``alpha`` parts of the picture with its edges, whose centre weight is 8 + lightness."""

    p: float
    alpha: tuple[float, float]
    lightness: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One policy: what happens, in the order of the fields. A field that is zero or null never happens.

    ``turn`` is the probability of a turn by 0, 90, 180 or 270 degrees, in frames that are not square a quarter of that
    of half a turn; ``is_flipped_last`` puts the flips behind the affine changes.
    """

    turn: float = 0.0
    flip_x: float = 0.0
    flip_y: float = 0.0
    move: Move | None = None
    zoom: Move | None = None
    is_flipped_last: bool = False
    lens: Range | None = None
    grid: Range | None = None
    clahe: Range | None = None
    contrast: Contrast | None = None
    gamma: Range | None = None
    gain: Range | None = None
    sharpening: Sharpening | None = None
    dropout: float = 0.0
    holes: float = 0.0
    holes_ratio: float = 0.0


SPECS: Final[dict[str, Spec]] = {
    "none": Spec(),
    # Paper ordinal, section 2.2. Not in the paper and taken from the library: probability 0.5 of quarter turns and of
    # both flips, limit and steps of the grid distortion, the rate of dropped pixels, lightness of the sharpened image,
    # and that a single clip limit means the range from 1. One scale for both axes: the breast is never stretched.
    "mammogram": Spec(
        turn=0.5,
        flip_x=0.5,
        flip_y=0.5,
        move=Move(p=0.35, shift=0.0625, zoom=(0.9, 1.1), rotate=45.0),
        lens=Range(p=0.5, low=-0.3, high=0.3),
        grid=Range(p=0.2, low=-0.3, high=0.3),
        clahe=Range(p=0.35, low=1.0, high=1.5),
        contrast=Contrast(p=0.5, brightness=0.1, contrast=0.2),
        gamma=Range(p=0.5, low=0.8, high=1.2),
        sharpening=Sharpening(p=0.35, alpha=(0.02, 0.2), lightness=(0.5, 1.0)),
        dropout=0.3,
        holes=0.1,
        holes_ratio=0.35,
    ),
    # Paper multitask, section 3.2: no shear and no horizontal flip. It gives no ranges; these are ours.
    "multitask": Spec(move=Move(p=0.5, shift=0.1), zoom=Move(p=0.5, zoom=(0.8, 1.2)), flip_y=0.5, is_flipped_last=True),
    # Paper imbalance, appendix B.2.2: the gain is that of a sigmoid around the middle of the range.
    "fundus": Spec(
        flip_x=0.5, flip_y=0.5, gamma=Range(p=0.5, low=0.5, high=1.5), gain=Range(p=0.5, low=5.0, high=10.0)
    ),
}
