"""Records that the ledger gives out, and their form as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from study.types import EpochResult, RunKey, RunOutcome, TrialRow

RunKind = Literal["train", "evaluate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRun:
    """One run of a trial that is still to be trained, or to be trained further than its last known epoch."""

    key: RunKey
    reported_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTrial:
    """A trial to be run: a new one has ``attempt`` 1, an adopted one a higher one.

    ``runs`` are those that are not complete, in the order in which they begin; ``of_runs`` is how many a trial has. One
    with ``repeats`` is finished already: it has the configuration, and so the result, of that earlier trial.
    """

    number: int
    params: Mapping[str, Any]
    runs: tuple[LedgerRun, ...] = ()
    of_runs: int = 1
    attempt: int = 1
    repeats: int | None = None

    @property
    def reported_epoch(self) -> int:
        """The last known epoch of the first run that is not complete."""
        return self.runs[0].reported_epoch if self.runs else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """How one run of the confirmation ended: its training (``train``) or its test reading (``evaluate``)."""

    trial: str
    seed: int
    kind: RunKind
    outcome: RunOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reading of the test split: by which run, and when (UTC, ISO 8601)."""

    trial: str
    seed: int
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStatus:
    """Where the search stands. ``planned`` is the budget, ``counts`` the number of trials by state (all that occur)."""

    study: str
    planned: int
    counts: Mapping[str, int]
    running: tuple[int, ...]
    best: TrialRow | None


def epoch_to_json(result: EpochResult) -> dict[str, Any]:
    """Plain data of one epoch; floats stay exact, NaN included."""
    metrics = {key: float(value) for key, value in result.metrics.items()}
    return {**asdict(result), "metrics": metrics, "seconds": float(result.seconds)}


def outcome_to_json(outcome: RunOutcome) -> dict[str, Any]:
    """Plain data of an outcome; floats stay exact, NaN included."""
    return {
        "state": outcome.state,
        "best_epoch": outcome.best_epoch,
        "metrics": {key: float(value) for key, value in outcome.metrics.items()},
        "checkpoint": outcome.checkpoint,
        "reason": outcome.reason,
        "failure": outcome.failure,
    }
