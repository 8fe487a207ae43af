"""Asynchronous successive halving as a pure function of what the trials have reported."""

import math
from collections.abc import Iterator, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial


class HalvingPruner(optuna.pruners.BasePruner):
    """Stop a trial at a rung unless it is among the best of all trials that have reached that rung so far.

    Rungs lie at ``min_epochs * reduction_factor ** k`` epochs. Of ``n`` values at a rung (the trial's own included) the
    best ``max(1, n // reduction_factor)`` go on; NaN never does and never counts (Li et al., "A System for Massively
    Parallel Hyperparameter Tuning", MLSys 2020, algorithm 2, without its pausing).

    Optuna's own ``SuccessiveHalvingPruner`` decides alike, but it writes the trial's rung into the storage before the
    decision is known to anyone: after a kill in between, the question asked again gets "go on", and the trial that
    should have stopped runs to its end. Here nothing is written, so the same storage always gives the same answer.

    Args:
        min_epochs: epochs of the first rung, at least 1.
        reduction_factor: share of the trials that a rung stops, as 1 - 1 / reduction_factor; at least 2.

    Raises:
        ValueError: an argument is below its bound.
    """

    def __init__(self, *, min_epochs: int = 1, reduction_factor: int = 2) -> None:
        if min_epochs < 1 or reduction_factor < 2:
            raise ValueError(
                f"min_epochs is {min_epochs} and reduction_factor {reduction_factor}; expected at least 1 and 2"
            )
        self.min_epochs = min_epochs
        self.reduction_factor = reduction_factor

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether ``trial`` has to stop after its last reported epoch; False between rungs."""
        return self.prune_among(study.get_trials(deepcopy=False), trial, direction=study.direction)

    def prune_among(self, trials: Sequence[FrozenTrial], trial: FrozenTrial, *, direction: StudyDirection) -> bool:
        """The same, compared with some trials alone."""
        last = trial.last_step
        if last is None:
            return False
        reached = [rung for rung in self._rungs(last) if _step_at(trial, rung) == last]
        if not reached:
            return False
        value = trial.intermediate_values[last]
        if math.isnan(value):
            return True
        others = [other for other in trials if other.number != trial.number]
        is_max = direction == StudyDirection.MAXIMIZE
        return not all(self._goes_on(value, _values_at(others, rung), is_max=is_max) for rung in reached)

    def _rungs(self, last: int) -> Iterator[int]:
        rung = self.min_epochs
        while rung <= last:
            yield rung
            rung *= self.reduction_factor

    def _goes_on(self, value: float, others: list[float], *, is_max: bool) -> bool:
        values = sorted([value, *others], reverse=is_max)
        limit = values[max(1, len(values) // self.reduction_factor) - 1]
        return value >= limit if is_max else value <= limit


def _step_at(trial: FrozenTrial, rung: int) -> int | None:
    """The first reported epoch at or after ``rung``; None when the trial did not get there."""
    return min((step for step in trial.intermediate_values if step >= rung), default=None)


def _values_at(trials: list[FrozenTrial], rung: int) -> list[float]:
    steps = [(trial, _step_at(trial, rung)) for trial in trials]
    values = [trial.intermediate_values[step] for trial, step in steps if step is not None]
    return [value for value in values if not math.isnan(value)]
