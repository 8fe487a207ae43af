"""From a run of a study to a network of its own."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from study.config import StudyConfig
from study.distributed.objective import TaskLoss, model_params, reconstruction_weight, targets_for, task_losses
from study.distributed.trained import trained_run
from study.portable.folder import Background
from study.portable.model import PortableModel
from study.portable.reading import seen_in
from study.portable.record import ModelRecord, TaskRecord

# Parts of a study file that say where things lie; they stay at home.
PLACES: Final = frozenset({"root", "table", "tables", "masks", "prepared", "pretrained"})


def model_of_run(
    config: StudyConfig,
    directory: Path,
    *,
    seed: int,
    fold: int = 0,
    fingerprint: str = "",
    device: torch.device | None = None,
) -> PortableModel:
    """The network of a run with its best weights.

    Args:
        config: the run's own configuration, with the trial's parameters.
        directory: of the run, in the folder ``runs`` of its study.
        seed: of the run.
        fold: of the run; 0 where there are no folds.
        fingerprint: of the data that the study was run with; empty takes what is there.
        device: where it computes.

    Raises:
        InputError: the prepared dataset is missing or damaged.
        StudyError: the run has no checkpoint, or one of another configuration.
    """
    found = trained_run(config, directory, seed=seed, fold=fold, fingerprint=fingerprint)
    parts, state = found.parts, found.state
    dataset = parts.dataset
    train = dataset.manifest.iloc[dataset.rows("train")]
    targets = parts.targets or targets_for(config, dataset)
    record = ModelRecord(
        network=config.model.name,
        drop_rate=config.model.drop_rate,
        network_params=model_params(config),
        channels=dataset.channels,
        image_hw=dataset.image_hw,
        tasks=tuple(map(_task, task_losses(config, dataset, targets, plan=found.plan))),
        reconstruction=reconstruction_weight(config),
        preparation=dict(dataset.about["settings"]["image"]),
        precision=config.train.precision,
        seed=seed,
        seen=seen_in(train),
        origin={
            "study": config.study,
            "run": directory.name,
            "best_epoch": state.best_epoch,
            "images": len(train),
            "patients": int(train["patient_id"].nunique()),
            "dataset": dataset.fingerprint,
            "study_version": version("study"),
            "torch_version": torch.__version__,
        },
    )
    return PortableModel(record, state.model, device=device)


def _task(each: TaskLoss) -> TaskRecord:
    return TaskRecord(
        name=each.task,
        classes=each.classes,
        loss=each.loss,
        params=dict(each.params),
        class_counts=tuple(map(float, each.class_counts)),
        raw_class_counts=tuple(map(float, each.raw_class_counts)),
        weight=each.weight,
    )


def background_of(config: StudyConfig, metrics: Mapping[str, float]) -> Background:
    """What an exported folder tells of the training: all settings but places, and the metrics of the run."""
    sections = ("data", "model", "loss", "tasks", "sampler", "augment", "optim", "train", "evaluate")
    return Background(training=_without_places(config.model_dump(mode="json", include=set(sections))), metrics=metrics)


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_places(inner) for key, inner in value.items() if key not in PLACES}
    return [_without_places(inner) for inner in value] if isinstance(value, list) else value
