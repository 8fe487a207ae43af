"""The verb prepare."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from study.cli.invocation import INVOCATION, program
from study.errors import InterruptedStudy

if TYPE_CHECKING:
    from study.config import StudyConfig


def prepare_file(
    file: Path, *, overrides: Sequence[str], dry_run: bool, preview: bool, plan: bool, scale: str | None = None
) -> None:
    """Make the dataset of a study file, or with ``dry_run`` only count what it would hold.

    Then, with ``preview``, contact sheets of the augmentation policies are written beside the dataset, and with
    ``plan`` what the sampler makes of it is shown, as text and as a picture.

    Raises:
        ConfigError: the file has faults, or its data cannot be read.
        InterruptedStudy: stopped by a signal; what is done stays.
    """
    from study.config import check_study_file, raise_faults
    from study.distributed.preflight import data_faults

    partial, faults = check_study_file(file, overrides, scale=scale)
    raise_faults(file, [*faults, *(data_faults(partial.data) if partial.data else [])])
    assert partial.config is not None  # noqa: S101 - no faults, so there is one
    if dry_run:
        typer.echo(planned_text(partial.config), err=True)
        return
    _prepare(partial.config, f"{file} --scale {scale}" if scale else str(file))
    if preview:
        typer.echo(f"\n{preview_text(partial.config)}", err=True)
    if plan:
        typer.echo(f"\n{plan_text(partial.config)}", err=True)


def _prepare(config: "StudyConfig", file: str) -> None:
    from study.console import Board, make_view, quiet_terminal, run_until_done
    from study.data.files import shown
    from study.distributed.preparing import plan_preparation

    plan = plan_preparation(config.data)
    if plan.warning:
        typer.echo(f"warning: {plan.warning}", err=True)
    if plan.is_complete:
        typer.echo(f"nothing to do, {shown(config.data.prepared)} is complete\n\n{prepared_text(config)}", err=True)
        return
    log = _beside(config, "log")
    INVOCATION.log = log
    board = Board(study=config.study, metric="", mode="max", log=str(log))
    with quiet_terminal(log) as terminal, make_view(terminal, board) as view:

        def work(stop: threading.Event) -> None:
            from study.distributed.cluster import connected
            from study.distributed.sharing import folders_to_share, kept_shared
            from study.distributed.tuner import prepare_if_needed

            with connected(), kept_shared(folders_to_share(None, config.data), stop=stop):
                prepare_if_needed(config, observe=view.observe, stop=stop)

        try:
            run_until_done(work, note=view.note)
        except InterruptedStudy as error:
            raise InterruptedStudy(error.message, f"{program()} prepare {file}") from error
    typer.echo(f"prepared: {shown(config.data.prepared)}\n\n{prepared_text(config)}", err=True)


def preview_text(config: "StudyConfig") -> str:
    """Write the contact sheets and say where they are; those of a dataset in a store come to this folder."""
    from study.report.preview import write_previews

    folder, mode = _beside(config, "preview"), config.augment.mode
    files = write_previews(config.data.prepared, folder, seed=config.seed, mode=mode)
    return "\n".join(f"preview: {file}" for file in files)


def plan_text(config: "StudyConfig") -> str:
    """What a run's batches hold: shares and repeats by segment and class, the first batches, and where the picture is.

    Raises:
        InputError: a sampler that this dataset cannot feed.
    """
    from study.data.shards import open_dataset
    from study.distributed.objective import classes_to_draw
    from study.distributed.runs import plan_run, write_plan

    dataset = open_dataset(config.data.prepared)
    plan, _ = plan_run(config, dataset, seed=config.seed)
    folder = _beside(config, "preview")
    folder.mkdir(parents=True, exist_ok=True)
    classes = classes_to_draw(dataset)
    summary = write_plan(plan, folder, classes=classes)
    return "\n".join([*summary.lines(classes), f"plan: {folder / 'plan.png'}"])


def _beside(config: "StudyConfig", kind: str) -> Path:
    """``<name>.<kind>`` beside the dataset; of a dataset in a store, in the folder where the command runs."""
    from study.data.files import is_remote, local_path

    place = config.data.prepared
    name = place.partition("?")[0].rstrip("/").rpartition("/")[2]
    return (Path.cwd() if is_remote(place) else local_path(place).parent) / f"{name}.{kind}"


def planned_text(config: "StudyConfig") -> str:
    """What the tables promise: patients and images by source, split and class; no pixels are read."""
    from study.console.data_tables import manifest_text
    from study.distributed.preparing_manifest import summary_for

    return manifest_text(summary_for(config.data))


def prepared_text(config: "StudyConfig") -> str:
    """What the prepared dataset holds, and what was dropped or lies in quarantine, by reason."""
    from study.console.data_tables import manifest_text
    from study.data.shards import read_manifest
    from study.distributed.preparing_manifest import summary_of

    return manifest_text(summary_of(config.data, read_manifest(config.data.prepared)))
