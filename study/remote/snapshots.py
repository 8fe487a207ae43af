"""A folder as one snapshot in a store: nobody ever sees a part of it.

Layout below the URI of the folder::

    heads/000000200001.json                  {"attempt", "files": {path: {"object", "bytes", "sha256"}}, "digest"}
    checkpoints-step_00000123-model.<16 hexadecimal digits of its SHA-256>.safetensors
    ...

An object has its content in its name, so none ever changes. The head, one object that appears at once and last, says
which of them make up the folder; that of the highest attempt counts, so that a writer that was replaced writes where
nobody looks. What no head refers to is removed by the next writer.
"""

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from study.data.files import delete, delete_all, download, join, read_bytes, shown, stored_files, write_bytes
from study.errors import StudyError
from study.remote.places import answered, uri_of

FORMAT: Final = 1
HEADS: Final = "heads"
HEAD_NAME: Final = re.compile(r"[0-9]{12,}\.json")
RECORD: Final = ".copied.json"  # what of a local folder is known to be what the store has
LOCK: Final = ".copying"
OWN: Final = ("checkpoints/attempt.json",)  # concerns this machine alone
STEPS: Final = "checkpoints/step_"
LAST: Final = "checkpoints/latest.json"  # local readers take what it names, so it is brought last
TRIES: Final = 5  # a writer may remove objects of the head that was just read
CHUNK: Final = 8 * 2**20


class StaleAttempt(StudyError):
    """A newer attempt has claimed the run: this one has to stop and must not write."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a snapshot: the object that holds it, its size, and its SHA-256."""

    object: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Head:
    """A snapshot: who wrote it, and its files by their paths in the folder."""

    attempt: int
    files: Mapping[str, Entry] = field(default_factory=dict)


def _attempts(uri: str) -> dict[int, str]:
    """The names of the heads by their attempts; what others have laid beside them is no head."""
    names = answered(uri, stored_files, join(uri, HEADS))
    return {int(name.removesuffix(".json")): name for name in names if HEAD_NAME.fullmatch(name)}


def newest_attempt(uri: str) -> int:
    """The highest attempt that has a head; 0 when nobody has written yet."""
    return max(_attempts(uri), default=0)


def read_head(uri: str) -> Head | None:
    """The snapshot that counts; None when there is none.

    Raises:
        StudyError: it is damaged.
    """
    for _ in range(TRIES):
        attempt = newest_attempt(uri)
        if not attempt:
            return None
        with contextlib.suppress(FileNotFoundError):  # a newer one has just taken its place
            return _parsed(answered(uri, read_bytes, _head_place(uri, attempt)), uri)
    raise _unsteady(uri)


def write_head(uri: str, head: Head) -> None:
    """Make a snapshot count; those of older attempts go."""
    files = {name: asdict(entry) for name, entry in head.files.items()}
    content = {"format": FORMAT, "attempt": head.attempt, "files": files, "digest": _digest(files)}
    answered(uri, write_bytes, _head_place(uri, head.attempt), json.dumps(content).encode())


def drop_older(uri: str, attempt: int) -> None:
    """Remove the heads of attempts before this one."""
    for number, name in _attempts(uri).items():
        if number < attempt:
            answered(uri, delete, join(uri, HEADS, name))


def drop_unreferenced(uri: str, head: Head) -> None:
    """Remove the objects of the folder that a snapshot does not use, as an upload that was killed leaves them."""
    kept = {entry.object for entry in head.files.values()}
    found = answered(uri, stored_files, uri)
    lost = [name for name in found if name not in kept and not name.startswith(f"{HEADS}/")]
    answered(uri, delete_all, [join(uri, name) for name in lost])


def upload(uri: str, files: Mapping[str, Path], *, known: Head, hashes: "Hashes") -> dict[str, Entry]:
    """Bring files to the store, those that ``known`` has not; they count when a head names them."""
    entries = {}
    for name, path in sorted(files.items()):
        digest, size = hashes.of(path)
        entry = Entry(_object_name(name, digest), size, digest)
        if known.files.get(name) != entry:
            answered(uri, _put_file, join(uri, entry.object), path)
        entries[name] = entry
    return entries


def pull(directory: Path, *, small: bool = False) -> Head | None:
    """Make a local folder what the store's snapshot says, or with ``small`` all of it but the weights.

    Raises:
        StudyError: the snapshot is damaged, or changes faster than it can be read.
        EnvironmentFault: the store does not answer.
    """
    uri = uri_of(directory)
    for _ in range(TRIES):
        head = read_head(uri)
        if head is None and not directory.exists():
            return None
        try:
            with folder_lock(directory):
                _match(directory, uri, head or Head(0), small=small)
        except FileNotFoundError:
            continue
        return head
    raise _unsteady(uri)


@contextlib.contextmanager
def folder_lock(directory: Path) -> Iterator[None]:
    """One process of this machine at a time changes the local folder."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def local_files(directory: Path) -> dict[str, Path]:
    """The files of a folder that belong into its snapshot, by their paths in it."""
    found: dict[str, Path] = {}
    if not directory.is_dir():
        return found
    for folder, inner, names in os.walk(directory, onerror=_refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]  # what was sent is removed meanwhile
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            name = path.relative_to(directory).as_posix()
            if path.is_file() and name not in OWN:
                found[name] = path
    return found


def _refuse(error: OSError) -> None:
    """A folder that cannot be read is no empty one."""
    raise error


class Hashes:
    """SHA-256 of files; one that has not changed since is not read again."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], str] = {}

    def of(self, path: Path) -> tuple[str, int]:
        """Digest and size in bytes."""
        state = path.stat()
        key = (state.st_ino, state.st_size, state.st_mtime_ns)
        if key not in self._known:
            with path.open("rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[key], state.st_size


def _match(directory: Path, uri: str, head: Head, *, small: bool) -> None:
    record = _read_record(directory)
    wanted = {name: entry for name, entry in head.files.items() if not (small and name.startswith(STEPS))}
    here = local_files(directory)
    for name, entry in sorted(wanted.items(), key=lambda item: item[0] == LAST):
        path = directory / name
        if name not in here or record.get(name) != [entry.sha256, *_state(path)]:
            _fetch(uri, entry, path)
            record[name] = [entry.sha256, *_state(path)]
    for name in here.keys() - head.files.keys():
        here[name].unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are left in it
            here[name].parent.rmdir()
    _write_record(directory, {name: known for name, known in record.items() if name in head.files})


def _fetch(uri: str, entry: Entry, path: Path) -> None:
    """Fetch under another name, check, rename."""
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        answered(uri, download, join(uri, entry.object), part)
        digest, size = Hashes().of(part)
        if (digest, size) != (entry.sha256, entry.bytes):
            raise StudyError(
                f"{shown(join(uri, entry.object))} is not what was written ({size} bytes, expected {entry.bytes})",
                "restore it from a copy, or delete the folder of the run there and resume: it then starts anew",
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _put_file(place: str, path: Path) -> None:
    """One object whole or not at all, without its content in memory."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            write_bytes(place, b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            write_bytes(place, view)


def note_pushed(directory: Path, files: Mapping[str, Entry], states: Mapping[str, tuple[int, int]]) -> None:
    """Keep that local files are what the store has now."""
    _write_record(directory, {name: [entry.sha256, *states[name]] for name, entry in files.items()})


def _state(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _read_record(directory: Path) -> dict[str, list[Any]]:
    """What is known of the local files; nothing when the record is missing or torn, so that all are fetched anew."""
    try:
        found: dict[str, list[Any]] = json.loads((directory / RECORD).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _write_record(directory: Path, record: Mapping[str, list[Any]]) -> None:
    partial = directory / f"{RECORD}.{os.getpid()}"
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.replace(directory / RECORD)


def _object_name(name: str, digest: str) -> str:
    """Flat, as pyarrow leaves an empty object behind for each folder of a store that it empties."""
    stem, suffix = posixpath.splitext(name.replace("/", "-"))
    return f"{stem}.{digest[:16]}{suffix}"


def _head_place(uri: str, attempt: int) -> str:
    return join(uri, HEADS, f"{attempt:012d}.json")


def _parsed(content: bytes, uri: str) -> Head:
    try:
        found = json.loads(content)
        head = Head(found["attempt"], {name: Entry(**entry) for name, entry in found["files"].items()})
        is_sound = found["format"] == FORMAT and found["digest"] == _digest(found["files"])
        is_sound = is_sound and isinstance(found["attempt"], int)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_sound, head = False, Head(0)
    if not is_sound or any(name.startswith("/") or ".." in name.split("/") for name in head.files):
        raise StudyError(
            f"the head of {shown(uri)} is damaged",
            f"delete the newest object below {shown(join(uri, HEADS))}, then resume",
        )
    return head


def _digest(files: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _unsteady(uri: str) -> StudyError:
    return StudyError(f"{shown(uri)} changed {TRIES} times while it was read", "try again")
