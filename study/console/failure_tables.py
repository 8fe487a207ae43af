"""The table of failures by cause that ends a study, and the same for scripts."""

import textwrap
from collections.abc import Sequence
from typing import Any

from study.console.tables import Column, aligned
from study.failures import FailureRow, failure_table
from study.report.words import cut
from study.types import StudyResult, TrialRow

_TRIALS = 6  # that are named in a line


def failures_table(result: StudyResult, *, width: int = 100) -> str:
    """Failed trials by cause, the most frequent first, with what to do; then what was tried again and went on."""
    rows = failure_table(result.rows)
    blocks = [_failed(rows, width)] if rows else []
    saved = _saved(result.rows)
    blocks += [textwrap.fill(saved, width)] if saved else []
    return "\n".join(blocks)


def failure_records(result: StudyResult) -> list[dict[str, Any]]:
    """The table of failures as scripts read it."""
    return [
        {
            "kind": row.kind or "other",
            "cause": row.cause,
            "count": len(row.trials),
            "trials": list(row.trials),
            "retries": row.retries,
            "fix": row.advice,
        }
        for row in failure_table(result.rows)
    ]


def attempt_records(result: StudyResult) -> dict[str, dict[str, Any]]:
    """Trials that were begun more than once: how often, and what each retry followed."""
    return {
        row.trial: {
            "attempts": row.attempts,
            "retries": [
                {"kind": retry.kind, "epoch": retry.epoch, "text": retry.text, "workers": retry.workers}
                for retry in row.retries
            ],
        }
        for row in result.rows
        if row.attempts > 1
    }


def _failed(rows: Sequence[FailureRow], width: int) -> str:
    columns = [Column("failed", right=True), Column("kind"), Column("trials"), Column("retries", right=True)]
    cells = [[str(len(row.trials)), row.word, _named(row.trials), str(row.retries)] for row in rows]
    lines = aligned([*columns, Column("cause")], [[*cell, ""] for cell in cells], width=width)
    table = ["Failures by cause", lines[0]]
    for line, row in zip(lines[1:], rows, strict=True):
        room = width - len(lines[0]) + len("cause")
        here = line.ljust(len(lines[0]) - len("cause"))
        if room >= 40:
            table.append(here + cut(row.cause, room))
        else:
            table += [line, cut(f"{'':8}{row.cause}", width)]
        table += textwrap.wrap(f"fix: {row.advice}", width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(table)


def _saved(rows: Sequence[TrialRow]) -> str:
    """Trials that failures could not end."""
    kept = [row for row in rows if row.retries and row.state != "failed"]
    if not kept:
        return ""
    count = sum(len(row.retries) for row in kept)
    times = "once" if count == 1 else f"{count} times"
    return f"{len(kept)} other trial{'s' if len(kept) > 1 else ''} went on after a failure ({times} in all)."


def _named(trials: Sequence[str]) -> str:
    more = f" +{len(trials) - _TRIALS}" if len(trials) > _TRIALS else ""
    return " ".join(trials[:_TRIALS]) + more
