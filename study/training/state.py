"""Everything that changes while a run trains: made, restored from a checkpoint, saved to one."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from study import checkpoint
from study.checkpoint import TrainState
from study.errors import StudyError, TrainingFault
from study.losses.multitask import MultiTask
from study.models.heads import head_parameters
from study.optimisation import Precision, TrainSettings, WeightAverage, make_optimiser, resolve_precision
from study.training.batch_log import BatchLog
from study.training.clock import StepClock, Usage
from study.training.compiling import prepare_compiler, wants_compile
from study.training.losswatch import LossWatch
from study.training.parts import RunParts
from study.types import EpochResult


@dataclass(kw_only=True)
class Run:
    """Everything that changes while a run trains.

    ``model`` is the network, wrapped by DDP where there are several ranks; ``forward`` is what steps call: the same, or
    its compiled form. The network itself stays uncompiled for predictions, whose batches have other sizes.
    """

    parts: RunParts
    model: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: Precision
    channels_last: bool
    is_compiled: bool
    losses: LossWatch
    directory: Path
    attempt: int
    step: int = 0
    history: list[EpochResult] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    average: WeightAverage | None = None
    forward: Callable[[Tensor], Tensor] | None = None
    saved_at: float = field(default_factory=time.monotonic)
    clock: StepClock = field(default_factory=StepClock)
    usage: Usage = field(init=False)
    batches: BatchLog = field(init=False)

    def __post_init__(self) -> None:
        self.batches = BatchLog(directory=self.directory, attempt=self.attempt)
        self.usage = Usage(self.device)

    @property
    def settings(self) -> TrainSettings:
        """The run's numbers."""
        return self.parts.settings

    @property
    def network(self) -> nn.Module:
        """The network without DDP's wrapping."""
        return self.parts.network

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def values(self) -> list[float]:
        """The study's metric at the finished epochs."""
        return [result.metrics.get(self.settings.metric, math.nan) for result in self.history]

    @property
    def is_frozen(self) -> bool:
        """Whether only the head learns at this step."""
        return self.step < self.settings.freeze_epochs * self.settings.steps_per_epoch


def prepare_run(parts: RunParts, *, directory: Path, attempt: int, device: torch.device) -> Run:
    """A run at its last checkpoint in ``directory``, or at its first step; every rank has to call it.

    Raises:
        StaleAttempt: a newer attempt has claimed the run.
        StudyError: the checkpoint cannot be used, or belongs to another run.
        TrainingFault: the ranks found checkpoints of different steps.
    """
    settings, network = parts.settings, parts.network
    if settings.shares % world_size():
        raise StudyError(
            f"{world_size()} workers for a batch in {settings.shares} shares; expected a number that divides them",
            "change resources.workers",
        )
    precision = resolve_precision(settings.precision, device)
    network.to(device)
    channels_last = device.type == "cuda" if settings.channels_last == "auto" else settings.channels_last
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a keyword of its own
    parts.criterion.to(device)
    is_compiled = wants_compile(settings.compile, pays=settings.compile_pays, device=device)
    if is_compiled:
        prepare_compiler()
    run = Run(
        parts=parts,
        model=network,
        optimiser=make_optimiser(
            network,
            settings,
            head=head_parameters(network) if settings.freeze_epochs else (),
            fused=device.type == "cuda",
        ),
        average=WeightAverage(network, settings.ema_decay) if settings.ema_decay else None,
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        device=device,
        precision=precision,
        channels_last=channels_last,
        is_compiled=is_compiled,
        losses=LossWatch(loss_name(parts.criterion), device=device, steps_per_epoch=settings.steps_per_epoch),
        directory=directory,
        attempt=attempt,
    )
    if rank() == 0:
        checkpoint.claim(directory, attempt)
    if world_size() > 1:
        dist.barrier()
    _restore(run, checkpoint.load_last(directory))
    _check_same_step(run)
    return run


def loss_name(criterion: nn.Module) -> str:
    """What a fault calls the loss of a run; with several tasks, all of theirs."""
    name = type(criterion).__name__
    if not isinstance(criterion, MultiTask):
        return name
    return f"{name} ({', '.join(f'{task}: {type(of.criterion).__name__}' for task, of in criterion.tasks.items())})"


def set_mode(run: Run) -> None:
    """Training mode of the current step; every rank has to call it at the begin of an epoch and after a resume.

    A frozen backbone computes no gradients and keeps its running statistics. DDP wraps the network anew when what
    learns has changed, because it counts on gradients of all that learned when it was made.
    """
    frozen = [p for group in run.optimiser.param_groups if group["is_frozen_first"] for p in group["params"]]
    has_changed = any(parameter.requires_grad == run.is_frozen for parameter in frozen)
    for parameter in frozen:
        parameter.requires_grad_(not run.is_frozen)
    if run.forward is None or (has_changed and world_size() > 1):
        run.model = DistributedDataParallel(run.network) if world_size() > 1 else run.network
        run.forward = torch.compile(run.model, dynamic=False) if run.is_compiled else run.model
    run.model.train()
    if run.is_frozen:
        for module in run.network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.eval()


def _check_same_step(run: Run) -> None:
    """All ranks begin at the same step, or none does."""
    if world_size() == 1:
        return
    steps: list[int] = [0] * world_size()
    dist.all_gather_object(steps, run.step)
    if len(set(steps)) > 1:
        raise TrainingFault(
            f"the workers found checkpoints of different steps ({sorted(set(steps))})",
            "keep the studies on storage that all nodes share",
        )


def _restore(run: Run, state: TrainState | None) -> None:
    if state is None:
        return
    check_identity(run.parts, state, run.directory)
    run.network.load_state_dict(state.raw or state.model)
    if run.average is not None:
        run.average.load(state.model)
    for group, saved in zip(run.optimiser.param_groups, state.optimiser["param_groups"], strict=True):
        saved["fused"] = group["fused"]  # of the device at hand, which need not be that of the checkpoint
    run.optimiser.load_state_dict(state.optimiser)
    if state.scaler:
        run.scaler.load_state_dict(state.scaler)
    run.step, run.history = state.step, list(state.history)
    run.losses.total = state.partial.get("loss_sum", 0.0)
    run.parts.criterion.set_counts(state.partial)
    run.batches.first_step, run.batches.epoch_digest = state.step, int(state.partial.get("batches", 0))
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


def save_run(run: Run, *, is_best: bool) -> None:
    """Write the run's last checkpoint, and its best one if ``is_best``; every rank calls it, rank 0 alone writes.

    Raises:
        TrainingFault: a loss since the last checkpoint is not finite; nothing is written.
    """
    run.batches.flush()
    run.saved_at = time.monotonic()
    run.losses.settle()
    if rank() != 0:
        return
    model, raw = _weights(run)
    state = TrainState(
        model=model,
        raw=raw,
        optimiser=run.optimiser.state_dict(),
        scaler=run.scaler.state_dict(),
        step=run.step,
        epoch=run.epoch,
        partial={
            "loss_sum": run.losses.total,
            "batches": run.batches.epoch_digest,
            **run.parts.criterion.counts(),
        },
        history=list(run.history),
        best_epoch=run.best_epoch,
        best_value=run.best_value,
        identity=run.parts.identity,
    )
    checkpoint.save(run.directory, state, attempt=run.attempt, is_best=is_best)


def _weights(run: Run) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights that are evaluated, and those that learn where they are others."""
    raw = run.network.state_dict()
    if run.average is None:
        return raw, {}
    raw = {name: tensor.clone() for name, tensor in raw.items()}
    with run.average.applied():
        return {name: tensor.clone() for name, tensor in run.network.state_dict().items()}, raw


def rank() -> int:
    """This process's number among the workers of the run."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of workers of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1
