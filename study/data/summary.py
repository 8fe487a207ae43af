"""What a manifest holds, as tables: for a look before anything is prepared. Counts only, no ids and no paths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from study.data.labels import label_column
from study.data.manifest import usable_rows
from study.data.uncertainty import ORIGINS

SPLITS: Final = ("train", "val", "test")
FACTS: Final = {"density": "density", "view": "view", "vendor": "manufacturer", "kind": "image_kind"}
UNKNOWN: Final = "unknown"
ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSummary:
    """Tables about the images that would be used, and about those that would not.

    Attributes:
        counts: source, split, patients, images, one column per class, unlabelled (images with other tasks' labels
            only); a row per source and split, in the manifest's order of sources.
        facts: source, fact (density, view, vendor or kind), value, images.
        dropped: source, reason, images.
        imbalance: source (and ``all``), commonest, rarest, ratio of their images; infinite where a class has none.
        tasks: task, class, and images in train, val and test.
        origins: task, origin, and images in train, val and test.
        warnings: sentences that a user should read.
    """

    counts: pd.DataFrame
    facts: pd.DataFrame
    dropped: pd.DataFrame
    imbalance: pd.DataFrame
    tasks: pd.DataFrame
    origins: pd.DataFrame
    warnings: tuple[str, ...]


def describe_manifest(
    manifest: pd.DataFrame,
    classes: Sequence[str],
    *,
    tasks: Mapping[str, Sequence[str]] | None = None,
    folds: int = 0,
    notes: Sequence[str] = (),
) -> ManifestSummary:
    """Count what a labelled and split manifest would give.

    Args:
        manifest: with ``label``, ``split`` and the columns of ``tasks``.
        classes: of the task that decides, in order of grade.
        tasks: classes of every task by its name; none leaves ``tasks`` and ``origins`` empty.
        folds: of a cross-validation; 0 where there is none.
        notes: what splitting had to say; put before the other warnings.
    """
    used = manifest[usable_rows(manifest)]
    return ManifestSummary(
        counts=_counts(used, classes),
        facts=_facts(used),
        dropped=_dropped(manifest[~usable_rows(manifest)]),
        imbalance=_imbalance(used, classes),
        tasks=_tasks(used, tasks or {}),
        origins=_origins(used, tasks or {}),
        warnings=(*notes, *_missing_classes(used, classes), *_small_classes(used, classes, folds)),
    )


def _counts(used: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    lines = []
    for source, rows in used.groupby("source", sort=False):
        for split in SPLITS:
            part = rows[rows["split"] == split]
            by_class = {name: int((part["label"] == label).sum()) for label, name in enumerate(classes)}
            line = {"source": source, "split": split, "patients": part["patient_id"].nunique(), "images": len(part)}
            lines.append({**line, **by_class, "unlabelled": int(part["label"].isna().sum())})
    return pd.DataFrame(lines, columns=["source", "split", "patients", "images", *classes, "unlabelled"])


def _facts(used: pd.DataFrame) -> pd.DataFrame:
    """Images by each value of some columns; the commonest vendor first, other values in order."""
    lines = []
    for source, rows in used.groupby("source", sort=False):
        for fact, column in FACTS.items():
            sizes = rows[column].fillna(UNKNOWN).value_counts()
            sizes = sizes if fact == "vendor" else sizes.sort_index()
            lines += [(source, fact, value, int(images)) for value, images in sizes.items()]
    return pd.DataFrame(lines, columns=["source", "fact", "value", "images"])


def _dropped(rows: pd.DataFrame) -> pd.DataFrame:
    lines = [
        (source, reason, int(images))
        for source, part in rows.groupby("source", sort=False)
        for reason, images in part["drop_reason"].value_counts().items()
    ]
    return pd.DataFrame(lines, columns=["source", "reason", "images"])


def _imbalance(used: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    lines = []
    for source, rows in [*used.groupby("source", sort=False), (ALL, used)]:
        sizes = pd.Series([int((rows["label"] == label).sum()) for label in range(len(classes))], index=list(classes))
        ratio = sizes.max() / sizes.min() if sizes.min() else float("inf")
        lines.append((source, sizes.idxmax(), sizes.idxmin(), float(ratio)))
    return pd.DataFrame(lines, columns=["source", "commonest", "rarest", "ratio"])


def _tasks(used: pd.DataFrame, tasks: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    lines = [
        (task, name, *_by_split(used, used[label_column(task)] == label))
        for task, names in tasks.items()
        for label, name in enumerate(names)
    ]
    return pd.DataFrame(lines, columns=["task", "class", *SPLITS])


def _origins(used: pd.DataFrame, tasks: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    lines = []
    for task in tasks:
        found = used[f"{task}_origin"]
        lines += [(task, origin, *_by_split(used, found == origin)) for origin in ORIGINS if (found == origin).any()]
    return pd.DataFrame(lines, columns=["task", "origin", *SPLITS])


def _by_split(used: pd.DataFrame, chosen: pd.Series) -> list[int]:
    return [int((chosen.fillna(value=False) & (used["split"] == split)).sum()) for split in SPLITS]


def _missing_classes(used: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """A metric over classes is undefined where one is missing."""
    lacking = {
        name: [split for split in SPLITS if not ((used["split"] == split) & (used["label"] == label)).any()]
        for label, name in enumerate(classes)
    }
    return [f"class {name} has no image in {' and '.join(splits)}" for name, splits in lacking.items() if splits]


def _small_classes(used: pd.DataFrame, classes: Sequence[str], folds: int) -> list[str]:
    """A class with fewer patients than folds is missing in val of some folds."""
    worst = used[used["split"] != "test"].groupby("patient_id")["label"].max()
    sizes = [int((worst == label).sum()) for label in range(len(classes))]
    return [
        f"class {name} has {size} patients outside test for {folds} folds: {folds - size} folds validate without it"
        for name, size in zip(classes, sizes, strict=True)
        if size < folds
    ]
