"""One driver per study: a lock that the kernel drops when its process dies, however it dies."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from study.errors import InputError

logger = logging.getLogger(__name__)

LOCK_FILE: Final = ".lock"
PATIENCE_S: Final = 1.0  # whoever asks for the holder touches the lock for an instant
UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """The process that drives a study; ``since`` is UTC, ISO 8601. ``pid`` is 0 when the file does not say."""

    pid: int
    host: str
    since: str


@contextlib.contextmanager
def lock_study(study_dir: Path) -> Iterator[None]:
    """Hold the study in ``study_dir`` (created when missing) for this process.

    Raises:
        InputError: another process holds it; the message names process, host and time.
    """
    study_dir.mkdir(parents=True, exist_ok=True)
    with (study_dir / LOCK_FILE).open("a+", encoding="utf-8") as file:
        if not _acquire(file):
            holder = _read_holder(file)
            raise InputError(
                f"study {study_dir.name} is running as process {holder.pid} on {holder.host} since {holder.since}",
                f"wait until it is done, or stop it there: kill -INT {holder.pid}",
            )
        here = LockHolder(
            pid=os.getpid(), host=socket.gethostname(), since=datetime.now(UTC).isoformat(timespec="seconds")
        )
        file.truncate(0)
        file.write(json.dumps(asdict(here)))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def lock_holder(study_dir: Path) -> LockHolder | None:
    """The process that drives the study in ``study_dir`` right now; None when nobody does."""
    try:
        file = (study_dir / LOCK_FILE).open("r", encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_holder(file)
        except OSError as error:
            logger.debug("cannot ask for the lock of %s: %s", study_dir, error)
    return None


def _acquire(file: IO[str]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            logger.warning("this file system knows no locks: take care that the study runs only once")
            return True
        else:
            return True


def _read_holder(file: IO[str]) -> LockHolder:
    file.seek(0)
    try:
        return LockHolder(**json.loads(file.read()))
    except (ValueError, TypeError):
        return LockHolder(pid=0, host="an unknown host", since="just now")
