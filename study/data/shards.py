"""Prepared datasets: the manifest that lists the images, and the shards that hold their pixels.

A dataset lies in a folder or below a URI. ``dataset.json`` is written last and keeps settings, counts, fingerprint, and
size and CRC-32 of every shard. A shard is checked when a process opens it for the first time: 10 ms for 64 images of
512 x 512, about what augmenting four of them costs. Files of a remote dataset are fetched once per machine.
"""

import functools
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from study.data.digest import id_hashes
from study.data.files import is_file, is_remote, join, local_path, read_bytes, shown, why
from study.data.labels import label_column
from study.data.shards_cache import FileRecord, drop, fetched
from study.data.shards_file import PREPARE_AGAIN, Pixels, Shard, ShardRecord, broken, read_shard
from study.data.tasks import class_names
from study.errors import InputError
from study.types import SplitName

FORMAT: Final = 2
DATASET_FILE: Final = "dataset.json"
MANIFEST_FILE: Final = "manifest.parquet"
QUARANTINE_FILE: Final = "quarantine.parquet"
SHARD_FOLDER: Final = "shards"
CHECKSUM: Final = "crc32"


class PreparedDataset:
    """A prepared dataset, opened for reading: small until pixels are asked for, cheap to pickle.

    Pickling keeps the place and the fingerprint; the receiver opens the dataset once per process, on first use.

    Attributes:
        root: the dataset's folder or URI.
        classes: class names in order; label k means ``classes[k]``.
        tasks: classes of every task by its name, the one that decides first.
        image_hw: height and width of the frame in px, the same for all images.
        channels: 1 or 3.
        bits: 8 or 16.
        encoding: how shards are stored, ``raw`` or ``zstd``.
        fingerprint: hash over settings and manifest; equal fingerprints mean equal data.
        about: the content of ``dataset.json``.
    """

    def __init__(self, root: str, about: Mapping[str, Any]) -> None:
        self.root = root
        self.about = about
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.tasks = _tasks(about, self.classes)
        height, width = about["image_hw"]
        self.image_hw = (int(height), int(width))
        self.channels = int(about["channels"])
        self.bits = int(about["bits"])
        self.encoding = str(about["encoding"])
        self.fingerprint = str(about["fingerprint"])
        self._opened: dict[str, Shard] = {}

    def __reduce__(self) -> tuple[Callable[[str, str], "PreparedDataset"], tuple[str, str]]:
        return _reopen, (self.root, self.fingerprint)

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def image_bytes(self) -> int:
        """Bytes of one framed image in memory."""
        return self.image_hw[0] * self.image_hw[1] * self.channels * self.bits // 8

    @functools.cached_property
    def manifest(self) -> pd.DataFrame:
        """Usable images (with pixels, and a label or kept without one); the index is the row number from 0.

        Raises:
            InputError: the table is missing or damaged, or the dataset was prepared again meanwhile.
        """
        table = _manifest_table(self.root, self.about)
        if read_about(self.root)["fingerprint"] != self.fingerprint:
            raise _replaced(self.root)
        labels = ["label", *map(label_column, tuple(self.tasks)[1:])]
        wanted = table[labels].notna().any(axis=1)
        if self.about.get("settings", {}).get("labels", {}).get("keep_unlabelled"):
            wanted |= table["drop_reason"].fillna("") == ""
        return table[wanted & (table["shard"].fillna("") != "")].reset_index(drop=True)

    @functools.cached_property
    def is_labelled_n(self) -> NDArray[np.bool_]:
        """Whether each usable image has a label of any task, [N]."""
        labels = ["label", *map(label_column, tuple(self.tasks)[1:])]
        is_labelled: NDArray[np.bool_] = self.manifest[labels].notna().any(axis=1).to_numpy(dtype=bool)
        return is_labelled

    @functools.cached_property
    def labels_n(self) -> NDArray[np.int64]:
        """Class of each usable image, int64 [N]; -1 for one that has a label of another task alone."""
        return _whole(self.manifest["label"])

    def task_labels(self, task: str) -> NDArray[np.int64]:
        """Class of each usable image by one of its tasks, int64 [N]; -1 where it has none.

        Raises:
            InputError: the dataset was prepared without this task.
        """
        if task not in self.tasks:
            raise InputError(
                f"{shown(self.root)} has no labels of task {task!r}; expected one of {', '.join(self.tasks)}",
                "name the task in data.labels and prepare again",
            )
        return self.labels_n if task == next(iter(self.tasks)) else _whole(self.manifest[label_column(task)])

    @functools.cached_property
    def segments_n(self) -> NDArray[Any]:
        """Segment name of each usable image, [N]."""
        return self.manifest["segment"].to_numpy(dtype=object).astype(str)

    @functools.cached_property
    def sources_n(self) -> NDArray[Any]:
        """Source name of each usable image, [N]."""
        return self.manifest["source"].to_numpy(dtype=object).astype(str)

    @functools.cached_property
    def id_hashes_n(self) -> NDArray[np.uint64]:
        """A number for each usable image's id, uint64 [N]; see :mod:`study.data.digest`."""
        return id_hashes(self.manifest["image_id"])

    @functools.cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        codes, names = pd.factorize(self.manifest["shard"])
        return codes.astype(np.int64), self.manifest["shard_row"].to_numpy(dtype=np.int64), [str(n) for n in names]

    @functools.cached_property
    def _records(self) -> dict[str, ShardRecord]:
        return shard_records(self.about)

    def rows(self, split: SplitName) -> NDArray[np.int64]:
        """Row numbers of a split's images with a label, ascending int64."""
        return np.flatnonzero((self.manifest["split"] == split).to_numpy(dtype=bool) & self.is_labelled_n)

    def unlabelled_rows(self) -> NDArray[np.int64]:
        """Row numbers of training images without any label, ascending int64."""
        return np.flatnonzero((self.manifest["split"] == "train").to_numpy(dtype=bool) & ~self.is_labelled_n)

    def pixels(self, rows: NDArray[np.int64], *, out: Pixels | None = None) -> Pixels:
        """Copy the images of ``rows`` in their order, each in its frame.

        Args:
            rows: row numbers [N].
            out: an array of the result's shape and type that is filled and returned, for loops that keep their memory.

        Returns:
            uint8 or uint16, [N, H, W] with one channel or [N, H, W, 3].

        Raises:
            InputError: a shard is missing or damaged, a row does not exist, or ``out`` does not fit.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise InputError(f"rows {wanted.min()} to {wanted.max()} asked of {len(self)} images")
        frames = self._frames(len(wanted), out)
        shard_codes, shard_rows, names = self._places
        places = zip(shard_codes[wanted].tolist(), shard_rows[wanted].tolist(), strict=True)
        for number, (code, row) in enumerate(places):
            try:
                self._shard(names[code]).frame_into(row, frames[number])
            except (pa.ArrowException, OSError, ValueError, cv2.error) as error:
                raise broken(Path(names[code]), f"changed while it was in use ({type(error).__name__})") from error
        return frames

    def _frames(self, count: int, out: Pixels | None) -> Pixels:
        shape = (count, *self.image_hw) if self.channels == 1 else (count, *self.image_hw, self.channels)
        dtype = np.dtype(np.uint8 if self.bits == 8 else np.uint16)
        if out is None:
            return np.empty(shape, dtype=dtype)
        if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
            raise InputError(f"out is {out.dtype} {out.shape}; expected a writable, contiguous {dtype} {shape}")
        return out

    def _shard(self, name: str) -> Shard:
        shard = self._opened.get(name)
        if shard is None:
            shard = self._opened[name] = self._open(name)
        return shard

    def _open(self, name: str) -> Shard:
        expected = self._records.get(name)
        if expected is None:
            raise broken(Path(name), f"is not listed in {DATASET_FILE}")
        shard = self._mapped(name, expected)
        found = (shard.channels, shard.bits)
        if found != (self.channels, self.bits) or np.any(np.greater(shard.extent_hw, self.image_hw)):
            raise broken(
                Path(name),
                f"holds images of up to {shard.extent_hw} px, {found[0]} channels, {found[1]} bits; "
                f"expected {self.image_hw}, {self.channels}, {self.bits}",
            )
        if len(shard) != expected.rows:
            raise broken(Path(name), f"holds {len(shard)} images, expected {expected.rows}")
        return shard

    def _mapped(self, name: str, expected: ShardRecord) -> Shard:
        """A local shard as it lies there; a remote one from the cache, fetched anew if the copy was damaged."""
        if not is_remote(self.root):
            return read_shard(local_path(self.root) / SHARD_FOLDER / name, expected=expected)
        try:
            return read_shard(self._fetched(name, expected), expected=expected)
        except InputError:
            drop(self._fetched(name, expected))
        return read_shard(self._fetched(name, expected), expected=expected)

    def _fetched(self, name: str, expected: ShardRecord) -> Path:
        return fetched(
            join(self.root, SHARD_FOLDER, name),
            fingerprint=self.fingerprint,
            name=f"{SHARD_FOLDER}/{name}",
            expected=FileRecord(size_bytes=expected.size_bytes, crc32=expected.crc32),
        )


def _tasks(about: Mapping[str, Any], classes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Classes of all tasks, from the settings that a dataset was prepared with."""
    labels = about.get("settings", {}).get("labels", {})
    named, sub_grades = tuple(labels.get("classes", ())), bool(labels.get("birads_sub"))
    others = {
        str(task): class_names(task, classes=named, sub_grades=sub_grades) for task in labels.get("auxiliary", ())
    }
    return {str(labels.get("task", "label")): classes} | others


def _whole(column: pd.Series) -> NDArray[np.int64]:
    return np.asarray(column.astype("Int64").to_numpy(dtype=np.int64, na_value=-1), dtype=np.int64)


def shard_records(about: Mapping[str, Any]) -> dict[str, ShardRecord]:
    """The shards listed in ``dataset.json``, by file name."""
    return {
        name: ShardRecord(rows=int(rows), size_bytes=int(size), crc32=int(crc))
        for name, (rows, size, crc) in about["shards"].items()
    }


def open_dataset(root: str | Path) -> PreparedDataset:
    """Open a prepared dataset in a local folder or below a URI.

    Raises:
        InputError: there is none, it is damaged, or it was written in another format.
    """
    place = str(root) if is_remote(root) else str(local_path(root))
    return PreparedDataset(place, read_about(place))


def read_about(root: str | Path) -> dict[str, Any]:
    """Content of ``dataset.json``.

    Raises:
        InputError: as :func:`open_dataset`.
    """
    place = join(root, DATASET_FILE)
    try:
        content = read_bytes(place) if is_file(place) else None
    except OSError as error:
        raise InputError(f"{shown(place)} cannot be read ({why(error)})", "check network and credentials") from None
    if content is None:
        raise InputError(
            f"{shown(root)} is no prepared dataset: {DATASET_FILE} is missing", "run `study prepare` first"
        )
    try:
        about = json.loads(content)
        crc = about.pop(CHECKSUM, None)
        if crc is not None and crc != about_checksum(about):
            raise InputError(f"{shown(place)} is damaged: it does not agree with its checksum", PREPARE_AGAIN)
        version = about["format"]
        if version == FORMAT:
            PreparedDataset(place, about), shard_records(about)  # all that readers take for granted is there
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{shown(place)} is damaged ({type(error).__name__})", PREPARE_AGAIN) from error
    if version != FORMAT:
        raise InputError(f"{shown(place)} has format {version}; expected {FORMAT}", PREPARE_AGAIN)
    return dict(about)


def about_checksum(about: Mapping[str, Any]) -> int:
    """CRC-32 of the content of ``dataset.json``, however it is spaced."""
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def read_manifest(root: str | Path) -> pd.DataFrame:
    """All rows of a prepared dataset's manifest, dropped ones too.

    Raises:
        InputError: the file is missing or damaged.
    """
    place = str(root)
    return _manifest_table(place, read_about(place))


def table_place(root: str | Path, about: Mapping[str, Any], name: str) -> str:
    """Where a dataset keeps its table ``name``; below a URI, each version of a table has a name of its own."""
    return join(root, str(about.get("tables", {}).get(name, [name])[0]))


def _manifest_table(root: str, about: Mapping[str, Any]) -> pd.DataFrame:
    place = table_place(root, about, MANIFEST_FILE)
    try:
        if is_remote(root):
            name, size, crc = about["tables"][MANIFEST_FILE]
            expected = FileRecord(size_bytes=int(size), crc32=int(crc))
            path = fetched(place, fingerprint=str(about["fingerprint"]), name=str(name), expected=expected)
            return pd.read_parquet(path)
        content = read_bytes(place)
        _check_table(content, about.get("tables", {}).get(MANIFEST_FILE), place=place)
        return pd.read_parquet(io.BytesIO(content))
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{shown(place)} cannot be read ({type(error).__name__})", PREPARE_AGAIN) from error


def _check_table(content: bytes, record: Sequence[Any] | None, *, place: str) -> None:
    """A table has the size and the checksum that ``dataset.json`` holds; one of before has no record."""
    if record is None:
        return
    _, size, crc = record
    if len(content) != int(size):
        raise InputError(f"{shown(place)} is damaged: {len(content)} bytes, expected {size}", PREPARE_AGAIN)
    if zlib.crc32(content) != int(crc):
        raise InputError(f"{shown(place)} is damaged: it does not agree with its checksum", PREPARE_AGAIN)


@functools.lru_cache(maxsize=4)
def _reopen(root: str, fingerprint: str) -> PreparedDataset:
    dataset = open_dataset(root)
    if dataset.fingerprint != fingerprint:
        raise _replaced(dataset.root)
    return dataset


def _replaced(root: str) -> InputError:
    return InputError(f"dataset {shown(root)} was prepared again while it was in use", "start the run again")
