"""The trials of a study: suggested, adopted, reported, pruned and finished, in one Optuna storage.

One driver process writes (it holds the study's lock); any number of readers look on. What a trial holds, beside
Optuna's own parameters, state and value:

    user attribute ``params``          the parameters as the search space wrote them
    user attribute ``attempt``         how often the trial was handed out, from 1
    user attribute ``epoch:00003``     all metrics of an epoch (``EpochResult``)
    intermediate value at step 3       the study's metric after that epoch, NaN where it is undefined
    user attribute ``outcome``         how it ended (``RunOutcome``), with the reason of a failure
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal, Self

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.config import StudyConfig
from study.errors import InputError
from study.ledger.lock import lock_study
from study.ledger.notes import StudyNotes
from study.ledger.pruning import HalvingPruner
from study.ledger.records import LedgerStatus, LedgerTrial, epoch_to_json, outcome_to_json
from study.ledger.storage import answered, find_study, open_storage
from study.ledger.suggestion import make_sampler, suggest
from study.ledger.table import best_epoch, epoch_key, epochs_of, row_of, value_at
from study.space import SearchSpace, parse_space
from study.types import EpochResult, RunOutcome, TrialRow

FOREIGN: Final = "the trial was put into the ledger by another program"


class Ledger(StudyNotes):
    """The trials of one study. Made by `open`; methods raise EnvironmentFault when the database does not answer.

    With one trial at a time, the suggestion for trial n is a function of the study's seed, n and the finished trials
    before it, however often the process was killed in between.

    Attributes:
        metric, mode: what the search optimises (``val/auroc_macro``, ``max`` where the study file has no search).
        budget: number of trials; complete, pruned and failed ones count. Without a search it is 1, with no parameters.
        pruned_at_open: trials that were found running and stopped, as their last epoch had decided so already.
    """

    lock = staticmethod(lock_study)

    def __init__(self, storage: BaseStorage, study_id: int, *, config: StudyConfig, read_only: bool) -> None:
        super().__init__(storage, study_id, read_only=read_only)
        search = config.search
        self.name: str = config.study
        self.metric: str = config.metric
        self.mode: Literal["max", "min"] = config.mode
        self.budget: int = config.num_trials
        self.pruned_at_open: tuple[int, ...] = ()
        self._algorithm: str = search.algorithm if search else "random"
        self._seed: int = config.seed
        self._max_epochs: int = config.train.epochs
        self._space = _space_of(search.space) if search else None
        self._startup_trials = 0
        self._adopted: list[int] = []
        self._rows: dict[int, TrialRow] = {}
        self._study = optuna.load_study(
            study_name=self.name, storage=storage, sampler=RandomSampler(), pruner=_pruner_of(search)
        )

    @classmethod
    @answered
    def open(cls, url: str, *, config: StudyConfig, read_only: bool = False) -> Self:
        """Open the study's ledger, creating it when it is new; running trials are adopted unless ``read_only``.

        Args:
            url: database URL; `default_url` gives that of a study directory.
            config: the resolved study file; a larger ``search.trials`` than before continues the search.
            read_only: for looking on, without the lock; nothing is created, adopted or changed.

        Raises:
            InputError: the URL is malformed; there is nothing to read; or the ledger belongs to another metric.
            EnvironmentFault: the database does not answer.
        """
        storage = open_storage(url, create=not read_only)
        if not read_only:
            is_max = config.mode == "max"
            direction = StudyDirection.MAXIMIZE if is_max else StudyDirection.MINIMIZE
            optuna.create_study(study_name=config.study, storage=storage, directions=[direction], load_if_exists=True)
        ledger = cls(storage, find_study(storage, config.study), config=config, read_only=read_only)
        ledger._check_search()
        if not read_only:
            ledger._adopt()
        return ledger

    @answered
    def next_trial(self) -> LedgerTrial | None:
        """The next trial to run: adopted ones first, by their numbers, then new ones; None when all ran."""
        self._must_write()
        if self._adopted:
            number = self._adopted[0]
            trial = self._trial(number)
            attempt = int(trial.user_attrs["attempt"]) + 1
            self._storage.set_trial_user_attr(self._id(number), "attempt", attempt)
            self._adopted.pop(0)
            epochs = epochs_of(trial)
            return LedgerTrial(
                number=number,
                params=trial.user_attrs["params"],
                reported_epoch=max(epochs, default=0),
                attempt=attempt,
            )
        number = self._storage.get_n_trials(self._study_id)
        if number >= self.budget:
            return None
        sampler = make_sampler(self._algorithm, seed=self._seed, number=number, startup_trials=self._startup_trials)
        draft = suggest(self._storage, self._space, study=self.name, sampler=sampler, number=number)
        draft.user_attrs = {**draft.user_attrs, "attempt": 1}
        self._storage.create_new_trial(self._study_id, template_trial=draft)
        return LedgerTrial(number=number, params=draft.user_attrs["params"])

    def hand_back(self, number: int) -> None:
        """A trial that was handed out and lost its follower: it is the next one to be handed out again."""
        if number not in self._adopted and not self._trial(number).state.is_finished():
            self._adopted.append(number)
            self._adopted.sort()

    @answered
    def report(self, number: int, result: EpochResult) -> None:
        """Keep an epoch; one that is known already changes nothing, and neither does one of a finished trial."""
        self._must_write()
        trial = self._trial(number)
        if trial.state.is_finished():
            return
        key = epoch_key(result.epoch)
        if key not in trial.user_attrs:
            self._storage.set_trial_user_attr(self._id(number), key, epoch_to_json(result))
        if result.epoch not in trial.intermediate_values:
            kept = epochs_of(trial).get(result.epoch, result)
            value = value_at(kept, self.metric)
            self._storage.set_trial_intermediate_value(self._id(number), result.epoch, value)

    @answered
    def should_prune(self, number: int) -> bool:
        """Whether the trial has to stop after its last reported epoch; never after the last epoch of its training."""
        return self._is_pruned(self._trial(number))

    @answered
    def finish(self, number: int, outcome: RunOutcome) -> None:
        """Keep how a trial ended.

        A complete trial's value is the metric at its best epoch, a pruned one's the last metric; where that is missing
        or not a finite number, the trial is failed, with the reason. ``running`` (the run was interrupted) leaves the
        trial to be adopted by whoever opens the ledger next. A trial that is finished already stays as it is.
        """
        self._must_write()
        trial = self._trial(number)
        if trial.state.is_finished() or outcome.state in {"running", "waiting"}:
            return
        kept, value = self._judged(trial, outcome)
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(kept.state, TrialState.FAIL)
        self._storage.set_trial_user_attr(self._id(number), "outcome", outcome_to_json(kept))
        self._storage.set_trial_state_values(self._id(number), state, None if value is None else [value])

    @answered
    def rows(self) -> list[TrialRow]:
        """One row per trial, in the order of their numbers, running ones included."""
        rows = []
        for trial in self._trials():
            row = self._rows.get(trial.number) or row_of(trial, metric=self.metric, mode=self.mode, seed=self._seed)
            if trial.state.is_finished():
                self._rows[trial.number] = row
            rows.append(row)
        return rows

    @answered
    def epochs(self, number: int) -> list[EpochResult]:
        """All reported epochs of a trial, in order."""
        return [result for _, result in sorted(epochs_of(self._trial(number)).items())]

    @answered
    def outcome(self, number: int) -> RunOutcome | None:
        """How the trial ended; None while it has not."""
        trial = self._trial(number)
        return RunOutcome(**trial.user_attrs["outcome"]) if trial.state.is_finished() else None

    def counts(self) -> dict[str, int]:
        """Number of trials by state, of the states that occur."""
        return dict(Counter(row.state for row in self.rows()))

    def best(self) -> TrialRow | None:
        """The complete trial with the best value, the earlier one of equals; None when there is none."""
        complete = [row for row in self.rows() if row.state == "complete" and row.value is not None]
        sign = 1 if self.mode == "max" else -1
        return max(complete, key=lambda row: sign * (row.value or 0.0), default=None)

    def status(self) -> LedgerStatus:
        """Where the search stands."""
        rows = self.rows()
        running = tuple(int(row.trial) for row in rows if row.state == "running")
        return LedgerStatus(
            study=self.name, planned=self.budget, counts=self.counts(), running=running, best=self.best()
        )

    def close(self) -> None:
        """Let go of the database connection of this thread."""
        self._storage.remove_session()

    def _check_search(self) -> None:
        """Hold the ledger to the metric it was made for, and to the same length of random search when it grows."""
        wanted = {"metric": self.metric, "mode": self.mode}
        kept = self.stage("search_settings")
        if kept is None:
            kept = {**wanted, "startup_trials": min(10, max(4, self.budget // 2))}
            if not self._read_only:
                self.record_stage("search_settings", kept)
        found = {key: kept[key] for key in wanted}
        if found != wanted:
            raise InputError(
                f"the ledger of study {self.name} holds {found['metric']} ({found['mode']}), "
                f"the study file asks for {self.metric} ({self.mode})",
                "give the study another name, or set search.metric and search.mode back",
            )
        self._startup_trials = int(kept["startup_trials"])

    def _adopt(self) -> None:
        """Queue the trials that were running; stop those whose last epoch had decided so, fail those not from us."""
        pruned = []
        for trial in self._trials():
            if trial.state.is_finished():
                continue
            if not {"params", "attempt"} <= set(trial.user_attrs):
                self.finish(trial.number, RunOutcome(state="failed", reason=FOREIGN))
                continue
            for result in epochs_of(trial).values():
                self.report(trial.number, result)
            if self.should_prune(trial.number):
                self.finish(
                    trial.number,
                    RunOutcome(state="pruned"),
                )
                pruned.append(trial.number)
            else:
                self._adopted.append(trial.number)
        self.pruned_at_open = tuple(pruned)

    def _is_pruned(self, trial: FrozenTrial) -> bool:
        params: Mapping[str, Any] = trial.user_attrs.get("params", {})
        last = trial.last_step
        if last is None or last >= int(params.get("train.epochs", self._max_epochs)):
            return False
        return self._study.pruner.prune(self._study, trial)

    def _judged(self, trial: FrozenTrial, outcome: RunOutcome) -> tuple[RunOutcome, float | None]:
        if outcome.state == "failed":
            return outcome, None
        epochs, last = epochs_of(trial), trial.last_step
        best = outcome.best_epoch or best_epoch(trial.intermediate_values, self.mode) or last or 0
        epoch = best if outcome.state == "complete" else last or 0
        metrics: Mapping[str, float] = epochs[epoch].metrics if epoch in epochs else outcome.metrics
        kept = replace(outcome, best_epoch=best, metrics=outcome.metrics or dict(metrics))
        value = metrics.get(self.metric)
        if value is None:
            return replace(kept, state="failed", reason=f"epoch {epoch} has no {self.metric}"), None
        if not math.isfinite(value):
            return replace(kept, state="failed", reason=f"{self.metric} is {value} at epoch {epoch}"), None
        return kept, float(value)

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        """Optuna's key of the trial in the database."""
        try:
            return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        except KeyError as error:
            raise InputError(f"study {self.name} has no trial {number}", "look at `study status`") from error


def _space_of(space: Any) -> SearchSpace:
    return space if isinstance(space, SearchSpace) else parse_space(space)


def _pruner_of(search: Any) -> optuna.pruners.BasePruner:
    if search is None or search.pruner is None or search.pruner.name == "none":
        return optuna.pruners.NopPruner()
    return HalvingPruner(min_epochs=search.pruner.min_epochs, reduction_factor=search.pruner.reduction_factor)
