"""What a run is made of, and how it talks to the outside."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from study.data.shards import PreparedDataset
from study.losses.base import Criterion
from study.optimisation import TrainSettings
from study.types import EpochResult


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

    def split(self, count: int) -> list["Batch"]:
        """``count`` micro-batches in order, whose sizes differ by one at most; fewer where there are fewer rows."""
        count = min(count, len(self.labels_n))
        pairs = zip(self.images_nchw.tensor_split(count), self.labels_n.tensor_split(count), strict=True)
        return [Batch(images_nchw=images_nchw, labels_n=labels_n) for images_nchw, labels_n in pairs]


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
