"""The verb best: which trials are best, as MLflow and the ledger know them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

import typer

from study.cli.folders import STUDY_FILE, directory_of, tracking_uri
from study.cli.invocation import program, storage_option
from study.cli.looking import find, looking
from study.cli.showing import cost_record, print_json, table_width, trial_record
from study.errors import EnvironmentFault, InputError, StudyError

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.types import StudyResult, TrialRow

DEFAULT_TOP: Final = 5


def show_best(
    name: str,
    *,
    storage: str,
    top: int | None,
    form: Literal["table", "json", "yaml"],
    where: Sequence[str] = (),
    per_cost: bool = False,
) -> None:
    """The best complete trials of a study, or those that meet conditions.

    Values and states come from the ledger, the runs and the metrics of further seeds from MLflow. Without the study's
    directory, MLflow alone answers, if ``MLFLOW_TRACKING_URI`` names a server; without MLflow, the ledger does.

    Raises:
        InputError: there is no such study, or a condition cannot be read.
        StudyError: a study file was asked for and no trial is complete.
    """
    from study.config import given_values
    from study.console.best_tables import best_text
    from study.report.filters import filtered
    from study.report.ranking import per_cost_ranked

    config, result, add_runs = _read(name, storage)
    rows = filtered(result.rows, where, given_values(config)) if where else list(result.rows)
    rows = per_cost_ranked(rows, mode=result.mode) if per_cost else rows
    result = replace(result, rows=tuple(rows))
    shown = rows[: top or (1 if form == "yaml" else DEFAULT_TOP)]
    if form == "json":
        print_json([trial_record(row) | (cost_record(row) if per_cost else {}) for row in add_runs(shown)])
    elif form == "yaml":
        _print_yaml(shown, config)
    elif not rows:
        found = f"meets {' and '.join(where)}" if where else "is complete"
        typer.echo(f"no trial of study {name} {found}", err=True)
    else:
        typer.echo(best_text(result, add_runs(shown), per_cost=per_cost, width=table_width()), err=True)
        typer.echo(f"\nas a study file: {program()} best {name}{storage_option(storage)} --yaml", err=True)


AddRuns = Callable[[Sequence["TrialRow"]], "list[TrialRow]"]


def _read(name: str, storage: str) -> "tuple[StudyConfig, StudyResult, AddRuns]":
    """The study with its complete trials only, best first, and how to add to some rows what MLflow knows of them."""
    from study.report.ranking import ranked

    is_here = (directory_of(name, storage) / STUDY_FILE).exists()
    if not is_here and os.environ.get("MLFLOW_TRACKING_URI") and not os.environ.get("STUDY_LEDGER_URL"):
        return *_from_mlflow(name), list
    found = find(name, storage)
    with looking(found) as looker:
        result = looker.brief()
    rows = [row for row in ranked(result) if row.state == "complete" and not row.repeats]
    result = replace(result, rows=tuple(rows))
    uri = tracking_uri(found.directory) if found.directory else os.environ.get("MLFLOW_TRACKING_URI", "")
    return found.config, result, lambda shown: _with_runs(shown, uri, found.config.study) if uri else list(shown)


def _from_mlflow(name: str) -> "tuple[StudyConfig, StudyResult]":
    from study.config import StudyConfig
    from study.config.yamlfile import read_yaml
    from study.tracking import best_rows, study_config_text
    from study.types import StudyResult

    uri = os.environ["MLFLOW_TRACKING_URI"]
    rows = tuple(best_rows(uri, name))
    config = StudyConfig.model_validate(read_yaml(study_config_text(uri, name), name=f"study {name}").value)
    metrics = config.metrics if len(config.metrics) > 1 else ()
    result = StudyResult(
        study=name, state="interrupted", metric=config.metric, mode=config.mode, rows=rows, metrics=metrics
    )
    return config, result


def _with_runs(rows: "Sequence[TrialRow]", uri: str, study: str) -> "list[TrialRow]":
    """The rows with what MLflow adds: its runs, all seeds, the metrics on the test split."""
    from study.tracking import best_rows

    if not rows:
        return []
    try:
        known = {row.trial: row for row in best_rows(uri, study, trials=[row.trial for row in rows])}
    except (EnvironmentFault, InputError) as error:
        typer.echo(f"warning: {error.message}; the ledger alone answers", err=True)
        return list(rows)
    return [_merged(row, known[row.trial]) if row.trial in known else row for row in rows]


def _merged(row: "TrialRow", mirror: "TrialRow") -> "TrialRow":
    metrics = {**mirror.metrics, **row.metrics}
    return replace(row, metrics=metrics, seeds=mirror.seeds, mlflow_run_ids=mirror.mlflow_run_ids)


def _print_yaml(rows: "Sequence[TrialRow]", config: "StudyConfig") -> None:
    from study.config import config_yaml, without_search
    from study.report.words import number

    if not rows:
        raise StudyError(f"no trial of study {config.study!r} is complete", f"{program()} status {config.study}")
    for place, row in enumerate(rows):
        fixed = without_search(config, row.params).model_dump(mode="json")
        fixed["study"] = f"{config.study[:50]}-trial-{row.trial}"
        if place:
            typer.echo("---")
        typer.echo(
            f"# Trial {row.trial} of study {config.study}: {config.metric} {number(row.value)} at its best epoch."
        )
        typer.echo(config_yaml(type(config).model_validate(fixed)), nl=False)
