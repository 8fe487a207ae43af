"""A few trials out of MLflow's SQLite database without MLflow, whose import alone takes longer than the answer may.

Read-only. Whatever is not as in the release that this was written for (3.17) is left to MLflow's own client.
"""

import contextlib
import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

PREFIX: Final = "sqlite:///"


def quick_runs(tracking_uri: str, study: str, trials: Sequence[str]) -> tuple[dict[str, str], list[Any]] | None:
    """Tags of the newest run of a study, and the runs of some trials as MLflow's client gives them; None if unclear."""
    path = Path(tracking_uri.removeprefix(PREFIX))
    if not tracking_uri.startswith(PREFIX) or not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as connection:
            parent = _parent(connection, study)
            return None if parent is None else (_tags(connection, parent), _children(connection, parent, trials))
    except sqlite3.Error:
        return None


def _parent(connection: sqlite3.Connection, study: str) -> str | None:
    found = connection.execute(
        "SELECT r.run_uuid FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id "
        "JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'study.kind' AND t.value = 'parent' "
        "WHERE e.name = ? AND e.lifecycle_stage = 'active' AND r.lifecycle_stage = 'active' "
        "ORDER BY r.start_time DESC LIMIT 1",
        (study,),
    ).fetchone()
    return str(found[0]) if found else None


def _children(connection: sqlite3.Connection, parent: str, trials: Sequence[str]) -> list[Any]:
    runs = [run for trial in trials for run in _runs_of(connection, parent, trial)]
    return [_run(connection, run) for run in runs]


def _runs_of(connection: sqlite3.Connection, parent: str, trial: str) -> list[str]:
    found = connection.execute(
        "SELECT r.run_uuid FROM runs r JOIN tags p ON p.run_uuid = r.run_uuid AND p.key = 'mlflow.parentRunId' "
        "JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'study.trial' "
        "WHERE p.value = ? AND r.lifecycle_stage = 'active' AND t.value = ? ORDER BY r.start_time",
        (parent, trial),
    )
    return [str(row[0]) for row in found]


def _run(connection: sqlite3.Connection, run: str) -> Any:
    rows = connection.execute("SELECT key, value, is_nan FROM latest_metrics WHERE run_uuid = ?", (run,))
    metrics = {key: math.nan if is_nan else float(value) for key, value, is_nan in rows}
    data = SimpleNamespace(tags=_tags(connection, run), metrics=metrics)
    return SimpleNamespace(info=SimpleNamespace(run_id=run), data=data)


def _tags(connection: sqlite3.Connection, run: str) -> dict[str, str]:
    return dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run,)))
