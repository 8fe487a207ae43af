"""From Optuna's trials to epochs and to rows of the result table."""

import math
from collections.abc import Mapping
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from study.ledger.view import violations
from study.types import EpochResult, RunOutcome, TrialRow
from study.types import TrialState as StateName

EPOCH_PREFIX: Final = "epoch:"
SEED_PREFIX: Final = "seed:"
STATES: Final[dict[TrialState, StateName]] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}


def epoch_key(epoch: int) -> str:
    """The user attribute that holds an epoch."""
    return f"{EPOCH_PREFIX}{epoch:05d}"


def epochs_of(trial: FrozenTrial) -> dict[int, EpochResult]:
    """All reported epochs of a trial by their number, in order."""
    kept = sorted((key, value) for key, value in trial.user_attrs.items() if key.startswith(EPOCH_PREFIX))
    return {value["epoch"]: EpochResult(**value) for _, value in kept}


def seeds_of(trial: FrozenTrial) -> dict[int, float]:
    """The study's metric by seed, of a trial that has several."""
    kept = {key: value for key, value in trial.user_attrs.items() if key.startswith(SEED_PREFIX)}
    return {int(key.removeprefix(SEED_PREFIX)): float(value) for key, value in sorted(kept.items())}


def value_at(result: EpochResult, metric: str) -> float:
    """The metric after an epoch; NaN where it is missing or infinite, so that it can beat nothing."""
    value = float(result.metrics.get(metric, math.nan))
    return value if math.isfinite(value) else math.nan


def best_epoch(curve: dict[int, float], mode: str) -> int:
    """The epoch with the best number of the curve (the first of equals); 0 when there is none."""
    sign = 1 if mode == "max" else -1
    finite = {epoch: sign * value for epoch, value in curve.items() if math.isfinite(value)}
    return max(sorted(finite), key=lambda epoch: finite[epoch], default=0)


def row_of(
    trial: FrozenTrial,
    *,
    metric: str,
    mode: str,
    seed: int,
    constraints: Mapping[str, Mapping[str, float]] | None = None,
) -> TrialRow:
    """The row of one trial.

    ``value`` and ``metrics`` are those of the best epoch, for a pruned or failed trial those of its last one (a failed
    trial has no value). A trial that repeats another one has its metrics in its outcome.
    """
    epochs = epochs_of(trial)
    curve = {epoch: value_at(result, metric) for epoch, result in epochs.items()}
    is_over = trial.state.is_finished()
    outcome = RunOutcome(**(trial.user_attrs.get("outcome") if is_over else None) or {"state": "running"})
    shown = max(epochs, default=0)
    if trial.state == TrialState.COMPLETE:
        shown = outcome.best_epoch
    elif not is_over:
        shown = best_epoch(curve, mode)
    values = tuple(trial.values or ()) if is_over else ()
    metrics = dict(epochs[shown].metrics) if shown in epochs else {}
    if trial.state == TrialState.COMPLETE or "repeats" in trial.user_attrs:
        metrics |= outcome.metrics
    missed = violations(metrics, constraints or {}) if trial.state == TrialState.COMPLETE else {}
    params = dict(trial.user_attrs.get("params", trial.params))
    devices, seconds = trial.user_attrs.get("devices", {}), sum(result.seconds for result in epochs.values())
    return TrialRow(
        trial=str(trial.number),
        state=STATES[trial.state],
        value=(values[0] if values else None) if is_over else curve.get(shown),
        params=params,
        metrics=metrics,
        seeds=(int(params.get("seed", seed)),),
        epochs=len(epochs),
        curve=tuple(curve.values()),
        checkpoint=outcome.checkpoint,
        reason=outcome.reason,
        failure=outcome.failure,
        attempts=int(trial.user_attrs.get("attempt", 1)),
        values=values,
        violations={name: excess for name, excess in missed.items() if excess > 0},
        repeats=str(trial.user_attrs.get("repeats", "")),
        seconds=seconds,
        device_seconds=seconds * float(devices.get("gpus") or devices.get("workers", 1)),
        gpu_seconds=seconds * float(devices.get("gpus", 0.0)),
        images=sum(result.images for result in epochs.values()),
    )
