"""Lesion boxes as the manifest's text: ``[left, top, right, bottom]`` in px of the original image, origin top left."""

import json
from collections.abc import Iterable
from math import isfinite

Box = tuple[float, float, float, float]


def lesion_text(boxes: Iterable[Box], *, size_hw: tuple[float, float] | None = None) -> str | None:
    """Boxes as JSON text, clipped to the frame; None where no box is left.

    Args:
        boxes: left, top, right, bottom, the last two excluded; a box without area in the frame is left out.
        size_hw: height and width of the image in px; without it only the sides at 0 are known.
    """
    height, width = size_hw or (float("inf"), float("inf"))
    clipped = [
        (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)) for left, top, right, bottom in boxes
    ]
    kept = [[round(float(edge), 2) for edge in box] for box in clipped if box[0] < box[2] and box[1] < box[3]]
    return json.dumps(kept) if kept else None


def parse_lesions(text: str) -> list[Box] | None:
    """The boxes of a manifest's text; None if it is anything but a JSON list of four finite numbers each."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    boxes = [tuple(map(float, box)) for box in found if _is_box(box)]
    return [(box[0], box[1], box[2], box[3]) for box in boxes] if len(boxes) == len(found) else None


def _is_box(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    return all(isinstance(edge, int | float) and not isinstance(edge, bool) and _is_size(edge) for edge in value)


def _is_size(edge: float) -> bool:
    try:
        return isfinite(edge)
    except OverflowError:  # a whole number that no float holds
        return False


def circle_box(x: float, y: float, *, radius: float) -> Box:
    """The bounding box of a circle, all in px."""
    return x - radius, y - radius, x + radius, y + radius
