"""Finding a run by what a person types: a study, a trial of it, one of its seeds, or an exported folder."""

import contextlib
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.cli.folders import open_ledger, stored_config, study_directory
from study.cli.invocation import program, storage_option
from study.errors import InputError

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.portable import PortableModel

BASELINE = "baseline"
FORMS = "expected STUDY (its best trial), STUDY/TRIAL, STUDY/TRIAL-sSEED, or an exported folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run of a study: its own configuration, directory and seed; ``metrics`` are those that the ledger kept."""

    name: str
    config: "StudyConfig"
    directory: Path
    seed: int
    metrics: dict[str, float]

    @property
    def study_directory(self) -> Path:
        """The directory of the study."""
        return self.directory.parent.parent


def find_runs(text: str, *, storage: str, all_seeds: bool = False) -> list[FoundRun]:
    """The run that ``text`` names, or with ``all_seeds`` those of all seeds of its trial.

    Raises:
        InputError: there is no such study, trial or run; the message lists the nearest.
    """
    name, _, wanted = text.strip("/").partition("/")
    directory = study_directory(name, storage)
    config = stored_config(directory)
    params, metrics, best = _trials(config, directory, storage=storage)
    trained = {path.name: path for path in sorted((directory / "runs").glob("*-s*")) if (path / "checkpoints").is_dir()}
    trial, _, seed = (wanted or best).rpartition("-s") if "-s" in wanted else (wanted or best, "", "")
    runs = [run for run in trained if run.rpartition("-s")[0] == trial and (not seed or run == wanted)]
    if not runs or (trial not in params and trial != BASELINE):
        near = difflib.get_close_matches(wanted, [*trained, *params], n=3, cutoff=0.3)
        fix = f"did you mean {' or '.join(f'{name}/{each}' for each in near)}?" if near else FORMS
        raise InputError(f"study {name} has no trained run {wanted!r}", fix)
    runs.sort(key=lambda run: int(run.rpartition("-s")[2]))
    from study.config import apply_params

    own = apply_params(config, params.get(trial, {}))
    return [
        FoundRun(
            name=f"{name}/{run}",
            config=own,
            directory=trained[run],
            seed=int(run.rpartition("-s")[2]),
            metrics=metrics.get(run, {}),
        )
        for run in (runs if all_seeds else runs[:1])
    ]


def find_models(text: str, *, storage: str, all_seeds: bool = False) -> "list[PortableModel]":
    """The networks of the runs that ``text`` names, or that of an exported folder.

    Raises:
        InputError: as :func:`find_runs`, or the folder is damaged.
    """
    from study.portable.folder import RECORD_FILE, load_model

    if (Path(text) / RECORD_FILE).is_file():
        if all_seeds:
            raise InputError(f"{text} is one network; an ensemble has several", f"name a trial: {FORMS}")
        return [load_model(text)]
    return [model_of(run) for run in find_runs(text, storage=storage, all_seeds=all_seeds)]


def model_of(run: FoundRun) -> "PortableModel":
    """The network of a run with its best weights."""
    from study.data.pseudo import PSEUDO_FILE
    from study.portable.from_run import model_of_run

    pseudo = run.study_directory / PSEUDO_FILE if run.config.pseudo else None
    return model_of_run(run.config, run.directory, seed=run.seed, pseudo=pseudo)


def _trials(
    config: "StudyConfig", directory: Path, *, storage: str
) -> tuple[dict[str, Any], dict[str, dict[str, float]], str]:
    """Parameters by trial, metrics by run, and the best trial."""
    from study.config import mode_of
    from study.standing import ranked_complete

    ledger = open_ledger(config, directory)
    if ledger is None:
        raise InputError(
            f"study {config.study} has not begun", f"{program()} resume {config.study}{storage_option(storage)}"
        )
    with contextlib.closing(ledger):
        rows, records = ledger.rows(), ledger.run_records()
    metrics = {f"{row.trial}-s{row.seeds[0]}": dict(row.metrics) for row in rows if row.seeds}
    for record in records:
        metrics.setdefault(f"{record.trial}-s{record.seed}", {}).update(record.outcome.metrics)
    complete = ranked_complete(rows, mode=config.mode, modes=[mode_of(metric) for metric in config.metrics])
    return {row.trial: row.params for row in rows}, metrics, complete[0].trial if complete else ""
