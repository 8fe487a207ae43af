"""The numbers of a run and what follows from them: learning rate, precision, optimiser, random state."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Numbers of one run.

    ``lr`` is the peak rate; ``checkpoint_seconds`` is the longest time between two checkpoints, 0 leaves those at the
    end of each epoch alone.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    seed: int
    metric: str
    mode: Literal["max", "min"]
    lr: float
    weight_decay: float = 0.01
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    warmup_steps: int = 0
    step_epochs: int = 10
    step_factor: float = 0.1
    clip_norm: float | None = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    checkpoint_seconds: float = 600.0


def seed_step(*purpose: int) -> None:
    """Make torch's global generator a function of ``purpose`` (seed, step, rank, ...) alone.

    Dropout then draws the same numbers in a run that resumes at this step as in one that was never interrupted.
    """
    torch.manual_seed(int(np.random.SeedSequence(purpose).generate_state(1, np.uint64)[0]))


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Rate of a global step: linear warm-up, then constant, stepwise or cosine decay (Loshchilov and Hutter 2017)."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "step":
        return settings.lr * settings.step_factor ** (step // (settings.step_epochs * settings.steps_per_epoch))
    total = max(settings.epochs * settings.steps_per_epoch - settings.warmup_steps, 1)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * (step - settings.warmup_steps) / total))


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """The precision to train in: ``auto`` is bf16 where the GPU has it, else fp16, and fp32 on a CPU."""
    if wanted == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
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


def make_optimiser(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) without weight decay on biases and normalisation, which are vectors."""
    weights = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr)
