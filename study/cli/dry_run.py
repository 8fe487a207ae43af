"""``study run --dry-run``: what a search would do and cost; nothing is started or written."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from study.cli.folders import STUDY_FILE, directory_of, known_rows, stored_config, study_names
from study.errors import InputError, StudyError

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.ledger.estimate import Speed

SAMPLES: Final = 10


def show_dry_run(file: Path, *, storage: str, overrides: Sequence[str], scale: str | None = None) -> None:
    """Print the space as a tree, its size, ten configurations, what the search costs, and which data are not there.

    Raises:
        ConfigError: the study file has faults.
        InputError: it searches nothing.
    """
    from study.config import config_warnings, load_config
    from study.console.space_tables import dry_run_text
    from study.ledger.estimate import first_configurations
    from study.space import count

    config = load_config(file, overrides, scale=scale)
    if config.search is None:
        raise InputError(f"{file}: the file searches nothing", "add a search section, or run it as it is")
    for warning in config_warnings(config):
        typer.echo(f"warning: {warning}", err=True)
    space = config.search.space
    samples = first_configurations(config, SAMPLES)
    epochs = [float(params.get("train.epochs", config.train.epochs)) for params in samples]
    width = max(80, min(160, shutil.get_terminal_size((120, 24)).columns))
    cost = _cost_lines(config, storage=storage, epochs=sum(epochs) / len(epochs))
    typer.echo(dry_run_text(space, size=count(space), samples=samples, cost=cost, width=width), err=True)
    for line in _missing_data(config):
        typer.echo(line, err=True)


def _cost_lines(config: "StudyConfig", *, storage: str, epochs: float) -> list[str]:
    from study.report.words import duration

    directory = directory_of(config.study, storage)
    done = len(known_rows(stored_config(directory), directory)) if (directory / STUDY_FILE).exists() else 0
    left = max(0, config.num_trials - done) if config.num_trials else None
    speed, images = _speed(config, storage), _images_per_epoch(config)
    lines = [_limits_text(config)] if left is None else []
    trials = "an open number of" if left is None else f"{left:,}"
    of_runs = len(config.run_keys)
    per = f" x {of_runs} {_kind_of_runs(config)}" if of_runs > 1 else ""
    if images is None and speed is None:
        lines.append(
            f"{trials} trials{per} of {epochs:g} epochs; the images of an epoch are unknown until data are prepared"
        )
        return [*lines, "time: unknown; no trial of this study, or of another one on these data, has ended yet"]
    per_epoch = images if images is not None else speed.images_per_epoch if speed is not None else 0.0
    per_run = epochs * per_epoch
    total = "" if left is None else f" = {left * of_runs * per_run:,.0f} images at most"
    lines.append(f"{trials} trials{per} x {epochs:g} epochs x {per_epoch:,.0f} images{total}")
    if speed is None:
        return [*lines, "time: unknown; no trial of this study, or of another one on these data, has ended yet"]
    of_run = per_run / speed.images_per_second
    seconds = of_run * of_runs
    source = f"{speed.images_per_second:,.0f} images/s, as {speed.trials} trials of study {speed.source}"
    each = f", {duration(of_run)} for each of its {of_runs} runs" if of_runs > 1 else ""
    lines.append(f"time: {duration(seconds)} per trial{each} ({source})")
    if left is None:
        return lines
    slots = _slots(config)
    share = min(1.0, speed.epochs_per_run / epochs)
    early = f"; {duration(share * left * seconds / slots)} if trials stop as early as those" if share < 0.95 else ""
    lines.append(f"      {duration(left * seconds / slots)} for the search with {slots} at a time{early}")
    if config.confirm is not None:
        runs = (config.confirm.top + config.confirm.baseline) * len(config.confirm.seeds)
        lines.append(f"      {duration(runs * of_run / slots)} for the confirmation: at most {runs} runs")
    return lines


def _missing_data(config: "StudyConfig") -> list[str]:
    """Sources that cannot be read here, and how to say where they lie; empty when all can, or the data are prepared."""
    from study.data.shards import open_dataset
    from study.distributed.preflight import data_faults

    try:
        open_dataset(config.data.prepared)
    except StudyError:
        faults = data_faults(config.data)
    else:
        return []
    if not faults:
        return []
    lines = ["", "Data that a run needs and that are not here:"]
    return [*lines, *(f"  {fault.path}: {fault.message}" for fault in faults)]


def _kind_of_runs(config: "StudyConfig") -> str:
    return "folds" if config.search is not None and config.search.folds else "seeds"


def _limits_text(config: "StudyConfig") -> str:
    assert config.search is not None  # noqa: S101 - the caller has checked
    limits = config.search.budget.model_dump(exclude_none=True)
    return "ends by " + " or ".join(f"{name} {value:g}" for name, value in limits.items())


def _speed(config: "StudyConfig", storage: str) -> "Speed | None":
    """How fast trials of this study were, or of the others in the storage with its data and network."""
    from study.ledger.estimate import speed_of

    names = study_names(storage)
    own = [name for name in names if name == config.study]
    for name in [*own, *(name for name in names if name not in own)]:
        directory = directory_of(name, storage)
        try:
            other = stored_config(directory)
            is_alike = (other.data.prepared, other.model.name) == (config.data.prepared, config.model.name)
            speed = speed_of(known_rows(other, directory), name) if is_alike else None
        except StudyError as error:
            typer.echo(f"warning: study {name}: {error.message.splitlines()[0]}", err=True)
            continue
        if speed is not None:
            return speed
    return None


def _images_per_epoch(config: "StudyConfig") -> float | None:
    """Images of one epoch: as the sampler is told, or as the prepared training split has."""
    from study.data.shards import open_dataset

    if config.sampler.epoch_draws is not None:
        return float(config.sampler.epoch_draws)
    if config.sampler.name == "periodic":  # its epoch depends on the rarest classes of the plan
        return None
    try:
        dataset = open_dataset(config.data.prepared)
        folds = config.search.folds if config.search is not None else None
        if folds:
            return (len(dataset.rows("train")) + len(dataset.rows("val"))) * (folds - 1) / folds
        return float(len(dataset.rows("train")))
    except StudyError:
        return None


def _slots(config: "StudyConfig") -> int:
    from study.distributed.cluster import expected_capacity
    from study.distributed.preflight import count_slots

    return count_slots(config, expected_capacity())
