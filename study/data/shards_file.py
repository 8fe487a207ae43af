"""One shard: the contents of many images in one Arrow IPC file, mapped into memory and framed on load.

The file holds one record batch with a row per image: ``pixels`` (large binary: the content alone, row-major, channels
last, little-endian), ``height`` and ``width`` of the content, ``left`` and ``top`` of it in the frame, and
``background``, the value around it. Channels, bits and encoding stand in the schema's metadata. With encoding ``zstd``
each row is compressed by itself (level 1), so that single rows can be read.

Only the box around the breast is stored; what lies around it is made on load. Rows are copied from the mapping straight
into their frame, by OpenCV, which sets the border and copies line by line in one call. The mapping's pages are there by
then, for the checksum was read through the same mapping.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from study.data.files import write_bytes
from study.errors import InputError

Encoding = Literal["raw", "zstd"]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

ZSTD_LEVEL: Final = 1  # higher levels gain little on noisy tissue and write slower
PREPARE_AGAIN: Final = "run `study prepare` again"
_NUMBERS: Final = ("height", "width", "left", "top", "background")
_SCHEMA: Final = pa.schema([("pixels", pa.large_binary()), *((name, pa.int32()) for name in _NUMBERS)])
_DTYPES: Final[dict[int, np.dtype[Any]]] = {8: np.dtype(np.uint8), 16: np.dtype("<u2")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is stored of one image.

    ``pixels`` is uint8 or uint16 [h, w] or [h, w, 3]; ``offset`` is where its (left, top) lies in the frame, in px;
    ``background`` is the value of all that is around it.
    """

    pixels: Pixels
    offset: tuple[int, int] = (0, 0)
    background: int = 0

    def trimmed(self) -> "Content":
        """The same picture without the outer rows and columns that hold nothing but background."""
        is_seen = self.pixels != self.background
        if is_seen.ndim == 3:
            is_seen = is_seen.any(axis=2)
        left, top, width, height = cv2.boundingRect(is_seen.view(np.uint8))
        if not width:
            left, top, width, height = 0, 0, 1, 1  # a shard's row is never empty
        kept: Any = self.pixels[top : top + height, left : left + width]
        offset = (self.offset[0] + left, self.offset[1] + top)
        return Content(pixels=np.ascontiguousarray(kept), offset=offset, background=self.background)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What is known of a written shard: images, file size in bytes, CRC-32 of the whole file."""

    rows: int
    size_bytes: int
    crc32: int


def write_shard(place: str | Path, contents: Sequence[Content], *, encoding: Encoding = "raw") -> ShardRecord:
    """Write images as one shard, whole or not at all, to a local path or a URI.

    Raises:
        InputError: there are none, or they are no 8- or 16-bit pictures of one kind.
        OSError: the place cannot be written.
    """
    channels, bits = _kind_of(contents)
    rows = [_stored(content.pixels, bits=bits, encoding=encoding) for content in contents]
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([row.nbytes for row in rows], out=offsets[1:])
    sizes = [content.pixels.shape for content in contents]
    columns: list[Any] = [
        pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(np.concatenate(rows))]
        ),
        pa.array([size[0] for size in sizes], pa.int32()),
        pa.array([size[1] for size in sizes], pa.int32()),
        pa.array([content.offset[0] for content in contents], pa.int32()),
        pa.array([content.offset[1] for content in contents], pa.int32()),
        pa.array([content.background for content in contents], pa.int32()),
    ]
    schema = _SCHEMA.with_metadata({"channels": str(channels), "bits": str(bits), "encoding": encoding})
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    buffer = sink.getvalue()
    write_bytes(place, memoryview(buffer))
    return ShardRecord(rows=len(rows), size_bytes=buffer.size, crc32=zlib.crc32(buffer))


def _kind_of(contents: Sequence[Content]) -> tuple[int, int]:
    """Channels and bits that all contents share."""
    kinds = {(content.pixels.shape[2:], content.pixels.dtype) for content in contents}
    is_known = all(shape in ((), (3,)) and dtype in (np.uint8, np.uint16) for shape, dtype in kinds)
    if len(kinds) != 1 or not is_known or any(content.pixels.ndim < 2 for content in contents):
        found = ", ".join(sorted(f"{dtype} with channels {shape}" for shape, dtype in kinds)) or "none"
        raise InputError(f"images for a shard: {found}; expected uint8 or uint16, [h, w] or [h, w, 3], all of one kind")
    shape, dtype = kinds.pop()
    return (shape[0] if shape else 1), 8 * dtype.itemsize


def _stored(pixels: Pixels, *, bits: int, encoding: Encoding) -> NDArray[np.uint8]:
    """The bytes of one row."""
    plain: NDArray[np.uint8] = np.ascontiguousarray(pixels, dtype=_DTYPES[bits]).reshape(-1).view(np.uint8)
    if encoding == "raw":
        return plain
    return np.frombuffer(_codec().compress(plain), dtype=np.uint8)


def _codec() -> Any:
    return pa.Codec("zstd", compression_level=ZSTD_LEVEL)


class Shard:
    """A mapped shard: its pixels lie in the file, not in memory.

    Attributes:
        channels: 1 or 3.
        bits: 8 or 16.
        encoding: how the rows are stored.
        extent_hw: smallest frame in which all contents have room.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        about = batch.schema.metadata
        self.channels, self.bits = int(about[b"channels"]), int(about[b"bits"])
        self.encoding = about[b"encoding"].decode()
        self._dtype = _DTYPES[self.bits]
        self._codec = _codec() if self.encoding == "zstd" else None
        numbers = [batch.column(name).to_numpy() for name in _NUMBERS]
        height_n, width_n, left_n, top_n, _ = numbers
        self.extent_hw = (int((top_n + height_n).max()), int((left_n + width_n).max()))
        self._places: list[tuple[int, ...]] = list(zip(*(column.tolist() for column in numbers), strict=True))
        depth = () if self.channels == 1 else (self.channels,)
        self._shapes = [(place[0], place[1], *depth) for place in self._places]
        _, offsets, data = batch.column("pixels").buffers()
        self._offsets: list[int] = np.frombuffer(offsets, dtype=np.int64)[: len(self._places) + 1].tolist()
        self._data = data  # keeps the mapping alive after the file handle is closed: many shards need no open files
        self._check(height_n.astype(np.int64) * width_n * self.channels * self._dtype.itemsize)

    def __len__(self) -> int:
        return len(self._places)

    def _check(self, bytes_n: NDArray[np.int64]) -> None:
        """Refuse numbers that point outside of the file; rows are read without looking again."""
        stored_n = np.diff(self._offsets)
        if stored_n.min() < 0 or self._offsets[0] != 0 or self._offsets[-1] > self._data.size:
            raise ValueError("offsets")
        if self.encoding not in ("raw", "zstd") or (self._codec is None and (stored_n != bytes_n).any()):
            raise ValueError("sizes")
        if min(min(place) for place in self._places) < 0:
            raise ValueError("places")

    def content(self, row: int) -> Content:
        """One image as it was written; raw pixels are a view of the file that cannot be written to."""
        _, _, left, top, background = self._places[row]
        return Content(pixels=self._pixels(row), offset=(left, top), background=background)

    def _pixels(self, row: int) -> Pixels:
        shape, dtype, start = self._shapes[row], self._dtype, self._offsets[row]
        if self._codec is None:
            return np.ndarray(shape, dtype, self._data, start)
        size = math.prod(shape) * dtype.itemsize
        plain = self._codec.decompress(self._data.slice(start, self._offsets[row + 1] - start), size)
        return np.ndarray(shape, dtype, plain)

    def frame_into(self, row: int, frame: Pixels) -> None:
        """Copy one image into its frame [H, W] or [H, W, 3] of the shard's kind, and set all around it."""
        height, width, left, top, background = self._places[row]
        below, right = frame.shape[0] - top - height, frame.shape[1] - left - width
        value = (background,) * self.channels
        cv2.copyMakeBorder(self._pixels(row), top, below, left, right, cv2.BORDER_CONSTANT, dst=frame, value=value)


def read_shard(path: Path, *, expected: ShardRecord | None = None) -> Shard:
    """Map a local shard; the file handle is closed again.

    Raises:
        InputError: the file is missing, is no shard, or differs from ``expected``; the message names the shard.
    """
    if not path.is_file():
        raise broken(path, "is missing")
    try:
        with pa.memory_map(str(path)) as file:
            if expected is not None:
                _compare(path, file.read_buffer(), expected)
                file.seek(0)
            return Shard(ipc.open_file(file).get_batch(0))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise broken(path, f"cannot be read ({type(error).__name__})") from error


def _compare(path: Path, buffer: Any, expected: ShardRecord) -> None:
    if buffer.size != expected.size_bytes:
        raise broken(path, f"has {buffer.size} bytes, expected {expected.size_bytes}")
    found = zlib.crc32(buffer)
    if found != expected.crc32:
        raise broken(path, f"has checksum {found:08x}, expected {expected.crc32:08x}")


def broken(path: Path, what: str) -> InputError:
    """The error of a shard that cannot be used."""
    return InputError(f"shard {path.name} {what}", f"delete {path} and {PREPARE_AGAIN}")
