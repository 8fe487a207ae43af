"""A trained network with its preparation and its classes: pictures or files in, probabilities out."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.inference import forward_all
from study.losses import make_criterion
from study.losses.base import Criterion
from study.losses.multitask import MultiTask
from study.models import make_model
from study.models.inputs import to_input, to_tensor
from study.optimisation import autocast_for, resolve_precision, seed_step
from study.portable.reading import FileReading, read_files
from study.portable.record import ModelRecord, TaskRecord
from study.stochastic import PURPOSE, dropping

Frames = NDArray[np.uint8] | NDArray[np.uint16]

BATCH_IMAGES: Final = 32
FILES_AT_ONCE: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Monte-Carlo dropout: ``samples`` passes, at least 2, at ``rate`` (None: that of training)."""

    samples: int
    rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a network says of N pictures.

    ``probs_nk`` are probabilities [N, K] of the deciding task, ``decoded_n`` its classes [N] as the loss decodes them;
    ``entropy_n`` [N] is the entropy of the probabilities over its largest value, from 0 (certain) to 1; ``spread_n``
    [N] the standard deviation of the decoded class's probability over dropout passes or ensemble members, None without
    either. ``others`` are the answers of the other tasks.
    """

    probs_nk: NDArray[np.float64]
    decoded_n: NDArray[np.int64]
    spread_n: NDArray[np.float64] | None = None
    others: Mapping[str, "Answers"] = field(default_factory=dict)

    @property
    def entropy_n(self) -> NDArray[np.float64]:
        """Entropy [N] of the probabilities, over its largest value."""
        clipped_nk = np.clip(self.probs_nk, 1e-12, 1.0)
        entropy_n: NDArray[np.float64] = -(clipped_nk * np.log(clipped_nk)).sum(axis=1) / np.log(clipped_nk.shape[1])
        return np.clip(entropy_n, 0.0, 1.0)


class PortableModel:
    """A network ready to be used.

    Args:
        record: what it is.
        weights: its state dict.
        device: where it computes.

    Raises:
        InputError: the record names what this version does not know.
        RuntimeError: the weights are those of another network.
    """

    def __init__(
        self, record: ModelRecord, weights: Mapping[str, Tensor], *, device: torch.device | None = None
    ) -> None:
        self.record = record
        self.device = device or torch.device("cpu")
        self.criterion = criterion_of(record)
        self.network = make_model(
            record.network,
            num_outputs=self.criterion.num_outputs,
            drop_rate=record.drop_rate,
            in_channels=record.channels,
            image_hw=record.image_hw,
            make_head=self.criterion.make_head,
            **record.network_params,
        )
        self.network.load_state_dict(dict(weights))
        self.network.eval().requires_grad_(requires_grad=False).to(self.device)
        self.criterion.to(self.device)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the task that decides, in order."""
        return self.record.classes

    def predict_files(
        self, files: Sequence[str | Path], *, sampling: Sampling | None = None
    ) -> tuple[list[FileReading], Answers]:
        """Read, prepare and judge image files, as they were for training.

        Returns:
            What was read of each file, and the answers for those that could be (in order, without the others).
        """
        return judge_files([self], files, sampling=sampling)

    def predict_frames(self, frames: Sequence[Any], *, sampling: Sampling | None = None) -> Answers:
        """Judge prepared pictures, each uint8 or uint16 [H, W] or [H, W, 3] of the size of ``record.image_hw``."""
        if sampling is not None and frames:
            return self._sampled(frames, sampling)
        outputs_no = forward_all(self.network, _batches(frames), device=self.device, autocast=self.autocast)
        return self.answers(outputs_no if len(frames) else torch.empty(0, self._num_columns))

    @property
    def _num_columns(self) -> int:
        return self.criterion.num_outputs + (1 if self.record.reconstruction else 0)

    def autocast(self) -> Any:
        """The precision of training on this device, as a context."""
        return autocast_for(self.device, resolve_precision(self.record.precision, self.device))

    def answers(self, outputs_no: Tensor) -> Answers:
        """Probabilities and classes of every task from the raw outputs."""
        if not isinstance(self.criterion, MultiTask):
            return _of_task(self.criterion, outputs_no)
        found = {
            name: _of_task(task.criterion, outputs_no[:, task.columns]) for name, task in self.criterion.tasks.items()
        }
        (first, *names) = found
        deciding = found[first]
        return Answers(
            probs_nk=deciding.probs_nk, decoded_n=deciding.decoded_n, others={name: found[name] for name in names}
        )

    @torch.no_grad()
    def _sampled(self, frames: Sequence[Any], sampling: Sampling) -> Answers:
        """The mean of passes with dropout; what is dropped depends on the picture alone, not on its neighbours."""
        passes = []
        cuda = [self.device] if self.device.type == "cuda" else []
        with dropping(self.network, rate=sampling.rate), torch.random.fork_rng(devices=cuda):
            for frame in frames:
                seed_step(self.record.seed, PURPOSE, zlib.crc32(np.ascontiguousarray(frame).tobytes()))
                copies_schw = to_tensor(np.stack([frame] * sampling.samples)).to(self.device)
                with self.autocast():
                    outputs_so = self.network(to_input(copies_schw))
                passes.append(self.answers(outputs_so.float().cpu()).probs_nk)
        return combined(np.stack(passes, axis=1))


def judge_files(
    models: Sequence[PortableModel], files: Sequence[str | Path], *, sampling: Sampling | None = None
) -> tuple[list[FileReading], Answers]:
    """Judge image files with one network, or with several of one preparation as an ensemble.

    Files are read ``FILES_AT_ONCE`` at a time, and their pictures let go, so any number of them takes the same memory.

    Returns:
        What was read of each file, without its picture, and the answers for those that could be, in order.
    """
    readings: list[FileReading] = []
    parts: list[Answers] = []
    for start in range(0, max(1, len(files)), FILES_AT_ONCE):
        read = read_files([str(file) for file in files[start : start + FILES_AT_ONCE]], models[0].record)
        frames = [reading.frame for reading in read if not reading.reason]
        members = [model.predict_frames(frames, sampling=sampling) for model in models]
        # Without a picture there is nothing to sample or to average.
        if len(members) > 1 and frames:
            parts.append(combined(np.stack([each.probs_nk for each in members])))
        elif frames or not parts:
            parts.append(members[0])
        readings += [replace(reading, frame=None) for reading in read]
    return readings, _joined([part for part in parts if len(part.decoded_n)] or parts[:1])


def _joined(parts: Sequence[Answers]) -> Answers:
    """Answers for pictures that were judged one lot after the other."""
    spreads = [part.spread_n for part in parts if part.spread_n is not None]
    return Answers(
        probs_nk=np.concatenate([part.probs_nk for part in parts]),
        decoded_n=np.concatenate([part.decoded_n for part in parts]),
        spread_n=np.concatenate(spreads) if spreads else None,
        others={name: _joined([part.others[name] for part in parts]) for name in parts[0].others},
    )


def combined(probs_snk: NDArray[np.float64]) -> Answers:
    """The mean over S passes or members [S, N, K], whose class is the most probable, and how far they part."""
    mean_nk = probs_snk.mean(axis=0)
    decoded_n = mean_nk.argmax(axis=1)
    spread_n = probs_snk.std(axis=0, ddof=1)[np.arange(len(decoded_n)), decoded_n]
    return Answers(probs_nk=mean_nk, decoded_n=decoded_n, spread_n=spread_n)


def criterion_of(record: ModelRecord) -> Criterion | MultiTask:
    """The loss, or those of several tasks, that turn outputs into probabilities.

    Raises:
        InputError: a loss or a parameter that this version does not know.
    """
    made = [(task.name, _criterion(task), task.weight) for task in record.tasks]
    if len(made) == 1 and not record.reconstruction:
        return made[0][1]
    return MultiTask(made, reconstruction=record.reconstruction)


def _criterion(task: TaskRecord) -> Criterion:
    return make_criterion(
        task.loss,
        num_classes=len(task.classes),
        class_counts=task.class_counts,
        raw_class_counts=task.raw_class_counts,
        **task.params,
    )


def _of_task(criterion: Criterion, outputs_no: Tensor) -> Answers:
    return Answers(
        probs_nk=criterion.probabilities(outputs_no).double().numpy(), decoded_n=criterion.decode(outputs_no).numpy()
    )


def _batches(frames: Sequence[Any]) -> Iterator[Tensor]:
    for start in range(0, len(frames), BATCH_IMAGES):
        yield to_tensor(np.stack(frames[start : start + BATCH_IMAGES]))
