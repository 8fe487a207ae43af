"""The verbs that use trained networks, with their options; RUN is spelt as `study.cli.run_names` says."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from study.cli.options import STORAGE, Debug, Json, Storage

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="STUDY (its best trial), STUDY/TRIAL, STUDY/TRIAL-sSEED, or an exported folder."
    ),
]
Trained = Annotated[
    str, typer.Argument(metavar="RUN", help="STUDY (its best trial), STUDY/TRIAL or STUDY/TRIAL-sSEED.")
]
Ensemble = Annotated[bool, typer.Option("--ensemble", help="The mean over all seeds of the trial.")]


def predict(
    run: Run,
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="DICOM files, pictures, or folders of them.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="CSV, JSON or Parquet by its ending; standard output without it."),
    ] = None,
    mc_dropout: Annotated[
        int | None, typer.Option("--mc-dropout", metavar="N", help="Mean and spread of N passes with dropout.")
    ] = None,
    ensemble: Ensemble = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Judge image files: probabilities, class, doubt, and what is unlike the training."""
    from study.cli.using import predict as act

    act(run, files, storage=storage, out=out, samples=mc_dropout, ensemble=ensemble)


def evaluate(
    run: Run,
    *,
    on: Annotated[
        str, typer.Option("--on", metavar="DATASET", help="A study file, a study, or a prepared dataset's folder.")
    ],
    ensemble: Ensemble = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write the predictions: CSV, JSON or Parquet.")
    ] = None,
    json: Json = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Judge a prepared dataset, without the patients that the network learned from."""
    from study.cli.using import evaluate as act

    act(run, storage=storage, on=on, ensemble=ensemble, out=out, as_json=json)


def export(
    run: Trained,
    *,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Where to; exports/STUDY-TRIAL-sSEED without it.")
    ] = None,
    torchscript: Annotated[
        bool, typer.Option("--torchscript", help="Also as TorchScript, for other software.")
    ] = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Write a trained network as a folder of its own, with weights, settings, metrics and a model card."""
    from study.cli.using import export as act

    act(run, storage=storage, to=to, torchscript=torchscript)


def explain(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="STUDY, STUDY/TRIAL or STUDY/TRIAL-sSEED.", show_default=False)
    ],
    *,
    images: Annotated[int, typer.Option("--images", metavar="N", min=1, max=50, help="Images to draw.")] = 6,
    numbers: Annotated[int, typer.Option("--numbers", metavar="N", min=1, help="Images to count over.")] = 200,
    split: Annotated[Literal["train", "val"], typer.Option("--split", help="Whose images.")] = "val",
    task: Annotated[str, typer.Option("--task", help="Another task than the one that decides.")] = "",
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", show_default=False)] = None,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Draw where networks look: Grad-CAM++ of each class, several runs side by side, with numbers."""
    from study.cli.explaining import explain_runs

    explain_runs(runs, images=images, numbers=numbers, split=split, task=task, out=out)
