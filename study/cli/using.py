"""The verbs that use a trained network: predict, evaluate, export."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from study.cli.folders import directory_of, stored_config, study_names
from study.cli.invocation import program, storage_option
from study.cli.run_names import find_models, find_runs, model_of
from study.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from study.config import DataConfig
    from study.data.shards import PreparedDataset

EXPORTS: Final = "exports"
ENDINGS: Final = (".csv", ".json", ".parquet")
PICTURES: Final = (".dcm", ".dicom", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", "")


def predict(
    run: str,
    files: Sequence[Path],
    *,
    storage: str,
    out: Path | None,
    samples: int | None = None,
    ensemble: bool = False,
) -> None:
    """Judge image files with a trained network.

    Raises:
        InputError: there is no such run or file, or the result cannot be written.
    """
    from study.portable.answers import answers_table
    from study.portable.model import Sampling, judge_files

    ending = out.suffix.lower() if out is not None else ".csv"
    if ending not in ENDINGS:
        raise InputError(f"--out {out}: expected a name that ends in {', '.join(ENDINGS)}", "choose one of them")
    if samples is not None and samples < 2:
        raise InputError(f"--mc-dropout {samples}: expected 2 passes or more", "10 is usual")
    if samples is not None and ensemble:
        raise InputError("--mc-dropout and --ensemble together: expected one of them", "leave one out")
    found = _files(files)
    models = find_models(run, storage=storage, all_seeds=ensemble)
    if ensemble and len(models) < 2:
        raise InputError(f"{run} has a single seed; an ensemble needs two or more", f"{program()} confirm trains more")
    readings, answers = judge_files(models, found, sampling=Sampling(samples=samples) if samples else None)
    table = answers_table(readings, answers, models[0].record)
    _write(table, out, ending)
    bad = sum(1 for reading in readings if reading.reason)
    strange = sum(1 for reading in readings if reading.warnings)
    counts = f"{len(found) - bad} of {len(found)} files judged"
    counts += f", {bad} could not be read (column reason)" if bad else ""
    counts += f", {strange} unlike the training (column warnings)" if strange else ""
    typer.echo(counts + (f"; written to {out}" if out is not None else ""), err=True)


def evaluate(
    run: str, *, storage: str, on: str, ensemble: bool = False, out: Path | None = None, as_json: bool = False
) -> None:
    """Judge a prepared dataset, without the patients that the network learned from.

    Raises:
        InputError: run or dataset do not exist or do not fit, or no new patient is left.
    """
    from study.console.evaluation_tables import evaluation_text
    from study.data.shards import open_dataset
    from study.portable.evaluating import evaluate_on
    from study.portable.folder import RECORD_FILE
    from study.portable.patients import learned_by

    if out is not None and out.suffix.lower() not in ENDINGS:
        raise InputError(f"--out {out}: expected a name that ends in {', '.join(ENDINGS)}", "choose one of them")
    data = _data_of(on, storage=storage)
    dataset: PreparedDataset = open_dataset(data.prepared if data is not None else on)
    models = find_models(run, storage=storage, all_seeds=ensemble)
    source = None if (Path(run) / RECORD_FILE).is_file() else find_runs(run, storage=storage)[0]
    training, name = (source.config.data, source.name) if source is not None else (None, run)
    is_learned_n, warning = learned_by(dataset, data, training)
    found = evaluate_on(models, dataset, is_learned_n=is_learned_n)
    if out is not None:
        _write(found.table, out, out.suffix.lower())
    record = {
        "run": name,
        "members": len(models),
        "dataset": dataset.fingerprint,
        "images": found.images,
        "patients": found.patients,
        "left_out": found.left_out,
        "unlabelled": found.unlabelled,
        "warning": warning,
        "auroc_macro_95": [found.low, found.high],
        "metrics": found.metrics,
    }
    if warning:
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        typer.echo(json.dumps(_without_nan(record), indent=1))
    else:
        typer.echo(evaluation_text(found, name=name, members=len(models)), err=True)


def export(run: str, *, storage: str, to: Path | None, torchscript: bool = False) -> None:
    """Write a run as a folder of its own.

    Raises:
        InputError: there is no such run, the folder exists, or the network cannot be traced.
    """
    from study.portable import save_model
    from study.portable.from_run import background_of
    from study.portable.torchscript import TORCHSCRIPT_FILE, write_torchscript

    found = find_runs(run, storage=storage)[0]
    folder = to or Path(EXPORTS) / found.name.replace("/", "-")
    if folder.exists():
        raise InputError(f"{folder} exists", "name another folder with --to, or remove this one")
    model = model_of(found)
    script = write_torchscript(model) if torchscript else None
    save_model(model, folder, background_of(found.config, found.metrics), script=script)
    files = ["model.safetensors", "model.json", "training.yaml", "metrics.json", "README.md"]
    files += [TORCHSCRIPT_FILE] if script else []
    typer.echo(f"run {found.name} is in {folder}: {', '.join(files)}", err=True)
    typer.echo(f'\nuse it:  from study.portable import load_model; model = load_model("{folder}")', err=True)
    typer.echo(f"         {program()} predict {folder} FILES...", err=True)


def _files(files: Sequence[Path]) -> list[str]:
    """The files, folders replaced by the pictures in them."""
    found: list[str] = []
    for path in files:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and each.suffix.lower() in PICTURES)
            if not inside:
                raise InputError(f"{path} holds no picture", f"expected files that end in {', '.join(PICTURES[:-1])}")
            found += [str(each) for each in inside]
        elif path.exists():
            found.append(str(path))
        else:
            raise InputError(f"there is no file {path}", "check the path")
    return found


def _data_of(on: str, *, storage: str) -> "DataConfig | None":
    """The data section of a study file or a study; None for the folder of a prepared dataset.

    Raises:
        InputError: it is none of them.
    """
    from study.config import load_config

    if Path(on).suffix in (".yaml", ".yml"):
        return load_config(Path(on)).data
    if (Path(on) / "dataset.json").is_file() or "://" in on:
        return None
    if on in study_names(storage):
        return stored_config(directory_of(on, storage)).data
    raise InputError(
        f"--on {on}: no prepared dataset, study file or study{storage_option(storage)}",
        f"prepare it first: {program()} prepare FILE",
    )


def _write(table: "pd.DataFrame", out: Path | None, ending: str) -> None:
    """A table to a file, whole or not at all; to standard output as CSV without one."""
    if out is None:
        typer.echo(table.to_csv(index=False), nl=False)
        return
    partial = out.with_name(f".{out.name}.partial")
    try:
        if ending == ".csv":
            table.to_csv(partial, index=False)
        elif ending == ".json":
            partial.write_text(json.dumps(_without_nan(table.to_dict("records")), indent=1) + "\n", encoding="utf-8")
        else:
            table.to_parquet(partial, index=False)
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"--out {out}: cannot be written ({error.strerror})", "name another file") from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124
