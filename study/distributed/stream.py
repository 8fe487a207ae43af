"""A rank's training batches, in the exact order of the index plan, made by Ray Data.

Each worker executes the dataset of its own rank, order preserved. Blocks do not depend on the batch size, nor an
execution on epochs: it covers up to ``MOST_BLOCKS`` blocks, and the next one begins before it ends. So the plan is
never held as a whole, and no epoch begins with an empty stream. What a batch holds depends on (plan, seed, step,
position) alone, so a run can start at any step.
"""

import math
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from study.data.sampling import Plan
from study.data.shards import PreparedDataset, open_dataset
from study.data.targets import Targets
from study.distributed.cluster import stop_prefetchers
from study.distributed.loading import UNSEEN, Columns, DatasetUnseen, StreamSettings, load_rows
from study.errors import InputError, StudyError
from study.models.inputs import to_tensor
from study.training import Batch

__all__ = ["StreamSettings", "batch_stream"]

BLOCK_BYTES: Final = 64 * 2**20  # pixels of one block: large enough that Ray's cost per block does not show
BLOCK_ROWS: Final = 1024
FIRST_BLOCK_ROWS: Final = 16  # the first blocks are small and double, so that the first batch comes soon
FEWEST_BLOCKS: Final = 64  # of the first execution; Ray takes about a millisecond for each before anything is loaded
MOST_BLOCKS: Final = 1024
LEAD_BLOCKS: Final = 8  # how many blocks before the end of an execution the next one begins
AHEAD_BLOCKS: Final = 2  # blocks that may lie ready or be in the making, beside one for each task that may run
MOST_AHEAD: Final = 32
FEWEST_AHEAD_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """Which part of the plan is loaded, and how."""

    plan: Plan
    settings: StreamSettings
    dataset: PreparedDataset
    rows_n: npt.NDArray[np.int64]
    rank: int
    world_size: int

    @property
    def local(self) -> int:
        """Images of a rank's batch."""
        return self.plan.batch_size // self.world_size

    @property
    def block_rows(self) -> int:
        """Rows of a full block: whole batches where one fits, so that a batch lies in one block."""
        rows = int(np.clip(BLOCK_BYTES // self.dataset.image_bytes, 1, BLOCK_ROWS))
        return max(rows // self.local * self.local, min(rows, self.local))


def batch_stream(
    plan: Plan,
    settings: StreamSettings,
    *,
    rank: int,
    world_size: int,
    start_step: int = 0,
    targets: Targets | None = None,
    train_rows: npt.NDArray[np.int64] | None = None,
    watch: Callable[[Iterator[Columns]], Iterator[Columns]] | None = None,
) -> Iterator[Batch]:
    """Batches of one rank from ``start_step`` to the end of the plan; closing the iterator ends the execution.

    Row numbers travel with the pictures; labels and weights are looked up by them in ``targets``, which stay with the
    caller. Without targets a batch has the labels of the deciding task, without weights. The pictures of a batch may
    lie in memory that other processes read: they are not to be written to.
    ``train_rows`` are the rows that the plan counts in, by default those of the training split. ``watch`` sees the
    blocks as they come, and hands them on.

    Raises:
        InputError: a shard is missing or damaged; the message names it.
        DatasetUnseen: a loading task was on a node that does not share the dataset's folder.
    """
    plan.for_rank(rank, world_size, start_step, stop_step=start_step)  # complains of what does not fit
    dataset = open_dataset(settings.root)
    rows_n = dataset.rows("train") if train_rows is None else train_rows
    share = _Share(plan=plan, settings=settings, dataset=dataset, rows_n=rows_n, rank=rank, world_size=world_size)
    known = threading.enumerate()
    blocks = _blocks(share, start_step)
    made = start_step
    try:
        for batch in _batches(blocks if watch is None else watch(blocks), share.local):
            yield _labelled(batch, dataset=dataset, targets=targets)
            made += 1
    finally:
        blocks.close()
        stop_prefetchers(known)
    if made < plan.num_steps:
        lacking = plan.num_steps - made
        raise StudyError(f"Ray Data ended {lacking} steps too early, after step {made}", "resume the study")


def _blocks(share: _Share, start_step: int) -> Generator[Columns]:
    """The blocks of all executions, one after the other; each execution begins while the one before still runs."""
    pieces = _pieces(share, start_step)
    piece = next(pieces, None)
    if piece is None:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="next-execution") as pool:
        current: _Execution | None = _Execution(share, piece)
        upcoming: Future[_Execution] | None = None
        try:
            while current is not None:
                piece = next(pieces, None)
                for left, block in current.blocks():
                    if piece is not None and upcoming is None and left <= LEAD_BLOCKS:
                        upcoming = pool.submit(_Execution, share, piece)
                    yield block
                current = upcoming.result() if upcoming else None
                upcoming = None
        finally:
            if current is not None:
                current.close()
            if upcoming is not None:
                upcoming.result().close()


def _pieces(share: _Share, start_step: int) -> Iterator[tuple[int, int]]:
    """First and last step (exclusive) of each execution: few at first, for Ray prepares all blocks beforehand."""
    start, blocks = start_step, FEWEST_BLOCKS
    while start < share.plan.num_steps:
        stop = min(start + max(1, blocks * share.block_rows // share.local), share.plan.num_steps)
        yield start, stop
        start, blocks = stop, min(4 * blocks, MOST_BLOCKS)


class _Execution:
    """One execution of Ray Data, over the steps of one piece of the plan; its first block is there when it is made."""

    def __init__(self, share: _Share, piece: tuple[int, int]) -> None:
        tables = _tables(share, piece)
        self._count = len(tables)
        dataset = _dataset(tables, share)
        self._blocks = iter(dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1))
        self._first = next(self._blocks, None)

    def blocks(self) -> Iterator[tuple[int, Columns]]:
        """How many blocks are left after each, and the block."""
        left = self._count - 1
        if self._first is not None:
            yield left, self._first
        self._first = None
        for left, block in zip(range(self._count - 2, -1, -1), self._blocks, strict=False):
            yield left, block

    def close(self) -> None:
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()


def _tables(share: _Share, piece: tuple[int, int]) -> list[pa.Table]:
    """A piece of the plan cut into blocks; the very first ones of a stream are small."""
    start, stop = piece
    local, world_size = share.local, share.world_size
    rows = share.rows_n[share.plan.for_rank(share.rank, world_size, start, stop_step=stop).ravel()]
    first_s = np.arange(start, stop, dtype=np.int64) * local * world_size + share.rank * local
    draws = (first_s[:, None] + np.arange(local)).ravel()
    edges = _edges(len(rows), local=local, block_rows=share.block_rows)
    return [pa.table({"row": rows[at:end], "draw": draws[at:end]}) for at, end in pairwise(edges)]


def _edges(rows: int, *, local: int, block_rows: int) -> list[int]:
    """Where blocks begin, and the end: small blocks for the first batch, which then doubles up to ``block_rows``."""
    edges = [*range(0, min(local, rows), min(FIRST_BLOCK_ROWS, block_rows)), min(local, rows)]
    size = min(local, block_rows)
    while edges[-1] < rows:
        edges.append(min(edges[-1] + size, rows))
        size = min(2 * size, block_rows)
    return edges


def _dataset(tables: list[pa.Table], share: _Share) -> Any:
    from ray.data import DataContext, ExecutionResources
    from ray.data.read_api import from_blocks

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=_ahead_bytes(share))
    # from_blocks keeps the blocks as they are; from_arrow starts a task of a whole CPU for each of them.
    return from_blocks(tables).map_batches(
        load_rows,
        fn_kwargs={"settings": share.settings, "blank": share.dataset.pixels(np.empty(0, dtype=np.int64))},
        batch_size=None,
        batch_format="numpy",
        num_cpus=share.settings.task_cpus,
    )


def _ahead_bytes(share: _Share) -> int:
    """Bytes that blocks of one rank may take, ready or in the making: enough for the tasks that may run for it."""
    import ray

    cpus = float(ray.cluster_resources().get("CPU", 1.0))  # type: ignore[no-untyped-call]
    tasks = math.ceil(cpus / max(share.settings.task_cpus, 0.01) / share.world_size)
    blocks = min(AHEAD_BLOCKS + tasks, MOST_AHEAD)
    return max(blocks * share.block_rows * share.dataset.image_bytes, FEWEST_AHEAD_BYTES)


def _batches(blocks: Iterator[Columns], size: int) -> Iterator[Columns]:
    """Blocks of any size as batches of ``size`` rows: views where a batch lies in one block."""
    parts: list[Columns] = []
    lacking = size
    for block in blocks:
        _raise_fault(block)
        rows, at = len(block["row"]), 0
        while rows - at >= lacking:
            parts.append({name: block[name][at : at + lacking] for name in ("image", "row", "id")})
            yield _joined(parts)
            at, parts, lacking = at + lacking, [], size
        if at < rows:
            parts.append({name: block[name][at:] for name in ("image", "row", "id")})
            lacking -= rows - at


def _joined(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _raise_fault(block: Columns) -> None:
    fault = next((str(text) for text in block["fault"] if text), "")
    if fault:
        kind = DatasetUnseen if fault.startswith(UNSEEN) else InputError
        raise kind(*fault.split("\n  fix: ", 1))


def _labelled(batch: Columns, *, dataset: PreparedDataset, targets: Targets | None) -> Batch:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        images_nchw = to_tensor(batch["image"])
    rows_n = np.asarray(batch["row"], dtype=np.int64)
    ids_n = np.array(batch["id"], dtype=np.uint64)
    if targets is None:
        return Batch(images_nchw=images_nchw, labels_n=torch.from_numpy(dataset.labels_n[rows_n]), ids_n=ids_n)
    labels, weights = targets.of(rows_n)
    return Batch(
        images_nchw=images_nchw,
        labels_n=torch.from_numpy(labels),
        weights_n=torch.from_numpy(weights),
        ids_n=ids_n,
    )
