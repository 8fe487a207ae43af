"""From resized grey values to the integers that are stored: one window per scaling, and the level of the background."""

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

U16 = npt.NDArray[np.uint16]
Bool = npt.NDArray[np.bool_]
Stored = npt.NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Scaling = Literal["ordinal", "multitask", "periodic"]

BRIGHT_PERCENTILE: Final = 99.9
PERIODIC_MEAN: Final = 0.5  # of the range; the paper gives none. Real breasts in their boxes reach it, 0.4 not all


def scaled_grey(pixels_hw: U16, mask_hw: Bool, *, scaling: Scaling, background: float, bits: int) -> Stored:
    """Grey values mapped linearly onto 0 .. 2**bits - 1, cut off at both ends: uint8 or uint16 [h, w].

    ========= ================================= ==================================
    scaling   becomes 0                         becomes 2**bits - 1
    ========= ================================= ==================================
    ordinal   the level of the background       99.9th percentile inside the mask
    multitask the level of the background       largest value inside the mask
    periodic  smallest value inside the mask    largest value inside the mask
    ========= ================================= ==================================
    """
    inside = pixels_hw[mask_hw]
    if not inside.size:
        inside = pixels_hw.reshape(-1)
    black = float(inside.min()) if scaling == "periodic" else background
    white = float(np.percentile(inside, BRIGHT_PERCENTILE)) if scaling == "ordinal" else float(inside.max())
    top = 2**bits - 1
    span = max(white - black, 1.0)
    scaled = (pixels_hw.astype(np.float32) - np.float32(black)) * np.float32(top / span)
    kind = np.uint8 if bits == 8 else np.uint16
    return np.asarray(np.clip(np.rint(scaled), 0, top), dtype=kind)


def periodic_background(inside: Stored, *, frame_pixels: int, bits: int) -> int:
    """The constant outside of the mask that brings the mean of the frame to ``PERIODIC_MEAN`` of the range.

    Paper periodic, section 3.1: pixels outside of the mask are a constant, such that the mean is the same for all
    images. Where no level from 0 to 2**bits - 1 reaches that mean, the nearest does.

    Args:
        inside: stored values inside the mask [n].
        frame_pixels: pixels of the whole frame, padding included.
        bits: 8 or 16.
    """
    top = 2**bits - 1
    outside = frame_pixels - inside.size
    if outside <= 0:
        return 0
    missing = PERIODIC_MEAN * top * frame_pixels - float(inside.sum(dtype=np.float64))
    return int(np.clip(round(missing / outside), 0, top))
