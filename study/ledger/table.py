"""From Optuna's trials to epochs and to rows of the result table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from study.ledger.several import completed, epochs_by_run, run_outcomes
from study.ledger.view import violations
from study.types import EpochResult, RunKey, RunOutcome, RunRow, TrialRow
from study.types import TrialState as StateName

STATES: Final[dict[TrialState, StateName]] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}


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
    keys: Sequence[RunKey],
    constraints: Mapping[str, Mapping[str, float]] | None = None,
) -> TrialRow:
    """The row of one trial, whose runs are ``keys``.

    ``value`` and ``metrics`` are those of the best epoch, for a pruned or failed trial those of its last one (a failed
    trial has no value); with several runs they are means. A trial that repeats another one has its metrics in its
    outcome.
    """
    by_run = epochs_by_run(trial, keys)
    epochs = by_run[keys[0]]
    curve = {epoch: value_at(result, metric) for epoch, result in epochs.items()}
    is_over = trial.state.is_finished()
    outcome = RunOutcome(**(trial.user_attrs.get("outcome") if is_over else None) or {"state": "running"})
    shown = max(epochs, default=0)
    if trial.state == TrialState.COMPLETE:
        shown = outcome.best_epoch
    elif not is_over:
        shown = best_epoch(curve, mode)
    values = tuple(trial.values or ()) if is_over else ()
    metrics = _metrics(trial, outcome, at_epoch=epochs[shown].metrics if shown in epochs else {}, runs=len(keys))
    missed = violations(metrics, constraints or {}) if trial.state == TrialState.COMPLETE else {}
    devices, every = trial.user_attrs.get("devices", {}), [one for of in by_run.values() for one in of.values()]
    whole = _whole_seconds(every, most := float(devices.get("workers", 1)))
    return TrialRow(
        trial=str(trial.number),
        state=STATES[trial.state],
        value=(values[0] if values else None) if is_over else curve.get(shown),
        params=dict(trial.user_attrs.get("params", trial.params)),
        metrics=metrics,
        seeds=tuple(dict.fromkeys(key.seed for key in keys)),
        epochs=len(every),
        curve=tuple(curve.values()),
        checkpoint=outcome.checkpoint,
        reason=outcome.reason,
        failure=outcome.failure,
        attempts=int(trial.user_attrs.get("attempt", 1)),
        values=values,
        violations={name: excess for name, excess in missed.items() if excess > 0},
        repeats=str(trial.user_attrs.get("repeats", "")),
        seconds=sum(result.seconds for result in every),
        device_seconds=whole * float(devices.get("gpus") or most),
        gpu_seconds=whole * float(devices.get("gpus", 0.0)),
        images=sum(result.images for result in every),
        runs=tuple(_run_rows(trial, by_run, metric=metric, mode=mode)) if len(keys) > 1 else (),
    )


def _whole_seconds(epochs: Sequence[EpochResult], most: float) -> float:
    """Seconds with all workers that cost as much; an epoch with fewer than ``most`` cost as many devices less."""
    return sum(result.seconds * (result.workers or most) for result in epochs) / most


def _metrics(trial: FrozenTrial, outcome: RunOutcome, *, at_epoch: Mapping[str, float], runs: int) -> dict[str, float]:
    """The metrics of a row: those of an epoch, or means over runs, which stand in the outcome alone."""
    if trial.state == TrialState.COMPLETE or "repeats" in trial.user_attrs:
        return {**at_epoch, **outcome.metrics}
    return dict(outcome.metrics) if runs > 1 and outcome.metrics else dict(at_epoch)


def _run_rows(
    trial: FrozenTrial, by_run: Mapping[RunKey, Mapping[int, EpochResult]], *, metric: str, mode: str
) -> Iterator[RunRow]:
    """The runs of a trial, with their values at the best epoch so far."""
    done = completed(trial, tuple(by_run))
    ended = run_outcomes(trial, tuple(by_run)) if "outcome" in trial.user_attrs else {}
    for key, epochs in by_run.items():
        curve = {epoch: value_at(result, metric) for epoch, result in epochs.items()}
        outcome = done.get(key) or ended.get(key)
        value = done[key].metrics.get(metric) if key in done else curve.get(best_epoch(curve, mode))
        yield RunRow(
            seed=key.seed,
            fold=key.fold,
            state=outcome.state if outcome else "running" if epochs else "waiting",
            value=value,
            epochs=len(epochs),
            checkpoint=outcome.checkpoint if outcome else "",
            curve=tuple(curve.values()),
            seconds=sum(result.seconds for result in epochs.values()),
            images=sum(result.images for result in epochs.values()),
        )
