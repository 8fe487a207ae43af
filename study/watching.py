"""Looking at a study from outside: where it stands and what its driver does, as its ledger tells."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from study.config import StudyConfig
from study.ledger import Ledger, LockHolder, Now, RunNow
from study.ledger.budget import limits_of
from study.ledger.now import utc_text
from study.standing import is_done, noted_rows, read_result
from study.types import EpochResult, Event, Limits, RunRow, StudyResult, TrialRow, TrialState

ENDED: Final = ("complete", "pruned", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A study at one moment.

    ``result`` has the state ``running`` while a driver gives signs of life; ``driver`` says which, ``last_sign`` (UTC,
    ISO 8601) when it did so last, both empty where that is unknown. ``hours`` is how long the search has run, ``gpus``
    the number of GPUs of one run, ``taken`` the time of the snapshot in seconds since 1970. ``trained`` has the state
    of each run of the confirmation that has ended, by trial and seed.
    """

    result: StudyResult
    taken: float
    limits: Limits
    now: Now | None = None
    driver: str = ""
    last_sign: str = ""
    hours: float = 0.0
    gpus: float = 0.0
    epochs: int = 0
    trained: Mapping[tuple[str, int], TrialState] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[RunNow, ...]:
        """What trains right now, as the driver told; nothing when no driver is alive."""
        return self.now.runs if self.now is not None and self.result.state == "running" else ()


def is_driven(now: Now | None, *, holder: LockHolder | None, is_asked: bool, at: float) -> bool:
    """Whether a driver is at work.

    Whoever can ask for the study's lock (``is_asked``: its directory is seen from here, or a server holds the ledger)
    knows by its ``holder``; for others the driver's signs of life in the ledger count.
    """
    return holder is not None or (not is_asked and now is not None and now.is_alive(at))


def take_snapshot(
    ledger: Ledger,
    config: StudyConfig,
    *,
    holder: LockHolder | None,
    is_asked: bool,
    clock: Callable[[], float] = time.time,
) -> Snapshot:
    """A study as its ledger has it.

    Args:
        ledger: opened for reading.
        config: the study file.
        holder: who holds the study's lock.
        is_asked: whether that lock could be asked for from here.
        clock: seconds since 1970.
    """
    taken, now = clock(), ledger.now()
    result = read_result(ledger, config)
    is_running = is_driven(now, holder=holder, is_asked=is_asked, at=taken)
    return Snapshot(
        result=replace(result, state="running") if is_running else result,
        taken=taken,
        limits=limits_of(config.search, trials=config.num_trials, configurations=None),
        now=now,
        driver=_driver(holder, now),
        last_sign=utc_text(now.told) if now is not None else "",
        hours=max(ledger.hours_run(), now.hours if now is not None else 0.0),
        gpus=config.resources.most_gpus,
        epochs=config.train.epochs,
        trained={
            (record.trial, record.seed): record.outcome.state
            for record in ledger.run_records()
            if record.kind == "train"
        },
    )


def brief_result(ledger: Ledger, config: StudyConfig, *, is_running: bool) -> StudyResult:
    """State and trials of a study, without its confirmation."""
    rows = noted_rows(ledger)
    done = not is_running and is_done(ledger, config, rows)
    return StudyResult(
        study=config.study,
        state="running" if is_running else "done" if done else "interrupted" if rows else "new",
        metric=ledger.metric,
        mode=ledger.mode,
        rows=rows,
        trials_planned=config.num_trials,
        metrics=ledger.metrics if len(ledger.metrics) > 1 else (),
    )


def nothing_yet(config: StudyConfig, *, holder: LockHolder | None, clock: Callable[[], float] = time.time) -> Snapshot:
    """A study whose ledger does not exist yet."""
    result = StudyResult(
        study=config.study,
        state="new" if holder is None else "running",
        metric=config.metric,
        mode=config.mode,
        rows=(),
        trials_planned=config.num_trials,
    )
    limits = limits_of(config.search, trials=config.num_trials, configurations=None)
    return Snapshot(
        result=result, taken=clock(), limits=limits, driver=_driver(holder, None), epochs=config.train.epochs
    )


def _driver(holder: LockHolder | None, now: Now | None) -> str:
    if holder is not None and holder.pid:
        return f"process {holder.pid} on {holder.host} since {holder.since}"
    return f"process {now.pid} on {now.host} since {utc_text(now.since)}" if now is not None else ""


def events_between(before: Snapshot | None, after: Snapshot) -> Iterator[Event]:
    """What has happened from one snapshot to the next, as events in a likely order.

    Without ``before``, the stage and what runs, each with its last epoch.
    """
    yield from _stage_events(before, after)
    known = {row.trial: row for row in before.result.rows} if before is not None else {}
    is_first = before is None
    for row in after.result.rows:
        yield from _row_events(known.get(row.trial), row, after, is_first=is_first)
    yield from _confirm_events(before, after)


def _stage_events(before: Snapshot | None, after: Snapshot) -> Iterator[Event]:
    old, new = before.now if before is not None else None, after.now
    if new is None or after.result.state != "running":
        return
    if new.stage and (old is None or (old.stage, old.stage_since) != (new.stage, new.stage_since)):
        yield Event(kind="stage", text=new.stage)
    told = (new.part, new.done, new.total, new.note)
    if new.total and (old is None or told != (old.part, old.done, old.total, old.note)):
        yield Event(kind="progress", text=new.part, done=new.done, total=new.total, note=new.note)


def _row_events(
    old: TrialRow | None, new: TrialRow, after: Snapshot, *, is_first: bool, part: str = ""
) -> Iterator[Event]:
    seed = new.seeds[0] if new.seeds else 0
    is_over = new.state in ENDED
    if (is_first and (is_over or after.result.state != "running")) or (old is not None and old.state in ENDED):
        return
    if new.runs and not new.repeats:
        yield from _part_events(old, new, after, is_first=is_first)
    else:
        if old is None and (after.result.state == "running" or is_over):
            yield Event(kind="started", trial=new.trial, seed=seed, params=new.params, part=part)
        seen = max(0, new.epochs - 1) if is_first else old.epochs if old is not None else 0
        yield from _epoch_events(old, new, after, seen=seen, part=part)
    if is_over:
        text = new.reason or (f"the same configuration as trial {new.repeats}" if new.repeats else "")
        yield Event(
            kind="ended",
            trial=new.trial,
            seed=seed,
            state=new.state,
            value=new.value,
            text=text,
            is_feasible=new.is_feasible,
            part=part,
        )


def _part_events(old: TrialRow | None, new: TrialRow, after: Snapshot, *, is_first: bool) -> Iterator[Event]:
    """What has happened in each run of a trial that has several; those that have not begun are left out."""
    before = {run.part: run for run in old.runs if run.state != "waiting"} if old is not None else {}
    for run in new.runs:
        known = before.get(run.part)
        was = as_row(old, known) if old is not None and known is not None else None
        if run.state != "waiting":
            yield from _row_events(was, as_row(new, run), after, is_first=is_first, part=run.part)


def as_row(row: TrialRow, run: RunRow) -> TrialRow:
    """One run of a trial of several as if it were the trial."""
    return replace(
        row,
        state=run.state,
        seeds=(run.seed,),
        value=run.value,
        epochs=run.epochs,
        curve=run.curve,
        seconds=run.seconds,
        images=run.images,
        runs=(),
        reason="",
    )


def _epoch_events(
    old: TrialRow | None, new: TrialRow, after: Snapshot, *, seen: int, part: str = ""
) -> Iterator[Event]:
    """The epochs of a trial of the search after the first ``seen``; their speed is their mean, where not told."""
    if new.epochs <= seen:
        return
    seed = new.seeds[0] if new.seeds else 0
    num_new = new.epochs - (old.epochs if old is not None else 0)
    images = (new.images - (old.images if old is not None else 0)) / num_new
    seconds = (new.seconds - (old.seconds if old is not None else 0.0)) / num_new
    mine = (new.trial, seed, part)
    running = next((run for run in after.runs if (run.trial, run.seed, run.part) == mine), None)
    for epoch in range(seen + 1, new.epochs + 1):
        if running is not None and running.epoch == epoch and running.rate > 0:
            images, seconds = running.rate * running.seconds, running.seconds
        yield Event(
            kind="epoch",
            trial=new.trial,
            seed=seed,
            result=EpochResult(epoch=epoch, metrics={}, images=round(images), seconds=seconds),
            value=new.curve[epoch - 1] if epoch <= len(new.curve) else None,
            total=int(new.params.get("train.epochs", after.epochs)),
            part=part,
        )


def confirming_runs(snapshot: Snapshot) -> tuple[RunNow, ...]:
    """The runs in progress of no trial of the search; one that has just ended may still be told."""
    rows = [row for row in snapshot.result.rows if not any(run.fold for run in row.runs)]
    searched = {(row.trial, seed) for row in rows for seed in row.seeds}
    return tuple(run for run in snapshot.runs if not run.part and (run.trial, run.seed) not in searched)


def _confirm_events(before: Snapshot | None, after: Snapshot) -> Iterator[Event]:
    """Runs that are no trial of the search: known while they run, and from the ledger once they have ended."""
    old = {(run.trial, run.seed): run for run in confirming_runs(before)} if before is not None else {}
    new = {(run.trial, run.seed): run for run in confirming_runs(after)}
    for key, run in new.items():
        if key not in old:
            yield Event(kind="started", trial=run.trial, seed=run.seed)
        if run.epoch > (old[key].epoch if key in old else 0):
            result = EpochResult(epoch=run.epoch, metrics={}, images=round(run.rate * run.seconds), seconds=run.seconds)
            yield Event(kind="epoch", trial=run.trial, seed=run.seed, result=result, value=run.value, total=run.epochs)
    for (trial, seed), run in old.items():
        if (trial, seed) not in new:
            state = after.trained.get((trial, seed), "waiting")
            yield Event(kind="ended", trial=trial, seed=seed, state=state, value=run.best)
    yield from _tested_events(before, after)


def _tested_events(before: Snapshot | None, after: Snapshot) -> Iterator[Event]:
    if before is None:
        return
    known: Mapping[str, set[int]] = {row.trial: set(row.seeds) for row in before.result.confirmed}
    for row in after.result.confirmed:
        for seed, value in zip(row.seeds, row.values, strict=True):
            if seed not in known.get(row.trial, set()):
                yield Event(kind="tested", trial=row.trial, seed=seed, value=value)
