"""What a trial is worth when it ends: its value or values, or the reason why it has none."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from optuna.trial import FrozenTrial

from study.ledger.several import epochs_of
from study.ledger.table import best_epoch
from study.types import RunKey, RunOutcome


def judged(
    trial: FrozenTrial,
    outcome: RunOutcome,
    *,
    metrics: Sequence[str],
    mode: Literal["max", "min"],
    is_mean: bool = False,
) -> tuple[RunOutcome, list[float] | None]:
    """The outcome as it is kept, and the trial's values; None when it is failed.

    Args:
        trial: as the ledger has it.
        outcome: how it ends; ``complete`` is judged by its best epoch, ``pruned`` by its last one.
        metrics, mode: what the search optimises, and how the first of them.
        is_mean: the outcome's metrics are means over several runs, which no epoch has.
    """
    if outcome.state == "failed":
        return outcome, None
    epochs, last = epochs_of(trial), trial.last_step
    best = outcome.best_epoch or best_epoch(trial.intermediate_values, mode) or last or 0
    epoch = best if outcome.state == "complete" else last or 0
    found: Mapping[str, float] = epochs[epoch].metrics if epoch in epochs and not is_mean else outcome.metrics
    kept = replace(outcome, best_epoch=best, metrics=outcome.metrics or dict(found))
    for name in metrics:
        value = found.get(name)
        if value is None or not math.isfinite(value):
            reason = f"epoch {epoch} has no {name}" if value is None else f"{name} is {value} at epoch {epoch}"
            return replace(kept, state="failed", reason=reason, failure="bad_configuration"), None
    return kept, [float(found[name]) for name in metrics]


def metrics_text(kept: Mapping[str, Any]) -> str:
    """The metrics of a search for a message: ``val/qwk (max)``, ``val/qwk and val/ece``."""
    names = kept.get("metrics")
    return " and ".join(names) if names else f"{kept['metric']} ({kept['mode']})"


def ends_trial(outcome: RunOutcome, key: RunKey) -> RunOutcome | None:
    """How a run that is not complete ends its trial: a failed one does, an interrupted one leaves it open."""
    if outcome.state != "failed":
        return None
    return replace(outcome, reason=f"{key.part}: {outcome.reason}")
