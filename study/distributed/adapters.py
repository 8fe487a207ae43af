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

from study.types import EpochResult, Retry, RunOutcome, RunSpec


class RunTrainable(Trainable):
    """One trial: submits its run to the switchboard; every ``step`` is one epoch."""

    def setup(self, config: dict[str, Any], switchboard: Any = None) -> None:
        """Keep the line to the slots and the first trial's specification."""
        self._switchboard = switchboard
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self._spec = RunSpec(**json.loads(new_config["spec"]))
        self._is_submitted = False
        self._last_epoch = 0
        return True

    def step(self) -> dict[str, Any]:
        """Allow the next epoch and wait for it; ``payload`` is JSON of an epoch or, with ``done``, of the outcome."""
        if not self._is_submitted:
            ray.get(self._switchboard.submit.remote(self._spec))
            self._is_submitted = True
        if self._last_epoch:
            ray.get(self._switchboard.decide.remote(self._spec.run_id, self._last_epoch, True))
        while True:
            kind, payload = ray.get(self._switchboard.next_event.remote(self._spec.run_id))
            if kind == "epoch":
                self._last_epoch = payload.epoch
                return {"epoch": payload.epoch, "payload": json.dumps(asdict(payload))}
            if kind == "retry":
                return {"epoch": self._last_epoch, "retry": True, "payload": json.dumps(asdict(payload))}
            if kind == "end":
                return {"epoch": self._last_epoch, "payload": json.dumps(asdict(payload)), "done": True}


class Desk(Protocol):
    """The study's side of a search, as the adapters see it."""

    def next_spec(self) -> RunSpec | None:
        """The next trial to run, or ``None`` when the budget is spent or the study is being stopped."""

    def on_epoch(self, spec: RunSpec, result: EpochResult) -> bool:
        """Record an epoch; whether the trial goes on."""

    def on_retry(self, spec: RunSpec, retry: Retry) -> None:
        """Record that a trial goes on in another way."""

    def on_end(self, spec: RunSpec, outcome: RunOutcome) -> None:
        """Record how a trial ended."""

    def on_lost(self, spec: RunSpec) -> None:
        """Tune's process for the trial died; what the trial has done is safe."""


class LedgerSearcher(Searcher):
    """Gives Tune the trials that the ledger holds or asks for."""

    def __init__(self, desk: Desk, specs: dict[str, RunSpec]) -> None:
        super().__init__(metric="epoch", mode="max")
        self._desk, self._specs = desk, specs

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its parts to a scratch file that nobody reads; the ledger is not among them."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Tune's config, or FINISHED."""
        spec = self._desk.next_spec()
        if spec is None:
            return Searcher.FINISHED
        self._specs[trial_id] = spec
        return {"spec": json.dumps(asdict(spec))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune is done with a trial; a last result arrives here and nowhere else."""
        spec = self._specs.pop(trial_id, None)
        if spec is None:
            return
        if error or not result or not result.get("done") or "best_epoch" not in result.get("payload", ""):
            self._desk.on_lost(spec)
            return
        self._desk.on_end(spec, RunOutcome(**json.loads(result["payload"])))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger is the state."""


class LedgerScheduler(FIFOScheduler):
    """Asks the ledger's pruner after every epoch."""

    def __init__(self, desk: Desk, specs: dict[str, RunSpec], refuse: Callable[[str, int], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._desk, self._specs, self._refuse = desk, specs, refuse

    def __getstate__(self) -> dict[str, Any]:
        """As for the searcher: nothing of it belongs in Tune's scratch file."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record the epoch and decide; a refusal also goes to the slot at once, which is then free."""
        spec = self._specs[trial.trial_id]
        if result.get("retry"):
            self._desk.on_retry(spec, Retry(**json.loads(result["payload"])))
            return str(TrialScheduler.CONTINUE)
        epoch = EpochResult(**json.loads(result["payload"]))
        if self._desk.on_epoch(spec, epoch):
            return str(TrialScheduler.CONTINUE)
        self._specs.pop(trial.trial_id)
        self._refuse(spec.run_id, epoch.epoch)
        return str(TrialScheduler.STOP)
