"""Suggestions that are a function of (seed, number, finished trials) and touch no storage.

Optuna writes a new trial in many steps: first the empty trial, then one parameter after the other. A process that dies
in between leaves half a trial. Here a draft lives in memory until all of its parameters are known; then the ledger
stores it in one transaction.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from study.space import Scalar, SearchSpace, SpaceNode, walk

DRAFT_ID: Final = -1


def suggest(
    storage: BaseStorage, space: SearchSpace | None, *, study: str, sampler: BaseSampler, number: int
) -> FrozenTrial:
    """The trial with this number: parameters with their distributions, in memory only.

    The suggestion depends on ``sampler`` (pass a fresh one), on the trials in ``storage`` and on nothing else.
    ``user_attrs["params"]`` holds the parameters as the search space wrote them.
    """
    draft_storage: Any = _DraftStorage(storage, number)
    draft_study = optuna.Study(study, draft_storage, sampler=sampler, pruner=optuna.pruners.NopPruner())
    params = walk(space, _Ask(optuna.Trial(draft_study, DRAFT_ID))) if space is not None else {}
    draft: FrozenTrial = draft_storage.draft
    draft.system_attrs = {}
    draft.user_attrs = {"params": params}
    return draft


def make_sampler(algorithm: str, *, seed: int, number: int, startup_trials: int) -> BaseSampler:
    """A fresh sampler for trial ``number``; its random numbers depend on ``seed`` and ``number`` alone.

    Args:
        algorithm: ``tpe`` (Bergstra et al., NeurIPS 2011; multivariate, one group of parameters per branch of the
            space, running trials repel) or ``random``.
        seed: the study's seed.
        number: the trial's number, from 0.
        startup_trials: trials that have to be finished before TPE takes over from random search.
    """
    mixed = mix(seed, number)
    if algorithm == "random":
        return RandomSampler(seed=mixed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            seed=mixed, multivariate=True, group=True, constant_liar=True, n_startup_trials=startup_trials
        )


def mix(seed: int, number: int) -> int:
    """A 32-bit seed for trial ``number``; neighbouring numbers give unrelated seeds."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest())


class _Ask:
    """Answers the search space's questions with Optuna's suggestions."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def choice(self, path: str, options: Sequence[Scalar]) -> Scalar:
        # Optuna compares options by ==, which takes 1 for true.
        if len(set(options)) == len(options):
            chosen: Scalar = self._trial.suggest_categorical(path, list(options))
            return chosen
        named = {json.dumps(option): option for option in options}
        return named[self._trial.suggest_categorical(path, list(named))]

    def number(self, path: str, node: SpaceNode) -> float:
        if node.kind == "int":
            step = int(node.step) if node.step else 1
            return self._trial.suggest_int(path, int(node.low), int(node.high), step=step, log=node.log)
        return self._trial.suggest_float(path, node.low, node.high, step=node.step, log=node.log)


class _DraftStorage:
    """The real storage with one more trial, which is in memory; Optuna sees no difference."""

    def __init__(self, storage: BaseStorage, number: int) -> None:
        self._storage = storage
        self.draft = FrozenTrial(
            number=number,
            trial_id=DRAFT_ID,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),  # noqa: DTZ005 - Optuna stores local time
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        attribute: Callable[..., Any] = getattr(self._storage, name)
        return attribute

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self.draft if trial_id == DRAFT_ID else self._storage.get_trial(trial_id)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return self.get_trial(trial_id).system_attrs

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        assert trial_id == DRAFT_ID  # noqa: S101 - a sampler that writes elsewhere would break exact resume
        self.draft.system_attrs[key] = value

    def set_trial_param(self, *_: object) -> None:
        """Nothing to store: the asking trial notes the parameter in the draft itself."""
