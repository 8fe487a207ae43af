"""How much of a map lies inside the breast, and whether its highest place lies in a lesion."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.breast import find_breast
from study.data.mapping import FloatBox

F32 = NDArray[np.float32]
FULL = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Numbers of one map.

    ``inside`` is the share of its sum within the breast (NaN of an empty map or without a breast), ``hit`` whether its
    highest place lies in a lesion's box (None without boxes, False of an empty map).
    """

    inside: float
    hit: bool | None


def attention_of(heat_hw: F32, breast_hw: NDArray[np.bool_] | None, boxes: Sequence[FloatBox]) -> Attention:
    """The numbers of one map.

    Args:
        heat_hw: map >= 0 of the size of the frame.
        breast_hw: where the breast is in the frame; None where it was not found.
        boxes: of lesions, (left, top, right, bottom) in px of the frame, the last two excluded.
    """
    total = float(heat_hw.sum())
    if total <= 0:
        return Attention(inside=float("nan"), hit=False if boxes else None)
    inside = float("nan") if breast_hw is None else float(heat_hw[breast_hw].sum()) / total
    if not boxes:
        return Attention(inside=inside, hit=None)
    # All of the highest places: a map is coarse, and resized it often has a plateau. Its middle is the point.
    rows, columns = np.nonzero(heat_hw >= heat_hw.max() * (1 - 1e-6))
    y, x = float(rows.mean()) + 0.5, float(columns.mean()) + 0.5
    hit = any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes)
    return Attention(inside=inside, hit=hit)


def breast_in_frame(pixels_hw: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.bool_] | None:
    """Where the breast is in a prepared frame [H, W]; None where none is found, as in pictures of something else."""
    grey = pixels_hw.astype(np.uint16) * np.uint16(257) if pixels_hw.dtype == np.uint8 else pixels_hw
    found = find_breast(np.ascontiguousarray(grey.astype(np.uint16)), margin=0.0, shrink=1)
    if found.mask_hw is None:
        return None
    height, width = pixels_hw.shape
    mask = cv2.resize(found.mask_hw.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(mask, dtype=bool)


def to_frame(map_hw: F32, *, frame_hw: tuple[int, int]) -> F32:
    """A coarse map in the size of the frame."""
    return np.asarray(cv2.resize(map_hw, (frame_hw[1], frame_hw[0]), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
