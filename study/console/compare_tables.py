"""Studies side by side, as text."""

import json
import textwrap
from typing import Any

from study.console.tables import Column, aligned
from study.report.comparing import NO_VALUE, Comparison, Side, sentence
from study.report.words import UNKNOWN, cut, duration, number, params_text

_MAX_VALUE = 40


def compare_text(comparison: Comparison, *, width: int) -> str:
    """What differs in the files, what came out and at which cost, and what may be concluded."""
    sides = comparison.sides
    blocks = [_results(sides, width=width), _differences(comparison, width=width)]
    several = len(comparison.compared) > 1
    told = [sentence(one, mode=sides[0].config.mode, several=several) for one in comparison.compared]
    blocks.append("\n".join(textwrap.fill(text, width) for text in told))
    return "\n\n".join(blocks)


def _results(sides: tuple[Side, ...], *, width: int) -> str:
    rows: list[tuple[str, list[str]]] = [
        ("state", [side.result.state for side in sides]),
        ("metric", [side.config.metric for side in sides]),
        ("trials", [_trials(side) for side in sides]),
        ("best trial", [side.best.trial if side.best else UNKNOWN for side in sides]),
        ("  parameters", [params_text(side.best.params) if side.best else UNKNOWN for side in sides]),
        ("  validation", [number(side.best.value) if side.best else UNKNOWN for side in sides]),
        ("on the test split", [_confirmed(side) for side in sides]),
        ("  mean ± SD", [_mean(side) for side in sides]),
        ("  95 % interval", [_interval(side) for side in sides]),
        ("  seeds", [_seeds(side) for side in sides]),
        ("training time", [duration(side.cost["seconds"]) for side in sides]),
        ("device time", [duration(side.cost["device_seconds"]) for side in sides]),
        ("images", [f"{side.cost['images']:,.0f}" for side in sides]),
        ("dataset", [side.fingerprint[:12] or UNKNOWN for side in sides]),
    ]
    return _side_by_side("", rows, sides, width=width)


def _differences(comparison: Comparison, *, width: int) -> str:
    sides = comparison.sides
    if not comparison.differences:
        return "The study files are the same."
    rows = [(path, [_value(values[side.name]) for side in sides]) for path, values in comparison.differences.items()]
    return _side_by_side("differs in the study files", rows, sides, width=width)


def _side_by_side(title: str, rows: list[tuple[str, list[str]]], sides: tuple[Side, ...], *, width: int) -> str:
    """A line for each row, a column for each study; long values are cut so that all columns fit."""
    size = max(len(title), *(len(name) for name, _ in rows))
    room = max(12, (width - size) // len(sides) - 2)
    columns = [Column(title or " " * size), *(Column(cut(side.name, room)) for side in sides)]
    cells = [[name, *(cut(value, room) for value in values)] for name, values in rows]
    return "\n".join(aligned(columns, cells, width=width))


def _trials(side: Side) -> str:
    rows = side.result.rows
    counts = {state: sum(row.state == state for row in rows) for state in ("complete", "pruned", "failed")}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{len(rows)} ({told})" if told else str(len(rows))


def _confirmed(side: Side) -> str:
    row = side.confirmed
    if row is None:
        return UNKNOWN
    return row.trial if not row.trial.isdigit() else f"trial {row.trial}"


def _mean(side: Side) -> str:
    row = side.confirmed
    return UNKNOWN if row is None else f"{number(row.mean)} ± {number(row.sd)}"


def _interval(side: Side) -> str:
    row = side.confirmed
    return UNKNOWN if row is None else f"{number(row.low)} to {number(row.high)}"


def _seeds(side: Side) -> str:
    row = side.confirmed
    return UNKNOWN if row is None else ", ".join(map(str, row.seeds))


def _value(value: Any) -> str:
    if value == NO_VALUE:
        return NO_VALUE
    return cut(value if isinstance(value, str) else json.dumps(value), _MAX_VALUE)
