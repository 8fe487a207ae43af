"""A quiet terminal and two-step stopping: what a verb that runs for hours needs around it."""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, TextIO, TypeVar

from study.errors import EXIT_INTERRUPTED, StudyError

STOPPING: Final = "stopping: saving a checkpoint ... (again to quit at once)"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WAIT_S: Final = 0.2
_LAST_WORDS_S: Final = 3.0  # for work that ends by itself when its ground is gone

Result = TypeVar("Result")


class _Terminal(io.TextIOWrapper):
    """A stream whose reader may go away (a closed window, a pipe to ``head``) without ending the study."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


@contextlib.contextmanager
def quiet_terminal(log_path: Path) -> Iterator[TextIO]:
    """Sends all that this process and its children write to ``log_path``; yields a stream to the real terminal.

    File descriptors 1 and 2 are swapped, so that libraries in C++ and worker processes are caught as well; Python's
    logging goes to the same file. Everything is as before on leaving, also after an error.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    saved = [os.dup(1), os.dup(2)]
    terminal = _Terminal(
        os.fdopen(os.dup(2), "wb", buffering=0), encoding="utf-8", errors="replace", write_through=True
    )
    log = log_path.open("a", encoding="utf-8")
    try:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        with _logging_to(log):
            yield terminal
    finally:
        _flush()
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        with contextlib.suppress(OSError):
            terminal.close()
        log.close()


def run_until_done(
    work: Callable[[threading.Event], Result],
    *,
    note: Callable[[str], None],
    check: Callable[[], StudyError | None] = lambda: None,
    poll_s: float = _WAIT_S,
) -> Result:
    """Runs ``work(stop)`` in a thread; the first SIGINT, SIGTERM or SIGHUP sets ``stop``, the second ends the process.

    A second one counts once the first was told: `timeout` and schedulers signal a process and its group, at once.
    Must be called in the main thread. What ``work`` returns or raises comes back here. ``check`` is asked at every turn
    of the waiting loop: an error that it gives is raised, ``work`` or no ``work``. Libraries install handlers of
    their own while ``work`` goes on, so ours are put back at every turn of the waiting loop: Ray's C++ core sets one
    for SIGTERM that Python does not know of, and which aborts the process after three seconds.
    """
    stop, told = threading.Event(), threading.Event()
    outcome: list[Result] = []
    error: list[BaseException] = []
    done = threading.Event()

    def in_thread() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as fault:  # noqa: BLE001 - handed to the caller's thread
            error.append(fault)
        finally:
            done.set()

    with _two_step_stopping(stop, told) as put_back:
        thread = threading.Thread(target=in_thread, name="study", daemon=True)
        thread.start()
        is_done = False
        while not is_done:
            is_done = done.wait(poll_s)
            put_back()
            fault = check()
            if fault is not None and not done.wait(_LAST_WORDS_S):
                raise fault
            if stop.is_set() and not told.is_set():
                told.set()
                note(STOPPING)
        thread.join()
    if error:
        raise error[0]
    return outcome[0]


@contextlib.contextmanager
def _two_step_stopping(stop: threading.Event, told: threading.Event) -> Iterator[Callable[[], None]]:
    """Installs the handler, yields a function that installs it again, restores the former ones on leaving."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        signal.alarm(0)  # the three seconds, should Ray's handler have run before this one
        if told.is_set():
            os._exit(EXIT_INTERRUPTED)
        stop.set()

    def put_back() -> None:
        for number in former:
            signal.signal(number, handler)

    former = {number: signal.getsignal(number) for number in _SIGNALS}
    if former[signal.SIGHUP] is signal.SIG_IGN:  # nohup
        del former[signal.SIGHUP]
    put_back()
    try:
        yield put_back
    finally:
        for number, previous in former.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)


@contextlib.contextmanager
def _logging_to(stream: TextIO) -> Iterator[None]:
    """Python's logging at level INFO goes to ``stream`` alone."""
    root = logging.getLogger()
    former_handlers, former_level = root.handlers[:], root.level
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = former_handlers
        root.setLevel(former_level)
        handler.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
