"""Image files as the network was shown them in training, and what about them it has never seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.data.shards_file import Content
from study.distributed.preparing_reading import read_apart
from study.portable.record import ModelRecord

NAMED: Final = ("manufacturer", "view", "image_kind")  # properties that are compared by name
MEASURED: Final = ("rows", "cols", "bits_stored")  # and by number
SLACK: Final = 0.1  # how far outside of what was seen a size may lie, as a fraction
WORDS: Final = {
    "manufacturer": "vendor",
    "view": "view",
    "image_kind": "kind of image",
    "rows": "height in px",
    "cols": "width in px",
    "bits_stored": "bits",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReading:
    """One file: its picture [H, W] or [H, W, 3] in the network's frame, or the ``reason`` why there is none.

    ``frame`` is let go once the picture was judged; ``warnings`` say in what the file differs from all that the network
    was trained on.
    """

    file: str
    frame: Any = None
    reason: str = ""
    warnings: tuple[str, ...] = ()


def read_files(files: Sequence[str], record: ModelRecord) -> list[FileReading]:
    """Read and prepare files in a process apart, which a broken file may kill; never raises for what is wrong with one.

    Masks of the breast are not used: where training had them, the breast is found in the picture, with a warning.
    """
    image = dict(record.preparation) | {"masks": False}
    tasks = [{"path": file, "laterality": None, "mask": ""} for file in files]
    reads = read_apart(tasks, image)
    return [_reading(file, *read, record=record) for file, read in zip(files, reads, strict=True)]


def _reading(file: str, content: Content | None, result: Mapping[str, Any], *, record: ModelRecord) -> FileReading:
    if content is None:
        return FileReading(file=file, reason=str(result["reason"]))
    (left, top), (height, width) = content.offset, content.pixels.shape[:2]
    rows, cols = record.image_hw
    if top + height > rows or left + width > cols:  # widths of `scaling: multitask` follow the picture
        reason = f"prepared it takes {top + height} x {left + width} px; the network's frame is {rows} x {cols} px"
        return FileReading(file=file, reason=reason)
    frame = framed(content, image_hw=record.image_hw, channels=record.channels)
    return FileReading(file=file, frame=frame, warnings=tuple(strange(result, record)))


def framed(content: Content, *, image_hw: tuple[int, int], channels: int) -> NDArray[Any]:
    """The content in its frame, as datasets give it."""
    shape = image_hw if channels == 1 else (*image_hw, channels)
    frame = np.full(shape, content.background, dtype=content.pixels.dtype)
    (left, top), (height, width) = content.offset, content.pixels.shape[:2]
    frame[top : top + height, left : left + width] = content.pixels
    return frame


def seen_in(rows: pd.DataFrame) -> dict[str, Any]:
    """What training images were like, from their manifest: values with counts, or smallest and largest numbers."""
    seen: dict[str, Any] = {}
    for name in NAMED:
        counts = rows[name].dropna().value_counts() if name in rows else pd.Series(dtype=int)
        seen[name] = {str(value): int(count) for value, count in sorted(counts.items())}
    for name in MEASURED:
        numbers = rows[name].dropna() if name in rows else pd.Series(dtype=float)
        seen[name] = [float(numbers.min()), float(numbers.max())] if len(numbers) else []
    cropped = rows["is_cropped"].dropna() if "is_cropped" in rows else pd.Series(dtype=float)
    seen["is_cropped"] = [float(cropped.min()), float(cropped.max())] if len(cropped) else []
    return seen


def strange(result: Mapping[str, Any], record: ModelRecord) -> list[str]:
    """In what a file, by its header and its preparation, differs from all training images."""
    seen, found = record.seen, []
    for name in NAMED:
        known, value = seen.get(name) or {}, result.get(name)
        if known and value and str(value) not in known:
            found.append(f"{WORDS[name]} {value} was not in training ({', '.join(known)})")
    for name in MEASURED:
        limits, value = seen.get(name) or [], result.get(name)
        if limits and value and not limits[0] * (1 - SLACK) <= float(value) <= limits[1] * (1 + SLACK):
            found.append(f"{WORDS[name]} {value:g} is outside of training ({limits[0]:g} to {limits[1]:g})")
    if seen.get("is_cropped") == [1.0, 1.0] and not result.get("is_cropped"):
        found.append("no breast was found in the picture, so the whole of it was used")
    if record.preparation.get("masks"):
        found.append("training used masks of the breast; here it was found in the picture")
    return found
