"""Suggestions that are a function of (seed, number, finished trials) and touch no storage.

Optuna writes a new trial in many steps: first the empty trial, then one parameter after the other. A process that dies
in between leaves half a trial. Here a draft lives in memory until all of its parameters are known; then the ledger
stores it in one transaction. Samplers that hold state (generations, positions in a sequence or a grid) get it from the
trials alone: what they would have to remember is either the trial's number or an attribute of the trials.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.ledger.evolution import Evolution
from study.ledger.view import GENERATION, labels, optuna_params
from study.space import SearchSpace, SpaceNode, UnitPoint, active_nodes, cells, grid_turn, value_in, walk

DRAFT_ID: Final = -1
STUDY_ID: Final = 0
ALGORITHMS: Final = ("tpe", "random", "quasi_random", "grid", "gp", "cmaes", "nsga2")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestSettings:
    """What a suggestion depends on beside the trials."""

    algorithm: str
    seed: int
    modes: tuple[str, ...]
    startup_trials: int
    population: int


@dataclass(slots=True)
class Suggester:
    """Drafts of new trials of one search space; holds nothing that the trials do not give again."""

    space: SearchSpace | None
    settings: SuggestSettings
    _caches: dict[str, Any] = field(default_factory=dict)
    _cells: Any = None

    def draft(
        self, number: int, trials: Sequence[FrozenTrial], *, point: Mapping[str, Any] | None = None, turn: int = 0
    ) -> FrozenTrial | None:
        """The trial with this number, in memory only; None when a grid has no cell left.

        Args:
            number: the trial's number, from 0.
            trials: all trials before it as `view.seen` shows them, in order.
            point: values that are given; the others are suggested.
            turn: 0, or higher to get another suggestion for the same number.
        """
        if self.space is None:
            return _frozen(number)
        seed = mix(self.settings.seed, number) if not turn else mix(self.settings.seed, number, turn)
        system_attrs: dict[str, Any] = {}
        fixed = self._given(point or {})
        if self.settings.algorithm == "grid" and not point:
            params = self._next_cell(trials)
            if params is None:
                return None
        elif self.settings.algorithm == "quasi_random" and not turn:
            params = walk(
                self.space, UnitPoint(self.space, self._sobol(number), fixed=grid_turn(self.space, number) | fixed)
            )
        elif self.settings.algorithm == "cmaes":
            params, system_attrs = self._evolved(seed, number, trials, fixed=fixed)
        else:
            params, system_attrs = self._asked(seed, number, trials, fixed=fixed)
        draft = _frozen(number)
        draft.params, draft.distributions, _ = optuna_params(self.space, params)
        draft.system_attrs = system_attrs
        draft.user_attrs = {"params": params}
        return draft

    def _given(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a point by the keys of their parameters."""
        assert self.space is not None  # noqa: S101 - callers have checked
        found = ((node.key, value_in(node, point)) for node in active_nodes(self.space, point) if point)
        return {key: value[0] for key, value in found if value is not None}

    def _next_cell(self, trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
        """The first cell of the grid that no trial has; trials only grow, so the search for it never goes back."""
        assert self.space is not None  # noqa: S101 - callers have checked
        taken = {_key(trial.params) for trial in trials}
        if self._cells is None:
            self._cells = cells(self.space)
        while (cell := self._caches.pop("cell", None) or next(self._cells, None)) is not None:
            if _key(optuna_params(self.space, cell)[0]) not in taken:
                self._caches["cell"] = cell
                return dict(cell)
        return None

    def _sobol(self, number: int) -> list[float]:
        """Point ``number`` of the Sobol sequence, scrambled by the study's seed (Owen 1998, as scipy does it)."""
        from scipy.stats import qmc

        assert self.space is not None  # noqa: S101 - callers have checked
        engine = qmc.Sobol(d=len(self.space), scramble=True, rng=np.random.default_rng(self.settings.seed))
        if number:  # scipy cannot go forward by nothing
            engine.fast_forward(number)
        return [float(x) for x in engine.random(1)[0]]

    def _asked(
        self, seed: int, number: int, trials: Sequence[FrozenTrial], *, fixed: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        assert self.space is not None  # noqa: S101 - callers have checked
        storage: Any = _ViewStorage(trials, number, self.settings.modes)
        sampler = make_sampler(self.settings, seed=seed)
        study = optuna.Study("view", storage, sampler=sampler, pruner=optuna.pruners.NopPruner())
        trial = optuna.Trial(study, DRAFT_ID)
        params = walk(self.space, _Ask(trial, grid_turn(self.space, number) | dict(fixed)))
        attrs = storage.draft.system_attrs
        return params, {key: value for key, value in attrs.items() if key.endswith(f":{GENERATION}")}

    def _evolved(
        self, seed: int, number: int, trials: Sequence[FrozenTrial], *, fixed: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        assert self.space is not None  # noqa: S101 - callers have checked
        if "evolution" not in self._caches:
            self._caches["evolution"] = Evolution(
                self.space, seed=self.settings.seed, mode=self.settings.modes[0], population=self.settings.population
            )
        drawn, generation = self._caches["evolution"].ask(trials, seed=seed)
        given = grid_turn(self.space, number) | drawn | dict(fixed)
        params, _ = self._asked(seed, number, trials, fixed=given)
        return params, {f"cmaes:{GENERATION}": generation}


def make_sampler(settings: SuggestSettings, *, seed: int) -> BaseSampler:
    """A fresh sampler of Optuna's; its random numbers depend on ``seed`` alone.

    ``tpe`` is multivariate with one group of parameters per branch of the space, and running trials repel (Bergstra et
    al., NeurIPS 2011); ``gp`` is Gaussian-process regression with expected improvement; ``nsga2`` that of Deb et al.
    (2002); all others that end here draw at random what they leave open.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if settings.algorithm == "tpe":
            return TPESampler(
                seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=settings.startup_trials
            )
        if settings.algorithm == "gp":
            return GPSampler(
                seed=seed,
                n_startup_trials=settings.startup_trials,
                deterministic_objective=False,
                warn_independent_sampling=False,
            )
        if settings.algorithm == "nsga2":
            return NSGAIISampler(seed=seed, population_size=settings.population)
    return RandomSampler(seed=seed)


def mix(seed: int, number: int, turn: int | None = None) -> int:
    """A 32-bit seed for trial ``number``; neighbouring numbers give unrelated seeds."""
    text = f"{seed}/{number}" if turn is None else f"{seed}/{number}/{turn}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


def _key(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))


class _Ask:
    """Answers the search space's questions with Optuna's suggestions, or with values that are given."""

    def __init__(self, trial: optuna.Trial, fixed: Mapping[str, Any]) -> None:
        self._trial, self._fixed = trial, fixed

    def choice(self, path: str, options: Sequence[Any]) -> Any:
        if path in self._fixed:
            return self._fixed[path]
        named = labels(options)
        return options[named.index(self._trial.suggest_categorical(path, named))]

    def number(self, path: str, node: SpaceNode) -> float:
        if path in self._fixed:
            given: float = self._fixed[path]
            return given
        if node.kind == "int":
            step = int(node.step) if node.step else 1
            return self._trial.suggest_int(path, int(node.low), int(node.high), step=step, log=node.log)
        return self._trial.suggest_float(path, node.low, node.high, step=node.step, log=node.log)


class _ViewStorage:
    """As much of an Optuna storage as samplers ask: the trials of a view, and one draft that is being made."""

    def __init__(self, trials: Sequence[FrozenTrial], number: int, modes: Sequence[str]) -> None:
        self._trials = list(trials)
        self._directions = [StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in modes]
        self.draft = _frozen(number)

    def get_study_id_from_name(self, _: str) -> int:
        return STUDY_ID

    def get_study_directions(self, _: int) -> list[StudyDirection]:
        return self._directions

    def get_study_system_attrs(self, _: int) -> dict[str, Any]:
        return {}

    def set_study_system_attr(self, *_: object) -> None:
        """Nothing: what genetic samplers cache here follows from the trials."""

    def get_all_trials(
        self, _: int, deepcopy: bool = True, states: Sequence[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self.draft if trial_id == DRAFT_ID else next(t for t in self._trials if t._trial_id == trial_id)  # noqa: SLF001

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return self.get_trial(trial_id).system_attrs

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        assert trial_id == DRAFT_ID  # noqa: S101 - a sampler that writes elsewhere would break exact resume
        self.draft.system_attrs[key] = value

    def set_trial_param(self, *_: object) -> None:
        """Nothing to store: the asking trial notes the parameter in the draft itself."""

    def remove_session(self) -> None:
        """Nothing is open."""


def _frozen(number: int) -> FrozenTrial:
    return FrozenTrial(
        number=number,
        trial_id=DRAFT_ID,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),  # noqa: DTZ005 - Optuna stores local time
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={"params": {}},
        system_attrs={},
        intermediate_values={},
    )
