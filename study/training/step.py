"""One step of training: forward, loss, backward, clip, update; of the whole local batch or of micro-batches."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from study.losses.base import AdditiveCriterion
from study.models.inputs import to_input
from study.optimisation import autocast_for, learning_rate, seed_step
from study.training.parts import Batch
from study.training.state import Run, rank, world_size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A micro-batch: of which share of the global batch, and its number there; None where the share is not cut."""

    batch: Batch
    share: int
    number: int | None


def train_step(run: Run, batch: Batch) -> None:
    """One update; ``run.losses`` is told the global loss.

    Raises:
        TrainingFault: a loss is not finite; see ``LossWatch`` for when that is found.
    """
    settings = run.settings
    rate = learning_rate(run.step, settings, run.values)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.optimiser.zero_grad(set_to_none=True)
    run.clock.mark("rest")
    batch = _on_device(run, batch)
    run.clock.mark("transfer")
    run.losses.add(run.step, _backward(run, batch))
    run.clock.mark("rest")
    if settings.clip_norm is not None:
        run.scaler.unscale_(run.optimiser)
        nn.utils.clip_grad_norm_(run.network.parameters(), settings.clip_norm)
    run.scaler.step(run.optimiser)
    run.scaler.update()
    if run.average is not None:
        run.average.update(run.step)
    run.clock.mark("optimiser")


def draws_of(step: int, size: int) -> npt.NDArray[np.int64]:
    """Numbers of the draws of this rank's batch of ``size`` images: those that the stream augments with."""
    return (step * world_size() + rank()) * size + np.arange(size, dtype=np.int64)


def _on_device(run: Run, batch: Batch) -> Batch:
    """The batch on the run's device; a copy to a GPU from pinned memory goes on while Python does."""
    pins = run.device.type == "cuda" and not batch.images_nchw.is_cuda

    def moved(tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(run.device, non_blocking=True) if pins else tensor.to(run.device)

    images_nchw = moved(batch.images_nchw)
    if run.parts.augment is not None:
        run.clock.mark("transfer")
        images_nchw = run.parts.augment(images_nchw, draws_n=draws_of(run.step, len(images_nchw)))
        run.clock.mark("augment")
    return Batch(
        images_nchw=images_nchw,
        labels_n=moved(batch.labels_n),
        weights_n=None if batch.weights_n is None else moved(batch.weights_n),
    )


def _backward(run: Run, batch: Batch) -> Tensor:
    """Leave the gradients of the global loss in the network; returns the loss, a scalar without gradient.

    DDP averages gradients over ranks while the loss is already global, hence the factor of the world size.
    """
    parts = _parts(run, batch)
    if len(parts) == 1:
        loss: Tensor = run.parts.criterion(_forward(run, parts[0]), batch.labels_n, batch.weights_n)
        run.clock.mark("loss")
        run.scaler.scale(loss * world_size()).backward()  # type: ignore[no-untyped-call]
        run.clock.mark("backward")
        return loss.detach()
    if isinstance(run.parts.criterion, AdditiveCriterion):
        return _backward_of_sum(run, run.parts.criterion, parts)
    return _backward_twice(run, parts)


def _parts(run: Run, batch: Batch) -> list[_Part]:
    """The micro-batches of this rank: those of its share of the global batch, or of its shares.

    With fewer workers than the run may have, each computes the shares of several, one after the other: in memory, in
    what is normalised together and in what drops, a share is what it is where it has a worker of its own.
    """
    own = max(1, run.settings.shares // world_size())
    return [
        _Part(batch=part, share=rank() * own + place, number=None if run.settings.accumulate == 1 else number)
        for place, share in enumerate(batch.split(own))
        for number, part in enumerate(share.split(run.settings.accumulate))
    ]


def _in_turn(run: Run, parts: Sequence[_Part]) -> Iterator[tuple[bool, _Part]]:
    """Each part, and whether it is the last one, which exchanges gradients.

    Running statistics move with the first share alone, as they do where each share has a rank and rank 0's are kept.
    """
    kept: list[Tensor] = []
    for number, part in enumerate(parts):
        if part.share != parts[0].share and not kept:
            kept = [buffer.clone() for buffer in run.network.buffers()]
        yield number == len(parts) - 1, part
    if kept:
        _put_back(run, kept)


def _put_back(run: Run, kept: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for buffer, before in zip(run.network.buffers(), kept, strict=True):
            buffer.copy_(before)


def _backward_of_sum(run: Run, criterion: AdditiveCriterion, parts: Sequence[_Part]) -> Tensor:
    """Micro-batches one after the other, each with its share of the divisor of the whole global batch.

    The mean of their means is another loss where micro-batches differ in size, class weights or sample weights.
    """
    share_p = criterion.accumulation_factors([(part.batch.labels_n, part.batch.weights_n) for part in parts])
    total = torch.zeros((), device=run.device)
    empty = criterion.num_empty.clone()
    for (is_last, part), factor in zip(_in_turn(run, parts), share_p, strict=True):
        with _synchronised(run, is_last=is_last):
            loss = criterion(_forward(run, part), part.batch.labels_n, part.batch.weights_n)
            loss = loss * factor.to(loss.dtype)
            run.clock.mark("loss")
            run.scaler.scale(loss * world_size()).backward()
            run.clock.mark("backward")
        total = total + loss.detach()
    # A batch is without weight when all of its parts are.
    criterion.num_empty.copy_(empty + (criterion.num_empty - empty == len(parts)))
    return total


def _backward_twice(run: Run, parts: Sequence[_Part]) -> Tensor:
    """Micro-batches for a loss of the whole batch: all outputs first, then each part again, with its gradient.

    The loss and its gradient by the outputs are those of the whole global batch; the second pass repeats the dropout of
    the first and carries that gradient on (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory
    limited setup", section 3.2). It costs one more forward pass. Running statistics move in the second pass alone.
    """
    kept = [buffer.clone() for buffer in run.network.buffers()]
    with torch.no_grad(), _synchronised(run, is_last=False):
        outputs = [_forward(run, part) for part in parts]
    _put_back(run, kept)
    logits_no = torch.cat(outputs).requires_grad_()
    weights = [part.batch.weights_n for part in parts if part.batch.weights_n is not None]
    loss: Tensor = run.parts.criterion(
        logits_no, torch.cat([part.batch.labels_n for part in parts]), torch.cat(weights) if weights else None
    )
    (slope_no,) = torch.autograd.grad(run.scaler.scale(loss * world_size()), logits_no)
    slopes = torch.split(slope_no, [len(part.batch.labels_n) for part in parts])
    run.clock.mark("loss")
    for (is_last, part), slope_mo in zip(_in_turn(run, parts), slopes, strict=True):
        with _synchronised(run, is_last=is_last):
            outputs_mo = _forward(run, part)
            outputs_mo.backward(slope_mo)  # type: ignore[no-untyped-call]
            run.clock.mark("backward")
    return loss.detach()


def _forward(run: Run, part: _Part) -> Tensor:
    """Outputs [N, O], whose dropout depends on the share and on the number of the part."""
    own = () if part.number is None else (part.number,)
    seed_step(run.settings.seed, run.step, part.share, *own)
    images_nchw = to_input(part.batch.images_nchw)
    if run.channels_last:
        images_nchw = images_nchw.contiguous(memory_format=torch.channels_last)
    forward = run.model if run.forward is None else run.forward
    with autocast_for(run.device, run.precision):
        outputs_no = forward(images_nchw)
    run.clock.mark("forward")
    return outputs_no


def _synchronised(run: Run, *, is_last: bool) -> AbstractContextManager[Any]:
    """Ranks exchange gradients at the last micro-batch alone."""
    if isinstance(run.model, DistributedDataParallel) and not is_last:
        return run.model.no_sync()
    return nullcontext()
