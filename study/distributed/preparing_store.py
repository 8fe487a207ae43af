"""Where a dataset is made and how it appears: folders that are exchanged by renaming, or objects below a URI.

Local: everything is made in ``<root>.partial`` and renamed at the end. Remote: stores cannot rename, so shards are
written to their final place under names that nothing refers to yet, unfinished work lies below ``<root>/work``, tables
have a new name each time, and ``dataset.json``, one object that is replaced at once, says which of them count.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from study.config import DataConfig
from study.data.files import (
    delete,
    delete_all,
    is_file,
    is_remote,
    join,
    list_files,
    local_path,
    read_bytes,
    shown,
    write_bytes,
)
from study.data.identity import load_or_make_key
from study.data.shards import DATASET_FILE, SHARD_FOLDER
from study.errors import InputError

RESULT_FOLDER: Final = "results"
WORK_FILE: Final = "work.json"  # settings of an unfinished preparation; its presence marks the place as ours
LOCK_FILE: Final = "lock.json"
KEY_FOLDER: Final = "STUDY_KEYS"
BEAT_SECONDS: Final = 30.0
STALE_SECONDS: Final = 120.0  # a lock that was not renewed for so long belongs to a process that is gone
SETTLE_SECONDS: Final = 0.5
OURS: Final = re.compile(r"/(shards/[0-9a-f]{24}\.arrow|(manifest|quarantine)\.[0-9a-f]{16}\.parquet)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a prepared dataset lies: root, the place of unfinished work, that of new shards, and the key of its ids."""

    root: str
    staging: str
    shards: str
    key_path: Path

    @property
    def is_remote(self) -> bool:
        """Whether the dataset lies below a URI."""
        return is_remote(self.root)

    @property
    def results(self) -> str:
        """Place of the results of finished blocks."""
        return join(self.staging, RESULT_FOLDER)


def layout_of(data: DataConfig) -> Layout:
    """Places of ``data.prepared``; the key is never in the dataset, so that it is not copied along.

    The key of a local dataset lies beside it, that of a remote one in ``STUDY_KEYS`` (``~/.config/study/keys``).
    """
    if not is_remote(data.prepared):
        root = str(local_path(data.prepared))
        staging = f"{root}.partial"
        return Layout(root=root, staging=staging, shards=join(staging, SHARD_FOLDER), key_path=Path(f"{root}.key"))
    base, mark, query = data.prepared.partition("?")
    root = base.rstrip("/") + mark + query
    named = hashlib.blake2b(shown(root).encode(), digest_size=16).hexdigest()
    folder = Path(os.environ.get(KEY_FOLDER) or Path.home() / ".config" / "study" / "keys").absolute()
    return Layout(
        root=root, staging=join(root, "work"), shards=join(root, SHARD_FOLDER), key_path=folder / f"{named}.key"
    )


def key_of(layout: Layout, *, make: bool) -> bytes | None:
    """The key of the hashes; ``None`` if there is none yet and none may be made.

    Raises:
        StudyError: the key file cannot be read or written.
    """
    if not make and not layout.key_path.is_file():
        return None
    layout.key_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return load_or_make_key(layout.key_path)


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Be the only one who prepares this dataset.

    On one machine the key file carries the lock. For a remote dataset there is also an object with the time, renewed
    every half minute: stores offer no real lock through pyarrow, so two machines that begin within the same half second
    may both pass. That wastes work and harms nothing: blocks of both have the same content under the same names.

    Raises:
        InputError: another process prepares it at this moment.
    """
    with layout.key_path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _busy(layout) from error
        if not layout.is_remote:
            yield
            return
        with _remote_lock(layout):
            yield


@contextmanager
def _remote_lock(layout: Layout) -> Iterator[None]:
    place, token = join(layout.staging, LOCK_FILE), uuid.uuid4().hex
    found = _read_json(place)
    # who holds the key file's lock knows that nobody else on this machine is at work, whatever a dead process left
    if found and found.get("machine") != _machine(layout) and time.time() - found.get("time", 0) < STALE_SECONDS:
        raise _busy(layout)
    _beat(layout, token)
    time.sleep(SETTLE_SECONDS)
    if _read_json(place).get("token") != token:
        raise _busy(layout)
    ended = threading.Event()
    heart = threading.Thread(target=_beat_until, args=(layout, token, ended), name="prepare-lock", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        delete(place)


def _beat(layout: Layout, token: str) -> None:
    content = {"token": token, "machine": _machine(layout), "time": time.time()}
    write_bytes(join(layout.staging, LOCK_FILE), json.dumps(content).encode())


def _beat_until(layout: Layout, token: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            _beat(layout, token)
        except OSError:
            continue  # the store is away for a moment; the next beat comes in time


def _machine(layout: Layout) -> str:
    """A name for this boot of this machine and this key file, from which neither can be read."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [boot.read_text() if boot.is_file() else "", os.uname().nodename, str(layout.key_path)]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _read_json(place: str) -> dict[str, Any]:
    """The object's content; empty if there is none that can be understood."""
    try:
        content = json.loads(read_bytes(place))
    except FileNotFoundError:
        return {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _busy(layout: Layout) -> InputError:
    fix = "wait for it, or prepare to another folder"
    if layout.is_remote:
        fix += f"; a lock that a dead machine left is void {STALE_SECONDS:.0f} s later"
    return InputError(f"{shown(layout.root)} is being prepared by another process", fix)


def check_places(layout: Layout) -> None:
    """Make sure that nothing but a dataset is ever replaced.

    Raises:
        InputError: ``data.prepared``, or the folder in which it is made, holds something else.
    """
    if layout.is_remote:
        is_ours = is_file(join(layout.root, DATASET_FILE)) or is_file(join(layout.staging, WORK_FILE))
        if not is_ours and _objects(layout.root, below=layout.staging):
            raise _foreign(layout.root)
        return
    for folder, marks in ((layout.root, (DATASET_FILE,)), (layout.staging, (DATASET_FILE, WORK_FILE))):
        path = Path(folder)
        is_ours = not path.exists() or any((path / mark).is_file() for mark in marks)
        if not is_ours and (not path.is_dir() or any(path.iterdir())):
            raise _foreign(folder)


def _objects(root: str, *, below: str = "") -> list[str]:
    """All objects below a URI, without those below another one; none where there is no such place."""
    try:
        return [place for place in list_files(root) if not below or not place.startswith(below.partition("?")[0])]
    except InputError:
        return []


def _foreign(place: str) -> InputError:
    return InputError(
        f"{shown(place)} holds something that is no prepared dataset", "give data.prepared another folder"
    )


def recover(layout: Layout) -> None:
    """Finish, or take back, an exchange of local datasets that was interrupted between its two steps."""
    if layout.is_remote:
        return
    root, staging = Path(layout.root), Path(layout.staging)
    name = re.compile(rf"\.{re.escape(root.name)}\.replaced-[0-9a-f]{{32}}")
    olds = sorted(path for path in root.parent.iterdir() if name.fullmatch(path.name))
    if not root.exists():
        if (staging / DATASET_FILE).is_file():
            staging.rename(root)
        elif olds:
            olds.pop().rename(root)
    for old in olds:
        shutil.rmtree(old)


def staged_work(layout: Layout) -> dict[str, Any]:
    """Settings of the unfinished preparation that lies there: ``image`` and ``encoding``; empty without one."""
    try:
        return _read_json(join(layout.staging, WORK_FILE))
    except NotADirectoryError:
        return {}


def open_staging(layout: Layout, image: Mapping[str, Any], *, encoding: str) -> None:
    """Begin, or keep what an interrupted preparation with the same image settings left.

    Raises:
        OSError: the place cannot be written.
    """
    if staged_work(layout).get("image") != dict(image):
        clear_work(layout)
    if not layout.is_remote:
        for folder in (layout.shards, layout.results):
            Path(folder).mkdir(parents=True, exist_ok=True)
    content = {"image": dict(image), "encoding": encoding}
    write_bytes(join(layout.staging, WORK_FILE), json.dumps(content).encode())


def clear_work(layout: Layout) -> None:
    """Remove unfinished work; the lock of a remote preparation stays until its owner ends."""
    if not layout.is_remote:
        shutil.rmtree(layout.staging, ignore_errors=True)
        return
    delete_all([*_objects(layout.results), join(layout.staging, WORK_FILE)])


def remove_unlisted(layout: Layout, *, keep: set[str]) -> None:
    """Remove shards, and versions of a remote dataset's tables, that ``dataset.json`` does not name; nothing else."""
    if not layout.is_remote:
        for path in Path(layout.shards).iterdir():
            if path.name not in keep:
                path.unlink()
        return
    kept = {join(folder, name) for name in keep for folder in (layout.shards, layout.root)}
    found = (place for place in _objects(layout.root, below=layout.staging) if place not in kept)
    delete_all(place for place in found if OURS.search(place.partition("?")[0]))


def put_in_place(layout: Layout) -> None:
    """Exchange local datasets; whoever has the old one mapped keeps it until it is closed."""
    root, staging = Path(layout.root), Path(layout.staging)
    shutil.rmtree(staging / RESULT_FOLDER)
    (staging / WORK_FILE).unlink(missing_ok=True)
    old = root.with_name(f".{root.name}.replaced-{uuid.uuid4().hex}")
    if root.exists():
        root.rename(old)
    staging.rename(root)
    shutil.rmtree(old, ignore_errors=True)
