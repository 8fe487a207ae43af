"""A run of another study as teacher: finding it, and letting it label training images (paper multitask, 3.3.3)."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from study import checkpoint, remote
from study.config import Fault, PseudoConfig, StudyConfig, apply_params, load_config
from study.data.files import is_remote
from study.data.pseudo import PSEUDO, PSEUDO_FILE, write_pseudo_labels
from study.distributed.runs import build_run
from study.errors import InputError, StudyError
from study.inference import forward_all, gather, row_batches, rows_of_rank
from study.ledger import Ledger, default_url
from study.losses.multitask import MultiTask
from study.optimisation import autocast_for, resolve_precision
from study.standing import BASELINE
from study.types import RunOutcome, RunSpec

STUDY_FILE: Final = "study.yaml"
BATCH_ROWS: Final = 32
# How pictures are made; a teacher that has learnt from other pictures would guess.
PICTURES: Final = ("image_size", "scaling", "width_multiple", "bits", "colour", "lut", "crop", "flip", "reduced")


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A trained run: its whole configuration, its seed, and the folder with its checkpoints."""

    config: StudyConfig
    seed: int
    directory: Path

    def to_spec(self) -> dict[str, Any]:
        """Plain data for a ``RunSpec``."""
        return {"config": self.config.model_dump(mode="json"), "seed": self.seed} | {
            "directory": str(self.directory.absolute()),  # a worker is in another folder
            "store": remote.root_of(self.directory),
        }


def find_teacher(name: str, *, storage: Path) -> Teacher:
    """The run that ``pseudo.teacher`` names: ``<study>/<trial>-s<seed>`` in ``storage``, or path or URI of its folder.

    Raises:
        InputError: there is no such study or run, the run has no checkpoint, or the URI cannot be used.
        EnvironmentFault: the store does not answer.
    """
    directory = _run_directory(name, storage=storage)
    study_dir = directory.parent.parent
    remote.bring_file(study_dir, STUDY_FILE)
    remote.bring(directory, small=True)
    if not (study_dir / STUDY_FILE).is_file():
        raise InputError(
            f"there is no study at {remote.shown_place(study_dir)}",
            "name a run of an existing study: `study list` shows them",
        )
    if checkpoint.best_path(directory) is None:
        remote.bring_all(study_dir)
        found = sorted(path.name for path in (study_dir / "runs").glob("*-s*") if checkpoint.best_path(path))
        raise InputError(
            f"run {directory.name} of study {study_dir.name} has no checkpoint",
            f"name one of {', '.join(found) or 'its runs, once there are some'}",
        )
    trial, _, seed = directory.name.rpartition("-s")
    if re.search(r"-f\d+$", trial):
        raise InputError(
            f"run {directory.name} of study {study_dir.name} is one of a cross-validation, and has learnt from "
            "patients of val",
            "name a run of its confirmation",
        )
    config = load_config(study_dir / STUDY_FILE)
    return Teacher(config=_of_trial(config, trial, study_dir=study_dir), seed=int(seed), directory=directory)


def teacher_faults(pseudo: PseudoConfig, config: StudyConfig | None, *, storage: Path) -> list[Fault]:
    """Why a teacher cannot label the images of a study: it is missing, or has learnt other classes or pictures."""
    try:
        teacher = find_teacher(pseudo.teacher, storage=storage)
    except StudyError as error:
        return [Fault("pseudo.teacher", f"{error.message}; {error.fix}" if error.fix else error.message)]
    if config is None:
        return []
    ours, theirs = config.data.labels.class_names, teacher.config.data.labels.class_names
    if ours != theirs:
        text = f"it knows the classes {', '.join(theirs)}; expected {', '.join(ours)}"
        return [Fault("pseudo.teacher", f"{pseudo.teacher!r}: {text}")]
    mine, its = (each.data.model_dump(mode="json", include=set(PICTURES)) for each in (config, teacher.config))
    unlike = [f"data.{key} {its[key]}" for key in PICTURES if mine[key] != its[key]]
    if unlike:
        text = f"it has learnt from other pictures ({', '.join(unlike)}); expected those of this file"
        return [Fault("pseudo.teacher", f"{pseudo.teacher!r}: {text}")]
    return []


def teacher_advice(pseudo: PseudoConfig, config: StudyConfig, *, storage: Path) -> list[str]:
    """One sentence when patients of this study's val and test may have trained the teacher."""
    theirs = find_teacher(pseudo.teacher, storage=storage).config.data
    if theirs.splits == config.data.splits and theirs.sources == config.data.sources:
        return []
    text = (
        f"pseudo.teacher {pseudo.teacher!r} was trained on other sources or splits than those of this file: patients "
    )
    return [text + "of val and test here may have taught it, and would then look easier than new ones"]


def label_images(spec: RunSpec, *, device: torch.device, rank: int) -> RunOutcome:
    """Let the teacher label the unlabelled training images; rank 0 writes ``pseudo.parquet`` into the study's folder.

    Predictions are made in evaluation mode, without augmentation, by the teacher's best weights. The label is the class
    that its loss decides for, the confidence that class's probability.

    Raises:
        StudyError: the teacher has no checkpoint, or its weights do not fit.
    """
    config = StudyConfig.model_validate(dict(spec.config))
    if config.pseudo is None:
        raise StudyError("a run to label images without pseudo in the study file")
    teacher = StudyConfig.model_validate(dict(spec.teacher["config"]))
    # The teacher's network and loss, on this study's images.
    network, criterion, dataset = _teacher_parts(teacher.model_copy(update={"data": config.data}), spec.teacher)
    network.to(device)
    if isinstance(criterion, MultiTask):
        first = next(iter(criterion.tasks.values()))
        columns, criterion = first.columns, first.criterion
    else:
        columns = slice(None)
    rows_n = dataset.unlabelled_rows()
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    share_n = rows_of_rank(rows_n, rank=rank, world_size=world_size, batch_size=BATCH_ROWS)
    precision = resolve_precision(teacher.train.precision, device)
    batches = row_batches(dataset, share_n, batch_size=BATCH_ROWS)
    outputs_no = forward_all(network, batches, device=device, autocast=lambda: autocast_for(device, precision))
    outputs_no = gather(outputs_no) if world_size > 1 else outputs_no
    table = _table(dataset.manifest["image_id"].iloc[rows_n], outputs_no, criterion=criterion, columns=columns)
    table = _weighed(table, config.pseudo)
    if rank == 0:
        write_pseudo_labels(table, Path(spec.directory) / PSEUDO_FILE)
    kept = int(table["label"].notna().sum())
    metrics = {"pseudo/images": float(len(table)), "pseudo/labelled": float(kept)}
    return RunOutcome(state="complete", metrics=metrics, checkpoint=spec.directory)


def _teacher_parts(config: StudyConfig, teacher: Mapping[str, Any]) -> Any:
    """Network with the teacher's best weights, its criterion, and the dataset."""
    config = config.model_copy(update={"pseudo": None, "model": config.model.model_copy(update={"pretrained": False})})
    directory = Path(teacher["directory"])
    parts, _ = build_run(config, seed=int(teacher["seed"]))
    state = checkpoint.load_best(directory)
    if state is None and not teacher.get("store") and not directory.is_dir():
        raise StudyError(
            f"a node of the cluster does not see the teacher's folder {directory}",
            "name a folder that all nodes mount, or a run of a study in a store (s3://)",
        )
    if state is None:
        raise StudyError(f"the teacher {directory.name} has no checkpoint", "train it again, or name another run")
    try:
        parts.network.load_state_dict(state.model)
    except RuntimeError as error:
        raise StudyError(
            f"the weights of the teacher {directory.name} do not fit its own study file",
            "name a run whose study file was not edited",
        ) from error
    return parts.network, parts.criterion, parts.dataset


def _table(image_ids: pd.Series, outputs_no: torch.Tensor, *, criterion: Any, columns: Any) -> pd.DataFrame:
    if len(image_ids) == 0:
        empty = pd.DataFrame({"image_id": image_ids.astype("str").reset_index(drop=True)})
        return empty.assign(label=pd.array([], dtype="Int64"), confidence=np.empty(0))
    logits_no = outputs_no[:, columns]
    probs_nk = criterion.probabilities(logits_no).double().numpy()
    label_n = criterion.decode(logits_no).numpy()
    confidence_n = probs_nk[np.arange(len(label_n)), label_n]
    ids = image_ids.astype("str").reset_index(drop=True)
    return pd.DataFrame({"image_id": ids, "label": pd.array(label_n, dtype="Int64"), "confidence": confidence_n})


def _weighed(table: pd.DataFrame, pseudo: PseudoConfig) -> pd.DataFrame:
    """Doubt is 1 minus confidence; those of too little confidence have no label."""
    is_sure = table["confidence"] >= pseudo.threshold
    doubt = 1.0 - table["confidence"] if pseudo.doubt else pd.Series(0.0, index=table.index)
    return table.assign(label=table["label"].where(is_sure), uncertainty=doubt, origin=PSEUDO)


def _run_directory(name: str, *, storage: Path) -> Path:
    if is_remote(name):
        base, mark, query = name.partition("?")
        root, study, run = base.rstrip("/").rsplit("/", 2)
        if study == "runs":
            root, _, study = root.rpartition("/")
        return remote.copy_root(remote.check_store(root + mark + query), "look") / study / "runs" / run
    path = Path(name.rstrip("/"))
    if path.parent.name == "runs":
        return path
    return storage / path.parent / "runs" / path.name if len(path.parts) == 2 else path.parent / "runs" / path.name


def _of_trial(config: StudyConfig, trial: str, *, study_dir: Path) -> StudyConfig:
    """The configuration of one trial, as its study's ledger has it."""
    if trial == BASELINE or config.search is None:
        return config
    ledger = _ledger_of(config, study_dir)
    try:
        row = next((row for row in ledger.rows() if row.trial == trial), None)
    finally:
        ledger.close()
    if row is None:
        raise InputError(
            f"study {study_dir.name} has no trial {trial}", f"`study best {study_dir.name}` shows its trials"
        )
    return apply_params(config, row.params)


def _ledger_of(config: StudyConfig, study_dir: Path) -> Ledger:
    """The teacher's ledger: on the server, where one is named and knows the study, else the file of its folder."""
    url, own = os.environ.get("STUDY_LEDGER_URL") or "", default_url(study_dir)
    if url:
        try:
            return Ledger.open(url, config=config, read_only=True)
        except InputError:
            if not (study_dir / "ledger.db").is_file():
                raise
    elif remote.is_copy(study_dir):
        raise InputError(
            f"the ledger of study {study_dir.name} is on a server, and STUDY_LEDGER_URL is not set",
            "export STUDY_LEDGER_URL=postgresql://user@host/database (password: PGPASSWORD)",
        )
    return Ledger.open(own, config=config, read_only=True)
