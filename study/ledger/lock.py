"""One driver per study: a lock in its directory and, when a server holds the ledger, a row there.

The directory's lock is the kernel's, which drops it when its process dies, however it dies. File systems that machines
share may not know such locks, or keep them to one machine; so the holder also touches the file every few seconds, and
its age is told by the clock of the file system alone. The row (`study.ledger.lock_row`) stops drivers that share a
ledger and no directory.
"""

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final

from study.errors import EnvironmentFault
from study.ledger.lock_row import LockRow
from study.ledger.locking import BEAT_S, STALE_S, Held, LockHolder, busy, here, is_alive, taken_over
from study.ledger.stopping import forget_request, look_for_request
from study.ledger.storage import file_of, server_engine

logger = logging.getLogger(__name__)

LOCK_FILE: Final = ".lock"
PATIENCE_S: Final = 1.0  # whoever asks for the holder touches the lock for an instant
SETTLE_S: Final = 0.3  # where nothing is locked, the last of two writers of the file is its holder
UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
Tell = Callable[[str], None]


@contextlib.contextmanager
def lock_study(
    study_dir: Path, *, url: str = "", tell: Tell = logger.warning, beat_s: float = BEAT_S
) -> Iterator[Held]:
    """Hold the study in ``study_dir`` (created when missing) for this process; yields what tells that it was lost.

    Args:
        study_dir: the study's directory; its name is that of the study.
        url: address of the ledger; a server there keeps the lock too, and so does the folder of a file elsewhere.
        tell: gets a line when the lock of a driver that died is taken over.
        beat_s: seconds between two signs of life; a lock without any for 6 of them is nobody's.

    Raises:
        InputError: another process holds it; the message names process, host and time.
        EnvironmentFault: the ledger's server does not answer, or the directory cannot be written.
    """
    study, held = study_dir.name, Held(here())
    formers: list[LockHolder | None] = []
    beats: list[Callable[[], None]] = []
    with contextlib.ExitStack() as stack:
        for path in _lock_files(study_dir, url):
            formers.append(stack.enter_context(_file_lock(path, study, held, beat_s=beat_s)))
            beats.append(functools.partial(_beat_file, path, held))
        stack.callback(forget_request, study_dir)
        beats.append(functools.partial(look_for_request, study_dir, held))
        engine = server_engine(url) if url else None
        if engine is not None:
            row = LockRow(engine, study, beat_s=beat_s)
            formers.append(row.take(held.holder))
            stack.callback(row.free, held.holder)
            beats.append(lambda: row.beat(held))
        for former in {former.owner: former for former in formers if former is not None}.values():
            tell(taken_over(study, former))
        stack.enter_context(_beating(beats, beat_s))
        yield held


def _lock_files(study_dir: Path, url: str) -> list[Path]:
    """The study's own lock file, and one beside a ledger that lies elsewhere, where other directories may use it."""
    ledger = file_of(url) if url else None
    own = [study_dir / LOCK_FILE]
    if ledger is None or ledger.resolve().is_relative_to(study_dir.resolve()):
        return own
    return [*own, ledger.parent / f".{study_dir.name}{LOCK_FILE}"]


def lock_holder(study_dir: Path, *, url: str = "") -> LockHolder | None:
    """The process that drives the study in ``study_dir`` right now, as its file or the ledger's server knows it.

    None when nobody does, or when nobody can tell.
    """
    found = next(filter(None, map(_holder_by_file, _lock_files(study_dir, url))), None)
    if found is None and url and (engine := server_engine(url)) is not None:
        found = LockRow(engine, study_dir.name).holder()
    return found


def _holder_by_file(path: Path) -> LockHolder | None:
    try:
        file = path.open("r", encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        is_dropped = True
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_holder(file) or LockHolder(pid=0, host="an unknown host", since="just now")
        except OSError as error:
            logger.debug("cannot ask for the lock %s: %s", path, error)
            is_dropped = False
        holder = _read_holder(file)
    return holder if holder and is_alive(holder, age_s=_age(path), is_dropped=is_dropped) else None


@contextlib.contextmanager
def _file_lock(path: Path, study: str, held: Held, *, beat_s: float) -> Iterator[LockHolder | None]:
    """Hold a lock file; yields the holder from whom it was taken over."""
    with _opened(path) as file:
        age = _age(path)
        is_locked, is_known = _acquire(file)
        former = _read_holder(file)
        if not is_locked:
            raise busy(study, former or LockHolder(pid=0, host="an unknown host", since="just now"))
        stale_s = STALE_S * beat_s / BEAT_S
        if former is not None and is_alive(former, age_s=age, is_dropped=is_known, stale_s=stale_s):
            raise busy(study, former, age_s=age)
        _write_holder(file, held.holder)
        if not is_known:
            time.sleep(SETTLE_S)
            _check_still(path, study, held)
        try:
            yield former
        finally:
            if not held.is_lost:
                file.truncate(0)


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise EnvironmentFault(
            f"{path.parent} cannot be written on {here().host}: {error.strerror or type(error).__name__}",
            "name a storage that this machine can write: --storage ROOT",
        ) from error


def _acquire(file: IO[str]) -> tuple[bool, bool]:
    """Whether the file is this process's now, and whether the file system's locks vouch for that."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False, True
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            logger.warning("this file system knows no locks: the signs of life in %s stand for them", LOCK_FILE)
            return True, False
        else:
            return True, True


def _check_still(path: Path, study: str, held: Held) -> None:
    with path.open("r", encoding="utf-8") as file:
        now = _read_holder(file)
    if now is not None and now.owner != held.holder.owner:
        held.lose(now)
        raise busy(study, now)


def _beat_file(path: Path, held: Held) -> None:
    """Touch the file; whoever else has written into it since has taken the study."""
    with path.open("r", encoding="utf-8") as file:
        now = _read_holder(file)
    if now is not None and now.owner != held.holder.owner:
        held.lose(now)
        return
    os.utime(path)


@contextlib.contextmanager
def _beating(beats: list[Callable[[], None]], beat_s: float) -> Iterator[None]:
    """While open, call each of ``beats`` every few seconds; one that fails is called again the next time."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(beat_s):
            for beat in beats:
                try:
                    beat()
                except Exception as error:  # noqa: BLE001 - a sign of life that fails must not end the others
                    logger.warning("a sign of life for the study's lock failed: %s", type(error).__name__)

    thread = threading.Thread(target=run, name="study-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5 * beat_s)


def _age(path: Path) -> float:
    """Seconds since the file was touched, by the clock of its file system: that of a file written just now."""
    probe = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        touched = path.stat().st_mtime
        probe.touch()
        return probe.stat().st_mtime - touched
    except OSError:  # a folder that cannot be written
        return time.time() - path.stat().st_mtime
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _write_holder(file: IO[str], holder: LockHolder) -> None:
    file.truncate(0)
    file.write(json.dumps(asdict(holder)))
    file.flush()


def _read_holder(file: IO[str]) -> LockHolder | None:
    """What the file says; None when it says nothing that can be read."""
    file.seek(0)
    try:
        return LockHolder(**json.loads(file.read()))
    except (ValueError, TypeError):
        return None
