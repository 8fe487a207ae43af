"""The search as a CSV file: one line per trial, best first, with everything that the terminal has no room for."""

import csv
import os
from pathlib import Path
from typing import Final

from study.report.ranking import BASELINE, confirm_ranked, ranked
from study.types import ConfirmRow, StudyResult, TrialRow

_FIRST: Final = (
    *("rank", "trial", "state", "value", "sd", "runs", "epochs", "seeds"),
    *("seconds", "device_seconds", "images"),
)
_CONFIRM: Final = ("test_seeds", "test_mean", "test_sd", "test_low", "test_high", "hedges_g", "p", "p_holm")


def write_search_table(result: StudyResult, path: Path) -> Path:
    """Write the trials, their parameters, metrics and confirmation as UTF-8 CSV; replaces ``path`` as a whole.

    ``value`` is the study's metric at the best epoch, and with several ``runs`` of a trial their mean, ``sd`` their
    standard deviation; ``seconds``, ``device_seconds`` (of all GPUs of a run, or of its workers) and ``images`` are
    what training cost; columns ``params.*`` hold the sampled values, the metric columns those of that epoch, ``test_*``
    the confirmation on the test split (mean, SD and 95 % interval over ``test_seeds`` seeds). Empty where undefined.
    The baseline, when confirmed, is the last line. Returns ``path``.
    """
    params = sorted({name for row in result.rows for name in row.params})
    metrics = sorted({name for row in result.rows for name in row.metrics})
    header = [*_FIRST, *(f"params.{name}" for name in params), *metrics, *_CONFIRM, "reason", "note"]
    confirmed = {row.trial: row for row in result.confirmed}
    lines = []
    for rank, row in enumerate(ranked(result), start=1):
        line = _trial_cells(row, params, metrics)
        lines.append(
            [
                rank if row.state == "complete" else "",
                *line,
                *_confirm_cells(confirmed.get(row.trial)),
                row.reason,
                row.note,
            ]
        )
    for other in confirm_ranked(result):
        if other.trial == BASELINE:
            empty = [""] * (len(_FIRST) - 2 + len(params) + len(metrics))
            lines.append(["", BASELINE, *empty, *_confirm_cells(other), "", ""])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([header, *lines])
    partial.replace(path)
    return path


def _trial_cells(row: TrialRow, params: list[str], metrics: list[str]) -> list[object]:
    sampled = [row.params.get(name, "") for name in params]
    measured = [_cell(row.metrics.get(name)) for name in metrics]
    several = [_cell(row.sd), max(1, len(row.runs))]
    seeds = " ".join(map(str, row.seeds))
    cost = [round(row.seconds, 3), round(row.device_seconds, 3), row.images]
    return [row.trial, row.state, _cell(row.value), *several, row.epochs, seeds, *cost, *sampled, *measured]


def _confirm_cells(row: ConfirmRow | None) -> list[object]:
    if row is None:
        return [""] * len(_CONFIRM)
    numbers = (row.mean, row.sd, row.low, row.high, row.effect, row.p, row.p_holm)
    return [len(row.values), *map(_cell, numbers)]


def _cell(value: float | None) -> object:
    return "" if value is None or value != value else value  # noqa: PLR0124 - NaN
