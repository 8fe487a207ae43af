"""The driver's side of looking on: events become a note in the ledger, written by a thread of its own.

Nobody who trains or decides waits for it, and a ledger that does not answer is a matter of the study's own writes.
"""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, Self

from study.errors import StudyError
from study.ledger.notes import StudyNotes
from study.ledger.now import BEAT_S, Now, RunNow
from study.types import Event

logger = logging.getLogger(__name__)

GAP_S: Final = 1.0  # between two writes
SEARCHING: Final = "searching"  # the stage whose hours count


class Teller:
    """Keeps the ledger's note of what happens now; a context manager, ``observe`` may be called by any thread.

    Args:
        notes: the ledger, opened for writing.
        epochs: of a run whose parameters do not say otherwise.
        mode: ``max`` or ``min`` of the metric.
        directory: the study's.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        notes: StudyNotes,
        *,
        epochs: int,
        mode: Literal["max", "min"],
        directory: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._notes, self._epochs, self._sign, self._clock = notes, epochs, 1 if mode == "max" else -1, clock
        began = clock()
        self._now = Now(host=socket.gethostname(), pid=os.getpid(), directory=str(directory), since=began, told=began)
        self._runs: dict[tuple[str, int, str], RunNow] = {}
        self._lock = threading.Lock()
        self._news, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="teller", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._news.set()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._news.set()
        self._thread.join()
        self._now = replace(self._now, is_over=True)
        self._runs.clear()
        self._write()

    def observe(self, event: Event) -> None:
        """Take one event into the note; it is written within a second."""
        with self._lock:
            self._take(event)
        if event.kind != "warning":
            self._news.set()

    def _take(self, event: Event) -> None:
        key = (event.trial, event.seed, event.part)
        match event.kind:
            case "stage":
                self._now = replace(
                    self._now, stage=event.text, stage_since=self._clock(), part="", note="", done=0, total=0
                )
            case "progress":
                self._now = replace(self._now, part=event.text, note=event.note, done=event.done, total=event.total)
            case "started":
                epochs = int(event.params.get("train.epochs", self._epochs))
                self._runs[key] = replace(self._new_run(event), epochs=epochs, told=self._clock())
            case "epoch":
                self._runs[key] = self._after_epoch(self._runs.get(key), event)
            case "ended":
                self._runs.pop(key, None)
            case _:
                pass  # neither a warning nor a reading of the test split changes what runs

    def _new_run(self, event: Event) -> RunNow:
        return RunNow(trial=event.trial, seed=event.seed, part=event.part, epochs=self._epochs)

    def _after_epoch(self, run: RunNow | None, event: Event) -> RunNow:
        run = run or self._new_run(event)
        result = event.result
        if result is None:
            return run
        value = event.value if event.value is not None and math.isfinite(event.value) else None
        is_better = value is not None and (run.best is None or self._sign * value > self._sign * run.best)
        # A running mean with equal weight of the past and the last epoch: the first one of a cold worker is no guide.
        seconds = (run.seconds + result.seconds) / 2 if run.seconds else result.seconds
        return replace(
            run,
            epoch=result.epoch,
            value=value,
            best=value if is_better else run.best,
            rate=result.images / result.seconds if result.seconds > 0 else 0.0,
            seconds=seconds,
            told=self._clock(),
        )

    def _write_on(self) -> None:
        while not self._over.is_set():
            self._news.wait(BEAT_S)
            self._news.clear()
            if not self._over.is_set():
                self._write()
                self._over.wait(GAP_S)
        self._notes.let_go()

    def _write(self) -> None:
        try:
            hours = self._notes.hours_run() if self._now.stage == SEARCHING else self._now.hours
            with self._lock:
                self._now = replace(self._now, told=self._clock(), hours=hours, runs=tuple(self._runs.values()))
                told = self._now
            self._notes.tell_now(told)
        except StudyError as error:
            logger.warning("what happens now could not be noted: %s", error.message)
