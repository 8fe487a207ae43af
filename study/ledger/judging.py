"""How a trial is kept: its values, or the reason for which it has none."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial

from study.ledger.table import best_epoch, epochs_of
from study.types import RunOutcome


def judged(
    trial: FrozenTrial, outcome: RunOutcome, *, metrics: Sequence[str], mode: str
) -> tuple[RunOutcome, list[float] | None]:
    """The outcome as it is kept, with the values of ``metrics``; failed and without values where one is undefined."""
    if outcome.state == "failed":
        return outcome, None
    epochs, last = epochs_of(trial), trial.last_step
    best = outcome.best_epoch or best_epoch(trial.intermediate_values, mode) or last or 0
    epoch = best if outcome.state == "complete" else last or 0
    found: Mapping[str, float] = epochs[epoch].metrics if epoch in epochs else outcome.metrics
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
