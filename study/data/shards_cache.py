"""Files of remote datasets on this machine: fetched once, checked, and shared by all of its processes.

They lie below ``STUDY_CACHE`` (``~/.cache/study`` by default), a folder per fingerprint. The folder may be deleted at
any time when nothing runs; what is needed is fetched again.
"""

import fcntl
import os
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from study.data.files import download, shown, why
from study.errors import InputError

FOLDER: Final = "STUDY_CACHE"
CHUNK: Final = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size in bytes and CRC-32 of a file."""

    size_bytes: int
    crc32: int


def cache_folder() -> Path:
    """Where this machine keeps what it fetched."""
    named = os.environ.get(FOLDER)
    return Path(named).absolute() if named else Path.home() / ".cache" / "study"


def fetched(place: str, *, fingerprint: str, name: str, expected: FileRecord) -> Path:
    """The local copy of a remote file; the first process that asks fetches it, the others wait for it.

    Args:
        place: the file's URI.
        fingerprint: the dataset's.
        name: the file's path in the dataset.
        expected: what the dataset says of the file; a copy of another size is fetched again.

    Raises:
        InputError: the file cannot be fetched, or arrives otherwise than expected, or the cache cannot be written.
    """
    path = cache_folder() / "datasets" / fingerprint / name
    if _size(path) == expected.size_bytes:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if _size(path) != expected.size_bytes:
                _fetch(place, path, expected)
    except OSError as error:
        raise InputError(
            f"{shown(place)} cannot be fetched into {cache_folder()} ({why(error)})",
            f"check the network, the credentials and the room there, or set {FOLDER} to another folder",
        ) from None
    return path


def _fetch(place: str, path: Path, expected: FileRecord) -> None:
    """Fetch under another name, check, rename: nobody ever maps half a file."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        download(place, part)
        if (_size(part), _checksum(part)) != (expected.size_bytes, expected.crc32):
            raise InputError(
                f"{shown(place)} differs from what its dataset.json says",
                "run `study prepare` again, or start the run again if it was just prepared",
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def drop(path: Path) -> None:
    """Forget a copy that turned out to be damaged."""
    path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time per file; the lock ends with its process, however that ends."""
    with path.with_name(f".{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
