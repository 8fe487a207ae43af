"""`study profile`: where the time of a run goes, without touching its study."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from study.cli.folders import ledger_url, storage_root
from study.cli.invocation import INVOCATION, program
from study.cli.run_names import FoundRun, find_runs
from study.errors import InputError

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.distributed.profiling import ProfileRequest
    from study.training.profile import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is to be profiled, and the folder for what comes of it."""

    name: str
    config: "StudyConfig"
    seed: int
    folder: Path
    fold: int = 0
    fingerprint: str = ""
    pseudo: str = ""


def profile(what: str, *, storage: str, overrides: Sequence[str], steps: int, out: Path | None, as_json: bool) -> None:
    """Train a part of a run anew in a scratch folder, and show where its time went.

    Raises:
        InputError: there is no such run or file, its data are not prepared, or the machine has no room for a worker.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: a file; expected a folder", "name a folder")
    from study.console.profile_table import profile_text
    from study.report.profile_figure import write_profile_figure

    is_file = Path(what).suffix in (".yaml", ".yml")
    wanted = _of_file(Path(what), overrides, storage=storage) if is_file else _of_run(what, overrides, storage=storage)
    folder = out or wanted.folder
    found, trace = _measured(wanted, folder, steps=steps)
    (folder / "trace.json").write_text(json.dumps(trace), encoding="utf-8")
    (folder / "profile.json").write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
    write_profile_figure(found, folder / "profile.png")
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    typer.echo(f"{profile_text(found)}\n", err=True)
    typer.echo(f"trace: {folder / 'trace.json'} (open it in ui.perfetto.dev or chrome://tracing)", err=True)
    typer.echo(f"figure: {folder / 'profile.png'}", err=True)


def _of_run(text: str, overrides: Sequence[str], *, storage: str) -> _Wanted:
    from study.data.pseudo import PSEUDO_FILE

    if overrides:
        raise InputError("--set goes with a study file", f"write the run to a file: {program()} best NAME --yaml")
    run = find_runs(text, storage=storage)[0]
    _warn_if_running(run)
    return _Wanted(
        name=run.name,
        config=run.config,
        seed=run.seed,
        fold=run.fold,
        fingerprint=run.fingerprint,
        pseudo=str(run.study_directory / PSEUDO_FILE) if run.config.pseudo else "",
        folder=run.study_directory / "report" / f"profile-{run.directory.name}",
    )


def _warn_if_running(run: FoundRun) -> None:
    """A profile is honest about what it measured; while the study runs, that is not the speed of a run alone."""
    from study.ledger import lock_holder

    holder = lock_holder(run.study_directory, url=ledger_url(run.study_directory))
    if holder is not None:
        study = f"study {run.study_config.study} is running on {holder.host}"
        typer.echo(f"warning: {study}; beside it on one machine, times are longer than those of a run alone", err=True)


def _of_file(file: Path, overrides: Sequence[str], *, storage: str) -> _Wanted:
    """The study file's own values, as its baseline has them."""
    from study.config import load_config
    from study.distributed.preparing import plan_preparation

    config = load_config(file, overrides)
    if not plan_preparation(config.data).is_complete:
        raise InputError("the data of this study file are not prepared", f"{program()} prepare {file}")
    if config.pseudo is not None:
        raise InputError(
            "labels of a teacher are made when a study runs", f"{program()} run {file}, then profile one of its runs"
        )
    folder = storage_root(storage) / config.study / "report" / "profile-file"
    return _Wanted(name=f"{config.study} (the file's values)", config=config, seed=config.seed, folder=folder)


def _measured(wanted: _Wanted, folder: Path, *, steps: int) -> "tuple[Profile, dict[str, Any]]":
    """Measure in Ray, which writes into a log of its own; Ctrl-C ends it, for there is nothing to save."""
    from study.console import quiet_terminal, run_until_done

    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    INVOCATION.log = folder / "profile.log"
    typer.echo(f"profiling {wanted.name}: {f'{steps} steps' if steps else 'one epoch'}", err=True)
    with quiet_terminal(folder / "profile.log") as terminal:

        def work(stop: threading.Event) -> "tuple[Profile, dict[str, Any]]":
            from study.distributed.cluster import connected
            from study.distributed.profiling import profile_run

            with connected():
                return profile_run(_request(wanted, steps=steps), stop=stop)

        def note(_: str) -> None:
            terminal.write("stopping ... (again to quit at once)\n")

        return run_until_done(work, note=note)


def _request(wanted: _Wanted, *, steps: int) -> "ProfileRequest":
    from study.distributed.profiling import ProfileRequest

    request = ProfileRequest(
        run=wanted.name, config=wanted.config.model_dump(mode="json"), seed=wanted.seed, fold=wanted.fold
    )
    return replace(request, fingerprint=wanted.fingerprint, pseudo=wanted.pseudo, steps=steps)
