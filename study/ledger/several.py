"""Trials of several runs, one for each seed or fold: what each has reported, and what they make together.

The first run's epochs are the trial's own (``epoch:00003``): they are what the pruners read. Beside them a trial has

    user attribute ``run:<name>:epoch:00003``   an epoch of another run, named as in ``runs/<trial>-<name>``
    user attribute ``run:<name>:outcome``       how a run was completed, with the metrics of its best epoch
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from optuna.trial import FrozenTrial

from study.ledger.pruners import stops_by_runs
from study.ledger.records import LedgerRun
from study.types import EpochResult, RunKey, RunOutcome

RUN_PREFIX: Final = "run:"
EPOCH: Final = "epoch:"


def keys_of(keys: Sequence[RunKey], params: Mapping[str, Any]) -> tuple[RunKey, ...]:
    """The runs of a trial: those of the study file, with the trial's own seed where a grid searches it."""
    if "seed" not in params:
        return tuple(keys)
    return tuple(replace(key, seed=int(params["seed"])) for key in keys)


def epoch_key(epoch: int, key: RunKey | None = None) -> str:
    """The user attribute that holds an epoch: of the first run, or of another one."""
    return f"{EPOCH}{epoch:05d}" if key is None else f"{RUN_PREFIX}{key.name}:{EPOCH}{epoch:05d}"


def outcome_key(key: RunKey) -> str:
    """The user attribute that holds how a run was completed."""
    return f"{RUN_PREFIX}{key.name}:outcome"


def is_outcome(name: str) -> bool:
    """Whether a user attribute tells how a run was completed."""
    return name.startswith(RUN_PREFIX) and name.endswith(":outcome")


def epochs_of(trial: FrozenTrial, key: RunKey | None = None) -> dict[int, EpochResult]:
    """All reported epochs of a trial's first run, or of another one, by their number, in order."""
    prefix = EPOCH if key is None else f"{RUN_PREFIX}{key.name}:{EPOCH}"
    kept = sorted((name, value) for name, value in trial.user_attrs.items() if name.startswith(prefix))
    return {value["epoch"]: EpochResult(**value) for _, value in kept}


def epochs_by_run(trial: FrozenTrial, keys: Sequence[RunKey]) -> dict[RunKey, dict[int, EpochResult]]:
    """The epochs of every run of a trial."""
    return {key: epochs_of(trial, key if place else None) for place, key in enumerate(keys)}


def completed(trial: FrozenTrial, keys: Sequence[RunKey]) -> dict[RunKey, RunOutcome]:
    """The runs that are complete, of a trial that has several."""
    kept = {key: trial.user_attrs.get(outcome_key(key)) for key in keys}
    return {key: RunOutcome(**value) for key, value in kept.items() if value is not None}


def run_outcomes(trial: FrozenTrial, keys: Sequence[RunKey]) -> dict[RunKey, RunOutcome]:
    """How every run ended that has begun, in a trial that is over: those that are not complete ended with the trial."""
    over = RunOutcome(**trial.user_attrs["outcome"])
    found = completed(trial, keys)
    begun = [key for key, epochs in epochs_by_run(trial, keys).items() if epochs or key in found]
    return {key: found.get(key) or stopped(over) for key in begun}


def stopped(over: RunOutcome) -> RunOutcome:
    """How a run ends that was stopped because its trial was over."""
    if over.state != "failed":
        return RunOutcome(state="pruned")
    return RunOutcome(state="failed", reason=f"stopped with its trial: {over.reason}")


def to_do(trial: FrozenTrial, keys: Sequence[RunKey]) -> tuple[LedgerRun, ...]:
    """The runs that are not complete, each with its last known epoch."""
    found = completed(trial, keys) if len(keys) > 1 else {}
    epochs = epochs_by_run(trial, keys)
    return tuple(LedgerRun(key=key, reported_epoch=max(epochs[key], default=0)) for key in keys if key not in found)


def mean_metrics(outcomes: Sequence[RunOutcome]) -> dict[str, float]:
    """Mean of every metric over runs, each at its best epoch; NaN where a run has none."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.metrics))
    return {name: statistics.fmean(one.metrics.get(name, math.nan) for one in outcomes) for name in names}


def sd_metrics(outcomes: Sequence[RunOutcome]) -> dict[str, float]:
    """Sample standard deviation of every metric over runs; none for a single run, NaN where one has no value."""
    if len(outcomes) < 2:
        return {}
    found = {}
    for name in mean_metrics(outcomes):
        values = [one.metrics.get(name, math.nan) for one in outcomes]
        found[name] = statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
    return found


def undefined(outcome: RunOutcome, key: RunKey, metrics: Sequence[str]) -> str:
    """Why a complete run gives its trial no value; empty when it gives one."""
    for name in metrics:
        value = outcome.metrics.get(name)
        if value is None or not math.isfinite(value):
            what = f"has no {name}" if value is None else f"gives {name} {value}"
            return f"{key.part} {what} at epoch {outcome.best_epoch}"
    return ""


def standing(
    done: Mapping[RunKey, RunOutcome],
    keys: Sequence[RunKey],
    *,
    best: Mapping[RunKey, float],
    metric: str,
    mode: str,
    p_value: float | None,
) -> RunOutcome | None:
    """How a trial stands with the runs that are complete: over, or None when it goes on.

    Args:
        done: the complete runs.
        keys: all runs of the trial.
        best: the metric by run of the best trial so far; empty when there is none.
        metric, mode: what is compared.
        p_value: level of Wilcoxon's test; None where no pruner stops trials between their runs.
    """
    first = done.get(keys[0]) or next(iter(done.values()), None)
    if first is None:
        return None
    ordered = [done[key] for key in keys if key in done]
    together = RunOutcome(
        state="complete",
        best_epoch=first.best_epoch,
        metrics=mean_metrics(ordered),
        checkpoint=first.checkpoint,
    )
    if len(ordered) == len(keys):
        return together
    mine = {key: outcome.metrics[metric] for key, outcome in done.items() if metric in outcome.metrics}
    if p_value is None or not stops_by_runs(mine, best, mode=mode, p_value=p_value):
        return None
    return replace(together, state="pruned")
