"""From Optuna's trials to epochs and to rows of the result table."""

import math
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from study.types import EpochResult, RunOutcome, TrialRow
from study.types import TrialState as StateName

EPOCH_PREFIX: Final = "epoch:"
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


def value_at(result: EpochResult, metric: str) -> float:
    """The metric after an epoch; NaN where it is missing or infinite, so that it can beat nothing."""
    value = float(result.metrics.get(metric, math.nan))
    return value if math.isfinite(value) else math.nan


def best_epoch(curve: dict[int, float], mode: str) -> int:
    """The epoch with the best number of the curve (the first of equals); 0 when there is none."""
    sign = 1 if mode == "max" else -1
    finite = {epoch: sign * value for epoch, value in curve.items() if math.isfinite(value)}
    return max(sorted(finite), key=lambda epoch: finite[epoch], default=0)


def row_of(trial: FrozenTrial, *, metric: str, mode: str, seed: int) -> TrialRow:
    """The row of one trial.

    ``value`` and ``metrics`` are those of the best epoch, for a pruned or failed trial those of its last one (a failed
    trial has no value).
    """
    epochs = epochs_of(trial)
    curve = {epoch: value_at(result, metric) for epoch, result in epochs.items()}
    outcome = (
        RunOutcome(**trial.user_attrs["outcome"]) if "outcome" in trial.user_attrs else RunOutcome(state="running")
    )
    is_over = trial.state.is_finished()
    shown = max(epochs, default=0)
    if trial.state == TrialState.COMPLETE:
        shown = outcome.best_epoch
    elif not is_over:
        shown = best_epoch(curve, mode)
    value = trial.value if is_over else curve.get(shown)
    metrics = dict(epochs[shown].metrics) if shown in epochs else {}
    if trial.state == TrialState.COMPLETE:
        metrics |= outcome.metrics
    return TrialRow(
        trial=str(trial.number),
        state=STATES[trial.state],
        value=value,
        params=dict(trial.user_attrs.get("params", trial.params)),
        metrics=metrics,
        seeds=(seed,),
        epochs=len(epochs),
        curve=tuple(curve.values()),
        checkpoint=outcome.checkpoint if is_over else "",
        reason=outcome.reason if is_over else "",
    )
