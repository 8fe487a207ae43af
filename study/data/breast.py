"""Where the breast lies in a frame: a low threshold, the largest component, a margin, all on a small copy."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from study.data.resize import shrink_grey

U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]

SHRINK: Final = 8
SMALL_SIDE: Final = 192
LOW: Final = 0.05
LEVELS: Final = 64
BACKGROUND_SHARE: Final = 0.04
DARK_AND_BRIGHT: Final = (0.005, 0.995)  # shares of the frame below the darkest and the brightest level that count
OPENING: Final = 0.03
SMALLEST_BOX: Final = 0.05
CLEAR_SIDE: Final = 0.05
FRAME_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BreastRegion:
    """The breast in one frame.

    ``box`` is (left, top, right, bottom) in px of the full frame, right and bottom excluded, margin included;
    ``mask_hw`` the filled component on a small copy, or the given mask; None where none was found and the box is the
    whole frame;
    ``side`` the half of the full frame with more tissue ("L": chest wall at the left), None where unclear;
    ``background`` the grey level of the empty film or detector.
    """

    box: Box
    mask_hw: Bool | None
    side: Literal["L", "R"] | None
    background: float


def find_breast(pixels_hw: U16, *, margin: float, mask_hw: Bool | None = None, shrink: int = SHRINK) -> BreastRegion:
    """Find the breast in uint16 [rows, columns]; never fails.

    Without a component, or with one whose box is under 5 % of the frame, the result is the whole frame, side unclear.
    The threshold lies 5 % of the grey range above the background. A plain Otsu threshold falls inside dense breasts,
    and one at zero keeps film noise; on 214 films this one keeps every lesion centre.

    A mask that is given (bool of any size, same field of view) is taken as it is; one that is empty or too small is
    passed over, since it tells of a segmentation that failed. ``shrink`` is how much smaller the copy is on which the
    breast is looked for.
    """
    small = _shrink(pixels_hw, shrink)
    background, threshold = _levels(small)
    if mask_hw is not None:
        given = _usable_region(mask_hw, frame_hw=pixels_hw.shape, margin=margin, background=background)
        if given is not None:
            return given
    component = _largest_component(_without_bright_frame(small) & (small > threshold))
    found = _usable_region(component, frame_hw=pixels_hw.shape, margin=margin, background=background)
    rows, cols = pixels_hw.shape
    return found or BreastRegion(box=(0, 0, cols, rows), mask_hw=None, side=None, background=background)


def _usable_region(
    mask_hw: Bool | None, *, frame_hw: tuple[int, int], margin: float, background: float
) -> BreastRegion | None:
    """The region of a mask; None if its box makes no sense."""
    if mask_hw is None or not mask_hw.any():
        return None
    box = _box(mask_hw, frame_hw=frame_hw, margin=margin)
    if (box[2] - box[0]) * (box[3] - box[1]) < SMALLEST_BOX * frame_hw[0] * frame_hw[1]:
        return None
    return BreastRegion(box=box, mask_hw=mask_hw, side=_side(mask_hw), background=background)


def _shrink(pixels_hw: U16, factor: int) -> F32:
    """A copy at 1/8, or less reduced where that would leave too little to see."""
    longest, shortest = max(pixels_hw.shape), min(pixels_hw.shape)
    return shrink_grey(pixels_hw, max(1, min(factor, longest // SMALL_SIDE, shortest)))


def _levels(small: F32) -> tuple[float, float]:
    """Background level and threshold.

    The background is the darkest level with a real share of the frame, so that neither blacked-out labels on a grey
    film nor film noise decide it; where a breast fills the frame there is none, and the darkest pixels stand in.
    """
    below = np.cumsum(np.bincount(small.astype(np.int32).ravel()))  # pixels up to each whole grey level
    low, high = (int(level) for level in np.searchsorted(below, np.multiply(DARK_AND_BRIGHT, small.size)))
    if high <= low:
        return float(low), float(low)
    edges = low + np.arange(LEVELS // 4 + 1) * ((high - low) / LEVELS)
    until = np.where(edges > 0, below[np.ceil(edges).astype(np.int32) - 1], 0)
    common = np.flatnonzero(np.diff(until) >= BACKGROUND_SHARE * small.size)
    background = float(edges[common[0]]) if common.size else float(low)
    return background, background + LOW * (high - low)


def _without_bright_frame(small: F32) -> Bool:
    """False on white borders of scanned film and secondary captures, which would join all into one component."""
    keep = np.ones(small.shape, dtype=np.bool_)
    bright = small > 0.9 * float(small.max())
    for axis in (0, 1):
        lines = bright.mean(axis=1 - axis) > 0.95
        depth = max(1, int(FRAME_SHARE * lines.size))
        first = int(np.argmin(lines[:depth])) if not lines[:depth].all() else 0
        last = int(np.argmin(lines[::-1][:depth])) if not lines[::-1][:depth].all() else 0
        band = np.ones(lines.size, dtype=np.bool_)
        band[:first] = False
        band[lines.size - last :] = False
        keep &= band[:, None] if axis == 0 else band[None, :]
    return keep


def _largest_component(above: Bool) -> Bool | None:
    """The piece that encloses most after an opening, grown back and with its holes (dark fat) filled.

    The opening is 3 % of the longer side: it parts the breast from labels, tape and thin bright edges of the film.
    """
    kernel = _disc(OPENING * max(above.shape))
    opened = cv2.morphologyEx(above.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    pieces, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not pieces:
        return None
    largest = max(pieces, key=cv2.contourArea)
    grown = cv2.dilate(_filled([largest], above.shape), kernel) & above.astype(np.uint8)
    outline, _ = cv2.findContours(cv2.dilate(grown, _disc(3)), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(_filled(outline, above.shape), dtype=np.bool_)


def _filled(contours: Any, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    canvas = np.zeros(shape, dtype=np.uint8)
    cv2.drawContours(canvas, contours, -1, 1, thickness=cv2.FILLED)
    return canvas


def _disc(diameter_px: float) -> npt.NDArray[np.uint8]:
    """A round structuring element of odd size, at least 3 px."""
    odd = max(3, 2 * round((diameter_px - 1) / 2) + 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd, odd)), dtype=np.uint8)


def _box(mask_hw: Bool, *, frame_hw: tuple[int, int], margin: float) -> Box:
    """Bounding box in full px, widened by the margin and cut at the frame."""
    ratio_y, ratio_x = frame_hw[0] / mask_hw.shape[0], frame_hw[1] / mask_hw.shape[1]
    first_col, first_row, cols, rows = cv2.boundingRect(mask_hw.view(np.uint8))
    top, bottom = first_row * ratio_y, (first_row + rows) * ratio_y
    left, right = first_col * ratio_x, (first_col + cols) * ratio_x
    extra = margin * max(bottom - top, right - left)
    return (
        max(0, int(np.floor(left - extra))),
        max(0, int(np.floor(top - extra))),
        min(frame_hw[1], int(np.ceil(right + extra))),
        min(frame_hw[0], int(np.ceil(bottom + extra))),
    )


def _side(mask_hw: Bool) -> Literal["L", "R"] | None:
    """The half of the full frame that holds more tissue; None where the halves differ by under 5 %."""
    half = mask_hw.shape[1] // 2
    left = cv2.countNonZero(mask_hw[:, :half].view(np.uint8))
    right = cv2.countNonZero(mask_hw[:, mask_hw.shape[1] - half :].view(np.uint8))
    if left + right == 0 or abs(left - right) < CLEAR_SIDE * (left + right):
        return None
    return "L" if left > right else "R"
