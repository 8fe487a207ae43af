"""Between an original picture and its prepared frame: points, boxes, circles, and heat maps back. Plain numbers only.

Points are in px with whole numbers at pixel centres, origin top left. Boxes are (left, top, right, bottom) in px, right
and bottom excluded, so an edge of a box lies half a pixel before the centre of its pixel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
FloatBox = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How a box of the original became the content of a prepared frame.

    ``box`` is what was cut out, in original px; ``scale`` is prepared px per original px, as (x, y); ``offset`` is
    (left, top) of the content in the frame, in prepared px and after flipping; ``flipped`` says whether left and right
    were exchanged.
    """

    box: tuple[int, int, int, int]
    scale: tuple[float, float]
    offset: tuple[int, int]
    flipped: bool

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the content in prepared px."""
        left, top, right, bottom = self.box
        return round((right - left) * self.scale[0]), round((bottom - top) * self.scale[1])


def placement_of(row: Mapping[str, Any]) -> Placement:
    """The placement that a manifest row holds (``box_left`` .. ``box_bottom``, ``scale_*``, ``pad_*``, ``flipped``)."""
    return Placement(
        box=(int(row["box_left"]), int(row["box_top"]), int(row["box_right"]), int(row["box_bottom"])),
        scale=(float(row["scale_x"]), float(row["scale_y"])),
        offset=(int(row["pad_left"]), int(row["pad_top"])),
        flipped=bool(row["flipped"]),
    )


def points_to_prepared(points_n2: npt.ArrayLike, placement: Placement) -> F64:
    """Original points (x, y) in the prepared frame: float64 [N, 2]."""
    return _edges_to_prepared(np.asarray(points_n2, dtype=np.float64) + 0.5, placement) - 0.5


def points_to_original(points_n2: npt.ArrayLike, placement: Placement) -> F64:
    """Points (x, y) of the prepared frame in the original: float64 [N, 2]."""
    return _edges_to_original(np.asarray(points_n2, dtype=np.float64) + 0.5, placement) - 0.5


def box_to_prepared(box: FloatBox, placement: Placement) -> FloatBox:
    """An original box in the prepared frame; parts outside of the frame are not cut off."""
    return _sorted_box(_edges_to_prepared(np.reshape(np.asarray(box, dtype=np.float64), (2, 2)), placement))


def box_to_original(box: FloatBox, placement: Placement) -> FloatBox:
    """A box of the prepared frame in the original."""
    return _sorted_box(_edges_to_original(np.reshape(np.asarray(box, dtype=np.float64), (2, 2)), placement))


def circle_to_prepared(circle: tuple[float, float, float], placement: Placement) -> tuple[float, float, float]:
    """An original circle (x, y, radius) in the prepared frame; the radius takes the mean of both scales."""
    ((x, y),) = points_to_prepared([circle[:2]], placement)
    return float(x), float(y), circle[2] * (placement.scale[0] + placement.scale[1]) / 2


def circle_to_original(circle: tuple[float, float, float], placement: Placement) -> tuple[float, float, float]:
    """A circle (x, y, radius) of the prepared frame in the original."""
    ((x, y),) = points_to_original([circle[:2]], placement)
    return float(x), float(y), 2 * circle[2] / (placement.scale[0] + placement.scale[1])


def heat_to_original(
    heat_hw: npt.ArrayLike, placement: Placement, *, frame_hw: tuple[int, int], original_hw: tuple[int, int]
) -> F32:
    """A heat map back on the original picture: float32 [rows, columns], 0 outside of what was cut out.

    Args:
        heat_hw: values [h, w] of any size that cover the whole frame (a class activation map is coarser than it).
        placement: of the picture.
        frame_hw: height and width of the frame that the network saw.
        original_hw: rows and columns of the original.
    """
    heat = np.asarray(heat_hw, dtype=np.float32)
    left, top, right, bottom = placement.box
    ratio_x, ratio_y = heat.shape[1] / frame_hw[1], heat.shape[0] / frame_hw[0]
    # Two corner pixels of the box give the straight line from original to heat-map pixels, on each axis.
    corners = _edges_to_prepared(np.array([[left + 0.5, top + 0.5], [left + 1.5, top + 1.5]]), placement)
    starts, steps = corners[0], corners[1] - corners[0]
    line = np.array(
        [[steps[0] * ratio_x, 0, starts[0] * ratio_x - 0.5], [0, steps[1] * ratio_y, starts[1] * ratio_y - 0.5]]
    )
    inside = cv2.warpAffine(
        heat,
        line,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    whole = np.zeros(original_hw, dtype=np.float32)
    whole[top:bottom, left:right] = inside
    return whole


def _edges_to_prepared(edges_n2: F64, placement: Placement) -> F64:
    """Positions in px from the top left corner of the original to those from the corner of the frame."""
    inside = (edges_n2 - placement.box[:2]) * placement.scale
    if placement.flipped:
        inside[..., 0] = placement.size_wh[0] - inside[..., 0]
    return np.asarray(inside + placement.offset, dtype=np.float64)


def _edges_to_original(edges_n2: F64, placement: Placement) -> F64:
    inside = edges_n2 - placement.offset
    if placement.flipped:
        inside[..., 0] = placement.size_wh[0] - inside[..., 0]
    return np.asarray(inside / placement.scale + placement.box[:2], dtype=np.float64)


def _sorted_box(corners_22: F64) -> FloatBox:
    """A flip exchanges left and right."""
    (left, top), (right, bottom) = corners_22.min(axis=0), corners_22.max(axis=0)
    return float(left), float(top), float(right), float(bottom)
