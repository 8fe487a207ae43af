"""What a run is made of, and how it talks to the outside."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from study.data.augment_device import DeviceAugment
from study.data.shards import PreparedDataset
from study.data.targets import Targets
from study.losses.base import Criterion
from study.losses.multitask import MultiTask
from study.optimisation import TrainSettings
from study.training.clock import StepClock
from study.types import EpochResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParts:
    """What one run is made of: a network with as many outputs as the criterion wants, data, numbers.

    ``targets`` are the labels and weights of all rows, for the validation loss; without them all labels of the deciding
    task count alike. ``augment`` changes training images on the device that trains; without it the stream gives them as
    they are to be shown. ``identity`` is a digest of all of it; checkpoints of another one are refused.
    """

    network: nn.Module
    criterion: Criterion | MultiTask
    dataset: PreparedDataset
    settings: TrainSettings
    targets: Targets | None = None
    augment: DeviceAugment | None = None
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Training images [B, C, H, W] in uint8 or uint16, their class indices, and how much each label counts.

    With T tasks ``labels_n`` and ``weights_n`` are [B, T], else [B]; without weights every label counts 1. A label that
    is missing is -1 and has weight 0.

    ``ids_n`` are hashes of the ids of the images that stand here, uint64 [B] (see :func:`study.data.digest.id_hashes`);
    None from a stream that does not know them, whose runs keep no digests.
    """

    images_nchw: Tensor
    labels_n: Tensor
    weights_n: Tensor | None = None
    ids_n: npt.NDArray[np.uint64] | None = None

    def split(self, count: int) -> list["Batch"]:
        """``count`` micro-batches in order, whose sizes differ by one at most; fewer where there are fewer rows."""
        count = min(count, len(self.labels_n))
        images, labels = self.images_nchw.tensor_split(count), self.labels_n.tensor_split(count)
        weights = [None] * count if self.weights_n is None else self.weights_n.tensor_split(count)
        return [Batch(images_nchw=images[i], labels_n=labels[i], weights_n=weights[i]) for i in range(count)]


class BatchStream(Protocol):
    """Gives this rank's batches from a global step on, to the end of the run."""

    def __call__(self, start_step: int) -> Iterator[Batch]:
        """Batches of steps ``start_step``, ``start_step + 1``, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """How a run talks to the outside.

    ``on_epoch`` hears of an epoch and answers whether to go on; ``should_stop`` is asked after every step and, when it
    says yes, the run saves a checkpoint at that step and ends as ``waiting``. All ranks must get the same answers.
    ``clock`` is told what the time goes to.
    """

    on_epoch: Callable[[EpochResult], bool] = lambda _: True
    should_stop: Callable[[], bool] = lambda: False
    clock: StepClock = field(default_factory=StepClock)
