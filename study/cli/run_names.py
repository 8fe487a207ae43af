"""Finding a run by what a person types: a study, a trial of it, one of its seeds, or an exported folder."""

import contextlib
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from study.cli.folders import brought, open_ledger, stored_config, study_directory
from study.cli.invocation import program, storage_option
from study.errors import InputError

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.portable import PortableModel

BASELINE: Final = "baseline"
FORMS: Final = "expected STUDY (its best trial), STUDY/TRIAL or STUDY/TRIAL-sSEED"
MOST_NAMED: Final = 4
RUN: Final = re.compile(r"(?P<trial>\d+|baseline)-(f(?P<fold>\d+)-)?s(?P<seed>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run of a study: directory, trial and seed.

    ``study_config`` is the study's, ``config`` the run's own, with the trial's ``params``; ``metrics`` are those that
    the ledger kept, ``fingerprint`` is that of the data that the study was run with.
    """

    name: str
    study_config: "StudyConfig"
    config: "StudyConfig"
    directory: Path
    trial: str
    seed: int
    fold: int
    params: dict[str, Any]
    metrics: dict[str, float]
    fingerprint: str

    @property
    def study_directory(self) -> Path:
        """The directory of the study."""
        return self.directory.parent.parent


def find_runs(text: str, *, storage: str, all_seeds: bool = False) -> list[FoundRun]:
    """The run that ``text`` names, or with ``all_seeds`` those of all seeds (and folds) of its trial.

    Raises:
        InputError: there is no such study, trial or run; the message lists the nearest.
    """
    from study.config import apply_params

    name, _, wanted = text.strip("/").partition("/")
    directory = study_directory(name, storage)
    config = stored_config(brought(directory))
    known = _known(config, directory, storage=storage)
    trained = _trained(directory)
    wanted = wanted or known.best
    trial = RUN.fullmatch(wanted)["trial"] if RUN.fullmatch(wanted) else wanted  # type: ignore[index]  # it matches
    runs = [run for run, parts in trained.items() if parts["trial"] == trial and wanted in (trial, run)]
    if not runs or (trial not in known.params and trial != BASELINE):
        raise _unknown(name, wanted, trained=list(trained), trials=list(known.params))
    params = dict(known.params.get(trial, {}))
    return [
        FoundRun(
            name=f"{name}/{run}",
            study_config=config,
            config=apply_params(config, params),
            directory=directory / "runs" / run,
            trial=trial,
            seed=int(trained[run]["seed"]),
            fold=int(trained[run]["fold"] or 0),
            params=params,
            metrics=known.metrics.get(run, {}),
            fingerprint=known.fingerprint,
        )
        for run in (runs if all_seeds else runs[:1])
    ]


def _unknown(name: str, wanted: str, *, trained: Sequence[str], trials: Sequence[str]) -> InputError:
    """What is wrong with a name, and which ones there are."""
    if not trained:
        return InputError(
            f"no run of study {name} has a checkpoint yet", "wait for the first epoch, or resume the study"
        )
    some = ", ".join(f"{name}/{run}" for run in trained[:MOST_NAMED]) + (", ..." if len(trained) > MOST_NAMED else "")
    if not wanted:
        return InputError(
            f"study {name} has no complete trial yet, of which one could be the best", f"name a run: {some}"
        )
    if wanted in trials:
        return InputError(f"trial {wanted} of study {name} has no checkpoint", f"these have: {some}")
    near = difflib.get_close_matches(wanted, [*trained, *trials], n=3, cutoff=0.5)
    fix = f"did you mean {' or '.join(f'{name}/{each}' for each in near)}?" if near else f"{FORMS}, as in {some}"
    return InputError(f"study {name} has no trained run {wanted!r}", fix)


def _trained(directory: Path) -> dict[str, re.Match[str]]:
    """Runs of a study that have checkpoints, by the name of their folder, in the order of trial, seed and fold."""
    found = {path.parent.name: RUN.fullmatch(path.parent.name) for path in (directory / "runs").glob("*/checkpoints")}
    parts = [(run, match) for run, match in found.items() if match]
    return dict(sorted(parts, key=lambda each: (each[1]["trial"], int(each[1]["seed"]), int(each[1]["fold"] or 0))))


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
    from study.portable.from_run import model_of_run

    return model_of_run(run.config, run.directory, seed=run.seed, fold=run.fold, fingerprint=run.fingerprint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the ledger knows: parameters by trial, metrics by run, the best trial, the data's fingerprint."""

    params: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, dict[str, float]]
    best: str
    fingerprint: str


def _known(config: "StudyConfig", directory: Path, *, storage: str) -> _Known:
    from study.config import mode_of
    from study.standing import DATASET, ranked_complete
    from study.types import RunKey

    ledger = open_ledger(config, directory)
    if ledger is None:
        raise InputError(
            f"study {config.study} has not begun", f"{program()} resume {config.study}{storage_option(storage)}"
        )
    with contextlib.closing(ledger):
        rows, records, fingerprint = ledger.rows(), ledger.run_records(), str(ledger.stage(DATASET) or "")
    metrics: dict[str, dict[str, float]] = {}
    for row in rows:
        for run in row.runs:  # whose value alone the ledger keeps apart
            value = {} if run.value is None else {config.metric: run.value}
            metrics[f"{row.trial}-{RunKey(seed=run.seed, fold=run.fold).name}"] = value
        if not row.runs and row.seeds:
            metrics[f"{row.trial}-{RunKey(seed=row.seeds[0]).name}"] = dict(row.metrics)
    for record in records:
        metrics.setdefault(f"{record.trial}-{RunKey(seed=record.seed).name}", {}).update(record.outcome.metrics)
    complete = ranked_complete(rows, mode=config.mode, modes=[mode_of(metric) for metric in config.metrics])
    best = complete[0].trial if complete else ""
    return _Known(params={row.trial: row.params for row in rows}, metrics=metrics, best=best, fingerprint=fingerprint)
