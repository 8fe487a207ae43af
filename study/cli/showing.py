"""The verbs that look: status, list, logs, doctor. Data goes to standard output, words to standard error."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from study.cli.folders import storage_root

if TYPE_CHECKING:
    from study.types import RunRow, TrialRow


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


def _run_record(run: "RunRow") -> dict[str, Any]:
    """One of several runs of a trial."""
    return {key: value for key, value in asdict(run).items() if key != "curve"}


def _where_it_applies(row: "TrialRow") -> dict[str, Any]:
    """What only some searches have: several metrics or runs, missed constraints, configurations that came again."""
    found: dict[str, Any] = {"values": list(row.values)} if len(row.values) > 1 else {}
    found |= {"violations": dict(row.violations)} if row.violations else {}
    found |= {"sd": row.sd, "runs": [_run_record(run) for run in row.runs]} if row.runs else {}
    return found | ({"repeats": row.repeats} if row.repeats else {})


def show_doctor(
    file: Path | None,
    *,
    storage: str,
    overrides: Sequence[str],
    scale: str | None = None,
    as_json: bool = False,
) -> int:
    """All findings as a table, or as JSON on standard output; returns the exit code."""
    from study.doctor import examine, exit_code, findings_table

    findings = examine(storage=storage_root(storage), file=file, overrides=overrides, scale=scale)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        typer.echo(findings_table(findings, width=table_width()), err=True)
    return exit_code(findings)


def show_licences(*, as_json: bool) -> int:
    """Every package with its licence, as a table or as JSON on standard output; returns the exit code.

    Raises:
        EnvironmentFault: study itself is not installed.
    """
    from study.doctor import licences, licences_exit_code, licences_table

    found = licences()
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        typer.echo(licences_table(found, width=table_width()))
    return licences_exit_code(found)


def print_json(value: object) -> None:
    """Print plain data to standard output; numbers that JSON does not have become null."""
    typer.echo(json.dumps(finite(value), indent=2, allow_nan=False))


def finite(value: Any) -> Any:
    """Plain data with null for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table_width() -> int:
    """Columns of the terminal, between 80 and 140; 100 without one."""
    return max(80, min(140, shutil.get_terminal_size((100, 24)).columns))
