"""The loop of one run: any iterable of batches in, epoch results and checkpoints out.

The chain from outside to inside: ``train_run`` > ``_run_epochs`` > ``_train_epoch`` > ``study.training.step``.
"""

import math
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from study import checkpoint
from study.errors import TrainingFault
from study.inference import Predictions, predict_split, prediction_metrics, rows_of_rank
from study.losses.base import Criterion
from study.losses.multitask import MultiTask
from study.optimisation import autocast_for, is_better, is_exhausted, learning_rate, resolve_precision
from study.training.clock import system_numbers
from study.training.compiling import compiler_faults
from study.training.parts import Batch, BatchStream, Hooks, RunParts
from study.training.state import Run, loss_name, prepare_run, rank, save_run, set_mode, world_size
from study.training.step import train_step
from study.types import EpochResult, RunOutcome, SplitName

# What a criterion counts while it trains and while its outputs become probabilities, and the metrics that tell of it.
TRAINED: Final = {"num_empty": "train/empty_batches", "num_degenerate": "train/degenerate_batches"}
VALIDATED: Final = {"num_violations": "val/rank_violations"}
AGREE_EVERY: Final = 8  # steps between two questions of several ranks whether a checkpoint is due


def train_run(
    parts: RunParts,
    *,
    stream: BatchStream,
    directory: Path,
    attempt: int,
    reported_epoch: int = 0,
    hooks: Hooks | None = None,
    device: torch.device | None = None,
) -> RunOutcome:
    """Train one configuration with one seed, from its last checkpoint in ``directory`` when there is one.

    Epochs after ``reported_epoch`` that an earlier attempt finished are reported again before training goes on.

    Returns:
        ``complete``; ``pruned`` when ``on_epoch`` said stop; ``waiting`` when ``should_stop`` did.

    Raises:
        TrainingFault: the loss is not finite (the message names step and loss), or the network cannot be compiled.
    """
    hooks = hooks or Hooks()
    run = prepare_run(parts, directory=directory, attempt=attempt, device=device or torch.device("cpu"))
    run.clock = hooks.clock
    for result in run.history[reported_epoch:]:
        if not hooks.on_epoch(result):
            return _outcome(run, "pruned")
    with _quick_convolutions(run.device), compiler_faults() if run.is_compiled else nullcontext():
        state = _run_epochs(run, stream=stream, hooks=hooks)
    return _outcome(run, state)


@contextmanager
def _quick_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN try its algorithms once for each size of convolution; its setting is put back afterwards."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _run_epochs(run: Run, *, stream: BatchStream, hooks: Hooks) -> str:
    if _is_over(run):
        return "complete"
    batches = stream(run.step)
    try:
        while not _is_over(run):
            started = time.monotonic()
            run.clock.restart()
            run.usage.restart()
            if not _train_epoch(run, batches, hooks=hooks):
                return "waiting"
            result = _finish_epoch(run, started=started)
            if not hooks.on_epoch(result):
                return "pruned"
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
    return "complete"


def _is_over(run: Run) -> bool:
    return run.epoch >= run.settings.epochs or is_exhausted(run.values, run.settings)


def _train_epoch(run: Run, batches: Iterator[Batch], *, hooks: Hooks) -> bool:
    """Run the steps that the current epoch still lacks; false when asked to stop, after saving."""
    set_mode(run)
    run.parts.criterion.start_epoch(run.epoch, run.settings.epochs)
    end = (run.epoch + 1) * run.settings.steps_per_epoch
    while run.step < end:
        run.clock.mark("rest")
        batch = next(batches, None)
        run.clock.mark("wait")
        if batch is None:
            planned = run.settings.epochs * run.settings.steps_per_epoch
            raise TrainingFault(
                f"the batch stream ended at step {run.step}; {planned} steps were planned",
                "prepare the data again with `study prepare`, then resume",
            )
        run.batches.add(batch, first_draw=run.step * run.settings.batch_size + rank() * len(batch.labels_n))
        train_step(run, batch)
        run.step += 1
        run.usage.look()
        run.clock.count_step()
        if hooks.should_stop():
            save_run(run, is_best=False)
            return False
        if run.step < end and _is_save_due(run):
            save_run(run, is_best=False)
            run.clock.mark("checkpoint")
    run.losses.settle()
    run.clock.mark("rest")
    return True


def _is_save_due(run: Run) -> bool:
    """Whether a checkpoint inside the epoch is due; ranks have to agree, and rank 0's clock counts."""
    settings = run.settings
    if settings.checkpoint_steps:
        return run.step % settings.checkpoint_steps == 0
    if not settings.checkpoint_seconds or (world_size() > 1 and run.step % AGREE_EVERY):
        return False
    is_due = time.monotonic() - run.saved_at > settings.checkpoint_seconds
    if world_size() == 1:
        return is_due
    word = torch.tensor([float(is_due)], device=run.device)
    dist.broadcast(word, src=0)
    return bool(word.item())


def _finish_epoch(run: Run, *, started: float) -> EpochResult:
    """Validate, keep the best, and save before anybody hears of the epoch."""
    settings = run.settings
    counts = _taken_counts(run.parts.criterion, TRAINED)
    _share_buffers(run.network)
    with run.average.applied() if run.average else nullcontext():
        predictions = predict(run.parts, split="val", device=run.device)
    _check_outputs(run, predictions)
    run.batches.flush()
    rate = learning_rate(run.step - 1, settings, run.values)
    metrics = {"train/loss": run.losses.total / settings.steps_per_epoch, "train/lr": rate}
    metrics |= counts | _taken_counts(run.parts.criterion, VALIDATED)
    metrics |= _losses_of(run.parts, predictions)
    run.parts.criterion.set_counts({})
    metrics |= prediction_metrics(
        predictions, run.parts.dataset, prefix="val/", pool=settings.pool, pooling=settings.pooling
    )
    run.clock.mark("validation")
    result = EpochResult(
        epoch=run.epoch + 1,
        metrics=metrics,
        system=system_numbers(run.clock, run.usage, images=settings.batch_size),
        step=run.step,
        node=platform.node(),
        images=settings.steps_per_epoch * settings.batch_size,
        seconds=time.monotonic() - started,
        batches=run.batches.end_epoch(),
        workers=world_size(),
    )
    run.history.append(result)
    run.losses.restart()
    value = metrics.get(settings.metric, math.nan)
    is_best = is_better(value, run.best_value, settings.mode)
    if is_best:
        run.best_epoch, run.best_value = result.epoch, value
    save_run(run, is_best=is_best)
    run.clock.mark("checkpoint")
    return result


def _taken_counts(criterion: Criterion | MultiTask, names: Mapping[str, str]) -> dict[str, float]:
    """What the criterion counted, by the names of metrics; it counts from 0 again."""
    found = criterion.counts()
    criterion.set_counts({})
    return {metric: found[name] for name, metric in names.items() if name in found}


def _check_outputs(run: Run, predictions: Predictions) -> None:
    """Weights may stop being numbers in the last step of an epoch, after its loss was computed."""
    outputs_no = predictions.logits_no if predictions.outputs is None else predictions.outputs.outputs_no
    if not bool(outputs_no.isfinite().all()):
        raise TrainingFault(
            f"the network's outputs are not finite after step {run.step - 1} (epoch {run.epoch + 1}), trained with the "
            f"loss {loss_name(run.parts.criterion)}",
            "lower optim.lr or set optim.clip_norm",
        )


def predict(parts: RunParts, *, split: SplitName, device: torch.device) -> Predictions:
    """Predictions of the network for one split, in the precision of training; every rank has to call it."""
    precision = resolve_precision(parts.settings.precision, device)
    return predict_split(
        parts.network,
        parts.criterion,
        parts.dataset,
        split=split,
        batch_size=max(1, 2 * parts.settings.batch_size // parts.settings.accumulate),
        device=device,
        autocast=lambda: autocast_for(device, precision),
    )


def _share_buffers(network: nn.Module) -> None:
    """Rank 0's running statistics of normalisation on every rank, for each rank predicts a part of the split."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def _losses_of(parts: RunParts, predictions: Predictions) -> dict[str, float]:
    """The losses of the whole split: each rank gives its share, as the criterion adds up over ranks."""
    if predictions.outputs is None:
        raise ValueError("predictions without the network's outputs have no loss")
    rows_n, outputs_no = predictions.outputs.rows_n, predictions.outputs.outputs_no
    share_n = rows_of_rank(np.arange(len(rows_n)), rank=rank(), world_size=world_size())
    device = next(parts.criterion.buffers(), torch.empty(0)).device
    labels: Tensor = torch.from_numpy(parts.dataset.labels_n[rows_n[share_n]]).to(device)
    weights: Tensor | None = None
    if parts.targets is not None:
        labels, weights = (torch.from_numpy(part).to(device) for part in parts.targets.of(rows_n[share_n]))
    outputs_no = outputs_no[share_n].to(device)
    if not isinstance(parts.criterion, MultiTask):
        return {"val/loss": float(parts.criterion(outputs_no, labels, weights))}
    losses = parts.criterion.losses(outputs_no, labels, weights)
    found = {f"val/task/{name}/loss": float(loss) for name, loss in losses.items()}
    return {"val/loss": float(parts.criterion.total(losses))} | found


def _outcome(run: Run, state: str) -> RunOutcome:
    best = run.history[run.best_epoch - 1].metrics if run.best_epoch else {}
    return RunOutcome(
        state=state,  # type: ignore[arg-type]  # one of the states that _run_epochs and train_run name
        best_epoch=run.best_epoch,
        metrics=dict(best),
        checkpoint=str(checkpoint.best_path(run.directory) or run.directory),
    )
