"""The verbs that look: status, list, logs, doctor. Data goes to standard output, words to standard error."""

import contextlib
import json
import math
import shutil
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from study.cli.folders import (
    ledger_url,
    open_ledger,
    storage_root,
    stored_config,
    study_directory,
    study_names,
)
from study.cli.invocation import program, storage_option
from study.errors import InputError, StudyError

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.types import StudyResult, TrialRow


def show_status(name: str, *, storage: str, as_json: bool) -> None:
    """Where one study stands.

    Raises:
        InputError: there is no such study.
    """
    from study.console.tables import comparator_table, confirm_table, trials_table
    from study.report.ranking import ranked

    directory = study_directory(name, storage)
    result = read_study(stored_config(directory), directory)
    counts = Counter(row.state for row in result.rows)
    complete = [row for row in ranked(result) if row.state == "complete"]
    if as_json:
        running = [row.trial for row in result.rows if row.state == "running"]
        found = {"study": result.study, "state": result.state, "trials": dict(counts), "running": running}
        notes = {row.trial: row.note for row in result.rows if row.note}
        found |= {"notes": notes} if notes else {}
        print_json(found | {"best": trial_record(complete[0]) if complete else None})
        return
    over = f"\nthe search is over: {result.over}" if result.over and result.rows else ""
    blocks = [f"{result.study}  {result.state}  {counts_text(result)}{over}"]
    blocks += [trials_table(result, width=table_width())] if result.rows else []
    blocks += [confirm_table(result, width=table_width())] if result.confirmed else []
    blocks += [comparator_table(result, width=table_width())] if result.comparators else []
    if result.state in ("new", "interrupted"):
        blocks.append(f"go on with: {program()} resume {name}{storage_option(storage)}")
    typer.echo("\n\n".join(blocks), err=True)


def show_list(storage: str) -> None:
    """One line per study of a storage directory."""
    from study.report.words import number

    names = study_names(storage)
    if not names:
        typer.echo(f"no studies in {storage}", err=True)
    size = max(map(len, names), default=0)
    for name in names:
        try:
            directory = storage_root(storage) / name
            result = read_study(stored_config(directory), directory)
        except StudyError as error:
            typer.echo(f"{name:<{size}}  unreadable: {error.message.splitlines()[0]}", err=True)
            continue
        values = [row.value for row in result.rows if row.state == "complete" and row.value is not None]
        best = (max if result.mode == "max" else min)(values) if values else None
        line = f"{name:<{size}}  {result.state:<11}  {counts_text(result)}  best {result.metric} {number(best)}"
        typer.echo(line, err=True)


def trial_record(row: "TrialRow") -> dict[str, Any]:
    """One trial as scripts read it; undefined metrics are null."""
    return {
        "trial": row.trial,
        "state": row.state,
        "value": row.value,
        "params": dict(row.params),
        "metrics": dict(row.metrics),
        "seeds": list(row.seeds),
        "epochs": row.epochs,
        "mlflow_run_ids": list(row.mlflow_run_ids),
        "checkpoint": row.checkpoint,
    } | _where_it_applies(row)


def cost_record(row: "TrialRow") -> dict[str, Any]:
    """What a trial has cost, and what a device-hour of it has brought."""
    from study.report.ranking import per_device_hour

    cost = {"seconds": row.seconds, "device_seconds": row.device_seconds, "images": row.images}
    return {"cost": cost, "value_per_device_hour": per_device_hour(row)}


def _where_it_applies(row: "TrialRow") -> dict[str, Any]:
    """What only some searches have: several metrics, missed constraints, configurations that came again."""
    found: dict[str, Any] = {"values": list(row.values)} if len(row.values) > 1 else {}
    found |= {"violations": dict(row.violations)} if row.violations else {}
    return found | ({"repeats": row.repeats} if row.repeats else {})


def show_logs(name: str, *, storage: str, lines: int) -> None:
    """The last lines of a study's log.

    Raises:
        InputError: there is no such study, or it has no log yet.
    """
    path = study_directory(name, storage) / "study.log"
    if not path.exists():
        raise InputError(f"study {name!r} has no log yet", f"{program()} resume {name}{storage_option(storage)}")
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in deque(file, maxlen=lines):
            typer.echo(line, nl=False)


def show_doctor(file: Path | None, *, storage: str, overrides: Sequence[str], scale: str | None = None) -> int:
    """All findings as a table; returns the exit code."""
    from study.doctor import examine, exit_code, findings_table

    findings = examine(storage=storage_root(storage), file=file, overrides=overrides, scale=scale)
    typer.echo(findings_table(findings, width=table_width()), err=True)
    return exit_code(findings)


def read_study(config: "StudyConfig", directory: Path) -> "StudyResult":
    """The study as its ledger has it; ``running`` when a process drives it now."""
    from study.ledger import lock_holder

    ledger = open_ledger(config, directory)
    if ledger is None:
        result = _empty_study(config)
    else:
        from study.standing import read_result

        with contextlib.closing(ledger):
            result = read_result(ledger, config)
    return replace(result, state="running") if lock_holder(directory, url=ledger_url(directory)) else result


def _empty_study(config: "StudyConfig") -> "StudyResult":
    from study.types import StudyResult

    return StudyResult(
        study=config.study,
        state="new",
        metric=config.metric,
        mode=config.mode,
        rows=(),
        trials_planned=config.num_trials,
    )


def print_json(value: object) -> None:
    """Print plain data to standard output; numbers that JSON does not have become null."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def counts_text(result: "StudyResult") -> str:
    """Finished of planned trials, then the number in each state that occurs."""
    counts = Counter(row.state for row in result.rows)
    finished = sum(counts[state] for state in ("complete", "pruned", "failed"))
    parts = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    planned = f" of {result.trials_planned}" if result.trials_planned else ""
    repeats = sum(bool(row.repeats) for row in result.rows)
    parts += f", {repeats} of them repeated without training" if repeats else ""
    return f"{finished}{planned} trials" + (f" ({parts})" if parts else "")


def table_width() -> int:
    """Columns of the terminal, between 80 and 140; 100 without one."""
    return max(80, min(140, shutil.get_terminal_size((100, 24)).columns))
