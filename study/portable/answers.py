"""Answers as a table, a row for each file."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from study.portable.model import Answers
from study.portable.reading import FileReading
from study.portable.record import ModelRecord

DIGITS: Final = 6


def answers_table(readings: Sequence[FileReading], answers: Answers, record: ModelRecord) -> pd.DataFrame:
    """A row for each file; one that could not be read has its reason alone.

    Columns: ``file``, ``class``, ``probability_<class>``, ``entropy``, ``spread`` where known, the same of other tasks,
    ``warnings``, ``reason``.
    """
    rows = np.flatnonzero([not reading.reason for reading in readings])
    table = pd.DataFrame({"file": [reading.file for reading in readings]})
    columns = _columns(answers, record.classes, prefix="")
    for task in record.tasks[1:]:
        if task.name in answers.others:
            columns |= _columns(answers.others[task.name], task.classes, prefix=f"{task.name}_")
    for name, values in columns.items():
        table[name] = pd.Series(values, index=rows).reindex(table.index)
    table["warnings"] = ["; ".join(reading.warnings) for reading in readings]
    table["reason"] = [reading.reason for reading in readings]
    return table


def _columns(answers: Answers, classes: Sequence[str], *, prefix: str) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {f"{prefix}class": [classes[k] for k in answers.decoded_n.tolist()]}
    for k, name in enumerate(classes):
        columns[f"{prefix}probability_{name}"] = answers.probs_nk[:, k].round(DIGITS).tolist()
    columns[f"{prefix}entropy"] = answers.entropy_n.round(DIGITS).tolist()
    if answers.spread_n is not None:
        columns[f"{prefix}spread"] = answers.spread_n.round(DIGITS).tolist()
    return columns
