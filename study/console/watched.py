"""A study that somebody else drives, as a board and as text."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from study.console.board import Board, RunningRun
from study.console.failure_tables import failures_table
from study.console.spending import budget_text
from study.console.tables import Column, aligned, comparator_table, confirm_table, trials_table
from study.ledger import RunNow
from study.report.ranking import ranked
from study.report.words import UNKNOWN, age, duration, number, params_text
from study.types import Event, StudyResult, TrialRow
from study.watching import ENDED, Snapshot, as_row, confirming_runs

MAX_ROWS: Final = 30


def board_of(snapshot: Snapshot, *, log: str, clock: Callable[[], float] = time.monotonic) -> Board:
    """The board of a study as it stood at a snapshot; events after it move the board on."""
    result, now = snapshot.result, snapshot.now
    board = Board(
        study=result.study,
        metric=result.metric,
        mode=result.mode,
        trials_planned=result.trials_planned,
        epochs=snapshot.epochs,
        log=log,
        rows=result.rows,
        limits=snapshot.limits,
        hours=snapshot.hours,
        gpus=snapshot.gpus,
        clock=clock,
    )
    if now is not None and result.state == "running" and now.stage:
        board.observe(Event(kind="stage", text=now.stage))
        board.part, board.note, board.done, board.total = now.part, now.note, now.done, now.total
        board.began = clock() - (snapshot.taken - now.stage_since)
    for run in running_now(snapshot):
        trial_over = any(row.trial == run.trial and row.state in ("complete", "pruned") for row in result.rows)
        board.running[f"{run.trial}-{run.part or f's{run.seed}'}"] = RunningRun(
            label=run_label(run, with_seed=trial_over),
            params=_params_of(run.trial, result.rows),
            epoch=run.epoch,
            epochs=run.epochs or snapshot.epochs,
            value=run.value,
            best=run.best,
            rate=run.rate,
            epoch_s=run.seconds,
            told=clock() - (snapshot.taken - run.told) if run.told else clock(),
        )
    board.slots = len(board.running)
    return board


def running_now(snapshot: Snapshot) -> list[RunNow]:
    """What trains at a snapshot: as the driver told, and for trials it did not speak of as the ledger has them."""
    if snapshot.result.state != "running":
        return []
    told = {(run.trial, run.part or run.seed): run for run in snapshot.runs}
    found = []
    for row in snapshot.result.rows:
        if row.state != "running":
            continue
        parts = [(as_row(row, run), run.part) for run in row.runs] or [(row, "")]
        for part_row, part in parts:
            run = told.get((row.trial, part or (row.seeds[0] if row.seeds else 0)))
            if run is not None or (snapshot.now is None and part_row.state == "running"):
                found.append(replace(_with_row(run, part_row, epochs=snapshot.epochs), part=part))
    return [*found, *confirming_runs(snapshot)]


def _with_row(run: RunNow | None, row: TrialRow, *, epochs: int) -> RunNow:
    """A run of the search: epochs and values are the ledger's, which has them first."""
    seconds = row.seconds / row.epochs if row.epochs else 0.0
    rate = row.images / row.seconds if row.seconds > 0 else 0.0
    known = run or RunNow(trial=row.trial, seed=row.seeds[0] if row.seeds else 0, rate=rate, seconds=seconds)
    return replace(
        known,
        epoch=row.epochs,
        epochs=int(row.params.get("train.epochs", epochs)),
        value=row.curve[-1] if row.curve else None,
        best=row.value,
        rate=known.rate or rate,
        seconds=known.seconds or seconds,
    )


def run_label(run: RunNow, *, with_seed: bool) -> str:
    """``trial 3``, ``trial 3 seed 1``, ``baseline seed 0``."""
    name = f"trial {run.trial}" if run.trial.isdigit() else run.trial
    if run.part:
        return f"{name} {run.part}"
    return f"{name} seed {run.seed}" if with_seed or not run.trial.isdigit() else name


def status_text(snapshot: Snapshot, *, log: str, resume: str, width: int) -> str:
    """Where a study stands, for people.

    Args:
        snapshot: the study.
        log: where its log lies.
        resume: the command that goes on with it.
        width: columns.
    """
    result = snapshot.result
    blocks = ["\n".join(head_lines(snapshot, resume=resume))]
    running = _running_table(snapshot, width=width)
    blocks += [running] if running else []
    if result.rows:
        blocks.append(_first_rows(result, width=width))
    blocks += [confirm_table(result, width=width)] if result.confirmed else []
    blocks += [comparator_table(result, width=width)] if result.comparators else []
    failures = failures_table(result, width=width)
    blocks += [failures] if failures else []
    blocks += [f"log: {log}"] if log else []
    return "\n\n".join(blocks)


def head_lines(snapshot: Snapshot, *, resume: str) -> list[str]:
    """State and counts; who drives the study and its stage, or since when nobody does and how to go on; the budget."""
    result = snapshot.result
    lines = [f"{result.study}  {result.state}  {counts_text(result)}"]
    if result.state == "running":
        lines += [f"driven by {snapshot.driver}"] if snapshot.driver else []
        stage = _stage_line(snapshot)
        lines += [f"now: {stage}"] if stage else []
    elif result.state != "done":
        since = f" since {snapshot.last_sign}" if snapshot.last_sign else ""
        lines.append(f"not running{since}; go on with: {resume}")
    if result.over and result.rows and all(row.state in ENDED for row in result.rows):
        lines.append(f"the search is over: {result.over}")
    elif result.state != "done":
        board = board_of(snapshot, log="")
        budget = budget_text(board.limits, board.spent, trials_left=board.trials_left, hours=board.hours_run)
        lines += [f"budget: {budget}"] if budget else []
    return lines


def _stage_line(snapshot: Snapshot) -> str:
    now = snapshot.now
    if now is None or not now.stage:
        return ""
    silent = snapshot.taken - now.told
    parts = [f"{now.stage} for {duration(snapshot.taken - now.stage_since)}"]
    if now.total:
        parts.append(" ".join(filter(None, [now.part, f"{now.done} of {now.total}"])))
    left = board_of(snapshot, log="").eta_s()
    parts += [f"about {duration(left)} left"] if left is not None else []
    parts += [f"last sign of life {age(silent)}"] if silent > 30 else []
    return ", ".join(parts)


def _running_table(snapshot: Snapshot, *, width: int) -> str:
    board = board_of(snapshot, log="")
    now = board.clock()
    columns = [Column("running"), Column("epoch", right=True), Column(board.metric, right=True)]
    columns += [Column("images/s", right=True), Column("ends in", right=True), Column("parameters")]
    cells = []
    for run in board.running.values():
        left = run.left_s(now)
        epoch = f"{run.epoch}/{run.epochs}" if run.epochs else str(run.epoch)
        ends = UNKNOWN if left is None else duration(left)
        speed = f"{run.rate:.0f}" if run.rate else UNKNOWN
        cells.append([run.label, epoch, number(run.value), speed, ends, run.params])
    return "\n".join(aligned(columns, cells, width=width)) if cells else ""


def _first_rows(result: StudyResult, *, width: int) -> str:
    shown = tuple(ranked(result)[:MAX_ROWS])
    text = trials_table(replace(result, rows=shown), width=width)
    left = len(result.rows) - len(shown)
    return f"{text}\nand {left} more" if left else text


def counts_text(result: StudyResult) -> str:
    """Finished of planned trials, then the number in each state that occurs."""
    counts = Counter(row.state for row in result.rows)
    finished = sum(counts[state] for state in ("complete", "pruned", "failed"))
    parts = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    planned = f" of {result.trials_planned}" if result.trials_planned else ""
    repeats = sum(bool(row.repeats) for row in result.rows)
    parts += f", {repeats} of them repeated without training" if repeats else ""
    return f"{finished}{planned} trials" + (f" ({parts})" if parts else "")


def _params_of(trial: str, rows: tuple[TrialRow, ...]) -> str:
    return next((params_text(row.params) for row in rows if row.trial == trial), "")
