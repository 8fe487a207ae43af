"""Specifications of runs, and the files that runs leave."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Self

from study.config import StudyConfig
from study.remote import bring, root_of
from study.types import RunKey, RunSpec

RETRY_ROOM: Final = 100_000  # attempts that the slots may add within one attempt of the ledger
PLAN_FILES: Final = ("plan.png", "plan.json", "batches.jsonl")
RUN_FILES: Final = ("predictions_{}.parquet", "confusion_{}.json", "{}.png")


def make_spec(
    study_dir: Path,
    trial: str,
    seed: int,
    *,
    config: StudyConfig,
    attempt: int,
    reported_epoch: int = 0,
    fingerprint: str = "",
    kind: str = "train",
) -> RunSpec:
    """The specification of one run; its directory is ``runs/<trial>-s<seed>`` below the study's."""
    return RunSpec(
        trial=trial,
        seed=seed,
        attempt=attempt,
        directory=str(run_directory(study_dir, trial, RunKey(seed=seed))),
        config=config.model_dump(mode="json"),
        reported_epoch=reported_epoch,
        fingerprint=fingerprint,
        retries=config.retries.model_dump(),
        kind=kind,  # type: ignore[arg-type]  # callers pass one of the two kinds
        store=root_of(study_dir),
    )


def on_fold(spec: RunSpec, fold: int, *, study_dir: Path) -> RunSpec:
    """The same run on one fold, in a directory of its own; 0 changes nothing."""
    key = RunKey(seed=spec.seed, fold=fold)
    return replace(spec, fold=fold, directory=str(run_directory(study_dir, spec.trial, key)))


def run_directory(study_dir: Path, trial: str, key: RunKey) -> Path:
    """Where a run keeps its checkpoints and files."""
    return study_dir / "runs" / f"{trial}-{key.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The runs of one trial that are still to be trained, in the order in which they begin.

    ``of_runs`` is how many the trial has. ``together`` lets all of them begin as soon as slots are free; otherwise one
    begins after the other, and further ones side by side only in slots that no other trial can use any more.
    """

    trial: str
    runs: tuple[RunSpec, ...]
    of_runs: int = 1
    together: bool = True

    def to_json(self) -> str:
        """All of it as text, for Tune's config."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The job that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "runs": tuple(RunSpec(**run) for run in fields["runs"])})

    def run(self, run_id: str) -> RunSpec:
        """One of its runs by its name."""
        return next(spec for spec in self.runs if spec.run_id == run_id)


def new_artifacts(directory: Path) -> list[Path]:
    """`artifacts` of a run that has just ended, brought from the store where the study lies in one."""
    bring(directory, small=True)
    return artifacts(directory)


def artifacts(directory: Path) -> list[Path]:
    """The small files of a run that belong in MLflow; only those that exist."""
    names = [*(name.format(split) for split in ("val", "test") for name in RUN_FILES), *PLAN_FILES]
    of_tasks = [*directory.glob("predictions_*_*.parquet"), *directory.glob("confusion_*_*.json")]
    return [*(directory / name for name in names if (directory / name).exists()), *sorted(of_tasks)]
