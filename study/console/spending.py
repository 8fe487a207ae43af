"""What of a search's budget is spent, and what is left, in words."""

from dataclasses import dataclass
from typing import Literal

from study.report.words import duration, number
from study.types import Limits


@dataclass(slots=True, kw_only=True)
class Spent:
    """GPU time of all trials, and how many have ended after the best one (``None`` while there is no best)."""

    mode: Literal["max", "min"] = "max"
    gpu_seconds: float = 0.0
    since_best: int | None = None

    def take(self, state: str, *, is_best: bool) -> None:
        """Count a trial that has ended, repetitions left out, as ``search.budget.no_better_in`` does."""
        if is_best:
            self.since_best = 0
        elif self.since_best is not None and state in ("complete", "pruned"):
            self.since_best += 1


def budget_text(limits: Limits, spent: Spent, *, trials_left: int, hours: float) -> str:
    """What is left of every limit but the number of trials alone; empty where there is no other one."""
    left = []
    if limits.hours is not None:
        left.append(f"{duration(3600 * max(0.0, limits.hours - hours))} of {duration(3600 * limits.hours)}")
    if limits.gpu_hours is not None:
        rest = max(0.0, limits.gpu_hours - spent.gpu_seconds / 3600)
        left.append(f"{rest:.3g} of {limits.gpu_hours:g} GPU-hours")
    ends = []
    if limits.target is not None:
        ends.append(f"at {number(limits.target)} or {'above' if spent.mode == 'max' else 'below'}")
    if limits.no_better_in is not None:
        more = max(0, limits.no_better_in - (spent.since_best or 0))
        ends.append(f"after {more} more {'trial' if more == 1 else 'trials'} without a better one")
    if not left and not ends:
        return ""
    if limits.trials is not None:
        left.insert(0, f"{trials_left} of {limits.trials} trials")
    parts = [f"{', '.join(left)} left"] if left else []
    return "; ".join([*parts, *([f"ends {' or '.join(ends)}"] if ends else [])])
