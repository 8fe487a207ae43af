"""What the driver of a study does at this moment, as a note in the ledger: whoever reaches the ledger can look on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

BEAT_S: Final = 15.0  # the note is written again after so long, also when nothing has happened
STALE_S: Final = (
    90.0  # a driver that was silent for so long is taken for dead; clocks of machines may differ by seconds
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNow:
    """A run in progress: its last epoch and the metric there, its best metric, images per second of that epoch.

    ``seconds`` is the mean of an epoch, ``told`` (seconds since 1970) when the last one ended, or the run began.
    ``part`` tells the runs of a trial of several apart, as in `Event`.
    """

    trial: str
    seed: int
    epoch: int = 0
    epochs: int = 0
    value: float | None = None
    best: float | None = None
    rate: float = 0.0
    seconds: float = 0.0
    told: float = 0.0
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """The stage of a study with its progress, its runs, and who drives it; times are seconds since 1970.

    ``told`` is when the driver wrote this, ``is_over`` whether it has ended since. ``directory`` lies on ``host``.
    ``hours`` is how long the search has run, in all sessions.
    """

    host: str
    pid: int
    directory: str
    since: float
    told: float
    is_over: bool = False
    hours: float = 0.0
    stage: str = ""
    stage_since: float = 0.0
    part: str = ""
    note: str = ""
    done: int = 0
    total: int = 0
    runs: tuple[RunNow, ...] = ()

    def is_alive(self, at: float) -> bool:
        """Whether the driver has given a sign of life shortly before the time ``at``."""
        return not self.is_over and at - self.told < STALE_S


def now_to_json(now: Now) -> dict[str, Any]:
    """Plain data of the note."""
    return asdict(now) | {"runs": [asdict(run) for run in now.runs]}


def now_from_json(kept: Mapping[str, Any]) -> Now:
    """The note from its plain data; fields that a later release has added are left out."""
    known = {key: value for key, value in kept.items() if key in Now.__dataclass_fields__}
    runs = [{key: value for key, value in run.items() if key in RunNow.__dataclass_fields__} for run in kept["runs"]]
    return Now(**known | {"runs": tuple(RunNow(**run) for run in runs)})


def utc_text(seconds: float) -> str:
    """A time (seconds since 1970) in UTC, ISO 8601; empty for 0."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""
