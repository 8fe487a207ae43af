"""The search stage: Ray Tune places trials, the ledger decides them, warm slots run them."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from study.config import StudyConfig, apply_params
from study.distributed.adapters import LedgerScheduler, LedgerSearcher, RunTrainable
from study.distributed.slots import SlotPool
from study.distributed.specs import RETRY_ROOM, artifacts, make_spec
from study.ledger import Ledger, LedgerTrial
from study.retelling import retell
from study.tracking import Tracker
from study.types import EpochResult, Event, Retry, RunOutcome, RunSpec

Observe = Callable[[Event], None]
MANY: Final = 1_000_000  # trials, where only time or a target ends the search
MAX_LOST: Final = 10  # trials whose follower died, before the study is stopped


@dataclass(kw_only=True)
class Search:
    """The desk of one search: what Tune's adapters ask and report."""

    config: StudyConfig
    study_dir: Path
    ledger: Ledger
    tracker: Tracker
    observe: Observe
    stop: threading.Event
    pool: SlotPool | None = None
    fingerprint: str = ""
    lost: int = 0

    def next_spec(self) -> RunSpec | None:
        """The next trial, adopted or new."""
        if self.stop.is_set() or self.has_failed or (self.pool is not None and self.pool.failure):
            return None
        while (trial := self.ledger.next_trial()) is not None and trial.repeats is not None:
            self._tell_repeat(trial)
        if trial is None:
            return None
        config = apply_params(self.config, trial.params)
        spec = make_spec(
            self.study_dir,
            str(trial.number),
            config.seed,
            config=config,
            attempt=trial.attempt * RETRY_ROOM,
            reported_epoch=trial.reported_epoch,
            fingerprint=self.fingerprint,
        )
        spec = self.with_past(spec)
        attempt = trial.attempt + self.ledger.num_retries(spec.trial, spec.seed)
        self.tracker.start_run(
            spec.trial, spec.seed, params=trial.params, config=spec.config, attempt=attempt, stage="search"
        )
        self.observe(Event(kind="started", trial=spec.trial, seed=spec.seed, params=trial.params))
        return spec

    def _tell_repeat(self, trial: LedgerTrial) -> None:
        """A trial with the configuration of an earlier one has ended where it began."""
        config, name = apply_params(self.config, trial.params), str(trial.number)
        outcome = self.ledger.outcome(trial.number) or RunOutcome(state="complete")
        self._mirror_repeat(name, trial.params, outcome)
        self.observe(Event(kind="started", trial=name, seed=config.seed, params=trial.params))
        value = outcome.metrics.get(self.ledger.metric)
        text = f"the same configuration as trial {trial.repeats}: its result is used again"
        self.observe(Event(kind="ended", trial=name, seed=config.seed, state=outcome.state, text=text, value=value))

    def _mirror_repeat(self, name: str, params: Mapping[str, Any], outcome: RunOutcome) -> None:
        config = apply_params(self.config, params)
        self.tracker.start_run(name, config.seed, params=params, config=config, attempt=1, stage="search")
        self.tracker.end_run(name, config.seed, outcome)

    def on_epoch(self, spec: RunSpec, result: EpochResult) -> bool:
        """Keep an epoch, and decide whether the trial goes on."""
        number = int(spec.trial)
        self.tracker.log_epoch(spec.trial, spec.seed, result)
        self.ledger.report(number, result)
        value = result.metrics.get(self.ledger.metric)
        self.observe(Event(kind="epoch", trial=spec.trial, seed=spec.seed, result=result, value=value))
        if not self.ledger.should_prune(number):
            return True
        self.on_end(spec, RunOutcome(state="pruned", checkpoint=spec.directory))
        return False

    def with_past(self, spec: RunSpec) -> RunSpec:
        """The run with what the ledger knows of its failures: in which parts it goes, and how often it was retried."""
        failed = self.ledger.failed_since(spec.trial, spec.seed, epoch=spec.reported_epoch)
        return replace(spec, parts=self.ledger.parts_of(spec.trial), failed=failed)

    def on_retry(self, spec: RunSpec, retry: Retry) -> None:
        """Keep that a trial is tried again, and say so."""
        self.keep_retry(spec, retry, params=self.ledger.params_of(int(spec.trial)))

    def keep_retry(
        self, spec: RunSpec, retry: Retry, *, params: Mapping[str, Any], stage: Literal["search", "confirm"] = "search"
    ) -> None:
        """Keep that a run is tried again, and in which parts, so that a kill forgets neither, and say so."""
        self.ledger.record_retry(spec.trial, spec.seed, retry)
        attempt = spec.attempt // RETRY_ROOM + self.ledger.num_retries(spec.trial, spec.seed)
        self.tracker.start_run(spec.trial, spec.seed, params=params, attempt=attempt, stage=stage, retry=retry)
        self.observe(Event(kind="warning", trial=spec.trial, seed=spec.seed, text=f"run {spec.run_id}: {retry.text}"))

    def on_end(self, spec: RunSpec, outcome: RunOutcome) -> None:
        """A ``waiting`` run was interrupted: it stays open in the ledger and is adopted on resume."""
        self.ledger.finish(int(spec.trial), outcome)
        kept = self.ledger.outcome(int(spec.trial)) or outcome
        self.tracker.end_run(spec.trial, spec.seed, kept, artifacts=artifacts(Path(spec.directory)))
        event = ended_event(spec, kept, metric=self.ledger.metric)
        self.observe(replace(event, is_feasible=self.ledger.is_feasible(int(spec.trial))))
        if kept.state == "failed" and self.has_failed and self.pool is not None:
            self.pool.interrupt()

    @property
    def has_failed(self) -> bool:
        """Whether more trials have failed than the study bears."""
        return self.ledger.num_failed() > self.config.max_failures

    def on_lost(self, spec: RunSpec) -> None:
        """The process that followed a trial died: the trial itself is sound, and is handed out again."""
        self.lost += 1
        if self.pool is not None:
            self.pool.abandon(spec.run_id)
            if self.lost > MAX_LOST:
                self.pool.failure = f"the processes that follow trials died {self.lost} times"
        self.ledger.hand_back(int(spec.trial))

    def mirror_ledger(self) -> None:
        """Tell the tracker everything once more; it skips what it has, and a kill may have cost it some."""
        retell(self.ledger, self.tracker, self.config, study_dir=self.study_dir, artifacts=artifacts)


def ended_event(spec: RunSpec, outcome: RunOutcome, *, metric: str) -> Event:
    """A run's end for whoever shows it; ``value`` is the metric that its outcome kept."""
    return Event(
        kind="ended",
        trial=spec.trial,
        seed=spec.seed,
        state=outcome.state,
        text=outcome.reason,
        value=outcome.metrics.get(metric),
    )


def run_search(search: Search, pool: SlotPool, *, concurrent: int, remaining: int, scratch: Path) -> None:
    """Run the ``remaining`` trials, or fewer when the study is stopped or no slot is left."""
    from ray import tune

    specs: dict[str, RunSpec] = {}
    search.pool = pool

    def refuse(run_id: str, epoch: int) -> None:
        pool.switchboard.decide.remote(run_id, epoch, False)

    trainable = tune.with_parameters(RunTrainable, switchboard=pool.switchboard)
    # Memory of one byte: Tune wants a request that is not empty, and the trial's actor needs no CPU of its own.
    trainable = tune.with_resources(trainable, tune.PlacementGroupFactory([{"CPU": 0.0, "memory": 1.0}]))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(search, specs),
            scheduler=LedgerScheduler(search, specs, refuse),
            num_samples=(remaining if search.ledger.budget else MANY) + MAX_LOST,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(scratch),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()
