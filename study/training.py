"""The training loop of one run, free of Ray: any iterable of batches in, epoch results and checkpoints out.

The chain from outside to inside: ``train_run`` > ``_run_epochs`` > ``_train_epoch`` > ``_train_step``.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from study import checkpoint
from study.checkpoint import TrainState
from study.data.shards import PreparedDataset
from study.errors import StudyError, TrainingFault
from study.inference import Predictions, predict_split, prediction_metrics
from study.losses.base import Criterion
from study.models.inputs import to_input
from study.optimisation import (
    Precision,
    TrainSettings,
    autocast_for,
    is_better,
    learning_rate,
    make_optimiser,
    resolve_precision,
    seed_step,
)
from study.types import EpochResult, RunOutcome, SplitName


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParts:
    """What one run is made of: a network with as many outputs as the criterion wants, data, numbers.

    ``identity`` is a digest of all of it; checkpoints of another one are refused.
    """

    network: nn.Module
    criterion: Criterion
    dataset: PreparedDataset
    settings: TrainSettings
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Training images [B, C, H, W] in uint8 or uint16, and their class indices [B]."""

    images_nchw: Tensor
    labels_n: Tensor


class BatchStream(Protocol):
    """Gives this rank's batches from a global step on, to the end of the run."""

    def __call__(self, start_step: int) -> Iterator[Batch]:
        """Batches of steps ``start_step``, ``start_step + 1``, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """How a run talks to the outside.

    ``on_epoch`` hears of an epoch and answers whether to go on; ``should_stop`` is asked after every step and, when it
    says yes, the run saves a checkpoint at that step and ends as ``waiting``. All ranks must get the same answers.
    """

    on_epoch: Callable[[EpochResult], bool] = lambda _: True
    should_stop: Callable[[], bool] = lambda: False


@dataclass(kw_only=True)
class _Run:
    """Everything that changes while a run trains."""

    parts: RunParts
    model: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: Precision
    directory: Path
    attempt: int
    step: int = 0
    loss_sum: float = 0.0
    history: list[EpochResult] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def settings(self) -> TrainSettings:
        return self.parts.settings

    @property
    def network(self) -> nn.Module:
        return self.parts.network

    @property
    def epoch(self) -> int:
        return len(self.history)


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
        TrainingFault: the loss is not finite; the message names the step and the loss.
    """
    hooks = hooks or Hooks()
    run = _prepare_run(parts, directory=directory, attempt=attempt, device=device or torch.device("cpu"))
    for result in run.history[reported_epoch:]:
        if not hooks.on_epoch(result):
            return _outcome(run, "pruned")
    state = _run_epochs(run, stream=stream, hooks=hooks)
    return _outcome(run, state)


def _prepare_run(parts: RunParts, *, directory: Path, attempt: int, device: torch.device) -> _Run:
    precision = resolve_precision(parts.settings.precision, device)
    parts.network.to(device)
    parts.criterion.to(device)
    run = _Run(
        parts=parts,
        model=DistributedDataParallel(parts.network) if _world_size() > 1 else parts.network,
        optimiser=make_optimiser(parts.network, parts.settings),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16" and device.type == "cuda"),
        device=device,
        precision=precision,
        directory=directory,
        attempt=attempt,
    )
    if _rank() == 0:
        checkpoint.claim(directory, attempt)
    if _world_size() > 1:
        dist.barrier()
    _restore(run, checkpoint.load_last(directory))
    _check_same_step(run)
    return run


def _check_same_step(run: _Run) -> None:
    """All ranks begin at the same step, or none does."""
    if _world_size() == 1:
        return
    steps: list[int] = [0] * _world_size()
    dist.all_gather_object(steps, run.step)
    if len(set(steps)) > 1:
        raise TrainingFault(
            f"the workers found checkpoints of different steps ({sorted(set(steps))})",
            "keep the studies on storage that all nodes share",
        )


def _restore(run: _Run, state: TrainState | None) -> None:
    if state is None:
        return
    check_identity(run.parts, state, run.directory)
    run.network.load_state_dict(state.model)
    run.optimiser.load_state_dict(state.optimiser)
    if state.scaler:
        run.scaler.load_state_dict(state.scaler)
    run.step, run.history = state.step, list(state.history)
    run.loss_sum = state.partial.get("loss_sum", 0.0)
    run.best_epoch, run.best_value = state.best_epoch, state.best_value


def check_identity(parts: RunParts, state: TrainState, directory: Path) -> None:
    """A checkpoint belongs to the run that asks for it.

    Raises:
        StudyError: it was trained with another configuration, seed or dataset.
    """
    if state.identity != parts.identity:
        raise StudyError(
            f"the checkpoint of run {directory.name} was trained with another configuration or other data",
            f"give the study another name, or remove {directory}",
        )


def _run_epochs(run: _Run, *, stream: BatchStream, hooks: Hooks) -> str:
    if run.epoch >= run.settings.epochs:
        return "complete"
    batches = stream(run.step)
    try:
        while run.epoch < run.settings.epochs:
            started = time.monotonic()
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


def _train_epoch(run: _Run, batches: Iterator[Batch], *, hooks: Hooks) -> bool:
    """Run the steps that the current epoch still lacks; false when asked to stop, after saving."""
    run.model.train()
    end = (run.epoch + 1) * run.settings.steps_per_epoch
    while run.step < end:
        batch = next(batches, None)
        if batch is None:
            planned = run.settings.epochs * run.settings.steps_per_epoch
            raise TrainingFault(
                f"the batch stream ended at step {run.step}; {planned} steps were planned",
                "prepare the data again with `study prepare`, then resume",
            )
        run.loss_sum += _train_step(run, batch)
        run.step += 1
        if hooks.should_stop():
            _save(run, is_best=False)
            return False
        if run.step < end and 0 < run.settings.checkpoint_seconds < time.monotonic() - run.saved_at:
            _save(run, is_best=False)
    return True


def _train_step(run: _Run, batch: Batch) -> float:
    """One update; returns the global loss of the step."""
    settings = run.settings
    seed_step(settings.seed, run.step, _rank())
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(run.step, settings)
    run.optimiser.zero_grad(set_to_none=True)
    images_nchw = to_input(batch.images_nchw.to(run.device, non_blocking=True))
    with autocast_for(run.device, run.precision):
        logits_no = run.model(images_nchw)
    loss = run.parts.criterion(logits_no, batch.labels_n.to(run.device, non_blocking=True))
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingFault(
            f"the loss {type(run.parts.criterion).__name__} is {value} at step {run.step} (epoch {run.epoch + 1})",
            "lower optim.lr or set optim.clip_norm",
        )
    # DDP averages gradients over ranks while the loss is already global, hence the factor.
    run.scaler.scale(loss * _world_size()).backward()
    if settings.clip_norm is not None:
        run.scaler.unscale_(run.optimiser)
        nn.utils.clip_grad_norm_(run.network.parameters(), settings.clip_norm)
    run.scaler.step(run.optimiser)
    run.scaler.update()
    return value


def _finish_epoch(run: _Run, *, started: float) -> EpochResult:
    """Validate, keep the best, and save before anybody hears of the epoch."""
    settings = run.settings
    _share_buffers(run.network)
    predictions = predict(run.parts, split="val", device=run.device)
    metrics = {"train/loss": run.loss_sum / settings.steps_per_epoch, "train/lr": learning_rate(run.step - 1, settings)}
    metrics["val/loss"] = _loss_of(run.parts.criterion, predictions)
    metrics |= prediction_metrics(predictions, run.parts.dataset, prefix="val/")
    result = EpochResult(
        epoch=run.epoch + 1,
        metrics=metrics,
        images=settings.steps_per_epoch * settings.batch_size,
        seconds=time.monotonic() - started,
    )
    run.history.append(result)
    run.loss_sum = 0.0
    value = metrics.get(settings.metric, math.nan)
    is_best = is_better(value, run.best_value, settings.mode)
    if is_best:
        run.best_epoch, run.best_value = result.epoch, value
    _save(run, is_best=is_best)
    return result


def predict(parts: RunParts, *, split: SplitName, device: torch.device) -> Predictions:
    """Predictions of the network for one split, in the precision of training; every rank has to call it."""
    precision = resolve_precision(parts.settings.precision, device)
    return predict_split(
        parts.network,
        parts.criterion,
        parts.dataset,
        split=split,
        batch_size=2 * parts.settings.batch_size,
        device=device,
        autocast=lambda: autocast_for(device, precision),
    )


def _share_buffers(network: nn.Module) -> None:
    """Rank 0's running statistics of normalisation on every rank, for each rank predicts a part of the split."""
    if _world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def _loss_of(criterion: Criterion, predictions: Predictions) -> float:
    device = next(criterion.buffers(), torch.empty(0)).device
    labels_n = torch.from_numpy(predictions.labels_n).to(device)
    return float(criterion(predictions.logits_no.to(device), labels_n))


def _save(run: _Run, *, is_best: bool) -> None:
    run.saved_at = time.monotonic()
    if _rank() != 0:
        return
    state = TrainState(
        model=run.network.state_dict(),
        optimiser=run.optimiser.state_dict(),
        scaler=run.scaler.state_dict(),
        step=run.step,
        epoch=run.epoch,
        partial={"loss_sum": run.loss_sum},
        history=list(run.history),
        best_epoch=run.best_epoch,
        best_value=run.best_value,
        identity=run.parts.identity,
    )
    checkpoint.save(run.directory, state, attempt=run.attempt, is_best=is_best)


def _outcome(run: _Run, state: str) -> RunOutcome:
    best = run.history[run.best_epoch - 1].metrics if run.best_epoch else {}
    return RunOutcome(
        state=state,  # type: ignore[arg-type]  # one of the states that _run_epochs and train_run name
        best_epoch=run.best_epoch,
        metrics=dict(best),
        checkpoint=str(checkpoint.best_path(run.directory) or run.directory),
    )


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
