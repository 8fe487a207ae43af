"""What is known about a running study, gathered from its events."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from study.report.words import number, params_text
from study.types import Event, TrialRow

NUM_LAST: Final = 5


@dataclass(slots=True, kw_only=True)
class RunningRun:
    """One run in progress; ``rate`` (images per second) and ``value`` are of its last epoch, ``best`` of all."""

    label: str
    params: str
    epoch: int = 0
    epochs: int = 0
    value: float | None = None
    best: float | None = None
    rate: float = 0.0


@dataclass(slots=True, kw_only=True)
class Board:
    """The state that a view shows; ``observe`` moves it. Not thread-safe: a view holds the lock.

    ``rows`` are the trials that the ledger held when the view began, so that counts go on where they stood. ``epochs``
    and ``trials_planned`` are the study's budget; ``clock`` gives seconds.
    """

    study: str
    metric: str
    mode: Literal["max", "min"]
    trials_planned: int = 0
    epochs: int = 0
    log: str = ""
    rows: tuple[TrialRow, ...] = ()
    clock: Callable[[], float] = time.monotonic

    stage: str = ""
    part: str = ""
    note: str = ""
    done: int = 0
    total: int = 0
    began: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    running: dict[str, RunningRun] = field(default_factory=dict)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=NUM_LAST))
    best_label: str = ""
    best_value: float | None = None
    finished: set[str] = field(default_factory=set)
    finished_here: int = 0

    def __post_init__(self) -> None:
        self.began = self.clock()
        for row in self.rows:
            if row.state in ("complete", "pruned", "failed"):
                self.finished.add(row.trial)
                self.counts[row.state] += 1
            if row.state == "complete" and row.is_feasible:
                self._take_best(f"trial {row.trial}", row.value)

    @property
    def trials_left(self) -> int:
        """Trials of the budget that are not finished."""
        return max(0, self.trials_planned - len(self.finished))

    @property
    def test_metric(self) -> str:
        """The study's metric as it is called on the test split."""
        return f"test/{self.metric.split('/', 1)[-1]}"

    def label(self, event: Event) -> str:
        """``trial 3``; with the seed once its search is over, as in ``trial 3 seed 1``, ``baseline seed 0``."""
        name = f"trial {event.trial}" if event.trial.isdigit() else event.trial
        confirming = not event.trial.isdigit() or event.trial in self.finished
        return f"{name} seed {event.seed}" if confirming else name

    def began_of(self, event: Event) -> float:
        """When the part of a stage that a progress event speaks of began: now, if it is the first of its part."""
        return self.began if event.text == self.part or not self.part else self.clock()

    def value_of(self, event: Event) -> float | None:
        """The metric of an ending run: the event's own, else the best of the epochs seen."""
        run = self.running.get(_key(event))
        return event.value if event.value is not None or run is None else run.best

    def eta_s(self) -> float | None:
        """Seconds until the stage ends, from the pace so far; ``None`` while there is none."""
        elapsed = self.clock() - self.began
        if self.total > 0:
            return elapsed / self.done * (self.total - self.done) if self.done else None
        if not self.finished_here or not self.trials_left:
            return None
        return elapsed / self.finished_here * self.trials_left

    def observe(self, event: Event) -> None:
        """Take one event into account."""
        match event.kind:
            case "stage":
                self.stage, self.part, self.note = event.text, "", ""
                self.done, self.total, self.began = 0, 0, self.clock()
            case "progress":
                self.began = self.began_of(event)
                self.part, self.note, self.done, self.total = event.text, event.note, event.done, event.total
            case "started":
                self._running(event)
            case "epoch":
                self._epoch(event)
            case "ended":
                self._ended(event)
            case "tested":
                self.last.append(f"{self.label(event)}  {self.test_metric} {number(event.value)}")
            case _:
                self.last.append(f"warning: {event.text}")

    def _running(self, event: Event) -> RunningRun:
        key = _key(event)
        if key not in self.running:
            run = RunningRun(label=self.label(event), params=params_text(event.params), epochs=self.epochs)
            run.best = next(
                (row.value for row in self.rows if row.trial == event.trial and row.state == "running"), None
            )
            self.running[key] = run
        return self.running[key]

    def _epoch(self, event: Event) -> None:
        run = self._running(event)
        run.value, run.epochs = event.value, event.total or self.epochs
        if self._is_better(event.value, run.best):
            run.best = event.value
        if event.result is not None:
            run.epoch = event.result.epoch
            run.rate = event.result.images / event.result.seconds if event.result.seconds > 0 else 0.0

    def _ended(self, event: Event) -> None:
        label, value = self.label(event), self.value_of(event)
        run = self.running.pop(_key(event), None)
        epochs = f"  {run.epoch} {'epoch' if run.epoch == 1 else 'epochs'}" if run and run.epoch else ""
        reason = f"  {event.text}" if event.text else ""
        self.last.append(f"{label}  {ending(event)}  {number(value)}{epochs}{reason}")
        if not event.trial.isdigit() or event.trial in self.finished or event.state in ("running", "waiting"):
            return
        self.finished.add(event.trial)
        self.finished_here += 1
        self.counts[event.state] += 1
        if event.state == "complete" and event.is_feasible:
            self._take_best(label, value)

    def _take_best(self, label: str, value: float | None) -> None:
        if self._is_better(value, self.best_value):
            self.best_label, self.best_value = label, value

    def _is_better(self, value: float | None, than: float | None) -> bool:
        if value is None or math.isnan(value):
            return False
        if than is None or math.isnan(than):
            return True
        return value > than if self.mode == "max" else value < than


def ending(event: Event) -> str:
    """How a run ended, in a word; a run that waits for the next ``study resume`` was interrupted."""
    return "interrupted" if event.state == "waiting" else event.state


def _key(event: Event) -> str:
    return f"{event.trial}-s{event.seed}"
