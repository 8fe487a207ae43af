"""Trials while they run: epochs kept, the pruner asked, and what the end of one run means for its trial."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from study.ledger.judging import ends_trial
from study.ledger.records import epoch_to_json, outcome_to_json
from study.ledger.several import (
    completed,
    epoch_key,
    epochs_by_run,
    epochs_of,
    outcome_key,
    standing,
    undefined,
)
from study.ledger.storage import answered
from study.ledger.stored import StoredTrials
from study.ledger.table import value_at
from study.types import EpochResult, RunKey, RunOutcome


class RunningTrials(StoredTrials):
    """What is written about a trial between its begin and its end."""

    metric: str
    metrics: tuple[str, ...]
    _study: optuna.Study
    _max_epochs: int
    _p_value: float | None

    @answered
    def report(self, number: int, result: EpochResult, key: RunKey | None = None) -> None:
        """Keep an epoch of a run, by default of the trial's first one.

        One that is known already changes nothing, and neither does one of a finished trial.
        """
        self._must_write()
        trial = self._trial(number)
        if trial.state.is_finished():
            return
        is_first = key in (None, self._keys_of(trial)[0])
        name = epoch_key(result.epoch, None if is_first else key)
        if name not in trial.user_attrs:
            self._storage.set_trial_user_attr(self._id(number), name, epoch_to_json(result))
        if is_first and result.epoch not in trial.intermediate_values:
            kept = epochs_of(trial).get(result.epoch, result)
            value = value_at(kept, self.metric)
            self._storage.set_trial_intermediate_value(self._id(number), result.epoch, value)

    @answered
    def should_prune(self, number: int, key: RunKey | None = None) -> bool:
        """Whether the trial has to stop after the last reported epoch of a run.

        Never after the last epoch of its training, and, of several runs, by the first one's epochs alone.
        """
        trial = self._trial(number)
        return key in (None, self._keys_of(trial)[0]) and self._is_pruned(trial)

    @answered
    def end_run(self, number: int, key: RunKey, outcome: RunOutcome) -> RunOutcome | None:
        """Keep that a run of a trial has ended: how the trial ends with it, or None when the trial goes on.

        Of several runs each complete one is kept; a failed one, or one without a value, ends the trial.
        """
        self._must_write()
        trial = self._trial(number)
        keys = self._keys_of(trial)
        if trial.state.is_finished() or len(keys) == 1:
            return outcome
        if outcome.state != "complete":
            return ends_trial(outcome, key)
        known = epochs_by_run(trial, keys)[key].get(outcome.best_epoch)
        kept = replace(outcome, metrics=dict(known.metrics if known else outcome.metrics))
        fault = undefined(kept, key, self.metrics)
        if fault:
            return replace(kept, state="failed", reason=fault)
        self._storage.set_trial_user_attr(self._id(number), outcome_key(key), outcome_to_json(kept))
        return self._standing(self._trial(number))

    def _is_pruned(self, trial: FrozenTrial) -> bool:
        params: Mapping[str, Any] = trial.user_attrs.get("params", {})
        last, keys = trial.last_step, self._keys_of(trial)
        if last is None or last >= int(params.get("train.epochs", self._max_epochs)):
            return False
        if len(keys) > 1 and keys[0] in completed(trial, keys):  # by train.patience, before its last epoch
            return False
        return self._study.pruner.prune(self._study, trial)

    def _standing(self, trial: FrozenTrial) -> RunOutcome | None:
        """Whether the runs that are complete end a trial of several."""
        keys = self._keys_of(trial)
        done = completed(trial, keys) if len(keys) > 1 else {}
        if not done:
            return None
        best = self.best() if self._p_value is not None else None
        values = {RunKey(seed=run.seed, fold=run.fold): run.value for run in best.runs} if best else {}
        known = {key: value for key, value in values.items() if value is not None}
        return standing(done, keys, best=known, metric=self.metric, mode=self.mode, p_value=self._p_value)
