"""Two thin adapters between Ray Tune and the ledger, and the Trainable that hands a trial to a warm slot.

Optuna decides through the ledger, Tune places and executes. Nothing of Tune's own state is ever read back: a study
that is resumed makes a new Tuner over the same ledger.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import ray
from ray.tune import Trainable
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study.distributed.specs import Job
from study.types import EpochResult, Retry, RunOutcome, RunSpec


class RunTrainable(Trainable):
    """One trial: submits its runs to the switchboard; every ``step`` is an epoch or the end of one of them."""

    def setup(self, config: dict[str, Any], switchboard: Any = None) -> None:
        """Keep the line to the slots and the first trial's job."""
        self._switchboard = switchboard
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self._job = Job.from_json(new_config["job"])
        self._open = [spec.run_id for spec in self._job.runs]
        self._is_submitted = False
        self._last_epoch = 0
        self._asked: tuple[str, int] | None = None
        self._has_ended = False
        return True

    def step(self) -> dict[str, Any]:
        """Say that the trial goes on, and wait for what happens next; ``payload`` is JSON, ``run`` says whose.

        ``done`` comes with the end of the last run.
        """
        self._go_on()
        while True:
            run, kind, payload = ray.get(self._switchboard.next_of.remote(self._job.trial))
            if kind == "started" and self._job.of_runs == 1:
                continue
            result = {"epoch": self._last_epoch, "run": run, "kind": kind}
            if kind == "started":
                return result
            if kind == "epoch":
                self._asked, self._last_epoch = (run, payload.epoch), payload.epoch
            if kind == "end":
                self._open.remove(run)
                self._has_ended = True
            return result | {"epoch": self._last_epoch, "payload": json.dumps(asdict(payload)), "done": not self._open}

    def _go_on(self) -> None:
        """Submit the runs once; then allow the next epoch, or the next run, for whichever the scheduler was asked."""
        board, job = self._switchboard, self._job
        if not self._is_submitted:
            for place, spec in enumerate(job.runs):
                ray.get(board.submit.remote(spec, feed=job.trial, spare=bool(place) and not job.together))
            self._is_submitted = True
        if self._asked:
            ray.get(board.decide.remote(*self._asked, True))
        if self._has_ended:
            ray.get(board.advance.remote(job.trial))
        self._asked, self._has_ended = None, False


class Desk(Protocol):
    """The study's side of a search, as the adapters see it."""

    @property
    def width(self) -> int:
        """How many trials may go on at a time."""

    def next_job(self) -> Job | None:
        """The next trial to run, or ``None`` when the budget is spent or the study is being stopped."""

    def on_started(self, spec: RunSpec) -> None:
        """Record that a slot has taken a run of a trial that has several."""

    def on_epoch(self, spec: RunSpec, result: EpochResult) -> bool:
        """Record an epoch; whether the trial goes on."""

    def on_retry(self, spec: RunSpec, retry: Retry) -> None:
        """Record that a run goes on in another way."""

    def on_end(self, spec: RunSpec, outcome: RunOutcome) -> bool:
        """Record how a run ended; whether its trial goes on with other runs."""

    def on_lost(self, job: Job) -> None:
        """Tune's process for the trial died; what the trial has done is safe."""


class LedgerSearcher(Searcher):
    """Gives Tune the trials that the ledger holds or asks for."""

    def __init__(self, desk: Desk, jobs: dict[str, Job]) -> None:
        super().__init__(metric="epoch", mode="max")
        self._desk, self._jobs = desk, jobs

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its parts to a scratch file that nobody reads; the ledger is not among them."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Tune's config, None while all slots have one, or FINISHED."""
        if len(self._jobs) >= self._desk.width:
            return None
        job = self._desk.next_job()
        if job is None:
            return Searcher.FINISHED
        self._jobs[trial_id] = job
        return {"job": job.to_json()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune is done with a trial; a last result arrives here and nowhere else."""
        job = self._jobs.pop(trial_id, None)
        if job is None:
            return
        if error or not result or not result.get("done") or result.get("kind") != "end":
            self._desk.on_lost(job)
            return
        self._desk.on_end(job.run(result["run"]), RunOutcome(**json.loads(result["payload"])))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger is the state."""


class LedgerScheduler(FIFOScheduler):
    """Asks the ledger's pruner after every epoch, and whether a trial goes on after the end of one of its runs."""

    def __init__(self, desk: Desk, jobs: dict[str, Job], refuse: Callable[[Job], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._desk, self._jobs, self._refuse = desk, jobs, refuse

    def __getstate__(self) -> dict[str, Any]:
        """As for the searcher: nothing of it belongs in Tune's scratch file."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record what happened and decide; a refusal also goes to the slots at once, which are then free."""
        job = self._jobs[trial.trial_id]
        if self._goes_on(job.run(result["run"]), result):
            return str(TrialScheduler.CONTINUE)
        self._jobs.pop(trial.trial_id)
        self._refuse(job)
        return str(TrialScheduler.STOP)

    def _goes_on(self, spec: RunSpec, result: dict[str, Any]) -> bool:
        if result["kind"] == "started":
            self._desk.on_started(spec)
            return True
        payload = json.loads(result["payload"])
        if result["kind"] == "retry":
            self._desk.on_retry(spec, Retry(**payload))
            return True
        if result["kind"] == "end":
            return self._desk.on_end(spec, RunOutcome(**payload))
        return self._desk.on_epoch(spec, EpochResult(**payload))
