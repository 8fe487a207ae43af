"""Where the time of a run's steps goes, and what of its machine it uses: read at each epoch's end, never by training.

Nothing here enters a metric, a decision or a checkpoint's weights: two runs with equal curves may have other times.
"""

import time
from collections.abc import Callable
from typing import Any, Final, Literal

import torch
import torch.distributed as dist

from study.training.memory import resident_bytes

Phase = Literal[
    "wait", "transfer", "augment", "forward", "loss", "backward", "optimiser", "validation", "checkpoint", "rest"
]
PHASES: Final[tuple[Phase, ...]] = (
    "wait",
    "transfer",
    "augment",
    "forward",
    "loss",
    "backward",
    "optimiser",
    "validation",
    "checkpoint",
    "rest",
)
BESIDE: Final = ("validation", "checkpoint")  # phases that belong to no step
GIB: Final = 2.0**30
LOOK_EVERY_S: Final = 5.0  # between two looks at how busy a GPU is; one takes some tens of microseconds


class StepClock:
    """Adds up the wall time of each phase of the steps; a mark costs about 0.2 us.

    On a GPU a phase is the time until Python has queued its work, not until that is done: there only the sum and
    ``wait`` mean something, and a wait may be hidden behind work that is queued already.

    Attributes:
        seconds: by phase, since :meth:`restart`.
        steps: steps since then.
    """

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self.steps = 0
        self._last = time.perf_counter()

    def mark(self, phase: Phase) -> None:
        """The time since the mark before was spent on ``phase``."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now

    def count_step(self) -> None:
        """A step is over; what it took beyond its phases is ``rest``."""
        self.mark("rest")
        self.steps += 1

    def restart(self) -> None:
        """Begin at nothing, now."""
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.steps = 0
        self._last = time.perf_counter()

    @property
    def in_steps(self) -> float:
        """Seconds that the steps took, waiting for data included."""
        return sum(seconds for phase, seconds in self.seconds.items() if phase not in BESIDE)


class Usage:
    """What a run uses of its machine between :meth:`restart` and :meth:`read`.

    Args:
        device: that trains.
        clock: seconds; another one for tests.
    """

    def __init__(self, device: torch.device, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._busy = gpu_meter(device)
        self.restart()

    def restart(self) -> None:
        """Begin to measure, now."""
        self._began, self._cpu_began = self._clock(), time.process_time()
        self._looked, self._shares = self._began, list[float]()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def look(self) -> None:
        """Sample how busy the GPU is, every few seconds; call it after each step."""
        if self._busy is None or self._clock() - self._looked < LOOK_EVERY_S:
            return
        self._looked = self._clock()
        self._shares.append(self._busy())

    def read(self) -> dict[str, float]:
        """``system/...`` numbers of this process and its device: the same keys on every rank."""
        elapsed = max(self._clock() - self._began, 1e-9)
        found = {
            "system/cpu_cores": (time.process_time() - self._cpu_began) / elapsed,
            "system/memory_gib": resident_bytes() / GIB,
        }
        if self._device.type == "cuda":
            found["system/gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / GIB
        return found

    def utilisation(self) -> float | None:
        """The share of time in which the GPU computed, from 0 to 1; None where nothing can tell."""
        if self._busy is None:
            return None
        shares = self._shares or [self._busy()]
        return sum(shares) / len(shares)


def gpu_meter(device: torch.device) -> Callable[[], float] | None:
    """A function for the share (0 to 1) of the last second in which a GPU computed; None where nothing can tell.

    torch asks NVIDIA's library through the package ``nvidia-ml-py``, which is no dependency of ours.
    """
    if device.type != "cuda":
        return None

    def share() -> float:
        return float(torch.cuda.utilization(device)) / 100

    try:
        share()
    except Exception:  # noqa: BLE001 - NVML has errors of its own kinds, and a meter must not cost a run
        return None
    return share


def system_numbers(clock: StepClock, usage: Usage, *, images: int) -> dict[str, float]:
    """The ``system/...`` numbers of the steps since both were restarted; every rank has to call it.

    Args:
        clock: of this rank.
        usage: of this rank.
        images: training images of a step, over all ranks.

    Returns:
        Of several ranks, the largest wait, memory and processor time: the slowest one decides, and the fullest is the
        first to fail. All else is rank 0's. Empty without a step.
    """
    found = usage.read()
    if clock.steps:
        found["system/data_wait_share"] = clock.seconds["wait"] / max(clock.in_steps, 1e-9)
    if dist.is_initialized() and dist.get_world_size() > 1:
        found = _largest(found)
    if not clock.steps:
        return {}
    busy, each = usage.utilisation(), max(clock.in_steps, 1e-9) / clock.steps
    found |= {} if busy is None else {"system/gpu_utilisation": busy}
    return found | {
        "system/step_seconds": each,
        "system/images_per_second": images / each,
        "system/validation_seconds": clock.seconds["validation"],
    }


def _largest(found: dict[str, float]) -> dict[str, float]:
    backend: Any = dist.get_backend()
    device = torch.device("cuda") if backend == "nccl" else torch.device("cpu")
    numbers_n = torch.tensor(list(found.values()), dtype=torch.float64, device=device)
    dist.all_reduce(numbers_n, op=dist.ReduceOp.MAX)
    return dict(zip(found, numbers_n.tolist(), strict=True))
