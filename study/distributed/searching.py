"""The search stage: Ray Tune places trials, the ledger decides them, warm slots run them."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from study.config import StudyConfig, apply_params
from study.distributed.adapters import LedgerScheduler, LedgerSearcher, RunTrainable
from study.distributed.cluster import own_node_resource
from study.distributed.slots import SlotPool
from study.distributed.specs import RETRY_ROOM, Job, artifacts, make_spec, new_artifacts, on_fold, run_directory
from study.ledger import Ledger, LedgerRun, LedgerTrial
from study.retelling import retell, retell_repeat, stopped_runs, tell_trial
from study.secrecy import OTHERS
from study.tracking import Tracker
from study.types import EpochResult, Event, Retry, RunOutcome, RunSpec, TrialRow

Observe = Callable[[Event], None]
MANY: Final = 1_000_000
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
    _trials: dict[str, LedgerTrial] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)

    @property
    def width(self) -> int:
        """Trials that may go on at a time: one in each slot that there is now.

        Where nothing stops trials, slots are shared by as few trials as fill them: each is sooner known to the next.
        """
        slots = 1 if self.pool is None else self.pool.width
        return slots if self.is_pruned else math.ceil(slots / len(self.config.run_keys))

    def next_job(self) -> Job | None:
        """The next trial, adopted or new; None when no further one begins, and its slots are free for other runs."""
        if self.stop.is_set() or self.has_failed or (self.pool is not None and self.pool.failure):
            return None
        while (trial := self.ledger.next_trial()) is not None and trial.repeats is not None:
            self._tell_repeat(trial)
        if trial is None:
            if self.pool is not None:
                self.pool.open_room()
            return None
        config = apply_params(self.config, trial.params)
        specs = tuple(self._spec(trial, run, config=config) for run in trial.runs)
        job = Job(trial=str(trial.number), runs=specs, of_runs=trial.of_runs, together=not self.is_pruned)
        self._trials[job.trial] = trial
        if trial.of_runs == 1:
            self.on_started(specs[0])
        return job

    @property
    def is_pruned(self) -> bool:
        """Whether anything stops trials, so that runs of one may turn out to be needless."""
        return self.config.search is not None and self.config.search.pruner.name != "none"

    def _spec(self, trial: LedgerTrial, run: LedgerRun, *, config: StudyConfig) -> RunSpec:
        spec = make_spec(
            self.study_dir,
            str(trial.number),
            run.key.seed,
            config=config,
            attempt=trial.attempt * RETRY_ROOM,
            reported_epoch=run.reported_epoch,
            fingerprint=self.fingerprint,
        )
        return self.with_past(on_fold(spec, run.key.fold, study_dir=self.study_dir))

    def on_started(self, spec: RunSpec) -> None:
        """A run begins, or goes on."""
        trial = self._trials[spec.trial]
        if spec.run_id in self._begun:
            return
        self._begun.add(spec.run_id)
        attempt = trial.attempt + self.ledger.num_retries(spec.trial, spec.seed, fold=spec.fold)
        self.tracker.start_run(
            spec.trial,
            spec.seed,
            fold=spec.fold,
            params=trial.params,
            config=spec.config,
            attempt=attempt,
            stage="search",
        )
        self.observe(self._event("started", spec, params=trial.params, attempt=attempt))

    def _event(self, kind: Any, spec: RunSpec, **more: Any) -> Event:
        """An event of one run; of the trial itself where that is its only one."""
        part = spec.key.part if self._trials[spec.trial].of_runs > 1 else ""
        return Event(kind=kind, trial=spec.trial, seed=spec.seed, part=part, run=spec.run_id, **more)

    def _tell_repeat(self, trial: LedgerTrial) -> None:
        """A trial with the configuration of an earlier one has ended where it began."""
        config, name = apply_params(self.config, trial.params), str(trial.number)
        outcome = self.ledger.outcome(trial.number) or RunOutcome(state="complete")
        retell_repeat(self.ledger, self.tracker, self.ledger.rows()[trial.number], config=self.config)
        self.observe(Event(kind="started", trial=name, seed=config.seed, params=trial.params))
        value = outcome.metrics.get(self.ledger.metric)
        text = f"the same configuration as trial {trial.repeats}: its result is used again"
        self.observe(Event(kind="ended", trial=name, seed=config.seed, state=outcome.state, text=text, value=value))

    def on_epoch(self, spec: RunSpec, result: EpochResult) -> bool:
        """Keep an epoch, and decide whether the trial goes on."""
        number = int(spec.trial)
        self.tracker.log_epoch(spec.trial, spec.seed, result, fold=spec.fold)
        self.ledger.report(number, result, spec.key)
        value = result.metrics.get(self.ledger.metric)
        self.observe(self._event("epoch", spec, result=result, value=value))
        if not self.ledger.should_prune(number, spec.key):
            return True
        self._end_trial(spec, RunOutcome(state="pruned", checkpoint=spec.place))
        return False

    def with_past(self, spec: RunSpec) -> RunSpec:
        """The run with what the ledger knows of its failures: in which parts it goes, and how often it was retried."""
        failed = self.ledger.failed_since(spec.trial, spec.seed, fold=spec.fold, epoch=spec.reported_epoch)
        return replace(spec, parts=self.ledger.parts_of(spec.trial), failed=failed)

    def on_retry(self, spec: RunSpec, retry: Retry) -> None:
        """Keep that a trial is tried again, and say so."""
        self.keep_retry(spec, retry, params=self.ledger.params_of(int(spec.trial)))

    def keep_retry(
        self, spec: RunSpec, retry: Retry, *, params: Mapping[str, Any], stage: Literal["search", "confirm"] = "search"
    ) -> None:
        """Keep that a run is tried again, and in which parts, so that a kill forgets neither, and say so."""
        self.ledger.record_retry(spec.trial, spec.seed, retry, fold=spec.fold)
        attempt = spec.attempt // RETRY_ROOM + self.ledger.num_retries(spec.trial, spec.seed, fold=spec.fold)
        self.tracker.start_run(
            spec.trial,
            spec.seed,
            fold=spec.fold,
            params=params,
            attempt=attempt,
            stage=stage,
            retry=retry,
        )
        event = Event(kind="warning", trial=spec.trial, seed=spec.seed, run=spec.run_id, attempt=attempt)
        self.observe(replace(event, text=f"run {spec.run_id}: {retry.text}"))

    @property
    def has_failed(self) -> bool:
        """Whether more trials have failed than the study bears."""
        return self.ledger.num_failed() > self.config.max_failures

    def on_end(self, spec: RunSpec, outcome: RunOutcome) -> bool:
        """Keep how a run ended; whether its trial goes on.

        A ``waiting`` run was interrupted: its trial stays open in the ledger and is adopted on resume.
        """
        over = self.ledger.end_run(int(spec.trial), spec.key, outcome)
        if self._trials[spec.trial].of_runs > 1:
            self._end_run(spec, over if over is not None and over.state == "failed" else outcome)
        if over is None:
            return True
        self._end_trial(spec, over)
        return False

    def _end_run(self, spec: RunSpec, outcome: RunOutcome) -> None:
        """One of several runs is over; what was interrupted before it began is not worth a word."""
        if outcome.state == "waiting" and spec.run_id not in self._begun:
            return
        self._begun.discard(spec.run_id)
        files = new_artifacts(Path(spec.directory))
        self.tracker.end_run(spec.trial, spec.seed, outcome, fold=spec.fold, artifacts=files)
        value = outcome.metrics.get(self.ledger.metric)
        self.observe(self._event("ended", spec, state=outcome.state, text=outcome.reason, value=value))

    def _end_trial(self, spec: RunSpec, outcome: RunOutcome) -> None:
        """A trial is over, and with it whichever of its runs still train."""
        number = int(spec.trial)
        self.ledger.finish(number, outcome)
        kept = self.ledger.outcome(number) or outcome
        text = kept.reason
        if self._trials[spec.trial].of_runs == 1:
            self._begun.discard(spec.run_id)
            self.tracker.end_run(spec.trial, spec.seed, kept, artifacts=new_artifacts(Path(spec.directory)))
        else:
            for key, of_run in stopped_runs(self.ledger, self.tracker, spec.trial).items():
                directory = str(run_directory(self.study_dir, spec.trial, key))
                self._end_run(replace(spec, seed=key.seed, fold=key.fold, directory=directory), of_run)
            tell_trial(self.ledger, self.tracker, spec.trial)
            text = text or _runs_text(self.ledger.rows()[number])
        event = ended_event(spec, replace(kept, reason=text), metric=self.ledger.metric)
        run = event.run if self._trials[spec.trial].of_runs == 1 else ""
        self.observe(replace(event, run=run, is_feasible=self.ledger.is_feasible(number)))
        if kept.state == "failed" and self.has_failed and self.pool is not None:
            self.pool.interrupt()

    def on_lost(self, job: Job) -> None:
        """The process that followed a trial died: the trial itself is sound, and is handed out again."""
        self.lost += 1
        if self.pool is not None:
            self.pool.abandon(job.trial)
            if self.lost > MAX_LOST:
                self.pool.failure = f"the processes that follow trials died {self.lost} times"
        self._begun -= {spec.run_id for spec in job.runs}
        self.ledger.hand_back(int(job.trial))

    def mirror_ledger(self) -> None:
        """Tell the tracker everything once more; it skips what it has, and a kill may have cost it some."""
        retell(self.ledger, self.tracker, self.config, study_dir=self.study_dir, artifacts=artifacts)


def warner(observe: Observe) -> Callable[[str], None]:
    """Makes lines for a person events."""
    return lambda text: observe(Event(kind="warning", text=text))


def _runs_text(row: TrialRow) -> str:
    """What the runs of a trial made, in words."""
    done = [run for run in row.runs if run.state == "complete"]
    of_runs = f"{len(done)} of {len(row.runs)} runs"
    return of_runs if math.isnan(row.sd) else f"{of_runs}, SD {row.sd:.3g}"


def ended_event(spec: RunSpec, outcome: RunOutcome, *, metric: str) -> Event:
    """A run's end for whoever shows it; ``value`` is the metric that its outcome kept."""
    return Event(
        kind="ended",
        trial=spec.trial,
        seed=spec.seed,
        run=spec.run_id,
        state=outcome.state,
        text=outcome.reason,
        value=outcome.metrics.get(metric),
    )


def run_search(search: Search, pool: SlotPool, *, scratch: Path) -> None:
    """Run the trials that are left, or fewer when the study is stopped or no slot is left."""
    from ray import tune

    jobs: dict[str, Job] = {}
    search.pool = pool

    def refuse(job: Job) -> None:
        pool.switchboard.drop.remote(job.trial)

    trainable = tune.with_parameters(RunTrainable, switchboard=pool.switchboard)
    # Memory of one byte: Tune wants a request that is not empty, and the trial's actor needs no CPU of its own. It
    # stays on the driver's node, so that no other node takes the follower of a trial along.
    bundle = {"CPU": 0.0, "memory": 1.0, own_node_resource(): 1e-4}
    trainable = tune.with_resources(trainable, tune.PlacementGroupFactory([bundle]))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(search, jobs),
            scheduler=LedgerScheduler(search, jobs, refuse),
            num_samples=MANY,  # the searcher knows when it is enough
            max_concurrent_trials=pool.most,
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
    with _keeping_secrets():
        tuner.fit()


@contextmanager
def _keeping_secrets() -> Iterator[None]:
    """While open, Tune hands no secret of this process to its trials.

    It would put the keys of AWS into their runtime environment, which Ray's tables and the log of its agent keep in the
    clear. A trial's actor only follows a run and needs none; workers of a local cluster inherit them, those of another
    one have the keys of their nodes.
    """
    from ray.tune.execution import class_cache

    names = class_cache.ENV_VARS_TO_PROPAGATE
    taken = names & set(OTHERS)
    names -= taken
    try:
        yield
    finally:
        names |= taken
