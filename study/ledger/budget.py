"""What ends a search: a function of the finished trials and of the time that the search has run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from study.types import Limits, TrialRow


def why_over(
    rows: Sequence[TrialRow], limits: Limits, *, mode: str, hours: float = 0.0, known: int = 0, started: int = 0
) -> str:
    """Why no new trial may begin; empty while one may.

    Args:
        rows: the finished trials in the order of their numbers.
        limits: the budget.
        mode: ``max`` or ``min`` of the metric.
        hours: how long the search has run.
        known: how many different configurations have been tried.
        started: how many trials there are, running ones included.
    """
    if limits.trials is not None and started >= limits.trials:
        return f"all {limits.trials} trials have been begun"
    if limits.configurations is not None and known >= limits.configurations:
        return f"all {limits.configurations} configurations of the space have been tried"
    if limits.hours is not None and hours >= limits.hours:
        return f"the search has run for {limits.hours:g} hours"
    used = sum(row.gpu_seconds for row in rows) / 3600
    if limits.gpu_hours is not None and used >= limits.gpu_hours:
        return f"{used:.3g} GPU-hours are used, of {limits.gpu_hours:g}"
    return _by_value(rows, limits, mode=mode)


def _by_value(rows: Sequence[TrialRow], limits: Limits, *, mode: str) -> str:
    sign = 1.0 if mode == "max" else -1.0
    best, since = -math.inf, 0
    for row in rows:
        if row.repeats:
            continue
        since += row.state in ("complete", "pruned")
        if row.state == "complete" and row.is_feasible and row.value is not None and sign * row.value > best:
            best, since = sign * row.value, 0
    if limits.target is not None and best >= sign * limits.target:
        return f"the target {limits.target:g} is reached"
    if limits.no_better_in is not None and math.isfinite(best) and since >= limits.no_better_in:
        return f"{since} trials in a row were not better than the best"
    return ""


def limits_of(search: Any, *, trials: int, configurations: int | None) -> Limits:
    """The budget of a study file's search; ``trials`` 0: no limit on their number."""
    budget: Mapping[str, Any] | Any = getattr(search, "budget", None)
    read = {key: getattr(budget, key, None) for key in ("hours", "gpu_hours", "target", "no_better_in")}
    return Limits(trials=trials or None, configurations=configurations, **read)
