"""Monte-Carlo dropout: several passes with dropout on, their mean and how far they lie apart (Gal and Ghahramani 2016).

Paper multitask compares with it (section 3.3.1): ten passes with a rate of 0.5, averaged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from study.data.shards import PreparedDataset
from study.errors import InputError
from study.inference import Autocast, Outputs, Predictions, gather, predictions_of, row_batches, rows_of_rank
from study.losses.base import Criterion
from study.losses.multitask import MultiTask
from study.models.inputs import to_input
from study.optimisation import seed_step
from study.types import SplitName

BATCH_ROWS: Final = 32  # fixed, so that what is dropped depends neither on the batch size nor on the number of ranks
PURPOSE: Final = 2**33  # keeps the seeds apart from those of training steps


@dataclass(frozen=True, slots=True, kw_only=True)
class McDropout:
    """How to sample: ``samples`` passes at least 2, ``rate`` in (0, 1) or None for that of training, the run's seed."""

    samples: int
    rate: float | None
    seed: int

    def numbers(self) -> dict[str, float]:
        """``samples`` and ``rate`` (0 for that of training), to be kept beside what came of them."""
        return {"samples": float(self.samples), "rate": self.rate or 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Mean over the passes as ``predictions``, whose class is the most probable; ``spread_n`` is how far they part.

    ``spread_n`` [N] is the standard deviation over the passes of the predicted class's probability.
    """

    predictions: Predictions
    spread_n: NDArray[np.float64]


def dropout_places(network: nn.Module) -> list[nn.Module]:
    """Modules that drop activations while they train: those of torch, and timm's that have a rate of their own.

    Those of rate 0 (a transformer's attention, as a rule) are not among them: the network never learned with them.
    """
    return [module for module in network.modules() if _rate(module) > 0]


@contextmanager
def dropping(network: nn.Module, *, rate: float | None) -> Iterator[None]:
    """Evaluation mode but for dropout, at ``rate``; afterwards everything is as before.

    Normalisation keeps its running statistics, and paths of residual blocks are not dropped.

    Raises:
        InputError: nothing would be dropped.
    """
    places = dropout_places(network)
    if not places:
        raise InputError("confirm.mc_dropout: the network has no dropout to sample", "set model.drop_rate above 0")
    rates = [_rate(module) for module in places]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for module in places:
            module.training = True  # of this module alone: its children may be normalisation
            if rate is not None:
                _set_rate(module, rate)
        yield
    finally:
        for module, own in zip(places, rates, strict=True):
            _set_rate(module, own)
        for module, mode in modes.items():
            module.training = mode


def sample_split(
    model: nn.Module,
    criterion: Criterion | MultiTask,
    dataset: PreparedDataset,
    *,
    settings: McDropout,
    split: SplitName,
    device: torch.device,
    autocast: Autocast,
) -> Sampled:
    """Predict a split several times with dropout; every rank returns all of it.

    What sample s drops is a function of (seed, s, position in the split), whatever the number of ranks.

    Raises:
        InputError: the network drops nothing.
    """
    rows_n = dataset.rows(split)
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    places = rows_of_rank(np.arange(len(rows_n)), rank=rank, world_size=world_size, batch_size=BATCH_ROWS)
    passes = []
    cuda = [device] if device.type == "cuda" else []
    with dropping(model, rate=settings.rate), torch.random.fork_rng(devices=cuda):
        for sample in range(settings.samples):
            outputs = []
            batches = row_batches(dataset, rows_n[places], batch_size=BATCH_ROWS)
            for start, images_nchw in zip(places[::BATCH_ROWS].tolist(), batches, strict=True):
                seed_step(settings.seed, PURPOSE, sample, start)
                outputs.append(_forward(model, images_nchw, device=device, autocast=autocast))
            local_no = torch.cat(outputs) if outputs else torch.empty(0, 0)
            outputs_no = gather(local_no) if world_size > 1 else local_no
            passes.append(predictions_of(Outputs(rows_n=rows_n, outputs_no=outputs_no), criterion, dataset))
    return _averaged(passes)


def _averaged(passes: list[Predictions]) -> Sampled:
    probs_snk = np.stack([each.probs_nk for each in passes])
    mean_nk = probs_snk.mean(axis=0)
    decoded_n = mean_nk.argmax(axis=1)
    spread_n = probs_snk.std(axis=0, ddof=1)[np.arange(len(decoded_n)), decoded_n]
    # Logarithms of probabilities stand for logits of any head.
    logits_nk = torch.from_numpy(np.log(np.clip(mean_nk, 1e-12, 1.0)))
    predictions = replace(
        passes[0], logits_no=logits_nk, probs_nk=mean_nk, decoded_n=decoded_n, others={}, outputs=None
    )
    return Sampled(predictions=predictions, spread_n=spread_n)


@torch.no_grad()
def _forward(model: nn.Module, images_nchw: Tensor, *, device: torch.device, autocast: Autocast) -> Tensor:
    with autocast():
        outputs_no: Tensor = model(to_input(images_nchw.to(device, non_blocking=True)))
    return outputs_no.float().cpu()


def _rate(module: Any) -> float:
    own = module.p if isinstance(module, _DropoutNd) else getattr(module, "drop_rate", 0.0)
    return float(own) if isinstance(own, float | int) else 0.0


def _set_rate(module: Any, rate: float) -> None:
    setattr(module, "p" if isinstance(module, _DropoutNd) else "drop_rate", rate)
