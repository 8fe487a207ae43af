"""The verbs that train: run, resume, confirm."""

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from study.cli.folders import (
    STUDY_FILE,
    check_same_study,
    directory_of,
    is_copy,
    known_rows,
    ledger_url,
    open_ledger,
    places,
    storage_root,
    store_config,
    stored_config,
    study_directory,
    tracking_uri,
)
from study.cli.invocation import INVOCATION, answering, program, storage_option
from study.cli.larger import SPACE_PATHS, check_budget_left, space_overrides, trials_override
from study.errors import InputError, InterruptedStudy, LostCluster, StudyError

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.console import Board
    from study.ledger import Held
    from study.types import Event, StudyResult


def run_file(file: Path, *, storage: str, overrides: Sequence[str], scale: str | None = None) -> None:
    """Run a study file; an existing study of the same name and configuration goes on.

    Raises:
        ConfigError: the file has faults, alone or against this machine and its data.
        InputError: a study of that name has another configuration, or is running.
    """
    from study.config import check_study_file, load_config

    partial, _ = check_study_file(file, overrides, scale=scale)
    directory = directory_of(partial.study or "", storage, drive=True)
    if is_copy(directory):
        ledger_url(directory)  # what is missing is said before minutes of other checks
    is_known = partial.config is not None and (directory / STUDY_FILE).exists()
    if is_known and known_rows(stored_config(directory), directory):
        config = load_config(file, overrides, scale=scale)
        stored = stored_config(directory)
        check_same_study(stored, config, storage=storage)
        if config.confirm is None and stored.confirm is not None:  # `confirm NAME` has added one since
            config = config.model_copy(update={"confirm": stored.confirm})
    else:
        with answering():
            config = _checked(file, overrides, storage=storage, scale=scale)
    _run(config, directory_of(config.study, storage, drive=True), storage=storage)


def resume_study(
    name: str, *, storage: str, overrides: Sequence[str], trials: str | None = None, space: Path | None = None
) -> None:
    """Go on with a study: with a larger budget when ``trials`` or the overrides say so, in another space.

    Raises:
        InputError: there is no such study, or more changes than its budget and, with ``space``, its search space.
    """
    directory = study_directory(name, storage, drive=True)
    old = stored_config(directory)
    changes = [*overrides, *trials_override(old, trials), *space_overrides(space)]
    config = stored_config(directory, changes)
    check_same_study(old, config, storage=storage, may_change=SPACE_PATHS if space is not None else ())
    if space is not None and old != config:
        check_budget_left(config, directory, name=name, storage=storage)
    _run(config, directory, storage=storage)


def confirm_study(name: str, *, storage: str) -> None:
    """Confirm a study whose search is over, with the defaults when its file says nothing about it.

    Raises:
        InputError: there is no such study, or its search is not over.
    """
    directory = study_directory(name, storage, drive=True)
    config = stored_config(directory)
    if config.confirm is None:
        top = {} if config.search is None else {"top": min(2, config.num_trials or 2)}
        config = type(config).model_validate({**config.model_dump(mode="json"), "confirm": top})
    ledger = open_ledger(config, directory)
    with contextlib.closing(ledger) if ledger else contextlib.nullcontext():
        left = ledger.left() if ledger else config.num_trials
        finished = sum(row.state in ("complete", "pruned", "failed") for row in ledger.rows()) if ledger else 0
    if left:
        planned = f" of {config.num_trials}" if config.num_trials else ""
        raise InputError(
            f"the search of study {name!r} is not over: {finished}{planned} trials are finished",
            f"{program()} resume {name}{storage_option(storage)}",
        )
    _run(config, directory, storage=storage)


def _checked(file: Path, overrides: Sequence[str], *, storage: str, scale: str | None) -> "StudyConfig":
    """The study file, after all its faults, alone and against data and machine, could be told at once."""
    from study.config import check_study_file, load_config, raise_faults
    from study.distributed.sharing import faults_here

    partial, faults = check_study_file(file, overrides, scale=scale)
    faults += faults_here(partial, study_dir=storage_root(storage) / (partial.study or ""))
    if partial.pseudo is not None:
        from study.distributed.teacher import teacher_faults

        faults += teacher_faults(partial.pseudo, partial.config, storage=storage_root(storage))
    raise_faults(file, faults, places=partial.places)
    warnings = list(partial.warnings)
    if partial.pseudo is not None and partial.config is not None:
        from study.distributed.teacher import teacher_advice

        warnings += teacher_advice(partial.pseudo, partial.config, storage=storage_root(storage))
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    return load_config(file, overrides, scale=scale)


def _run(config: "StudyConfig", directory: Path, *, storage: str) -> None:
    """Drive the study in this process, the only one that may; then print the closing tables."""
    from study.console import closing_text
    from study.ledger import lock_study

    INVOCATION.log = directory / "study.log"
    with lock_study(directory, url=ledger_url(directory), tell=tell) as held, mirrored(directory, held):
        store_config(directory, config, storage=storage)
        result = _drive(config, directory, storage=storage, held=held)
    if not result.did_work:
        typer.echo(f"study {config.study} is done; nothing is left to run\n", err=True)
    width = max(80, min(140, shutil.get_terminal_size((100, 24)).columns))
    typer.echo(f"\n{closing_text(result, places(directory, storage=storage), width=width)}", err=True)


@contextlib.contextmanager
def mirrored(directory: Path, held: "Held") -> Iterator[None]:
    """A study in a store: its files and the small ones of its runs are brought first, and what changes goes there."""
    if not is_copy(directory):
        yield
        return
    from study.remote import FilesMirror, bring_all, bring_study

    bring_study(directory)
    bring_all(directory)
    has_server = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    if not has_server:
        tell(
            f"MLFLOW_TRACKING_URI is not set, so MLflow's database stays on this machine ({tracking_uri(directory)}); "
            "`study sync` writes it anew elsewhere"
        )
    with FilesMirror(directory, is_lost=lambda: held.is_lost, tell=tell, with_cursor=has_server):
        yield


def tell(text: str) -> None:
    """A line beside the study's own output, on standard error."""
    typer.echo(f"note: {text}", err=True)


def _drive(config: "StudyConfig", directory: Path, *, storage: str, held: "Held") -> "StudyResult":
    from study.console import EVENTS_FILE, event_log, make_view, quiet_terminal, run_until_done

    board = _board(config, directory)
    with (
        quiet_terminal(directory / "study.log") as terminal,
        event_log(directory / EVENTS_FILE, study=config.study) as events,
        make_view(terminal, board) as view,
    ):

        def observe(event: "Event") -> None:
            events.observe(event)
            view.observe(event)

        try:
            return run_until_done(
                lambda stop: _work(config, directory, observe=observe, stop=stop, held=held),
                note=view.note,
                check=lambda: _lost_cluster(config, storage=storage),
            )
        except InterruptedStudy as error:
            if held.taken_by is not None:
                raise StudyError(
                    f"process {held.taken_by.pid} on {held.taken_by.host} has taken study {config.study} over, as "
                    "this one gave no sign of life for too long",
                    f"`{program()} status {config.study}{storage_option(storage)}` shows how it goes on there",
                ) from error
            command = f"{program()} resume {config.study}{storage_option(storage)}"
            raise InterruptedStudy(error.message, command) from error


def _lost_cluster(config: "StudyConfig", *, storage: str) -> LostCluster | None:
    if "ray" not in sys.modules:
        return None
    from study.distributed.cluster import lost_daemon

    daemon = lost_daemon()
    if not daemon:
        return None
    return LostCluster(
        f"Ray's process {daemon} on this machine has died, and all workers with it; each run keeps its checkpoint",
        f"`{program()} resume {config.study}{storage_option(storage)}`; if it dies again, look for want of memory "
        "(`dmesg`) and at the end of study.log",
    )


def _work(
    config: "StudyConfig", directory: Path, *, observe: "Callable[[Event], None]", stop: threading.Event, held: "Held"
) -> "StudyResult":
    """What happens in the worker thread; the heavy imports happen here too, while the view is up."""
    from study.distributed.tuner import run_study
    from study.report import write_search_figure, write_search_table

    held.listen(stop.set)
    result = run_study(
        config,
        study_dir=directory,
        ledger_url=ledger_url(directory),
        tracking_uri=tracking_uri(directory),
        observe=observe,
        stop=stop,
    )
    write_search_table(result, directory / "report" / "search.csv")
    write_search_figure(result, directory / "report" / "search.png")
    return result


def _board(config: "StudyConfig", directory: Path) -> "Board":
    from study.console import Board
    from study.ledger.budget import limits_of

    ledger = open_ledger(config, directory)
    with contextlib.closing(ledger) if ledger else contextlib.nullcontext():
        rows = tuple(ledger.rows()) if ledger else ()
        hours = ledger.hours_run() if ledger else 0.0
    return Board(
        study=config.study,
        metric=config.metric,
        mode=config.mode,
        trials_planned=config.num_trials,
        epochs=config.train.epochs,
        log=str(directory / "study.log"),
        rows=rows,
        limits=limits_of(config.search, trials=config.num_trials, configurations=None),
        hours=hours,
        gpus=config.resources.most_gpus,
    )
