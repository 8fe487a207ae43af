"""The trials of a study: suggested, adopted, reported, pruned and finished, in one Optuna storage.

One driver process writes (it holds the study's lock); any number of readers look on. What a trial holds, beside
Optuna's own parameters, state and value:

    user attribute ``params``          the parameters as the search space wrote them
    user attribute ``attempt``         how often the trial was handed out, from 1
    user attribute ``epoch:00003``     all metrics of an epoch (``EpochResult``)
    intermediate value at step 3       the study's metric after that epoch, NaN where it is undefined
    user attribute ``outcome``         how it ended (``RunOutcome``), with the reason of a failure
    user attributes ``run:...``        epochs and outcomes of runs, where a trial has several (`study.ledger.several`)
    user attribute ``devices``         workers and GPUs of its run, for its cost
    user attribute ``start_with``      the point of the study file that it tries
    user attribute ``repeats``         the finished trial whose configuration, and so whose result, it has again
"""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, Self

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.config import StudyConfig, mode_of
from study.errors import InputError
from study.ledger.asking import Asking, ended, repeated, startup_of
from study.ledger.budget import why_over
from study.ledger.creating import count_trials, create_trial
from study.ledger.judging import judged, metrics_text
from study.ledger.lock import lock_study
from study.ledger.pruners import make_pruner
from study.ledger.reading import read_trials
from study.ledger.records import LedgerStatus, LedgerTrial, outcome_to_json
from study.ledger.running import RunningTrials
from study.ledger.several import completed, epochs_of, to_do
from study.ledger.storage import answered, close_storage, find_study, open_storage
from study.ledger.table import row_of
from study.types import RunOutcome, TrialRow

METRIC_NAMES: Final = "study:metric_names"
FOREIGN: Final = "the trial was put into the ledger by another program"


class Ledger(RunningTrials):
    """The trials of one study. Made by `open`; methods raise EnvironmentFault when the database does not answer.

    With one trial at a time, the suggestion for trial n is a function of the study's seed, n and the finished trials
    before it, however often the process was killed in between.

    Attributes:
        metric, mode: what the search optimises (``val/auroc_macro``, ``max`` where the study file has no search); the
            first one of several, all of which are in ``metrics``.
        budget: number of trials; complete, pruned, failed and repeated ones count. 0 when other limits alone end the
            search. Without a search it is 1, with no parameters.
        pruned_at_open: trials that were found running and stopped, as their last epoch had decided so already.
    """

    lock = staticmethod(lock_study)

    def __init__(self, storage: BaseStorage, study_id: int, *, config: StudyConfig, read_only: bool) -> None:
        super().__init__(storage, study_id, read_only=read_only)
        search = config.search
        self.name: str = config.study
        self.metric: str = config.metric
        self.mode: Literal["max", "min"] = config.mode
        self.metrics: tuple[str, ...] = config.metrics
        self.budget: int = config.num_trials
        self.pruned_at_open: tuple[int, ...] = ()
        self._keys = config.run_keys
        several = search is not None and len(self._keys) > 1 and search.pruner.name != "none"
        self._p_value = search.pruner.p_value if several and search is not None else None
        self._max_epochs: int = config.train.epochs
        self._asking = Asking(config)
        self._adopted: list[int] = []
        self._handed: set[int] = set()
        self._rows: dict[int, TrialRow] = {}
        self._ids: dict[int, int] = {}
        self._study = optuna.load_study(
            study_name=self.name,
            storage=storage,
            sampler=RandomSampler(),
            pruner=make_pruner(search.pruner if search else None, max_epochs=self._max_epochs, seed=config.seed),
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
            modes = [config.mode, *(mode_of(metric) for metric in config.metrics[1:])]
            directions = [StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in modes]
            with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
                optuna.create_study(study_name=config.study, storage=storage, directions=directions)
        ledger = cls(storage, find_study(storage, config.study), config=config, read_only=read_only)
        ledger._check_search()
        if not read_only:
            ledger.record_space(config.search, count_trials(storage, ledger._study_id))
            ledger._adopt()
        return ledger

    @answered
    def next_trial(self) -> LedgerTrial | None:
        """The next trial to run: adopted ones first, by their numbers, then new ones; None when all ran."""
        self._must_write()
        self.begin()
        if not self._adopted:
            self._load()
        if self._adopted:
            return self._hand_out(self._adopted[0])
        return None if self.over else self._create()

    @property
    def over(self) -> str:
        """Why no new trial begins any more; empty while one may."""
        limits, rows = self._asking.limits, sorted(self._rows.items())
        return why_over(
            [row for _, row in rows],
            replace(limits, trials=self.budget or None),
            mode=self.mode,
            hours=self.hours_run() if limits.hours is not None else 0.0,
            known=self._asking.num_known,
            started=self._asking.num_taken,
        )

    @answered
    def left(self, rows: Sequence[TrialRow] | None = None) -> int:
        """Trials that still have to end: those that run, and those that may begin (1 where their number is open).

        ``rows`` are those of `rows`, when they are at hand.
        """
        rows = self.rows() if rows is None else rows
        running = sum(row.state in ("running", "waiting") for row in rows)
        if self.over:
            return running
        return max(0, self.budget - len(rows)) + running if self.budget else running + 1

    def hand_back(self, number: int) -> None:
        """A trial that was handed out and lost its follower: it is the next one to be handed out again."""
        if number not in self._adopted and not self._trial(number).state.is_finished():
            self._adopted.append(number)
            self._adopted.sort()

    @answered
    def finish(self, number: int, outcome: RunOutcome) -> None:
        """Keep how a trial ended.

        A complete trial's value is the metric at its best epoch, a pruned one's the last metric, and with several runs
        the mean over those that are complete; where that is missing or not a finite number, the trial is failed, with
        the reason. ``running`` (the run was interrupted) leaves the trial to be adopted by whoever opens the ledger
        next. A trial that is finished already stays as it is.
        """
        self._must_write()
        trial = self._trial(number)
        if trial.state.is_finished() and number not in self._rows:
            self._take(trial)  # an earlier call was heard, and its answer was lost
        if trial.state.is_finished() or outcome.state in {"running", "waiting"}:
            return
        keys = self._keys_of(trial)
        is_mean = len(keys) > 1 and keys[0] in completed(trial, keys)
        kept, values = judged(trial, outcome, metrics=self.metrics, mode=self.mode, is_mean=is_mean)
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(kept.state, TrialState.FAIL)
        over = ended(trial, state=state, values=values, outcome=outcome_to_json(kept))
        self._storage.set_trial_user_attr(self._id(number), "outcome", over.user_attrs["outcome"])
        self._storage.set_trial_state_values(self._id(number), state, values)
        self._take(over)

    @answered
    def rows(self) -> list[TrialRow]:
        """One row per trial, in the order of their numbers, running ones included."""
        rows = []
        for number, trial in read_trials(self._storage, self._study_id, self._rows).items():
            if trial is not None:
                self._asking.count(trial)
            rows.append(self._rows[number] if trial is None else self._row(trial))
        return rows

    @answered
    def outcome(self, number: int) -> RunOutcome | None:
        """How the trial ended; None while it has not."""
        trial = self._trial(number)
        return RunOutcome(**trial.user_attrs["outcome"]) if trial.state.is_finished() else None

    def is_feasible(self, number: int) -> bool:
        """Whether a trial keeps the constraints; one that has not ended does."""
        row = self._rows.get(number)
        return row is None or row.is_feasible

    def counts(self) -> dict[str, int]:
        """Number of trials by state, of the states that occur."""
        return dict(Counter(row.state for row in self.rows()))

    def best(self) -> TrialRow | None:
        """The complete trial with the best value (the earlier one of equals) that keeps the constraints, if any."""
        complete = [row for row in self.rows() if row.state == "complete" and row.value is not None]
        complete = [row for row in complete if row.is_feasible]
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
        """Let go of the database; a file is one file again, without the log that a running study writes beside it."""
        close_storage(self._storage, read_only=self._read_only)

    def _check_search(self) -> None:
        """Hold the ledger to the metrics it was made for, and to the same length of random search when it grows."""
        wanted: dict[str, Any] = {"metric": self.metric, "mode": self.mode}
        wanted |= {"metrics": list(self.metrics)} if len(self.metrics) > 1 else {}
        kept = self.stage("search_settings")
        if kept is None:
            kept = {**wanted, "startup_trials": startup_of(self.budget)}
            if not self._read_only:
                self.record_stage("search_settings", kept)
                # Where Optuna looks for them, so that its dashboard calls the objectives by their names.
                self._storage.set_study_system_attr(self._study_id, METRIC_NAMES, list(self.metrics))
        found = {key: value for key, value in kept.items() if key in ("metric", "mode", "metrics")}
        if found != wanted:
            raise InputError(
                f"the ledger of study {self.name} holds {metrics_text(found)}, "
                f"the study file asks for {metrics_text(wanted)}",
                "give the study another name, or set search.metric and search.mode back",
            )
        self._asking.settle(int(kept["startup_trials"]))

    def _hand_out(self, number: int) -> LedgerTrial:
        """The adopted trial as its next attempt."""
        trial = self._trial(number)
        attempt = int(trial.user_attrs["attempt"]) + 1
        self._storage.set_trial_user_attr(self._id(number), "attempt", attempt)
        self._adopted.remove(number)
        self._handed.add(number)
        return self._to_run(trial, attempt=attempt)

    def _create(self) -> LedgerTrial | None:
        """Suggest and store the next trial; one that has an earlier one's configuration is stored as finished."""
        draft, original = self._asking.draft()
        if draft is None:
            return None
        if original is not None:
            first = self._trial(original)
            outcome = replace(RunOutcome(**first.user_attrs["outcome"]), metrics=self._row(first).metrics)
            draft = repeated(draft, first, outcome=outcome_to_json(outcome))
        create_trial(self._storage, self._study_id, draft)
        self._handed.add(draft.number)
        self._take(draft)
        return replace(self._to_run(draft), repeats=original)

    def _to_run(self, trial: FrozenTrial, *, attempt: int = 1) -> LedgerTrial:
        keys = self._keys_of(trial)
        return LedgerTrial(
            number=trial.number,
            params=trial.user_attrs["params"],
            runs=to_do(trial, keys),
            of_runs=len(keys),
            attempt=attempt,
        )

    def _load(self) -> None:
        """Take the trials in once, and again when there are others than was known.

        Another program has added some, or a trial was stored though the server's answer was lost: nobody runs that one.
        """
        if count_trials(self._storage, self._study_id) == self._asking.num_seen:
            return
        for trial in self._trials():
            self._take(trial)
            is_ours = {"params", "attempt"} <= set(trial.user_attrs)
            if is_ours and not trial.state.is_finished() and trial.number not in {*self._handed, *self._adopted}:
                self._adopted.append(trial.number)

    def _take(self, trial: FrozenTrial) -> None:
        self._asking.take(trial)
        if trial.state.is_finished():
            self._row(trial)
            if self._asking.limits.hours is not None and not self._read_only:
                self.keep_time()

    def _row(self, trial: FrozenTrial) -> TrialRow:
        constraints = self._asking.constraints
        row = row_of(trial, metric=self.metric, mode=self.mode, keys=self._keys_of(trial), constraints=constraints)
        if trial.state.is_finished():
            self._rows[trial.number] = row
        return row

    def _adopt(self) -> None:
        """Queue the trials that were running; stop those whose last epoch had decided so, fail those not from us."""
        pruned = []
        for trial in self._trials():
            if trial.state.is_finished():
                continue
            if not {"params", "attempt"} <= set(trial.user_attrs):
                self.finish(trial.number, RunOutcome(state="failed", reason=FOREIGN, failure="bad_configuration"))
                continue
            for result in epochs_of(trial).values():
                self.report(trial.number, result)
            over = self._standing(self._trial(trial.number))
            if over is None and self._is_pruned(self._trial(trial.number)):
                over = RunOutcome(state="pruned")
            if over is None:
                self._adopted.append(trial.number)
                continue
            self.finish(trial.number, over)
            pruned += [trial.number] if over.state == "pruned" else []
        self.pruned_at_open = tuple(pruned)
