"""The numbers of a run and what follows from them: learning rate, precision, optimiser, random state."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Numbers of one run.

    ``lr`` is the peak rate. Inside an epoch a checkpoint is saved at every step that ``checkpoint_steps`` divides, or
    else after ``checkpoint_seconds``; where both are 0, at the end of each epoch alone. While ``freeze_epochs`` last,
    the head alone learns. ``patience`` ends a run whose metric has not become better for so many epochs. ``ema_decay``
    averages the weights (see :class:`WeightAverage`). ``channels_last`` auto takes that memory layout on GPUs, where it
    is faster. A rank's share of ``batch_size`` goes through the network in ``accumulate`` parts, which need less memory
    and leave the loss as it is. ``shares`` is how many equal parts of a batch are normalised, and drop units, each for
    itself, whoever computes them: the most workers that a run may have; 0: as many as it has. ``compile`` auto
    compiles the network on GPUs if ``compile_pays``. ``pool`` adds metrics of breasts or exams, whose views are pooled
    by ``pooling``.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    seed: int
    metric: str
    mode: Literal["max", "min"]
    lr: float
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: Literal["constant", "step", "cosine", "plateau"] = "cosine"
    warmup_steps: int = 0
    step_epochs: int = 10
    step_factor: float = 0.1
    plateau_epochs: int = 5
    clip_norm: float | None = 1.0
    freeze_epochs: int = 0
    patience: int | None = None
    ema_decay: float | None = None
    channels_last: Literal["auto"] | bool = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = 1
    shares: int = 0
    compile: Literal["auto"] | bool = "auto"
    compile_pays: bool = False
    checkpoint_seconds: float = 600.0
    checkpoint_steps: int = 0
    pool: tuple[str, ...] = ()
    pooling: Literal["mean", "max"] = "mean"


def seed_step(*purpose: int) -> None:
    """Make torch's global generator a function of ``purpose`` (seed, step, rank, ...) alone.

    Dropout then draws the same numbers in a run that resumes at this step as in one that was never interrupted.
    """
    torch.manual_seed(int(np.random.SeedSequence(purpose).generate_state(1, np.uint64)[0]))


def learning_rate(step: int, settings: TrainSettings, values: Sequence[float] = ()) -> float:
    """Rate of a global step: linear warm-up, then constant, stepwise or cosine decay (Loshchilov and Hutter 2017).

    Schedule ``plateau`` multiplies by ``step_factor`` whenever the metric, whose ``values`` at the finished epochs are
    given, has not become better for more than ``plateau_epochs`` epochs: as torch's ReduceLROnPlateau, but a function
    of the history, so that a resumed run needs no state for it.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "plateau":
        return settings.lr * settings.step_factor ** _plateaus(values, settings)
    if settings.schedule == "step":
        return settings.lr * settings.step_factor ** (step // (settings.step_epochs * settings.steps_per_epoch))
    total = max(settings.epochs * settings.steps_per_epoch - settings.warmup_steps, 1)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * (step - settings.warmup_steps) / total))


def _plateaus(values: Sequence[float], settings: TrainSettings) -> int:
    best: float | None = None
    waited = found = 0
    for value in values:
        if is_better(value, best, settings.mode):
            best, waited = value, 0
        else:
            waited += 1
        if waited > settings.plateau_epochs:
            found, waited = found + 1, 0
    return found


def is_exhausted(values: Sequence[float], settings: TrainSettings) -> bool:
    """Whether the run's patience is over: the best value lies ``patience`` epochs or more back."""
    if settings.patience is None:
        return False
    best: float | None = None
    waited = 0
    for value in values:
        waited = 0 if is_better(value, best, settings.mode) else waited + 1
        best = value if waited == 0 else best
    return waited >= settings.patience


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """The precision to train in: ``auto`` is bf16 where the GPU has it, else fp16, and fp32 on a CPU."""
    if wanted == "auto":
        if device.type != "cuda":
            return "fp32"
        # Older GPUs emulate bf16 and are slower with it than in fp32.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"fp32": "fp32", "bf16": "bf16"}.get(wanted, "fp16")  # type: ignore[return-value]  # the keys are the values


def autocast_for(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The autocast context of one forward pass; nothing in fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether ``value`` beats ``best``; NaN never does, and the first number beats nothing."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value > best if mode == "max" else value < best


def make_optimiser(
    network: nn.Module, settings: TrainSettings, *, head: Sequence[nn.Parameter] = (), fused: bool = False
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), Adam, or SGD with Nesterov's momentum.

    Biases and normalisation, which are vectors, do not decay. Groups of parameters that are not in ``head`` carry
    ``is_frozen_first``, for the epochs in which the head learns alone. ``fused`` updates all parameters in a few
    kernels, which on a GPU spares hundreds of launches a step.
    """
    in_head = {id(parameter) for parameter in head}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in in_head, parameter.ndim > 1), []).append(parameter)
    listed = [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "is_frozen_first": settings.freeze_epochs > 0 and not is_head,
        }
        for (is_head, decays), parameters in groups.items()
    ]
    if settings.optimiser == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(listed, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=fused or None)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(listed, lr=settings.lr, fused=fused or None)


class WeightAverage:
    """Exponential moving average of a network's weights (Polyak and Juditsky 1992; mean teacher of paper multitask).

    The decay grows as (1 + t) / (10 + t) over the first steps, so that the random start is soon forgotten. Buffers
    such as running means are taken over as they are. Averages are kept in float32.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._network = network
        self._average = [parameter.detach().clone().float() for parameter in network.parameters()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after global step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, [p.detach().float() for p in self._network.parameters()], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While open, the network holds the averaged weights."""
        raw = [parameter.detach().clone() for parameter in self._network.parameters()]
        self._put(self._average)
        try:
            yield
        finally:
            self._put(raw)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the averages from a state dict of the network."""
        names = [name for name, _ in self._network.named_parameters()]
        for average, name in zip(self._average, names, strict=True):
            average.copy_(state[name])

    @torch.no_grad()
    def _put(self, weights: Sequence[Tensor]) -> None:
        for parameter, weight in zip(self._network.parameters(), weights, strict=True):
            parameter.copy_(weight)
