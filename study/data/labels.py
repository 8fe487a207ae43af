"""Labels of all tasks: from what a source states to class index, uncertainty and origin of every image.

Each task has three columns: its class index (``label_column``: ``<task>``, or ``<task>_label`` where the source has a
column of that name), ``<task>_uncertainty`` and ``<task>_origin``. ``label`` is that of the task that decides.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from study.data.experiments import flip, leave_out, made_from, synthesise
from study.data.manifest import MANIFEST_COLUMNS, usable_rows
from study.data.tasks import LabelSettings, class_names, truth_of
from study.data.uncertainty import uncertainty_of
from study.errors import InputError

__all__ = [
    "LabelSettings",
    "add_labels",
    "apply_labels",
    "change_training_labels",
    "class_names",
    "finish_labels",
    "label_column",
    "task_columns",
]

NO_SPLIT: Final = ""
LEFT_OUT: Final = "the label was left out"


def label_column(task: str) -> str:
    """Column of a task's class index; a source's own column of that name (density, view, birads) stays as it is."""
    return f"{task}_label" if task in MANIFEST_COLUMNS else task


def task_columns(tasks: Sequence[str]) -> tuple[str, ...]:
    """The columns that the tasks add to the manifest: class index, uncertainty and origin of each."""
    return tuple(column for task in tasks for column in (label_column(task), f"{task}_uncertainty", f"{task}_origin"))


def apply_labels(manifest: pd.DataFrame, settings: LabelSettings | None = None) -> pd.DataFrame:
    """All label columns for a manifest that is not split: nothing left out, flipped or synthesised.

    Raises:
        InputError: see :func:`add_labels`.
    """
    settings = settings or LabelSettings()
    return finish_labels(add_labels(manifest, settings), settings)


def add_labels(manifest: pd.DataFrame, settings: LabelSettings) -> pd.DataFrame:
    """Add what the sources state: ``label`` and each task's columns; drop images that the deciding task refuses.

    A reason that the source gave stays. An image without any label is kept here, for it may be synthesised yet.

    Raises:
        InputError: an unknown task or setting, an assessment outside 0 to 6, or a class that the settings do not name.
    """
    truths = {task: truth_of(task, manifest, settings) for task in settings.tasks}
    reason = manifest["drop_reason"].fillna("").astype("str")
    labelled = manifest.assign(drop_reason=reason.mask(reason == "", truths[settings.task].dropped))
    is_kept = usable_rows(labelled)
    for task, truth in truths.items():
        indices = {name: index for index, name in enumerate(_classes(task, settings))}
        label = truth.name.map(indices).astype("Int64").where(is_kept)
        labelled[label_column(task)] = label
        labelled[f"{task}_origin"] = truth.origin.where(label.notna(), "missing")
        labelled[f"{task}_uncertainty"] = uncertainty_of(labelled[f"{task}_origin"], settings.uncertainty)
    return labelled.assign(label=labelled[label_column(settings.task)])


def change_training_labels(manifest: pd.DataFrame, settings: LabelSettings) -> pd.DataFrame:
    """The experiments of paper multitask (3.3.3 and 3.3.5), on training images: leave out, then synthesise, then flip.

    What a label was before is not kept. Neither row order nor the other fractions matter for which images are chosen.
    """
    changed = manifest.copy()
    training = usable_rows(manifest) & (manifest["split"] == "train")
    for task in settings.tasks:
        fraction = settings.leave_out.get(task, settings.leave_out.get("all", 0.0))
        leave_out(changed, task, column=label_column(task), among=training, fraction=fraction, seed=settings.seed)
    for task, other in settings.synthesise.items():
        made = made_from(task, other, _names_of(other, changed, settings))
        synthesise(changed, task, column=label_column(task), among=training, made=made)
    for task in settings.tasks:
        column = label_column(task)
        changed[f"{task}_uncertainty"] = uncertainty_of(changed[f"{task}_origin"], settings.uncertainty)
        count, fraction = len(_classes(task, settings)), settings.flip.get(task, 0.0)
        flipped = flip(
            changed, task, column=column, among=training, fraction=fraction, num_classes=count, seed=settings.seed
        )
        if "flipped" in settings.uncertainty:
            changed.loc[flipped, f"{task}_uncertainty"] = settings.uncertainty["flipped"]
    return changed.assign(label=changed[label_column(settings.task)])


def finish_labels(manifest: pd.DataFrame, settings: LabelSettings) -> pd.DataFrame:
    """Drop images that have no label of any task, with a reason; an image that lacks only some is kept.

    With ``keep_unlabelled`` training images without any are kept, too, for a teacher to label.

    Raises:
        InputError: a split manifest in which no training image keeps a label.
    """
    has_none = manifest[[label_column(task) for task in settings.tasks]].isna().all(axis=1)
    is_kept = settings.keep_unlabelled & (manifest["split"] == "train") if "split" in manifest else False
    is_dropped = usable_rows(manifest) & has_none & ~pd.Series(is_kept, index=manifest.index)
    was_left_out = manifest[f"{settings.task}_origin"] == "left_out"
    reason = pd.Series(settings.unknown, index=manifest.index, dtype="str").mask(was_left_out, LEFT_OUT)
    finished = manifest.assign(drop_reason=manifest["drop_reason"].mask(is_dropped, reason))
    if "split" in finished:
        is_used = usable_rows(finished).groupby(finished["patient_id"]).transform("any")
        finished["split"] = finished["split"].where(is_used, NO_SPLIT)
        _check_training(finished, has_none)
    return finished


def _check_training(manifest: pd.DataFrame, has_none: pd.Series) -> None:
    """Splits have training images before labels are left out, so that it is the experiment that took them all."""
    training = manifest["split"] == "train"
    if not (usable_rows(manifest) & training & ~has_none).any():
        left_out = int(((manifest["drop_reason"] == LEFT_OUT) | (usable_rows(manifest) & training)).sum())
        raise InputError(
            f"data.labels.leave_out takes every label of all {left_out} training images; expected some to train with",
            "leave out a smaller share",
        )


def _classes(task: str, settings: LabelSettings) -> tuple[str, ...]:
    return class_names(task, classes=settings.classes, sub_grades=settings.birads_sub)


def _names_of(task: str, manifest: pd.DataFrame, settings: LabelSettings) -> pd.Series:
    """Classes of a task by name: as they stand in the manifest, or from the sources when it is no task of the file."""
    if task not in settings.tasks:
        return truth_of(task, manifest, settings).name
    names: Mapping[int, str] = dict(enumerate(_classes(task, settings)))
    return manifest[label_column(task)].map(names, na_action="ignore").astype("str")
