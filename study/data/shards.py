"""Prepared datasets: shards of raw pixels that are mapped into memory, and the manifest that lists them.

A shard is an Arrow IPC file with one record batch and one column ``pixels`` of fixed-size binary values, an image a row
(uint8, row-major); height and width stand in the schema's metadata. ``dataset.json`` keeps size and CRC-32 of every
shard. They are checked when a process opens the shard for the first time: 10 ms for 64 images of 512 x 512, about what
augmenting four of them costs, and the file is in the page cache afterwards.
"""

import functools
import json
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from study.errors import InputError
from study.types import SplitName

FORMAT: Final = 1
DATASET_FILE: Final = "dataset.json"
MANIFEST_FILE: Final = "manifest.parquet"
QUARANTINE_FILE: Final = "quarantine.parquet"
SHARD_FOLDER: Final = "shards"
PREPARE_AGAIN: Final = "run `study prepare` again"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What is known of a written shard: images, file size in bytes, CRC-32 of the whole file."""

    rows: int
    size_bytes: int
    crc32: int


def write_shard(path: Path, pixels_nhw: Pixels) -> ShardRecord:
    """Write images as one shard under a temporary name and rename it, so that nobody sees half a file.

    Args:
        path: final place, in an existing folder.
        pixels_nhw: uint8 [N, H, W], N >= 1.

    Raises:
        InputError: the array is no stack of 8-bit one-channel images.
    """
    if pixels_nhw.ndim != 3 or pixels_nhw.dtype != np.uint8 or not pixels_nhw.size:
        raise InputError(f"shard of shape {pixels_nhw.shape}, {pixels_nhw.dtype}; expected uint8 [N, H, W], N >= 1")
    rows, height, width = pixels_nhw.shape
    kind = pa.binary(height * width)
    column = pa.FixedSizeBinaryArray.from_buffers(kind, rows, [None, pa.py_buffer(np.ascontiguousarray(pixels_nhw))])
    schema = pa.schema([("pixels", kind)], metadata={"height": str(height), "width": str(width)})
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as file, ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.record_batch([column], schema=schema))
        record = describe_shard(temporary, rows=rows)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return record


def describe_shard(path: Path, *, rows: int) -> ShardRecord:
    """Size and checksum of a shard file as it lies there."""
    with pa.memory_map(str(path)) as file:
        buffer = file.read_buffer()
        return ShardRecord(rows=rows, size_bytes=buffer.size, crc32=zlib.crc32(buffer))


def read_shard(path: Path, *, expected: ShardRecord | None = None) -> Pixels:
    """Map a shard: read-only uint8 [N, H, W] that lies in the file, not in memory; the file handle is closed again.

    Raises:
        InputError: the file is missing, is no shard, or differs from ``expected``; the message names the shard.
    """
    if not path.is_file():
        raise _broken(path, "is missing")
    try:
        with pa.memory_map(str(path)) as file:
            if expected is not None:
                _check(path, file.read_buffer(), expected)
                file.seek(0)
            batch = ipc.open_file(file).get_batch(0)
            column, about = batch.column("pixels"), batch.schema.metadata
            shape = (batch.num_rows, int(about[b"height"]), int(about[b"width"]))
            # the buffer keeps the mapping alive after the handle is closed, so thousands of shards need no open files
            return np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(shape)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"cannot be read ({type(error).__name__})") from error


def _check(path: Path, buffer: Any, expected: ShardRecord) -> None:
    if buffer.size != expected.size_bytes:
        raise _broken(path, f"has {buffer.size} bytes, expected {expected.size_bytes}")
    found = zlib.crc32(buffer)
    if found != expected.crc32:
        raise _broken(path, f"has checksum {found:08x}, expected {expected.crc32:08x}")


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"shard {path.name} {what}", f"delete {path} and {PREPARE_AGAIN}")


class PreparedDataset:
    """A prepared dataset, opened for reading: small until pixels are asked for, cheap to pickle.

    Pickling keeps the folder and the fingerprint; the receiver opens the dataset once per process, on first use.

    Attributes:
        root: the dataset's folder.
        classes: class names in order; label k means ``classes[k]``.
        image_size: side of the square images in pixels.
        fingerprint: hash over settings and manifest; equal fingerprints mean equal data.
        about: the content of ``dataset.json``.
    """

    def __init__(self, root: Path, about: Mapping[str, Any]) -> None:
        self.root = root
        self.about = about
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.image_size = int(about["image_size"])
        self.fingerprint = str(about["fingerprint"])
        self._mapped: dict[str, Pixels] = {}

    def __reduce__(self) -> tuple[Callable[[str, str], "PreparedDataset"], tuple[str, str]]:
        return _reopen, (str(self.root), self.fingerprint)

    def __len__(self) -> int:
        return len(self.manifest)

    @functools.cached_property
    def manifest(self) -> pd.DataFrame:
        """Usable images (labelled, with pixels); the index is the row number from 0."""
        table = read_manifest(self.root)
        if read_about(self.root)["fingerprint"] != self.fingerprint:
            raise _replaced(self.root)
        usable = table["label"].notna() & (table["shard"].fillna("") != "")
        return table[usable].reset_index(drop=True)

    @functools.cached_property
    def labels_n(self) -> NDArray[np.int64]:
        """Class of each usable image, int64 [N]."""
        return self.manifest["label"].to_numpy(dtype=np.int64)

    @functools.cached_property
    def segments_n(self) -> NDArray[Any]:
        """Segment name of each usable image, [N]."""
        return self.manifest["segment"].to_numpy(dtype=object).astype(str)

    @functools.cached_property
    def sources_n(self) -> NDArray[Any]:
        """Source name of each usable image, [N]."""
        return self.manifest["source"].to_numpy(dtype=object).astype(str)

    @functools.cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        codes, names = pd.factorize(self.manifest["shard"])
        return codes.astype(np.int64), self.manifest["shard_row"].to_numpy(dtype=np.int64), [str(n) for n in names]

    @functools.cached_property
    def _records(self) -> dict[str, ShardRecord]:
        return shard_records(self.about)

    def rows(self, split: SplitName) -> NDArray[np.int64]:
        """Row numbers of a split, ascending int64."""
        return np.flatnonzero((self.manifest["split"] == split).to_numpy(dtype=bool))

    def pixels(self, rows: NDArray[np.int64]) -> Pixels:
        """Copy the images of ``rows`` in their order: uint8 [len(rows), S, S].

        Raises:
            InputError: a shard is missing or damaged, or a row does not exist.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise InputError(f"rows {wanted.min()} to {wanted.max()} asked of {len(self)} images")
        shard_codes, shard_rows, names = self._places
        codes = shard_codes[wanted]
        out = np.empty((len(wanted), self.image_size, self.image_size), dtype=np.uint8)
        for code in np.unique(codes):
            places = np.flatnonzero(codes == code)
            out[places] = self._shard(names[code])[shard_rows[wanted[places]]]
        return out

    def _shard(self, name: str) -> Pixels:
        mapped = self._mapped.get(name)
        if mapped is None:
            path = self.root / SHARD_FOLDER / name
            expected = self._records.get(name)
            if expected is None:
                raise _broken(path, f"is not listed in {DATASET_FILE}")
            mapped = read_shard(path, expected=expected)
            if mapped.shape[1:] != (self.image_size, self.image_size):
                raise _broken(path, f"holds images of {mapped.shape[1:]} pixels, expected {self.image_size}")
            self._mapped[name] = mapped
        return mapped


def shard_records(about: Mapping[str, Any]) -> dict[str, ShardRecord]:
    """The shards listed in ``dataset.json``, by file name."""
    return {
        name: ShardRecord(rows=int(rows), size_bytes=int(size), crc32=int(crc))
        for name, (rows, size, crc) in about["shards"].items()
    }


def open_dataset(root: str | Path) -> PreparedDataset:
    """Open a prepared dataset (a local folder).

    Raises:
        InputError: there is none, it is damaged, or it was written in another format.
    """
    folder = Path(root).absolute()
    return PreparedDataset(folder, read_about(folder))


def read_about(root: Path) -> dict[str, Any]:
    """Content of ``dataset.json``.

    Raises:
        InputError: as :func:`open_dataset`.
    """
    path = root / DATASET_FILE
    if not path.is_file():
        raise InputError(f"{root} is no prepared dataset: {DATASET_FILE} is missing", "run `study prepare` first")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        version = about["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__})", PREPARE_AGAIN) from error
    if version != FORMAT:
        raise InputError(f"{path} has format {version}; expected {FORMAT}", PREPARE_AGAIN)
    return dict(about)


def read_manifest(root: Path) -> pd.DataFrame:
    """All rows of a prepared dataset's manifest, dropped ones too.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = root / MANIFEST_FILE
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__})", PREPARE_AGAIN) from error


@functools.lru_cache(maxsize=4)
def _reopen(root: str, fingerprint: str) -> PreparedDataset:
    dataset = open_dataset(root)
    if dataset.fingerprint != fingerprint:
        raise _replaced(dataset.root)
    return dataset


def _replaced(root: Path) -> InputError:
    return InputError(f"dataset {root} was prepared again while it was in use", "start the run again")
