"""What the driver of a study tells MLflow; every call returns at once, and telling twice does no harm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from study.config import StudyConfig
from study.errors import StudyError
from study.failures import public_text
from study.tracking.delivery import CURSOR_FILE, JOURNAL_FILE, Delivery
from study.tracking.journal import NO_RUN, Journal, Run
from study.tracking.mirror import Mirror
from study.tracking.server import default_uri
from study.types import EpochResult, Retry, RunOutcome

CLOSE_TIMEOUT_S: Final = 30.0
Stage = Literal["search", "confirm"]
WORDS: Final = {
    "runs": "runs",
    "epochs": "epoch",
    "ends of runs": "end",
    "test results": "test",
    "files": "artifact",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRow:
    """How many things of one kind the journal told, MLflow had already, and MLflow got."""

    what: str
    told: int
    there: int
    sent: int


class Tracker:
    """The writer of a study's MLflow experiment; there is one, in the process that holds the study's lock.

    After a resume the driver may tell everything that its ledger knows once more: what the journal has is skipped.

    Args:
        study_dir: holds ``journal.jsonl`` and its cursor; and, by default, MLflow's database and artifacts.
        tracking_uri: MLflow's address; empty for a database in ``study_dir``.
        config: the resolved study file; its ``study`` is the name of the experiment.
        study_id: the study's id in MLflow, for a journal that has none yet.
        from_start: deliver the journal from its beginning, whatever was delivered before.
        tell: gets a line for a person when MLflow is away for long, and when it is back; called by another thread.

    Raises:
        StudyError: the journal is damaged.
    """

    def __init__(
        self,
        study_dir: Path,
        tracking_uri: str,
        config: StudyConfig,
        *,
        study_id: str = "",
        from_start: bool = False,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        study_dir.mkdir(parents=True, exist_ok=True)
        self.tracking_uri: str = tracking_uri or default_uri(study_dir)
        self._journal = Journal(study_dir / JOURNAL_FILE, study_id=study_id)
        self.study_id: str = self._journal.study_id
        self._closed = False
        self._mirror = Mirror(
            self.tracking_uri,
            study=config.study,
            study_id=self._journal.study_id,
            artifact_dir=study_dir / "mlartifacts",
        )
        self._delivery = Delivery(
            self._journal,
            self._mirror,
            cursor_path=study_dir / CURSOR_FILE,
            tracking_uri=self.tracking_uri,
            from_start=from_start,
            tell=tell,
        )
        self._append(
            "study",
            payload={
                "study_id": self._journal.study_id,
                "metric": config.metric,
                "mode": config.mode,
                "search_seed": config.seed,
                "config": _yaml(config),
            },
        )
        self._delivery.start()

    def start_run(
        self,
        trial: str,
        seed: int,
        *,
        params: Mapping[str, Any],
        config: StudyConfig | Mapping[str, Any] | None = None,
        attempt: int = 1,
        stage: Stage = "search",
        fold: int = 0,
        retry: Retry | None = None,
    ) -> None:
        """A run begins, or goes on with a higher ``attempt``.

        Args:
            trial: the ledger's number as text, or ``baseline``.
            seed: the run's seed; (trial, seed, fold) is one MLflow run for ever.
            params: the sampled parameters by dotted path; they never change for a trial.
            config: the resolved study file of this run, kept as artifact ``config.yaml``.
            attempt: from 1.
            stage: ``search`` for the runs that the ledger's value comes from.
            fold: the fold that validates, from 1; 0 where there are none.
            retry: the failure after which the run goes on.
        """
        payload = {"params": dict(params), "attempt": attempt, "stage": stage, "config": _yaml(config)}
        of_runs = _num_runs(config) if stage == "search" else 1
        payload |= {"of_runs": of_runs} if of_runs > 1 else {}
        if retry is not None:
            payload["retry"] = f"{retry.kind}: {public_text(retry.text)}"
        self._append("start", run=(trial, seed, fold), payload=payload)

    def log_epoch(self, trial: str, seed: int, result: EpochResult, *, fold: int = 0) -> bool:
        """An epoch is done; whether it is news. NaN metrics are left out in MLflow, which would draw them as zero."""
        metrics = {key: float(value) for key, value in result.metrics.items()}
        payload = {**asdict(result), "metrics": metrics, "seconds": float(result.seconds)}
        return self._append("epoch", run=(trial, seed, fold), payload=payload)

    def end_run(
        self, trial: str, seed: int, outcome: RunOutcome, *, fold: int = 0, artifacts: Sequence[Path] = ()
    ) -> None:
        """A run has ended; state ``running`` means that it was interrupted and will go on.

        MLflow's status is FINISHED for complete and pruned runs (tag ``study.state`` tells which), FAILED or KILLED.
        The metrics of the best epoch become ``best/...``. ``artifacts`` are small files (figures, tables).
        """
        run = (trial, seed, fold)
        metrics = {key: float(value) for key, value in outcome.metrics.items()}
        payload = {
            "state": "running" if outcome.state == "waiting" else outcome.state,
            "best_epoch": outcome.best_epoch,
            "metrics": metrics,
            "checkpoint": outcome.checkpoint,
            "reason": public_text(outcome.reason),
            "failure": outcome.failure,
            "epochs": self._journal.num_epochs(run),
        }
        self._append("end", run=run, payload=payload)
        self.log_artifacts(trial, seed, artifacts, fold=fold)

    def log_trial(
        self, trial: str, seed: int, outcome: RunOutcome, *, fold: int = 0, sds: Mapping[str, float] | None = None
    ) -> None:
        """What the runs of a trial make together, kept with its first run: ``mean/...`` and ``sd/...`` metrics.

        ``outcome`` is the trial's, whose metrics are means; ``sds`` are their standard deviations over the runs.
        """
        payload = {
            "state": outcome.state,
            "best_epoch": outcome.best_epoch,
            "means": {key: float(value) for key, value in outcome.metrics.items()},
            "sds": {key: float(value) for key, value in (sds or {}).items()},
            "reason": outcome.reason,
        }
        self._append("trial", run=(trial, seed, fold), payload=payload)

    def log_test(self, trial: str, seed: int, outcome: RunOutcome, *, artifacts: Sequence[Path] = ()) -> None:
        """A run was evaluated on the test split: its ``test/...`` metrics, and the files that go with them."""
        metrics = {key: float(value) for key, value in outcome.metrics.items()}
        self._append("test", run=(trial, seed, 0), payload={"metrics": metrics, "best_epoch": outcome.best_epoch})
        self.log_artifacts(trial, seed, artifacts)

    def log_artifacts(self, trial: str, seed: int, paths: Sequence[Path], *, fold: int = 0, folder: str = "") -> None:
        """Copy small files to a run (``trial`` empty: to the study itself); they have to stay until `close`."""
        for path in paths:
            where = {"path": str(path.resolve()), "folder": folder}
            changed = path.stat().st_mtime_ns if path.exists() else 0
            self._append("artifact", run=(trial, seed, fold), payload={**where, "changed": changed})

    def has_begun(self, trial: str, seed: int, *, fold: int = 0, attempt: int | None = None) -> bool:
        """Whether a run, or one attempt at it, was told to begin."""
        return self._journal.has_begun((trial, seed, fold), attempt)

    def tally(self) -> list[SentRow]:
        """What the journal holds, and what of it MLflow had already or has got in this session."""
        told, sent, there = self._journal.counts(), self._mirror.sent, self._mirror.there
        return [
            SentRow(what=what, told=told.get(kind, 0), there=there[kind], sent=sent[kind])
            for what, kind in WORDS.items()
        ]

    def wait(self, timeout_s: float) -> int:
        """Wait until MLflow has everything, for at most ``timeout_s`` seconds; how many records it lacks."""
        return self._delivery.wait(timeout_s)

    def open_runs(self) -> list[Run]:
        """(trial, seed, fold) of every run that has begun and not ended, also by a process that was killed."""
        return self._journal.open_runs()

    def close(
        self, timeout_s: float = CLOSE_TIMEOUT_S, *, state: Literal["done", "interrupted", "failed"] = "done"
    ) -> int:
        """End the study's parent run, wait until MLflow has everything, and stop.

        Runs that are still open are marked as interrupted. What could not be delivered in ``timeout_s`` seconds stays
        in the journal for the next time; the result is the number of such records. The end of a study that is done has
        no haste: it waits for as long as MLflow takes a record in that time.
        """
        if self._closed:
            return 0
        for trial, seed, fold in self.open_runs():
            self.end_run(trial, seed, RunOutcome(state="running"), fold=fold)
        self._append("close", payload={"state": state})
        left = self._delivery.stop(timeout_s, is_patient=state == "done")
        self._closed = True
        self._journal.close()
        return left

    def _append(self, kind: Any, *, run: Run = NO_RUN, payload: Mapping[str, Any]) -> bool:
        if self._closed:
            raise StudyError("the tracker was closed already", "open a new one")
        is_news = self._journal.append(kind, run=run, payload=payload)
        if is_news:
            self._delivery.wake()
        return is_news


def _yaml(config: StudyConfig | Mapping[str, Any] | None) -> str:
    if config is None:
        return ""
    plain = dict(config) if isinstance(config, Mapping) else config.model_dump(mode="json")
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _num_runs(config: StudyConfig | Mapping[str, Any] | None) -> int:
    """Runs of the search that a trial has."""
    if isinstance(config, StudyConfig):
        return len(config.run_keys)
    search = (config or {}).get("search") or {}
    return search.get("folds") or len(search.get("seeds") or (0,))
