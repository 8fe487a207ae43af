"""Predictions of a network over rows of a prepared dataset, gathered over all ranks, and their metrics."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from study.data.shards import PreparedDataset
from study.errors import InputError
from study.losses.base import Criterion
from study.losses.multitask import MultiTask
from study.metrics import classification_metrics, segment_metrics
from study.models.inputs import to_input, to_tensor
from study.stats import joint_names, pool_probabilities
from study.types import SplitName

IntArray = npt.NDArray[np.int64]

MAX_IMAGES: Final = 64  # of one batch; small enough that ranks get shares of about one size
LOADED_AHEAD: Final = 2  # batches that a thread reads while the network computes


class Autocast(Protocol):
    """Makes the mixed-precision context of one forward pass."""

    def __call__(self) -> Any:
        """A fresh context manager."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """All that a network gave for every row of a split: row numbers [N], outputs of all heads [N, O]."""

    rows_n: IntArray
    outputs_no: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a network says of one task about every row of a split that has a label of it, in row order.

    ``rows_n`` row numbers, ``labels_n`` class indices, ``logits_no`` outputs of the task's head,
    ``probs_nk`` class probabilities whose rows sum to 1, ``decoded_n`` the class that the criterion decides for.
    Those of the task that decides know the ``others``, by name, the mean squared error of the ``reconstruction`` where
    there is one, and the ``outputs`` for all rows.
    """

    rows_n: IntArray
    labels_n: IntArray
    logits_no: Tensor
    probs_nk: npt.NDArray[np.float64]
    decoded_n: IntArray
    others: Mapping[str, "Predictions"] = field(default_factory=dict)
    reconstruction: float | None = None
    outputs: Outputs | None = None


def rows_of_rank(rows_n: IntArray, *, rank: int, world_size: int, batch_size: int = 1) -> IntArray:
    """The contiguous share of ``rows_n`` that one rank evaluates; the shares are disjoint and complete.

    Ranks share whole batches, so that the batches are the same for any number of ranks, and with them every bit of
    the outputs. With fewer batches than ranks some shares are empty.
    """
    starts = np.arange(0, len(rows_n), batch_size)
    mine = np.array_split(starts, world_size)[rank]
    return rows_n[mine[0] : mine[-1] + batch_size] if len(mine) else rows_n[:0]


def row_batches(dataset: PreparedDataset, rows_n: IntArray, *, batch_size: int) -> Iterator[Tensor]:
    """Images of ``rows_n`` in order, as tensors of their stored type [B, C, H, W]; the last batch may be smaller.

    A thread reads ``LOADED_AHEAD`` batches ahead. Closing the iterator waits for the one that it is reading.
    """
    pending: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="row-batches") as pool:
        try:
            for start in range(0, len(rows_n), batch_size):
                pending.append(pool.submit(_load, dataset, rows_n[start : start + batch_size]))
                if len(pending) > LOADED_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _load(dataset: PreparedDataset, rows_n: IntArray) -> Tensor:
    return to_tensor(dataset.pixels(rows_n))


@torch.no_grad()
def forward_all(model: nn.Module, batches: Iterable[Tensor], *, device: torch.device, autocast: Autocast) -> Tensor:
    """Raw outputs [N, O] in float32 on the CPU, in evaluation mode; the model's mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        outputs = []
        for images_nchw in batches:
            with autocast():
                logits_no = model(to_input(images_nchw.to(device, non_blocking=True)))
            outputs.append(logits_no.float().cpu())
    finally:
        model.train(was_training)
    return torch.cat(outputs) if outputs else torch.empty(0, 0)


def predict_split(
    model: nn.Module,
    criterion: Criterion | MultiTask,
    dataset: PreparedDataset,
    *,
    split: SplitName,
    batch_size: int,
    device: torch.device,
    autocast: Autocast,
) -> Predictions:
    """Predict every row of ``split`` exactly once; every rank returns all predictions.

    Batches have at most ``MAX_IMAGES`` and are the same for any number of ranks, and so is every bit of the result.
    """
    rows_n = dataset.rows(split)
    size = min(batch_size, MAX_IMAGES)
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    share_n = rows_of_rank(rows_n, rank=rank, world_size=world_size, batch_size=size)
    local_no = forward_all(model, row_batches(dataset, share_n, batch_size=size), device=device, autocast=autocast)
    outputs_no = gather(local_no) if world_size > 1 else local_no
    return predictions_of(Outputs(rows_n=rows_n, outputs_no=outputs_no), criterion, dataset)


def predictions_of(outputs: Outputs, criterion: Criterion | MultiTask, dataset: PreparedDataset) -> Predictions:
    """What the outputs say of the task that decides, and of the others."""
    if not isinstance(criterion, MultiTask):
        return _of_task(outputs, criterion, dataset.labels_n, outputs=outputs)
    found = {}
    for name, task in criterion.tasks.items():
        own = Outputs(rows_n=outputs.rows_n, outputs_no=outputs.outputs_no[:, task.columns])
        found[name] = (own, task.criterion, dataset.task_labels(name))
    (first, *names) = found
    others = {name: _of_task(*found[name]) for name in names}
    error = float(outputs.outputs_no[:, -1].double().mean()) if criterion.reconstruction else None
    return _of_task(*found[first], outputs=outputs, others=others, reconstruction=error)


def _of_task(head: Outputs, criterion: Criterion, labels_n: IntArray, **more: Any) -> Predictions:
    is_known_n = labels_n[head.rows_n] >= 0
    logits_no = head.outputs_no[torch.from_numpy(is_known_n)]
    return Predictions(
        rows_n=head.rows_n[is_known_n],
        labels_n=labels_n[head.rows_n[is_known_n]],
        logits_no=logits_no,
        probs_nk=criterion.probabilities(logits_no).double().numpy(),
        decoded_n=criterion.decode(logits_no).numpy(),
        **more,
    )


def gather(local_no: Tensor) -> Tensor:
    """All ranks' outputs in rank order, which is row order because the shares are contiguous."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, local_no.numpy())
    filled = [part for part in parts if part.size]
    return torch.from_numpy(np.concatenate(filled)) if filled else local_no


def prediction_metrics(
    predictions: Predictions,
    dataset: PreparedDataset,
    *,
    prefix: str,
    pool: Sequence[str] = (),
    pooling: Literal["mean", "max"] = "mean",
) -> dict[str, float]:
    """The metrics of one split; ``prefix`` (``val/``, ``test/``) stands before each key.

    Those of the task that decides are of all images and per segment, and, for each of ``pool``, of breasts or exams
    under ``breast/`` or ``exam/``; those of another task are of all images, under ``task/<name>/``.
    """
    segments_n = dataset.segments_n[predictions.rows_n]
    shared: dict[str, Any] = {"class_names": list(dataset.classes), "predicted_n": predictions.decoded_n}
    table = classification_metrics(predictions.probs_nk, predictions.labels_n, **shared)
    table |= segment_metrics(predictions.probs_nk, predictions.labels_n, segments_n, **shared)
    for level in pool:
        found = _of_groups(
            predictions, dataset, group_names(dataset.manifest.iloc[predictions.rows_n], level), pooling=pooling
        )
        table |= {f"{level}/{key}": value for key, value in found.items()}
    for task, other in predictions.others.items():
        found = classification_metrics(
            other.probs_nk, other.labels_n, class_names=list(dataset.tasks[task]), predicted_n=other.decoded_n
        )
        table |= {f"task/{task}/{key}": value for key, value in found.items()}
    if predictions.reconstruction is not None:
        table["task/reconstruction/mse"] = predictions.reconstruction
    return {prefix + key: float(value) for key, value in table.items()}


def group_names(rows: pd.DataFrame, level: str) -> NDArray[np.str_]:
    """The breast or the exam of each image of a manifest.

    Images of a patient without an exam's id belong to one exam. A breast is that of one exam; an image whose side is
    unknown is a breast of its own.

    Raises:
        InputError: another level than ``breast`` or ``exam``.
    """
    if level not in ("breast", "exam"):
        raise InputError(f"views are pooled by {level!r}; expected 'breast' or 'exam'", "choose one of them")
    exams_n = _ids_or(rows, "study_id", other="patient_id")
    return exams_n if level == "exam" else joint_names(exams_n, _ids_or(rows, "breast_id", other="image_id"))


def _ids_or(rows: pd.DataFrame, column: str, *, other: str) -> NDArray[np.str_]:
    """Ids of a column; where there is none that of another column, marked, so that the two cannot meet."""
    known = rows[column] if column in rows else pd.Series(pd.NA, index=rows.index)
    marked = other.removesuffix("_id") + " " + rows[other].astype("str")
    filled: NDArray[np.str_] = known.astype("str").where(known.notna(), marked).to_numpy(dtype=str)
    return filled


def _of_groups(
    predictions: Predictions, dataset: PreparedDataset, groups_n: NDArray[np.str_], *, pooling: Literal["mean", "max"]
) -> dict[str, float]:
    pooled = pool_probabilities(predictions.probs_nk, predictions.labels_n, groups_n, pooling=pooling)
    return classification_metrics(
        pooled.probs_gk, pooled.labels_g, class_names=list(dataset.classes), predicted_n=pooled.predicted_g
    )


def prediction_table(
    predictions: Predictions, dataset: PreparedDataset, *, classes: Sequence[str] | None = None
) -> Mapping[str, Sequence[Any]]:
    """Columns of a predictions file: hashed ids, source, segment, label, decoded class, one probability per class.

    ``breast`` and ``exam`` name the groups of views, by hashed ids. ``classes`` are those of the predicted task; by
    default those of the task that decides.
    """
    classes = dataset.classes if classes is None else classes
    rows = dataset.manifest.iloc[predictions.rows_n]
    columns: dict[str, Sequence[Any]] = {name: rows[name].astype(str).tolist() for name in ("image_id", "patient_id")}
    columns |= {name: rows[name].astype(str).tolist() for name in ("source", "segment")}
    columns |= {level: [name.replace("\x1f", "/") for name in group_names(rows, level)] for level in ("breast", "exam")}
    columns["label"] = [classes[k] for k in predictions.labels_n]
    columns["decoded"] = [classes[k] for k in predictions.decoded_n]
    for k, name in enumerate(classes):
        columns[f"probability_{name}"] = predictions.probs_nk[:, k].tolist()
    return columns
