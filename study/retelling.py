"""Telling MLflow's journal what the ledger knows: what a kill between the two stores cost, or all of it.

The journal skips what it has, so telling everything again is the rule and not the exception. What the ledger does not
keep, the curves of runs that only confirm, comes from their checkpoints.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from study.config import StudyConfig, apply_params
from study.errors import StudyError
from study.ledger import Ledger, stopped
from study.tracking import Tracker
from study.types import EpochResult, Retry, RunKey, RunOutcome, TrialRow

STUDY_ID: Final = "id in mlflow"
Artifacts = Callable[[Path], Sequence[Path]]


def tracker_of(
    ledger: Ledger,
    config: StudyConfig,
    *,
    study_dir: Path,
    tracking_uri: str,
    from_start: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Tracker:
    """The study's tracker; its id in MLflow is kept in the ledger, so that a lost journal finds its runs again.

    ``tell`` gets a line for a person when MLflow is away for long, and when it is back.

    Raises:
        StudyError: the journal is damaged.
    """
    known = ledger.stage(STUDY_ID)
    tracker = Tracker(study_dir, tracking_uri, config, study_id=known or "", from_start=from_start, tell=tell)
    if known != tracker.study_id:
        ledger.record_stage(STUDY_ID, tracker.study_id)
    return tracker


def retell(ledger: Ledger, tracker: Tracker, config: StudyConfig, *, study_dir: Path, artifacts: Artifacts) -> None:
    """Tell everything that the ledger holds; ``artifacts`` lists the files of a run's directory that go to MLflow."""
    params: dict[str, Mapping[str, Any]] = {row.trial: row.params for row in ledger.rows()}
    for row in ledger.rows():
        _retell_trial(ledger, tracker, row, config=config, study_dir=study_dir, artifacts=artifacts)
    for record in sorted(ledger.run_records(), key=lambda each: each.kind != "train"):
        trial, seed = record.trial, record.seed
        directory = study_dir / "runs" / f"{trial}-s{seed}"
        if record.kind == "train":
            if not tracker.has_begun(trial, seed):
                own = params.get(trial, {})  # the baseline is the study file as it is
                tracker.start_run(trial, seed, params=own, config=apply_params(config, own), stage="confirm")
                for result in _history(directory):
                    tracker.log_epoch(trial, seed, result)
            tracker.end_run(trial, seed, record.outcome, artifacts=artifacts(directory))
        elif record.outcome.state == "complete":
            tracker.log_test(trial, seed, record.outcome, artifacts=artifacts(directory))


def _retell_trial(
    ledger: Ledger,
    tracker: Tracker,
    row: TrialRow,
    *,
    config: StudyConfig,
    study_dir: Path,
    artifacts: Artifacts,
) -> None:
    if row.repeats:
        retell_repeat(ledger, tracker, row, config=config)
        return
    number, several = int(row.trial), bool(row.runs)
    over = ledger.outcome(number)
    ended = stopped_runs(ledger, tracker, row.trial) | ledger.run_outcomes(number)
    for key in ledger.keys(number):
        outcome, tried = ended.get(key), ledger.retries_of(row.trial, key.seed, fold=key.fold)
        attempt, last = ledger.attempt(number) + len(tried), tried[-1] if tried else None
        if not tracker.has_begun(row.trial, key.seed, fold=key.fold, attempt=None if several else attempt):
            if outcome is None:
                continue  # whoever goes on with it tells its start
            _start(tracker, row, key, config=config, attempt=attempt, retry=last)
        for result in ledger.epochs(number, key):
            tracker.log_epoch(row.trial, key.seed, result, fold=key.fold)
        if outcome is not None:
            found = artifacts(study_dir / "runs" / f"{row.trial}-{key.name}")
            tracker.end_run(row.trial, key.seed, outcome, fold=key.fold, artifacts=found)
    if over is not None:
        tell_trial(ledger, tracker, row.trial)


def retell_repeat(ledger: Ledger, tracker: Tracker, row: TrialRow, *, config: StudyConfig) -> None:
    """Tell of a trial that has an earlier one's result without any training."""
    for key, outcome in ledger.run_outcomes(int(row.trial)).items():
        if not tracker.has_begun(row.trial, key.seed, fold=key.fold):
            _start(tracker, row, key, config=config, attempt=1)
        tracker.end_run(row.trial, key.seed, outcome, fold=key.fold)
    tell_trial(ledger, tracker, row.trial)


def _start(
    tracker: Tracker, row: TrialRow, key: RunKey, *, config: StudyConfig, attempt: int, retry: Retry | None = None
) -> None:
    own = apply_params(config, row.params)
    tracker.start_run(
        row.trial,
        key.seed,
        fold=key.fold,
        params=row.params,
        config=own,
        attempt=attempt,
        stage="search",
        retry=retry,
    )


def tell_trial(ledger: Ledger, tracker: Tracker, trial: str) -> None:
    """Tell what the runs of a trial that is over make together, where it has several."""
    number = int(trial)
    outcome, begun = ledger.outcome(number), ledger.run_outcomes(number)
    if outcome is not None and begun and len(ledger.keys(number)) > 1:
        first = next(iter(begun))
        tracker.log_trial(trial, first.seed, outcome, fold=first.fold, sds=ledger.run_sds(number))


def stopped_runs(ledger: Ledger, tracker: Tracker, trial: str) -> dict[RunKey, RunOutcome]:
    """Runs of a trial that is over which were told to begin and not to end, and how they ended."""
    number = int(trial)
    over, ended = ledger.outcome(number), ledger.run_outcomes(number)
    if over is None:
        return {}
    begun = {RunKey(seed=seed, fold=fold) for name, seed, fold in tracker.open_runs() if name == trial}
    return {key: ended.get(key, stopped(over)) for key in ledger.keys(number) if key in begun}


def _history(directory: Path) -> Sequence[EpochResult]:
    """The epochs of a run, from its checkpoint; none when that is gone."""
    from study import checkpoint  # with what it imports, torch

    try:
        state = checkpoint.load_last(directory)
    except StudyError:
        return ()
    return state.history if state else ()
