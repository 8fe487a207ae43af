"""What is known about a running study, gathered from its events."""

import math
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from study.console.spending import Spent
from study.report.words import number, params_text
from study.types import Event, Limits, TrialRow

NUM_LAST: Final = 5


@dataclass(slots=True, kw_only=True)
class RunningRun:
    """One run in progress; ``rate`` (images per second) and ``value`` are of its last epoch, ``best`` of all.

    ``epoch_s`` is how long an epoch takes, ``told`` when the last one ended by the board's clock.
    """

    label: str
    params: str
    epoch: int = 0
    epochs: int = 0
    value: float | None = None
    best: float | None = None
    rate: float = 0.0
    epoch_s: float = 0.0
    told: float = 0.0

    def left_s(self, now: float) -> float | None:
        """Seconds until its last epoch ends, if nothing stops it before; ``None`` while there is no epoch to go by."""
        if not self.epoch_s or not self.epochs:
            return None
        return max(0.0, self.epoch_s * (self.epochs - self.epoch) - (now - self.told))


@dataclass(slots=True, kw_only=True)
class Board:
    """The state that a view shows; ``observe`` moves it. Not thread-safe: a view holds the lock.

    ``rows`` are the trials that the ledger held when the view began, so that counts go on where they stood. ``epochs``,
    ``trials_planned`` and ``limits`` are the study's budget, ``hours`` is how long its search had run before, ``gpus``
    how many GPUs a run has, ``slots`` how many runs train side by side (0: as many as have been seen to); ``clock``
    gives seconds.
    """

    study: str
    metric: str
    mode: Literal["max", "min"]
    trials_planned: int = 0
    epochs: int = 0
    log: str = ""
    rows: tuple[TrialRow, ...] = ()
    limits: Limits = field(default_factory=Limits)
    hours: float = 0.0
    gpus: float = 0.0
    slots: int = 0
    clock: Callable[[], float] = time.monotonic

    stage: str = ""
    part: str = ""
    note: str = ""
    done: int = 0
    total: int = 0
    began: float = 0.0
    searching_since: float | None = None
    counts: Counter[str] = field(default_factory=Counter)
    running: dict[str, RunningRun] = field(default_factory=dict)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=NUM_LAST))
    best_label: str = ""
    best_value: float | None = None
    finished: set[str] = field(default_factory=set)
    trained_s: list[float] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.spent = Spent(mode=self.mode)
        for row in self.rows:
            self.seconds[row.trial] = row.seconds
            self.spent.gpu_seconds += row.gpu_seconds
            if row.state in ("complete", "pruned", "failed"):
                self._finish(row.trial, row.state, row.value, is_feasible=row.is_feasible)

    @property
    def trials_left(self) -> int:
        """Trials of the budget that are not finished."""
        return max(0, self.trials_planned - len(self.finished))

    @property
    def hours_run(self) -> float:
        """How long the search has run, this session included."""
        here = 0.0 if self.searching_since is None else self.clock() - self.searching_since
        return self.hours + here / 3600

    @property
    def test_metric(self) -> str:
        """The study's metric as it is called on the test split."""
        return f"test/{self.metric.split('/', 1)[-1]}"

    def label(self, event: Event) -> str:
        """``trial 3``; with the seed once its search is over, as in ``trial 3 seed 1``, ``baseline seed 0``."""
        name = f"trial {event.trial}" if event.trial.isdigit() else event.trial
        if event.part:
            return f"{name} {event.part}"
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
        """Seconds until the stage ends, from the pace so far; ``None`` while there is none.

        A search ends by the mean duration of its trials so far, pruned ones included; before the first has ended, by
        the runs in progress as if none would be pruned.
        """
        now = self.clock()
        if self.total > 0:
            return (now - self.began) / self.done * (self.total - self.done) if self.done else None
        if not self.trials_left or self.searching_since is None:
            return None
        own = [left for run in self.running.values() if (left := run.left_s(now)) is not None]
        if not self.trained_s and not own:
            return None
        waiting = max(0, self.trials_left - len(self.running))
        whole = statistics.fmean(self.trained_s) if self.trained_s else self._whole_s()
        slots = max(self.slots, len(self.running), 1)
        missing = [min(whole, left) for left in own] + [whole] * (len(self.running) - len(own))
        return max([(sum(missing) + whole * waiting) / slots, *(missing if not waiting else [])])

    def _whole_s(self) -> float:
        """How long the runs in progress take from their first to their last epoch."""
        return statistics.fmean([run.epoch_s * run.epochs for run in self.running.values() if run.epoch_s])

    def observe(self, event: Event) -> None:
        """Take one event into account."""
        match event.kind:
            case "stage":
                self._stage(event)
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

    def _stage(self, event: Event) -> None:
        self.hours, self.searching_since = self.hours_run, None
        self.stage, self.part, self.note = event.text, "", ""
        self.done, self.total, self.began = 0, 0, self.clock()
        if event.text == "searching":
            self.searching_since = self.began

    def _running(self, event: Event) -> RunningRun:
        key = _key(event)
        if key not in self.running:
            epochs = int(event.params.get("train.epochs", self.epochs))
            run = RunningRun(label=self.label(event), params=params_text(event.params), epochs=epochs)
            run.told = self.clock()
            run.best = next(
                (row.value for row in self.rows if row.trial == event.trial and row.state == "running"), None
            )
            self.running[key] = run
            self.slots = max(self.slots, len(self.running))
        return self.running[key]

    def _epoch(self, event: Event) -> None:
        run = self._running(event)
        run.value, run.epochs = event.value, event.total or run.epochs
        if self._is_better(event.value, run.best):
            run.best = event.value
        result = event.result
        if result is not None:
            run.epoch, run.told = result.epoch, self.clock()
            run.rate = result.images / result.seconds if result.seconds > 0 else 0.0
            run.epoch_s = (run.epoch_s + result.seconds) / 2 if run.epoch_s else result.seconds
            if event.trial.isdigit() and event.trial not in self.finished:
                self.seconds[event.trial] += result.seconds
                self.spent.gpu_seconds += result.seconds * self.gpus

    def _ended(self, event: Event) -> None:
        label, value = self.label(event), self.value_of(event)
        run = self.running.pop(_key(event), None)
        epochs = f"  {run.epoch} {'epoch' if run.epoch == 1 else 'epochs'}" if run and run.epoch else ""
        reason = f"  {event.text}" if event.text else ""
        self.last.append(f"{label}  {ending(event)}  {number(value)}{epochs}{reason}")
        if event.part or not event.trial.isdigit() or event.trial in self.finished:
            return
        if event.state in ("running", "waiting"):
            return
        self._finish(event.trial, event.state, value, is_feasible=event.is_feasible)

    def _finish(self, trial: str, state: str, value: float | None, *, is_feasible: bool) -> None:
        self.finished.add(trial)
        self.counts[state] += 1
        if self.seconds[trial] > 0:
            self.trained_s.append(self.seconds[trial])
        is_best = state == "complete" and is_feasible and self._is_better(value, self.best_value)
        if is_best:
            self.best_label, self.best_value = f"trial {trial}", value
        if self.seconds[trial] > 0:  # one that has an earlier one's configuration was not trained
            self.spent.take(state, is_best=is_best)

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
    return f"{event.trial}-{event.part or f's{event.seed}'}"
