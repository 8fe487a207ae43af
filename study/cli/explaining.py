"""The verb explain: where networks look, as panels and as numbers."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import typer

from study.cli.folders import kept, study_directory
from study.cli.invocation import INVOCATION
from study.cli.run_names import find_runs
from study.errors import InputError

if TYPE_CHECKING:
    from study.explain.looking import AttentionSummary
    from study.explain.opening import OpenRun

COLUMNS: Final = ("run", "class", "images", "share_in_breast", "hits", "images_with_lesions", "hit_rate", "low", "high")


def explain_runs(
    names: Sequence[str],
    *,
    images: int,
    numbers: int,
    split: Literal["train", "val"],
    task: str,
    out: Path | None,
) -> None:
    """Write ``panels.png`` and ``attention.csv`` of one or several runs; the numbers are printed, too.

    Raises:
        InputError: a name is no run, the runs have different data or classes, or a file cannot be written.
    """
    from study.explain.looking import looks, summarise
    from study.explain.panels import panel_rows, panels_of, write_panels

    runs = [_open(name) for name in names]
    first = runs[0][1]
    _check_same_data([run for _, run in runs], task)
    classes = first.head(task)[2]
    labels_n = first.dataset.task_labels(task) if task else first.dataset.labels_n
    rows_n = first.dataset.rows(split)
    shown = panel_rows(first.dataset, rows_n, count=images, labels_n=labels_n)
    counted = panel_rows(first.dataset, rows_n, count=numbers, labels_n=labels_n)
    if not shown:
        raise InputError(f"no image of {split} has a label of this task", "choose another --split or --task")
    folder = out or study_directory(names[0].partition("/")[0], INVOCATION.storage) / "report" / "explain"
    found = [(run.title, summarise(looks(run, counted, task=task), classes=classes)) for _, run in runs]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        titled = [(run.title, panels_of(run, shown, task=task)) for _, run in runs]
        write_panels(folder / "panels.png", titled, classes=classes)
        _write_numbers(folder / "attention.csv", found)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})", "name a folder of yours: --out") from error
    typer.echo(_text(found, split=split), err=True)
    typer.echo(f"wrote {folder / 'panels.png'} and {folder / 'attention.csv'}", err=True)
    if out is None and (text := kept(folder.parent.parent, folder)):
        typer.echo(text, err=True)


def _open(name: str) -> "tuple[str, OpenRun]":
    from study.explain.opening import open_run

    run = find_runs(name, storage=INVOCATION.storage)[0]
    return name, open_run(
        run.study_directory,
        run.study_config,
        run.trial,
        seed=run.seed,
        fold=run.fold,
        params=run.params,
        fingerprint=run.fingerprint,
    )


def _check_same_data(runs: "Sequence[OpenRun]", task: str) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.dataset.fingerprint != first.dataset.fingerprint:
            raise InputError("the runs were trained on different data", "explain them one by one")
        if run.head(task)[2] != first.head(task)[2]:
            raise InputError("the runs decide between different classes", "name a --task that all of them have")


def _write_numbers(path: Path, found: "Sequence[tuple[str, list[AttentionSummary]]]") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for title, summaries in found:
            for each in summaries:
                rates = [_number(value) for value in (each.hit_rate, each.low, each.high)]
                inside = _number(each.inside)
                writer.writerow([title, each.name, each.num_images, inside, each.hits, each.num_boxed, *rates])


def _number(value: float) -> object:
    return "" if math.isnan(value) else value


def _text(found: "Sequence[tuple[str, list[AttentionSummary]]]", *, split: str) -> str:
    lines = [f"Map of the true class, images of {split}"]
    for title, summaries in found:
        for each in summaries:
            inside = "-" if math.isnan(each.inside) else f"{each.inside:.1%}"
            game = f"{each.hits} of {each.num_boxed} peaks in a lesion" if each.num_boxed else "no lesions known"
            lines.append(f"  {title:<20} {each.name:<12} {inside:>7} in the breast ({each.num_images} images), {game}")
    return "\n".join(lines)
