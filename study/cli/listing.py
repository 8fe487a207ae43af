"""The verb list: all studies of a storage, and of the ledger that STUDY_LEDGER_URL names, a line each."""

import contextlib
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import typer

from study.cli.folders import study_names
from study.cli.looking import Found, find, looking
from study.cli.showing import print_json, table_width
from study.errors import InputError, StudyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One study; ``last`` is when anything happened, in seconds since 1970, 0 where nothing has; ``fault`` why not."""

    study: str
    state: str = "unreadable"
    counts: Counter[str] = field(default_factory=Counter)
    planned: int = 0
    metric: str = ""
    best: float | None = None
    last: float = 0.0
    fault: str = ""


def show_list(storage: str, *, as_json: bool = False) -> None:
    """State, trials, best value and age of each study.

    Raises:
        InputError: the storage is no directory.
        EnvironmentFault: the database of the ledgers does not answer.
    """
    lines = [_line(name, storage) for name in _names(storage)]
    if as_json:
        print_json([_record(line) for line in lines])
    elif not lines:
        typer.echo(f"no studies in {storage}", err=True)
    else:
        typer.echo(_table(lines), err=True)


def _names(storage: str) -> list[str]:
    url = os.environ.get("STUDY_LEDGER_URL")
    if not url:
        return study_names(storage)
    from study.ledger.shelf import names_at

    known = set(study_names(storage))
    with contextlib.suppress(InputError):  # nothing has been written there yet
        known.update(names_at(url))
    return sorted(known)


def _line(name: str, storage: str) -> Line:
    try:
        found = find(name, storage)
        with looking(found) as looker:
            brief, last = looker.brief(), looker.last_sign()
    except StudyError as error:
        return Line(study=name, fault=error.message.splitlines()[0])
    config = found.config
    values = [row.value for row in brief.rows if row.state == "complete" and row.value is not None and row.is_feasible]
    return Line(
        study=name,
        state=brief.state,
        counts=Counter(row.state for row in brief.rows),
        planned=config.num_trials,
        metric=config.metric,
        best=(max if config.mode == "max" else min)(values) if values else None,
        last=max(last, _touched(found)),
    )


def _touched(found: Found) -> float:
    """When the ledger's file was written last."""
    if found.directory is None:
        return 0.0
    path = found.directory / "ledger.db"
    return path.stat().st_mtime if path.exists() else 0.0


def _record(line: Line) -> dict[str, Any]:
    from study.ledger.now import utc_text

    return {
        "study": line.study,
        "state": line.state,
        "trials": dict(line.counts),
        "trials_planned": line.planned,
        "metric": line.metric or None,
        "best": line.best,
        "last_sign": utc_text(line.last) or None,
    } | ({"fault": line.fault} if line.fault else {})


def _table(lines: list[Line]) -> str:
    from study.console.tables import Column, aligned
    from study.report.words import UNKNOWN, age, cut, number

    now = time.time()
    columns = [Column("study"), Column("state"), Column("trials", right=True), Column("complete", right=True)]
    columns += [Column("pruned", right=True), Column("failed", right=True), Column("best", right=True)]
    columns += [Column("metric"), Column("last sign")]
    cells, size = [], max(len(line.study) for line in lines)
    for line in lines:
        ended = sum(line.counts[state] for state in ("complete", "pruned", "failed"))
        trials = f"{ended}/{line.planned}" if line.planned else str(ended)
        counts = [str(line.counts[state]) for state in ("complete", "pruned", "failed")]
        when = age(now - line.last) if line.last else UNKNOWN
        cells.append([line.study, line.state, trials, *counts, number(line.best), line.metric, when])
    heading, *rows = aligned(columns, cells, width=table_width())
    told = [
        cut(f"{line.study:<{size}}  unreadable: {line.fault}", table_width()) if line.fault else row
        for line, row in zip(lines, rows, strict=True)
    ]
    return "\n".join([heading, *told])
