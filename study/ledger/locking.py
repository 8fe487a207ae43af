"""Who holds a study, and what two drivers have to tell each other."""

import os
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from study.errors import InputError

BEAT_S: Final = 5.0
STALE_S: Final = 30.0
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
PROCESSES: Final = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """The process that drives a study; ``since`` is UTC, ISO 8601. ``pid`` is 0 when nobody knows it.

    ``place`` is where that number means a process: a machine since its last start, and a namespace of processes there.
    ``owner`` is drawn anew for every lock.
    """

    pid: int
    host: str
    since: str
    place: str = ""
    owner: str = ""


class Held:
    """A lock that this process holds, unless somebody has taken it over meanwhile."""

    def __init__(self, holder: LockHolder) -> None:
        self.holder = holder
        self.taken_by: LockHolder | None = None
        self.is_asked_to_stop = False
        self._lock = threading.Lock()
        self._listener: Callable[[], None] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether another driver has the study now."""
        return self.taken_by is not None

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the lock is lost or somebody asks to stop, at once when that was before."""
        with self._lock:
            self._listener = listener
            is_late = self.is_lost or self.is_asked_to_stop
        if is_late:
            listener()

    def lose(self, other: LockHolder) -> None:
        """Another driver has the study."""
        with self._lock:
            is_news, self.taken_by = not self.is_lost, self.taken_by or other
            listener = self._listener
        if is_news and listener is not None:
            listener()

    def ask_to_stop(self) -> None:
        """Somebody asks the driver to save and stop."""
        with self._lock:
            is_news, self.is_asked_to_stop = not self.is_asked_to_stop, True
            listener = self._listener
        if is_news and listener is not None:
            listener()


def here() -> LockHolder:
    """This process as a holder."""
    return LockHolder(
        pid=os.getpid(),
        host=socket.gethostname(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        place=_place(),
        owner=uuid.uuid4().hex,
    )


def is_alive(holder: LockHolder, *, age_s: float, is_dropped: bool, stale_s: float = STALE_S) -> bool:
    """Whether a holder whose last sign of life is ``age_s`` old still drives its study.

    ``is_dropped``: the kernel's lock was there to be had, so nobody on this machine has it. Elsewhere that may mean
    nothing, and signs of life decide.
    """
    if holder.place == _place():
        return not is_dropped and _is_process(holder.pid)
    if not holder.place and holder.host == socket.gethostname():
        return not is_dropped
    return age_s < stale_s


def is_here(holder: LockHolder) -> bool:
    """Whether the holder is a process that this one can send a signal."""
    return bool(holder.pid) and holder.place == _place() and _is_process(holder.pid)


def is_dead_here(holder: LockHolder) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    return holder.place == _place() and not _is_process(holder.pid)


def busy(study: str, holder: LockHolder, *, age_s: float | None = None) -> InputError:
    """The error for a second driver."""
    sign = f", last sign of life {max(0.0, age_s):.0f} s ago" if age_s is not None else ""
    who = f"process {holder.pid} on {holder.host}"
    fix = f"wait until it is done, or stop it there: kill -INT {holder.pid}"
    if holder.place != _place() and age_s is not None:
        fix += f"; if that machine is gone, try again in {max(1.0, STALE_S - age_s):.0f} s"
    return InputError(f"study {study} is running as {who} since {holder.since}{sign}", fix)


def taken_over(study: str, former: LockHolder) -> str:
    """The line for a lock whose holder died."""
    return (
        f"study {study}: taking over from process {former.pid} on {former.host}, which began at {former.since} "
        "and ended without letting go"
    )


def _place() -> str:
    try:
        return f"{BOOT_ID.read_text().strip()} {PROCESSES.readlink()}"
    except OSError:  # not Linux: a host's name has to do
        return socket.gethostname()


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
