"""The tables that end a study: trials by rank, the confirmation with its statistics, where everything lies."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from study.report.ranking import BASELINE, confirm_ranked, ranked, test_metric, verdict
from study.report.words import UNKNOWN, cut, number, params_text, probability, without_password
from study.types import StudyResult

_GAP: Final = "  "
_MIN_PARAMS: Final = 10
_SECOND_METRIC: Final = "val/f1_macro"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the parts of a study lie; ``program`` and ``mlflow`` are the commands as the user can type them."""

    directory: str
    ledger: str
    mlflow_uri: str
    log: str
    figure: str = ""
    program: str = "study"
    mlflow: str = "mlflow"
    options: str = ""


class Column(NamedTuple):
    """One column: its heading, and whether its cells stand at the right edge."""

    name: str
    right: bool = False


def trials_table(result: StudyResult, *, width: int = 100) -> str:
    """All trials, best first, at most ``width`` columns; parameters are cut where the room ends, numbers never."""
    second = _SECOND_METRIC if result.metric != _SECOND_METRIC else ""
    columns = [
        Column("rank", right=True),
        Column("trial", right=True),
        Column("parameters"),
        Column(result.metric, right=True),
    ]
    several = any(row.runs for row in result.rows)
    columns += [Column("SD", right=True)] if several else []
    columns += [Column(second, right=True)] if second else []
    columns += [Column("epochs", right=True), Column("state")]
    cells, reasons = [], []
    for rank, row in enumerate(ranked(result), start=1):
        values = [number(row.value), *([number(row.sd)] if several else [])]
        values += [number(row.metrics.get(second))] if second else []
        place = str(rank) if row.state == "complete" else ""
        cells.append([place, row.trial, params_text(row.params), *values, str(row.epochs), row.state])
        told = [f"reason: {row.reason}"] if row.state == "failed" and row.reason else []
        reasons.append("; ".join([*told, *([f"note: {row.note}"] if row.note else [])]))
    lines = aligned(columns, cells, width=width)
    table = [lines[0]]
    for line, reason in zip(lines[1:], reasons, strict=True):
        table.append(line)
        if reason:
            table.append(cut(f"{'':13}{' '.join(reason.split())}", width))
    return "\n".join(table)


def confirm_table(result: StudyResult, *, width: int = 100) -> str:
    """The confirmed configurations on the test split, and one sentence that says what the numbers mean."""
    columns = [Column("trial"), Column("parameters"), Column("seeds", right=True), Column("mean ± SD", right=True)]
    columns += [Column("95 % interval", right=True), Column("Hedges g", right=True), Column("p (Holm)", right=True)]
    cells = []
    for row in confirm_ranked(result):
        is_baseline = row.trial == BASELINE
        cells.append(
            [
                row.trial,
                params_text(row.params) or ("as in the study file" if is_baseline else ""),
                str(len(row.seeds)),
                f"{number(row.mean)} ± {number(row.sd)}",
                UNKNOWN if math.isnan(row.low) else f"{number(row.low)} to {number(row.high)}",
                UNKNOWN if is_baseline or math.isnan(row.effect) else f"{row.effect:.2f}",
                UNKNOWN if is_baseline else probability(row.p_holm),
            ]
        )
    title = f"Confirmed on the test split: {test_metric(result)}"
    return "\n".join([title, *aligned(columns, cells, width=width), textwrap.fill(verdict(result), width)])


def comparator_table(result: StudyResult, *, width: int = 100) -> str:
    """Ensembles and dropout on the test split, and one sentence that says what their intervals mean."""
    columns = [Column("trial"), Column("method"), Column("seeds", right=True), Column("value", right=True)]
    columns += [Column("95 % interval", right=True), Column("over")]
    cells = [
        [
            row.trial,
            "ensemble" if row.kind == "ensemble" else "MC dropout",
            str(len(row.seeds)),
            number(row.value),
            UNKNOWN if math.isnan(row.low) else f"{number(row.low)} to {number(row.high)}",
            "patients" if row.kind == "ensemble" else "seeds",
        ]
        for row in result.comparators
    ]
    title = f"Other uses of the confirmed runs: {test_metric(result)}"
    text = "An ensemble is one network: its interval holds for other patients, not for other seeds."
    notes = [textwrap.fill(text, width)] if any(row.kind == "ensemble" for row in result.comparators) else []
    return "\n".join([title, *aligned(columns, cells, width=width), *notes])


def closing_text(result: StudyResult, places: Places, *, width: int = 100) -> str:
    """Everything that is printed when a study ends: trials, confirmation, failures, places, the next commands."""
    from study.console.failure_tables import failures_table  # which is built of this module's parts

    blocks = [trials_table(result, width=width) if result.rows else "No trial has finished."]
    if result.rows and not any(row.state == "complete" for row in result.rows):
        blocks.append("No trial is complete, so nothing can be ranked or confirmed.")
    if result.confirmed:
        blocks.append(confirm_table(result, width=width))
    if result.comparators:
        blocks.append(comparator_table(result, width=width))
    failures = failures_table(result, width=width)
    if failures:
        blocks.append(failures)
    blocks.append(places_text(result, places))
    return "\n\n".join(blocks)


def places_text(result: StudyResult, places: Places) -> str:
    """Where the study lies and three commands that go on from it; never cut, so that they can be copied."""
    mlflow_uri = without_password(places.mlflow_uri)
    files = [("study", places.directory), ("ledger", without_password(places.ledger)), ("MLflow", mlflow_uri)]
    files += [("log", places.log)]
    files += [("figure", places.figure)] if places.figure else []
    name = f"{result.study}{places.options}"
    commands = [
        f"{places.program} best {name} --yaml",
        f"{places.program} status {name}",
        f"{places.mlflow} ui --backend-store-uri {mlflow_uri}"
        if mlflow_uri.startswith(("sqlite:", "postgresql:", "mysql:"))
        else f"{places.program} logs {name}",
    ]
    lines = ["Files", *(f"  {label:<7} {place}" for label, place in files), "Next", *(f"  {line}" for line in commands)]
    return "\n".join(lines)


def aligned(columns: Sequence[Column], cells: Sequence[Sequence[str]], *, width: int) -> list[str]:
    """Header and rows as lines; a column called ``parameters`` gives way when the line would pass ``width``."""
    sizes = [max([len(column.name), *(len(row[i]) for row in cells)]) for i, column in enumerate(columns)]
    spare = width - (sum(sizes) + len(_GAP) * (len(columns) - 1))
    for i, column in enumerate(columns):
        if column.name == "parameters":
            sizes[i] = max(_MIN_PARAMS, sizes[i] + min(0, spare))
    header = [column.name for column in columns]
    return [_line(columns, row, sizes) for row in [header, *cells]]


def _line(columns: Sequence[Column], row: Sequence[str], sizes: Sequence[int]) -> str:
    padded = [
        cut(cell, size).rjust(size) if column.right else cut(cell, size).ljust(size)
        for column, cell, size in zip(columns, row, sizes, strict=True)
    ]
    return _GAP.join(padded).rstrip()
