"""Predictions of a network over rows of a prepared dataset, gathered over all ranks, and their metrics."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from study.data.shards import PreparedDataset
from study.losses.base import Criterion
from study.metrics import classification_metrics, segment_metrics
from study.models.inputs import to_input, to_tensor
from study.types import SplitName

IntArray = npt.NDArray[np.int64]


class Autocast(Protocol):
    """Makes the mixed-precision context of one forward pass."""

    def __call__(self) -> Any:
        """A fresh context manager."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Network outputs for every row of a split, in row order.

    ``rows_n`` row numbers, ``labels_n`` class indices, ``logits_no`` outputs of the head,
    ``probs_nk`` class probabilities whose rows sum to 1, ``decoded_n`` the class that the criterion decides for.
    """

    rows_n: IntArray
    labels_n: IntArray
    logits_no: Tensor
    probs_nk: npt.NDArray[np.float64]
    decoded_n: IntArray


def rows_of_rank(rows_n: IntArray, *, rank: int, world_size: int) -> IntArray:
    """The contiguous share of ``rows_n`` that one rank evaluates; the shares are disjoint and complete."""
    return np.array_split(rows_n, world_size)[rank]


def row_batches(dataset: PreparedDataset, rows_n: IntArray, *, batch_size: int) -> Iterator[Tensor]:
    """Images of ``rows_n`` in order, as tensors of their stored type [B, C, H, W]; the last batch may be smaller."""
    for start in range(0, len(rows_n), batch_size):
        yield to_tensor(dataset.pixels(rows_n[start : start + batch_size]))


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
    criterion: Criterion,
    dataset: PreparedDataset,
    *,
    split: SplitName,
    batch_size: int,
    device: torch.device,
    autocast: Autocast,
) -> Predictions:
    """Predict every row of ``split`` exactly once, whatever the number of ranks; every rank returns all predictions."""
    rows_n = dataset.rows(split)
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    share_n = rows_of_rank(rows_n, rank=rank, world_size=world_size)
    local_no = forward_all(
        model, row_batches(dataset, share_n, batch_size=batch_size), device=device, autocast=autocast
    )
    logits_no = _gather(local_no) if world_size > 1 else local_no
    return Predictions(
        rows_n=rows_n,
        labels_n=dataset.labels_n[rows_n],
        logits_no=logits_no,
        probs_nk=criterion.probabilities(logits_no).double().numpy(),
        decoded_n=criterion.decode(logits_no).numpy(),
    )


def _gather(local_no: Tensor) -> Tensor:
    """All ranks' outputs in rank order, which is row order because the shares are contiguous."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, local_no.numpy())
    return torch.from_numpy(np.concatenate([part for part in parts if part.size]))


def prediction_metrics(predictions: Predictions, dataset: PreparedDataset, *, prefix: str) -> dict[str, float]:
    """The metrics of one split, pooled and per segment; ``prefix`` (``val/``, ``test/``) stands before each key."""
    names = list(dataset.classes)
    segments_n = dataset.segments_n[predictions.rows_n]
    shared: dict[str, Any] = {"class_names": names, "predicted_n": predictions.decoded_n}
    table = classification_metrics(predictions.probs_nk, predictions.labels_n, **shared)
    table |= segment_metrics(predictions.probs_nk, predictions.labels_n, segments_n, **shared)
    return {prefix + key: float(value) for key, value in table.items()}


def prediction_table(predictions: Predictions, dataset: PreparedDataset) -> Mapping[str, Sequence[Any]]:
    """Columns of the predictions file: hashed ids, source, segment, label, decoded class, one probability per class."""
    rows = dataset.manifest.iloc[predictions.rows_n]
    columns: dict[str, Sequence[Any]] = {name: rows[name].astype(str).tolist() for name in ("image_id", "patient_id")}
    columns |= {name: rows[name].astype(str).tolist() for name in ("source", "segment")}
    columns["label"] = [dataset.classes[k] for k in predictions.labels_n]
    columns["decoded"] = [dataset.classes[k] for k in predictions.decoded_n]
    for k, name in enumerate(dataset.classes):
        columns[f"probability_{name}"] = predictions.probs_nk[:, k].tolist()
    return columns
