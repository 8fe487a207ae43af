"""Specifications of runs, and the files that runs leave."""

from pathlib import Path
from typing import Final

from study.config import StudyConfig
from study.types import RunSpec

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
        directory=str(study_dir / "runs" / f"{trial}-s{seed}"),
        config=config.model_dump(mode="json"),
        reported_epoch=reported_epoch,
        fingerprint=fingerprint,
        retries=config.retries.model_dump(),
        kind=kind,  # type: ignore[arg-type]  # callers pass one of the two kinds
    )


def artifacts(directory: Path) -> list[Path]:
    """The small files of a run that belong in MLflow; only those that exist."""
    names = [*(name.format(split) for split in ("val", "test") for name in RUN_FILES), *PLAN_FILES]
    of_tasks = [*directory.glob("predictions_*_*.parquet"), *directory.glob("confusion_*_*.json")]
    return [*(directory / name for name in names if (directory / name).exists()), *sorted(of_tasks)]
