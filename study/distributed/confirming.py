"""The confirm stage: the best trials and the baseline, several seeds each, judged on the test split."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from study.config import ConfirmConfig
from study.distributed.searching import Search, ended_event
from study.distributed.slots import SlotPool, run_directly
from study.distributed.specs import RETRY_ROOM, make_spec, new_artifacts
from study.errors import StudyError
from study.standing import BASELINE, MC_DROPOUT, Candidate, choose_candidates, ensemble_stage, test_metric
from study.types import Event, RunOutcome, RunSpec

PREDICTIONS: Final = "predictions_test.parquet"


def run_confirm(search: Search, pool: SlotPool) -> None:
    """Train what is missing of every (candidate, seed), then read the test split for each and record that."""
    confirm = search.config.confirm
    candidates = choose_candidates(search.config, search.ledger.rows())
    if confirm is None or not candidates:
        return
    stage = _Stage(search, candidates, confirm)
    stage.tell()
    missing = stage.missing_training()
    run_directly(pool, missing, concurrent=pool.most, on_event=stage.on_training, stop=search.stop)
    if not search.stop.is_set():
        run_directly(pool, stage.missing_tests(), concurrent=pool.most, on_event=stage.on_test, stop=search.stop)
    if confirm.ensemble and not search.stop.is_set():
        stage.average()


class _Stage:
    """What is done and what is missing of one confirm stage, as the ledger knows it."""

    def __init__(self, search: Search, candidates: Sequence[Candidate], confirm: ConfirmConfig) -> None:
        self.search, self.confirm = search, confirm
        self.candidates = {candidate.trial: candidate for candidate in candidates}
        self.pairs = [(candidate.trial, seed) for candidate in candidates for seed in confirm.seeds]
        self.total = 2 * len(self.pairs)
        self.done = self.total - len(self._untrained()) - len(self._unread())

    def tell(self, *, more: int = 0) -> None:
        """How much of the stage is done, trainings and readings alike, after ``more`` have ended."""
        self.done = min(self.total, self.done + more)
        self.search.observe(Event(kind="progress", text="trained or read", done=self.done, total=self.total))

    def missing_training(self) -> list[RunSpec]:
        """Runs not trained yet; the search has trained its own seeds of every trial, unless it had folds."""
        return [self._spec(trial, seed, "train") for trial, seed in self._untrained()]

    def _untrained(self) -> list[tuple[str, int]]:
        trained = {(record.trial, record.seed) for record in self.search.ledger.run_records() if record.kind == "train"}
        own = {
            (trial, key.seed)
            for trial, candidate in self.candidates.items()
            for key in candidate.config.run_keys
            if trial != BASELINE and not key.fold
        }
        return [pair for pair in self.pairs if pair not in trained | own]

    def missing_tests(self) -> list[RunSpec]:
        """Trained runs whose test metrics are not in the ledger yet; a run whose training failed has none."""
        return [self._spec(trial, seed, "evaluate") for trial, seed in self._unread()]

    def _unread(self) -> list[tuple[str, int]]:
        settled = {
            (record.trial, record.seed)
            for record in self.search.ledger.run_records()
            if record.outcome.state == "failed" or (record.kind == "evaluate" and self._is_whole(record.outcome))
        }
        return [pair for pair in self.pairs if pair not in settled]

    def _is_whole(self, outcome: RunOutcome) -> bool:
        """Whether a reading has all that is wanted now; dropout may have been asked for, or otherwise, since."""
        if self.confirm.mc_dropout is None:
            return True
        wanted = self.confirm.mc_dropout
        numbers = {"samples": wanted.samples, "rate": wanted.rate or 0.0}  # as McDropout.numbers, without its imports
        return all(outcome.metrics.get(MC_DROPOUT + key) == number for key, number in numbers.items())

    def average(self) -> None:
        """The ensemble over the seeds of each configuration; one that lacks a seed has none."""
        from study.ensembles import ensemble_of, write_ensemble

        search, seeds = self.search, list(self.confirm.seeds)
        read = {(record.trial, record.seed) for record in search.ledger.run_records() if record.kind == "evaluate"}
        for trial, candidate in self.candidates.items():
            kept = search.ledger.stage(ensemble_stage(trial))
            if kept and kept["seeds"] == seeds:
                continue
            if not all((trial, seed) in read for seed in seeds):
                text = f"no ensemble of {trial}: not all of its seeds could be trained"
                search.observe(Event(kind="warning", text=text))
                continue
            folder = search.study_dir / "runs"
            found = ensemble_of(
                [folder / f"{trial}-s{seed}" / PREDICTIONS for seed in seeds],
                metric=test_metric(search.ledger.metric).removeprefix("test/"),
                pool=candidate.config.evaluate.pool,
                pooling=candidate.config.evaluate.pooling,
                seed=search.config.seed,
            )
            write_ensemble(found, folder / f"{trial}-ensemble" / PREDICTIONS)
            numbers = {"value": found.value, "low": found.low, "high": found.high, "patients": found.num_patients}
            search.ledger.record_stage(ensemble_stage(trial), {"seeds": seeds, **numbers, "metrics": found.metrics})

    def on_training(self, spec: RunSpec, kind: str, payload: Any) -> None:
        search = self.search
        if kind == "started":
            params = self.candidates[spec.trial].params
            search.tracker.start_run(spec.trial, spec.seed, params=params, config=spec.config, stage="confirm")
            event = Event(kind="started", trial=spec.trial, seed=spec.seed, run=spec.run_id, params=params)
            search.observe(replace(event, attempt=max(1, spec.attempt // RETRY_ROOM)))
        elif kind == "epoch" and search.tracker.log_epoch(spec.trial, spec.seed, payload):
            value = payload.metrics.get(search.ledger.metric)
            event = Event(kind="epoch", trial=spec.trial, seed=spec.seed, run=spec.run_id, value=value)
            search.observe(replace(event, result=payload))
        elif kind == "retry":
            search.keep_retry(spec, payload, params=self.candidates[spec.trial].params, stage="confirm")
        elif kind == "end":
            self._end(spec, payload)

    def _end(self, spec: RunSpec, outcome: RunOutcome) -> None:
        search = self.search
        search.tracker.end_run(spec.trial, spec.seed, outcome, artifacts=new_artifacts(Path(spec.directory)))
        if outcome.state != "waiting":
            search.ledger.record_run(spec.trial, spec.seed, outcome, kind="train")
        search.observe(ended_event(spec, outcome, metric=search.ledger.metric))
        if outcome.state != "waiting":
            self.tell(more=2 if outcome.state == "failed" else 1)  # a run that failed is not read

    def on_test(self, spec: RunSpec, kind: str, payload: Any) -> None:
        search = self.search
        if kind == "started":
            # Recorded before the split is read: a reading that was interrupted has still been a reading.
            search.ledger.record_test_reading(spec.trial, spec.seed)
        elif kind == "retry":
            search.keep_retry(spec, payload, params=self.candidates[spec.trial].params, stage="confirm")
        elif kind == "end" and payload.state == "complete":
            search.tracker.log_test(spec.trial, spec.seed, payload, artifacts=new_artifacts(Path(spec.directory)))
            search.ledger.record_run(spec.trial, spec.seed, payload, kind="evaluate")
            value = payload.metrics.get(test_metric(search.ledger.metric))
            search.observe(Event(kind="tested", trial=spec.trial, seed=spec.seed, run=spec.run_id, value=value))
            self.tell(more=1)
        elif kind == "end" and payload.state == "failed":
            raise StudyError(
                f"the test split could not be read for run {spec.run_id}: {payload.reason}",
                "remove the cause, then `study resume` this study",
            )

    def _spec(self, trial: str, seed: int, kind: str) -> RunSpec:
        config = self.candidates[trial].config
        attempt = self.search.ledger.claim_run(trial, seed) * RETRY_ROOM
        spec = make_spec(
            self.search.study_dir,
            trial,
            seed,
            config=config,
            attempt=attempt,
            fingerprint=self.search.fingerprint,
            kind=kind,
        )
        return self.search.with_past(spec)
