"""Lesion boxes as the manifest's text: ``[left, top, right, bottom]`` in px of the original image, origin top left."""

import json
from collections.abc import Iterable

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


def circle_box(x: float, y: float, *, radius: float) -> Box:
    """The bounding box of a circle, all in px."""
    return x - radius, y - radius, x + radius, y + radius
