"""A run that has been trained: its parts as they were, and its best checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from study import checkpoint
from study.checkpoint import TrainState
from study.config import StudyConfig
from study.data.pseudo import PSEUDO_FILE
from study.data.sampling import Plan
from study.distributed.runs import build_run
from study.errors import StudyError
from study.training import RunParts, check_identity


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """Parts and plan of a run, and the state with its best weights, which the network does not have yet."""

    parts: RunParts
    plan: Plan
    state: TrainState


def trained_run(config: StudyConfig, directory: Path, *, seed: int, fold: int = 0, fingerprint: str = "") -> TrainedRun:
    """Build a run again, and read its best checkpoint.

    Args:
        config: the run's own configuration, with the trial's parameters.
        directory: of the run, in the folder ``runs`` of its study.
        seed: of the run.
        fold: of the run; 0 where there are no folds.
        fingerprint: of the data that the study was run with; empty takes what is there.

    Raises:
        InputError: the prepared dataset is missing or damaged, or is not that of the study.
        StudyError: the run has no checkpoint, or one that is damaged or of another configuration.
    """
    state = checkpoint.load_best(directory)
    if state is None:
        raise StudyError(f"run {directory.name} has no checkpoint yet", "wait for its first epoch, or resume the study")
    pseudo = directory.parent.parent / PSEUDO_FILE if config.pseudo else None
    parts, plan = build_run(config, seed=seed, fold=fold, fingerprint=fingerprint, pseudo=pseudo)
    check_identity(parts, state, directory)
    return TrainedRun(parts=parts, plan=plan, state=state)
