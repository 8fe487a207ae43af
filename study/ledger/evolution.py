"""CMA-ES whose whole state follows from the trials: their generations are told again in the order in which they ended.

Covariance matrix adaptation (Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772) through the package
``cmaes``. It ranks a population and never looks at values otherwise; so pruned trials rank behind all complete ones,
by their last value, and failed ones behind those.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from study.ledger.view import GENERATION
from study.space import NUMBERS, SearchSpace, SpaceNode, num_values
from study.space.sizes import from_unit

KEY: Final = f"cmaes:{GENERATION}"
SIGMA: Final = 1 / 6  # of the unit interval: three standard deviations reach both ends


class Evolution:
    """Draws the unconditional numbers of a space; generation after generation, as the trials tell.

    Args:
        space: parameters other than unconditional ranges are not drawn here.
        seed: of the study.
        mode: ``max`` or ``min``.
        population: trials of a generation.
    """

    def __init__(self, space: SearchSpace, *, seed: int, mode: str, population: int) -> None:
        numbers = [node for node in space.nodes if node.kind in NUMBERS]
        self._nodes = [node for node in numbers if not node.when and not node.inside]
        self._seed, self._sign, self._population = seed, -1.0 if mode == "max" else 1.0, population
        self._told: list[tuple[int, ...]] = []
        self._cma: Any = self._new()

    def ask(self, trials: Sequence[FrozenTrial], *, seed: int) -> tuple[dict[str, Any], int]:
        """Values by key for a new trial with this seed, and the generation that it belongs to."""
        generations = list(self._generations(trials))
        told = [tuple(trial.number for trial in members) for members in generations]
        if told[: len(self._told)] != self._told:  # another ledger, or a trial that ended out of order
            self._told, self._cma = [], self._new()
        for members in generations[len(self._told) :]:
            ranked = sorted(members, key=self._rank)
            self._cma.tell([(self._unit(trial), float(rank)) for rank, trial in enumerate(ranked)])
        self._told = told
        self._cma.reseed_rng(seed)
        point_d = np.clip(self._cma.ask(), 0.0, 1.0)
        drawn = {node.key: from_unit(node, float(unit)) for node, unit in zip(self._nodes, point_d, strict=False)}
        return drawn, len(told)

    def _new(self) -> Any:
        import cmaes  # half a second, because it imports scipy.stats

        size = max(2, len(self._nodes))  # the package wants two dimensions; the second one is then idle
        return cmaes.CMA(
            mean=np.full(size, 0.5),
            sigma=SIGMA,
            bounds=np.tile([0.0, 1.0], (size, 1)),
            population_size=self._population,
            seed=self._seed,
        )

    def _generations(self, trials: Sequence[FrozenTrial]) -> list[list[FrozenTrial]]:
        """The complete generations: of each the trials that ended first, in the order in which they ended."""
        found: list[list[FrozenTrial]] = []
        while True:
            members = [t for t in trials if t.state.is_finished() and t.system_attrs.get(KEY) == len(found)]
            members = [trial for trial in members if all(node.key in trial.params for node in self._nodes)]
            if len(members) < self._population:
                return found
            members.sort(key=lambda trial: (trial.datetime_complete or trial.datetime_start, trial.number))
            found.append(members[: self._population])

    def _rank(self, trial: FrozenTrial) -> tuple[int, float, int]:
        """Complete trials that keep the constraints, then those that do not, then pruned ones, then failed ones."""
        value = self._sign * trial.values[0] if trial.values else math.inf
        excess = sum(max(0.0, missed) for missed in trial.constraints.values())
        if trial.state == TrialState.COMPLETE:
            return (1, excess, trial.number) if excess else (0, value, trial.number)
        return (2 if trial.state == TrialState.PRUNED else 3), value, trial.number

    def _unit(self, trial: FrozenTrial) -> Any:
        units = [to_unit(node, trial.params[node.key]) for node in self._nodes]
        return np.array([*units, *[0.5] * (2 - len(units))])


def to_unit(node: SpaceNode, value: float) -> float:
    """Where a number of a range lies in the unit interval; the inverse of `from_unit`, in the middle of a share."""
    number = None if node.log else num_values(node)
    if number is not None:
        return ((value - node.low) / (node.step or 1) + 0.5) / number
    low, high = (node.low - 0.5, node.high + 0.5) if node.kind == "int" else (node.low, node.high)
    if node.log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)
