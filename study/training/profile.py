"""Where the time of a run's steps goes: a clock that keeps every mark, and the table that is made of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from study.training.clock import BESIDE, PHASES, Phase, StepClock

# The rows of a profile, in the order of a step. The first three are what a step waits for its batch.
ROWS: Final[Mapping[str, str]] = {
    "wait/read": "wait: read and decode",
    "wait/augment": "wait: augment",
    "wait/hand_over": "wait: hand over",
    "transfer": "copy to the device",
    "augment": "augment on the device",
    "forward": "forward",
    "loss": "loss",
    "backward": "backward",
    "optimiser": "optimiser",
    "rest": "the rest",
    "validation": "validation",
    "checkpoint": "checkpoint",
}
MUCH_WAITING: Final = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One stretch of one phase, in seconds since the window was opened."""

    phase: Phase
    began: float
    ended: float


class Recorder(StepClock):
    """A clock that keeps every mark between :meth:`open` and :meth:`shut`, and asks a GPU for its own times.

    On a GPU each mark is an event in its stream: the time between two of them is what the GPU spent on the phase, or
    idle within it, while Python may have been far ahead. Nothing waits for the GPU but the two ends of the window.

    Args:
        device: that trains.
        make_event: of the GPU, with ``record``, ``synchronize`` and ``elapsed_time`` (ms); another one for tests.
    """

    def __init__(self, device: torch.device, *, make_event: Callable[[], Any] | None = None) -> None:
        self._make = make_event or (_cuda_event if device.type == "cuda" else None)
        self._moments: list[tuple[Phase, Any]] = []
        self._opened: Any = None
        self.is_open = False
        self.began_s = self.began_unix_s = self.wall_s = 0.0
        super().__init__()

    def mark(self, phase: Phase) -> None:
        """The time since the mark before was spent on ``phase``; outside of the window nothing is kept."""
        if self.is_open:
            self._moments.append((phase, self._moment()))

    def restart(self) -> None:
        """An epoch begins; the window does not care."""

    def open(self) -> None:
        """Begin the window, now."""
        self._opened, self._moments, self.steps = self._moment(), [], 0
        self._settle(self._opened)
        self.began_s, self.began_unix_s = time.perf_counter(), time.time()
        self.is_open = True

    def shut(self) -> None:
        """End the window, now; what the device has still to do belongs to it."""
        self.mark("rest")
        self.is_open = False
        self._settle(self._moments[-1][1])
        self.wall_s = time.perf_counter() - self.began_s

    def intervals(self) -> list[Interval]:
        """All stretches of the window, one after the other without a gap."""
        found, began, before = [], 0.0, self._opened
        for phase, moment in self._moments:
            ended = began + self._between(before, moment)
            found.append(Interval(phase=phase, began=began, ended=ended))
            began, before = ended, moment
        return found

    def _moment(self) -> Any:
        if self._make is None:
            return time.perf_counter()
        event = self._make()
        event.record()
        return event

    def _between(self, one: Any, other: Any) -> float:
        return float(other - one) if self._make is None else float(one.elapsed_time(other)) / 1000

    def _settle(self, moment: Any) -> None:
        if self._make is not None:
            moment.synchronize()


def _cuda_event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One block that a worker asked for, in Unix seconds: asked, had it, its task began and ended; its task's work."""

    asked_s: float
    got_s: float
    began_s: float
    ended_s: float
    read_s: float
    augment_s: float
    images: int
    pid: int

    @property
    def loading_s(self) -> float:
        """How long the worker waited for a task that had not ended; the rest of its wait is Ray's hand-over."""
        return max(0.0, min(self.ended_s, self.got_s) - self.asked_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a profile: seconds of the window, its share of them, and milliseconds of a step."""

    key: str
    name: str
    seconds: float
    share: float
    ms_per_step: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """What the loading tasks did beside the network: ms by the image, and how many images one task makes a second."""

    blocks: int
    images: int
    processes: int
    read_ms: float
    augment_ms: float
    other_ms: float
    images_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Where the time of some steps of a run went.

    ``wall_s`` was measured beside ``rows``, whose seconds add up to it. ``images_per_second`` is that of the steps of
    one worker, without validation and checkpoints.
    """

    run: str
    network: str
    device: str
    node: str
    image_hw: tuple[int, int]
    batch_size: int
    workers: int
    steps: int
    is_epoch: bool
    warm_up_steps: int
    first_batch_s: float
    warm_up_s: float
    wall_s: float
    images_per_second: float
    rows: tuple[Row, ...]
    loading: Loading
    hint: str = ""

    def share(self, *keys: str) -> float:
        """The share of some rows of the time of the steps."""
        in_steps = sum(row.seconds for row in self.rows if row.key not in BESIDE)
        return sum(row.seconds for row in self.rows if row.key in keys) / max(in_steps, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)


def rows_of(intervals: Sequence[Interval], requests: Sequence[Request], *, steps: int) -> tuple[Row, ...]:
    """The table: seconds by phase, with the wait for data parted by what was waited for.

    A worker waits for a block that no task has finished (that part is shared between reading and augmenting as the
    tasks' own time is), or for Ray to hand it over and for the batch to be cut from it (all else).
    """
    seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for each in intervals:
        seconds[each.phase] += each.ended - each.began
    wait = seconds.pop("wait")
    read, augment = (sum(getattr(each, name) for each in requests) for name in ("read_s", "augment_s"))
    loading = min(wait, sum(each.loading_s for each in requests))
    read_share = read / (read + augment) if read + augment else 1.0
    parts = {"wait/read": loading * read_share, "wait/augment": loading * (1 - read_share)}
    found: dict[str, float] = {**parts, "wait/hand_over": wait - loading, **seconds}
    total = max(sum(found.values()), 1e-9)
    return tuple(
        Row(
            key=key,
            name=name,
            seconds=found[key],
            share=found[key] / total,
            ms_per_step=1000 * found[key] / max(steps, 1),
        )
        for key, name in ROWS.items()
    )


def loading_of(requests: Sequence[Request]) -> Loading:
    """What the tasks of some blocks did, each by the image."""
    images = sum(each.images for each in requests)
    each_ms = 1000 / max(images, 1)
    read, augment = (sum(getattr(each, name) for each in requests) for name in ("read_s", "augment_s"))
    whole = sum(each.ended_s - each.began_s for each in requests)
    return Loading(
        blocks=len(requests),
        images=images,
        processes=len({each.pid for each in requests}),
        read_ms=read * each_ms,
        augment_ms=augment * each_ms,
        other_ms=max(0.0, whole - read - augment) * each_ms,
        images_per_second=images / whole if whole else 0.0,
    )


def hint_for(profile: Profile) -> str:
    """One sentence: what takes most, and what can be changed about it."""
    waiting = profile.share("wait/read", "wait/augment", "wait/hand_over")
    if waiting >= MUCH_WAITING:
        most = max(("wait/read", "wait/augment", "wait/hand_over"), key=profile.share)
        more = ", or move it to the GPU (augment.device: train)" if (most, profile.device) == _MOVABLE else ""
        return f"the network waits {waiting:.0%} of the time for data: {_WAITS[most]}{more}"
    advice = next((text for keys, least, text in _ADVICE if profile.share(*keys) >= least), "")
    if advice:
        return advice.format(**{key: profile.share(key) for key in ROWS if "/" not in key})
    computing = profile.share("forward", "loss", "backward")
    wish = "train.compile or a smaller picture" if profile.device == "cuda" else "a GPU, or fewer pixels"
    return f"the network computes {computing:.0%} of the time, data do not hold it up: faster with {wish}"


_MOVABLE: Final = ("wait/augment", "cuda")
_WAITS: Final[Mapping[str, str]] = {
    "wait/read": "reading holds it up; keep the shards on a local disk (STUDY_CACHE for remote data), and "
    "data.encoding: raw while they fit into memory",
    "wait/augment": "augmenting holds it up; give loading more cores (fewer slots: resources.concurrent), take a "
    "lighter augment.policy",
    "wait/hand_over": "Ray's hand-over holds it up; use larger batches, and leave cores to Ray's own processes",
}
_ADVICE: Final[tuple[tuple[tuple[str, ...], float, str], ...]] = (
    (
        ("transfer",),
        0.15,
        "copies to the device take {transfer:.0%} of the time: smaller pictures, or 8 bits (data.bits)",
    ),
    (
        ("augment",),
        0.25,
        "augmenting on the device takes {augment:.0%} of the time: augment.device: load uses idle cores",
    ),
    (
        ("optimiser",),
        0.20,
        "the optimiser takes {optimiser:.0%} of the time: larger batches (train.batch_size) update less",
    ),
    (
        ("rest",),
        0.20,
        "Python takes {rest:.0%} of the time beside the network: larger batches spread it over more images",
    ),
)
