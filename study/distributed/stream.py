"""A rank's training batches, in the exact order of the index plan, made by Ray Data.

Each worker executes the dataset of its own rank: one execution over all epochs, blocks of rows that do not depend on
the batch size, order preserved. What a batch holds depends on (plan, seed, step, position) alone, so a run can start at
any step.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from study.data.augment import Augment, make_augment, tune_malloc
from study.data.files import shown
from study.data.sampling import Plan
from study.data.shards import PreparedDataset, open_dataset
from study.data.targets import Targets
from study.distributed.cluster import stop_prefetchers
from study.errors import InputError, StudyError
from study.models.inputs import to_tensor
from study.training import Batch

BLOCK_BYTES: Final = 16 * 2**20  # pixels of one block: large enough that Ray's cost per block does not show
BLOCK_ROWS: Final = 1024
FIRST_BLOCK_ROWS: Final = 64  # the first blocks are small and double, so that the first batch comes soon
AHEAD_BLOCKS: Final = 4  # finished blocks that may wait for the consumer; bounds memory and wasted work of pruned runs


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Where the pixels lie and what happens to them.

    ``fingerprint`` is the dataset's: a task that has an older one open under the same root opens it anew.
    ``task_cpus`` is what Ray reserves for one loading task.
    """

    root: str
    fingerprint: str
    policy: str
    seed: int
    mode: str = "fast"
    task_cpus: float = 1.0


def batch_stream(
    plan: Plan,
    settings: StreamSettings,
    *,
    rank: int,
    world_size: int,
    start_step: int = 0,
    targets: Targets | None = None,
) -> Iterator[Batch]:
    """Batches of one rank from ``start_step`` to the end of the plan; closing the iterator ends the execution.

    Row numbers travel with the pictures; labels and weights are looked up by them in ``targets``, which stay with the
    caller. Without targets a batch has the labels of the deciding task, without weights.

    Raises:
        InputError: a shard is missing or damaged; the message names it.
    """
    dataset = open_dataset(settings.root)
    indices_sb = plan.for_rank(rank, world_size, start_step)
    steps, local = indices_sb.shape
    if steps == 0:
        return
    first_draw = start_step * local * world_size
    draws_sb = first_draw + np.arange(steps)[:, None] * local * world_size + rank * local + np.arange(local)
    rows = dataset.rows("train")[indices_sb.ravel()]
    tables = _tables(rows, draws_sb.ravel(), block_rows=_block_rows(dataset))
    known = threading.enumerate()
    batches = iter(
        _dataset(tables, settings, dataset).iter_batches(batch_size=local, batch_format="numpy", prefetch_batches=2)
    )
    try:
        for batch in batches:
            images_nchw, rows_n = _checked(batch, expected=local)
            found = _labelled(images_nchw, rows_n, dataset=dataset, targets=targets)
            yield replace(found, ids_n=np.array(batch["id"], np.uint64))
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
        stop_prefetchers(known)


def _block_rows(dataset: PreparedDataset) -> int:
    return int(np.clip(BLOCK_BYTES // dataset.image_bytes, 1, BLOCK_ROWS))


def _tables(rows: npt.NDArray[np.int64], draws: npt.NDArray[np.int64], *, block_rows: int) -> list[pa.Table]:
    """The plan cut into blocks: small ones first, then ``block_rows`` each."""
    tables, start, size = [], 0, min(FIRST_BLOCK_ROWS, block_rows)
    while start < len(rows):
        stop = min(start + size, len(rows))
        tables.append(pa.table({"row": rows[start:stop], "draw": draws[start:stop]}))
        start, size = stop, min(2 * size, block_rows)
    return tables


def _dataset(tables: list[pa.Table], settings: StreamSettings, dataset: PreparedDataset) -> Any:
    from ray.data import DataContext, ExecutionResources
    from ray.data.read_api import from_blocks

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    ahead = AHEAD_BLOCKS * _block_rows(dataset) * dataset.image_bytes
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=max(ahead, 2**26))
    # from_blocks keeps the blocks as they are; from_arrow starts a task of a whole CPU for each of them.
    return from_blocks(tables).map_batches(
        _load_rows,
        fn_kwargs={"settings": settings, "blank": dataset.pixels(np.empty(0, dtype=np.int64))},
        batch_size=None,
        batch_format="numpy",
        num_cpus=settings.task_cpus,
    )


def _load_rows(
    block: dict[str, npt.NDArray[np.int64]], settings: StreamSettings, blank: npt.NDArray[Any]
) -> dict[str, npt.NDArray[Any]]:
    """Read and augment the rows of one block, in a Ray Data task.

    A fault travels as data, beside pictures of the type and shape of ``blank`` [0, ...], for Ray Data wraps exceptions
    until neither type nor text is left.
    """
    rows = block["row"]
    try:
        images_nhw, ids_n = _augmented(rows, block["draw"], settings)
        fault = ""
    except StudyError as error:
        images_nhw, fault = np.zeros((len(rows), *blank.shape[1:]), blank.dtype), str(error)
        ids_n = np.zeros(len(rows), np.uint64)
    return {"image": images_nhw, "row": rows, "id": ids_n, "fault": np.full(len(rows), fault)}


def _augmented(
    rows: npt.NDArray[np.int64], draws: npt.NDArray[np.int64], settings: StreamSettings
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]:
    dataset, augment = _loaded(settings)
    pixels_nhw = dataset.pixels(rows)
    return augment.block(pixels_nhw, seed=settings.seed, draws_n=draws), dataset.id_hashes_n[rows]


@lru_cache(maxsize=4)
def _loaded(settings: StreamSettings) -> tuple[PreparedDataset, Augment]:
    """The dataset and the policy, kept open in the task's process."""
    tune_malloc()
    dataset = open_dataset(settings.root)
    if dataset.fingerprint != settings.fingerprint:
        raise InputError(
            f"{shown(settings.root)} was prepared again while it was in use", "resume the study with its own data"
        )
    return dataset, make_augment(
        settings.policy,
        image_hw=dataset.image_hw,
        channels=dataset.channels,
        bits=dataset.bits,
        mode=settings.mode,
    )


def _checked(batch: dict[str, npt.NDArray[Any]], *, expected: int) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Pictures [B, C, H, W] and row numbers [B] of one batch, or the fault that a loading task met."""
    fault = next((str(text) for text in batch["fault"] if text), "")
    if fault:
        raise InputError(*fault.split("\n  fix: ", 1))
    images_nhw = np.ascontiguousarray(batch["image"])
    if len(images_nhw) != expected:
        raise StudyError(
            f"Ray Data gave a batch of {len(images_nhw)} rows; {expected} were planned", "resume the study"
        )
    if not images_nhw.flags.writeable:
        images_nhw = images_nhw.copy()
    return to_tensor(images_nhw), np.asarray(batch["row"], dtype=np.int64)


def _labelled(
    images_nchw: Tensor, rows_n: npt.NDArray[np.int64], *, dataset: PreparedDataset, targets: Targets | None
) -> Batch:
    if targets is None:
        return Batch(images_nchw=images_nchw, labels_n=torch.from_numpy(dataset.labels_n[rows_n]))
    labels, weights = targets.of(rows_n)
    return Batch(images_nchw=images_nchw, labels_n=torch.from_numpy(labels), weights_n=torch.from_numpy(weights))
