"""Trained runs, opened for looking inside: network, criterion, data and best weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from study.config import StudyConfig, apply_params
from study.data.shards import PreparedDataset
from study.distributed.trained import trained_run
from study.errors import InputError
from study.losses.base import Criterion
from study.losses.multitask import MultiTask
from study.types import RunKey


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """One run with its best weights, on ``device``, in evaluation mode; ``title`` is what a figure calls it."""

    title: str
    network: nn.Module
    criterion: Criterion | MultiTask
    dataset: PreparedDataset
    device: torch.device

    def head(self, task: str = "") -> tuple[Criterion, slice | None, tuple[str, ...]]:
        """Criterion, columns of the outputs and classes of a task; of the one that decides by default.

        Raises:
            InputError: the network was not trained for that task.
        """
        if not isinstance(self.criterion, MultiTask):
            own = next(iter(self.dataset.tasks))
            if task not in ("", own):
                raise InputError(f"{self.title} was trained for {own} alone, not for {task!r}", f"--task {own}")
            return self.criterion, None, self.dataset.classes
        names = list(self.criterion.tasks)
        if task and task not in names:
            raise InputError(
                f"{self.title} has no task {task!r}; expected one of {', '.join(names)}", "name one of them"
            )
        found = self.criterion.tasks[task or names[0]]
        classes = self.dataset.classes if found.name == names[0] else self.dataset.tasks[found.name]
        return found.criterion, found.columns, classes


def open_run(
    study_dir: Path,
    config: StudyConfig,
    trial: str,
    *,
    seed: int,
    fold: int = 0,
    params: Mapping[str, Any],
    fingerprint: str = "",
) -> OpenRun:
    """Build the network of a run and load its best weights.

    Args:
        study_dir: the study's folder.
        config: of the study, without the trial's parameters.
        trial: its number as text, or ``baseline``.
        seed: of the run.
        fold: of the run; 0 where there are no folds.
        params: of the trial.
        fingerprint: of the data that the study was run with.

    Raises:
        InputError: there is no such run, or the data is not that of the study.
        StudyError: its checkpoint is damaged or was trained with another configuration.
    """
    directory = study_dir / "runs" / f"{trial}-{RunKey(seed=seed, fold=fold).name}"
    if not directory.is_dir():
        known = sorted(path.name for path in (study_dir / "runs").glob("*-s*"))
        raise InputError(
            f"study {study_dir.name} has no run {directory.name}", f"its runs are {', '.join(known) or 'none yet'}"
        )
    found = trained_run(apply_params(config, params), directory, seed=seed, fold=fold, fingerprint=fingerprint)
    parts = found.parts
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts.network.load_state_dict(found.state.model)
    network = parts.network.to(device).eval()
    criterion = parts.criterion.to(device)
    title = f"{trial if trial == 'baseline' else f'trial {trial}'}, {f'fold {fold}, ' if fold else ''}seed {seed}"
    return OpenRun(title=title, network=network, criterion=criterion, dataset=parts.dataset, device=device)
