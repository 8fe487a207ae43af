"""The losses of an epoch: their sum, and the first one that is not finite, without making a GPU wait."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from study.errors import TrainingFault

EVERY: Final = 16  # steps whose losses leave a GPU together


@dataclass(frozen=True, slots=True)
class _Copy:
    """Losses on their way from the device; ``arrived`` is None where they are here already."""

    steps: Sequence[int]
    values_n: Tensor
    arrived: torch.cuda.Event | None


class LossWatch:
    """Adds up the global loss of each step, and stops a run at the first one that is not finite.

    Asking a GPU for a number at every step makes it idle until Python has queued the next one. There, losses are
    copied ``EVERY`` steps together, and looked at when the next copy leaves, when they have long arrived. The fault
    still names the very step; at most ``2 * EVERY`` later ones were trained in vain, and none of them was saved. Losses
    are global, so all ranks find the same fault at the same moment. On a CPU every loss is looked at when it is added.

    Args:
        name: of the loss, for the message.
        steps_per_epoch: for the message, too.
        lazily: whether losses wait for each other; None means on any device but the CPU.
        total: sum of the losses of the epoch so far, from a checkpoint.
    """

    def __init__(
        self, name: str, *, device: torch.device, steps_per_epoch: int, lazily: bool | None = None, total: float = 0.0
    ) -> None:
        self.total = total
        self._name, self._steps_per_epoch = name, steps_per_epoch
        self._is_lazy = device.type != "cpu" if lazily is None else lazily
        self._held: list[tuple[int, Tensor]] = []
        self._copy: _Copy | None = None

    def add(self, step: int, loss: Tensor) -> None:
        """Take the loss of a global step.

        Raises:
            TrainingFault: this one or, on a GPU, an earlier one is not finite.
        """
        if not self._is_lazy:
            self._take(step, float(loss.detach()))
            return
        self._held.append((step, loss.detach()))
        if len(self._held) >= EVERY:
            self._look()
            self._send()

    def settle(self) -> None:
        """Look at all losses; before anything is saved, and at the end of an epoch.

        Raises:
            TrainingFault: one of them is not finite.
        """
        self._look()
        self._send()
        self._look()

    def restart(self) -> None:
        """Begin the sum of another epoch."""
        self.total = 0.0

    def _send(self) -> None:
        if not self._held:
            return
        steps, losses = zip(*self._held, strict=True)
        self._held = []
        values_n = torch.stack(losses)
        if values_n.device.type != "cuda":
            self._copy = _Copy(steps, values_n.cpu(), None)
            return
        here_n = torch.empty(values_n.shape, dtype=values_n.dtype, pin_memory=True)
        here_n.copy_(values_n, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._copy = _Copy(steps, here_n, arrived)

    def _look(self) -> None:
        copy, self._copy = self._copy, None
        if copy is None:
            return
        if copy.arrived is not None:
            copy.arrived.synchronize()
        for step, value in zip(copy.steps, copy.values_n.tolist(), strict=True):
            self._take(step, value)

    def _take(self, step: int, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingFault(
                f"the loss {self._name} is {value} at step {step} (epoch {step // self._steps_per_epoch + 1})",
                "lower optim.lr or set optim.clip_norm",
            )
        self.total += value
