"""What a run is trained for: its tasks, their criteria, and the labels and weights of all images."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from study.config import LOSS_RECORDS, StudyConfig, chosen_tasks
from study.data.sampling import Plan
from study.data.shards import PreparedDataset
from study.data.targets import TargetRules, Targets, make_targets
from study.losses import make_criterion
from study.losses.base import Criterion
from study.losses.multitask import MultiTask

logger = logging.getLogger(__name__)

HOURGLASS: Final = "hourglass"
UNLABELLED: Final = "unlabelled"


def tasks_of(config: StudyConfig) -> tuple[str, ...]:
    """Tasks of the network, the deciding one first: those of ``model.tasks`` with a weight above 0."""
    labels = config.data.labels
    others = chosen_tasks(config.model.tasks, labels.auxiliary)
    return (labels.task, *(task for task in others if config.tasks.of(task).weight > 0))


def reconstruction_weight(config: StudyConfig) -> float:
    """Factor of the reconstruction's squared error; 0 for a network that reconstructs nothing."""
    reconstructs = config.model.name == HOURGLASS and config.model.reconstruct is not False
    return config.tasks.reconstruction.weight if reconstructs else 0.0


def model_params(config: StudyConfig) -> dict[str, bool]:
    """The parameters that the network has beside those of every network."""
    if config.model.name != HOURGLASS:
        return {}
    return {"fusion": config.model.fusion is not False, "reconstruct": reconstruction_weight(config) > 0}


def targets_for(config: StudyConfig, dataset: PreparedDataset) -> Targets:
    """Labels and weights of all images, by the file's uncertainties and factors.

    Raises:
        InputError: the dataset was prepared without a task.
    """
    labels, tasks = config.data.labels, tasks_of(config)
    given = {origin: doubt for origin, doubt in labels.uncertainty.model_dump().items() if doubt is not None}
    settings = {task: config.tasks.of(task) for task in tasks}
    factors = {task: (float(own.factor), own.factor_classes) for task, own in settings.items() if own.factor_classes}
    targets = make_targets(dataset, tasks, TargetRules(uncertainty=given, factors=factors))
    in_training = targets.labels_nt[dataset.rows("train")]
    for task, count in zip(tasks, (in_training >= 0).sum(axis=0).tolist(), strict=True):
        logger.info("task %s: %d of %d training images have a label", task, count, len(in_training))
    return targets


def labels_to_draw(
    config: StudyConfig, dataset: PreparedDataset, targets: Targets | None = None
) -> npt.NDArray[np.int64]:
    """What a sampler balances of the training images: their class by the deciding task.

    Images without this label are one class more, when the run can learn from them by another task or by
    reconstruction; otherwise they are -1, which no sampler draws.
    """
    rows_n = dataset.rows("train")
    labels_n = dataset.labels_n[rows_n]
    if (labels_n >= 0).all():
        return labels_n
    targets = targets or targets_for(config, dataset)
    teaches_n = (targets.weights_nt[rows_n] > 0).any(axis=1) | bool(reconstruction_weight(config))
    return np.where(labels_n >= 0, labels_n, np.where(teaches_n, len(dataset.classes), -1))


def classes_to_draw(dataset: PreparedDataset) -> tuple[str, ...]:
    """Names of the classes of ``labels_to_draw``."""
    lacks_n = dataset.labels_n[dataset.rows("train")] < 0
    return (*dataset.classes, UNLABELLED) if lacks_n.any() else dataset.classes


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLoss:
    """One task's loss: its name and parameters, the images per class that it is made with, and its factor."""

    task: str
    classes: tuple[str, ...]
    loss: str
    params: Mapping[str, Any]
    class_counts: Sequence[float]
    raw_class_counts: Sequence[float]
    weight: float

    def criterion(self) -> Criterion:
        """The loss itself."""
        return make_criterion(
            self.loss,
            num_classes=len(self.classes),
            class_counts=self.class_counts,
            raw_class_counts=self.raw_class_counts,
            **self.params,
        )


def criterion_for(
    config: StudyConfig, dataset: PreparedDataset, targets: Targets, *, plan: Plan
) -> Criterion | MultiTask:
    """The loss: one criterion, or one for each task and the reconstruction."""
    losses, reconstruction = task_losses(config, dataset, targets, plan=plan), reconstruction_weight(config)
    if len(losses) == 1 and not reconstruction:
        return losses[0].criterion()
    return MultiTask([(each.task, each.criterion(), each.weight) for each in losses], reconstruction=reconstruction)


def task_losses(config: StudyConfig, dataset: PreparedDataset, targets: Targets, *, plan: Plan) -> list[TaskLoss]:
    """The losses of all tasks, that of the deciding one first."""
    rows_n, repeats_n = dataset.rows("train"), plan.repeats()
    losses = []
    for task, labels_n in zip(targets.tasks, targets.labels_nt[rows_n].T, strict=True):
        classes = dataset.classes if task == targets.tasks[0] else dataset.tasks[task]
        params = config.loss.model_dump(mode="json") if task == targets.tasks[0] else _auxiliary_loss(config, task)
        drawn_k, raw_k = _class_counts(labels_n, repeats_n, num_classes=len(classes))
        losses.append(
            TaskLoss(
                task=task,
                classes=tuple(classes),
                loss=params.pop("name"),
                params=params,
                class_counts=drawn_k,
                raw_class_counts=raw_k,
                weight=float(config.tasks.of(task).weight),
            )
        )
    return losses


def _auxiliary_loss(config: StudyConfig, task: str) -> dict[str, Any]:
    own = config.tasks.of(task)
    name = own.loss or "cross_entropy"
    given = {"normaliser": own.normaliser, "class_weights": own.class_weights}
    known = LOSS_RECORDS[name].model_fields
    given = {key: value for key, value in given.items() if value is not None and key in known}
    return LOSS_RECORDS[name].model_validate({"name": name, **given}).model_dump(mode="json")


def _class_counts(
    labels_n: npt.NDArray[np.int64], repeats_n: npt.NDArray[np.int64], *, num_classes: int
) -> tuple[Sequence[float], Sequence[float]]:
    """Images per class as the plan draws them, and as they are.

    The former are scaled to the size of the split, because some formulas depend on how many images there are.
    """
    known = labels_n >= 0
    raw_k = np.bincount(labels_n[known], minlength=num_classes)
    drawn_k = np.rint(np.bincount(labels_n[known], weights=repeats_n[known], minlength=num_classes))
    scale = raw_k.sum() / max(1, drawn_k.sum())
    return (scale * drawn_k).tolist(), raw_k.tolist()
