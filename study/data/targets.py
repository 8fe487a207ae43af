"""What training aims at: of every image and task the class, and how much the label counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.data.shards import PreparedDataset
from study.data.uncertainty import uncertainty_of
from study.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRules:
    """What decides how much a label counts, beside its origin.

    Attributes:
        uncertainty: doubt u from 0 to 1 by origin of the label, as in ``study.data.uncertainty``; a flipped label that
            has no entry keeps the doubt that it had when the data was prepared, a teacher's label always has its own.
        factors: by task: a factor >= 0, and the classes, of this task or else of another one, whose images count that
            many times in it (paper multitask, section 3.3.5: 20 for ACR 4 and 5).
    """

    uncertainty: Mapping[str, float] = field(default_factory=dict)
    factors: Mapping[str, tuple[float, tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Class and weight of every image of a dataset, for some of its tasks, the deciding one first.

    Attributes:
        tasks: T names.
        labels_nt: class index, int64 [N, T], -1 where there is none.
        weights_nt: w = 1 - u times the factor of the class, 0 without a label (paper multitask, equation 2), float32
            [N, T].
    """

    tasks: tuple[str, ...]
    labels_nt: NDArray[np.int64]
    weights_nt: NDArray[np.float32]

    def of(self, rows_b: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Labels and weights of some rows: [B, T] each, or [B] where there is one task."""
        labels, weights = self.labels_nt[rows_b], self.weights_nt[rows_b]
        return (labels[:, 0], weights[:, 0]) if len(self.tasks) == 1 else (labels, weights)


def make_targets(dataset: PreparedDataset, tasks: Sequence[str], rules: TargetRules | None = None) -> Targets:
    """Classes and weights of all images of a dataset.

    Args:
        dataset: prepared with all of the tasks.
        tasks: names out of ``dataset.tasks``, the deciding one first.
        rules: how much labels count; by default as they were prepared, and all classes alike.

    Raises:
        InputError: the dataset lacks a task, an uncertainty lies outside 0 to 1, or no task has one of the classes.
    """
    rules = rules or TargetRules()
    labels = [dataset.labels_n, *(dataset.task_labels(task) for task in tasks[1:])]
    weights = [
        np.where(labels_n >= 0, _weights(dataset, task, rules), 0.0)
        for task, labels_n in zip(tasks, labels, strict=True)
    ]
    return Targets(
        tasks=tuple(tasks),
        labels_nt=np.stack(labels, axis=1),
        weights_nt=np.stack(weights, axis=1).astype(np.float32),
    )


def _weights(dataset: PreparedDataset, task: str, rules: TargetRules) -> NDArray[np.float64]:
    """Of every image, what a label of this task would count."""
    weight_n = 1.0 - _uncertainty(dataset, task, rules.uncertainty)
    factor, names = rules.factors.get(task, (1.0, ()))
    for name in names:
        weight_n = np.where(_has_class(dataset, task, name), factor, 1.0) * weight_n
    return weight_n


def _uncertainty(dataset: PreparedDataset, task: str, given: Mapping[str, float]) -> NDArray[np.float64]:
    """Doubt about every label; datasets of old, and those without origins, know of none."""
    prepared = f"{task}_uncertainty"
    if prepared not in dataset.manifest:
        return np.zeros(len(dataset))
    prepared_n = dataset.manifest[prepared].astype("float64")
    if not given:
        return _floats(prepared_n)
    origins = dataset.manifest[f"{task}_origin"].astype("str")
    has_own = origins.isin(("flipped", "pseudo"))
    by_origin_n = uncertainty_of(origins.mask(has_own, "reader"), given)
    flipped_n = pd.Series(given.get("flipped", np.nan), index=origins.index).fillna(prepared_n)
    return _floats(by_origin_n.mask(has_own, prepared_n).mask(origins == "flipped", flipped_n))


def _floats(column: pd.Series) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = column.to_numpy(dtype=np.float64)
    return numbers


def _has_class(dataset: PreparedDataset, task: str, name: str) -> NDArray[np.bool_]:
    """Which images are of a class of this task, or else of the first other task that has a class of this name."""
    for other in (task, *dataset.tasks):
        if name in dataset.tasks.get(other, ()):
            is_class: NDArray[np.bool_] = dataset.task_labels(other) == dataset.tasks[other].index(name)
            return is_class
    known = [f"{other}: {', '.join(classes)}" for other, classes in dataset.tasks.items()]
    raise InputError(
        f"tasks.{task}.factor_classes names {name!r}; expected a class of {'; '.join(known)}", "correct the name"
    )
