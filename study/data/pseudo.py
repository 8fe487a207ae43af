"""Pseudo-labels: training images without a label get that of a teacher, and count as much as it is sure."""

import hashlib
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa

from study.data.labels import label_column
from study.data.parquet_file import FAULTS, read_table, reason, write_table
from study.data.shards import PreparedDataset
from study.errors import StudyError

PSEUDO: Final = "pseudo"
PSEUDO_FILE: Final = "pseudo.parquet"  # in a study's folder
COLUMNS: Final = ("image_id", "label", "confidence", "uncertainty", "origin")


def write_pseudo_labels(table: pd.DataFrame, path: Path) -> None:
    """Write the labels of a teacher (``COLUMNS``) as Parquet, as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pandas(table[list(COLUMNS)], preserve_index=False), path)


def read_pseudo_labels(path: Path) -> pd.DataFrame:
    """The labels of a teacher.

    Raises:
        StudyError: the file is missing or damaged.
    """
    try:
        return read_table(path, COLUMNS)
    except FAULTS as error:
        raise StudyError(
            f"the pseudo-labels {path.name} of the study {reason(error)}",
            "put the file back, or give the study another name",
        ) from error


def pseudo_digest(table: pd.DataFrame) -> str:
    """Digest of which image got which label, with which doubt."""
    rows = table.sort_values("image_id")[["image_id", "label", "uncertainty"]]
    return hashlib.blake2b(rows.to_csv(index=False).encode(), digest_size=16).hexdigest()


def with_pseudo_labels(dataset: PreparedDataset, table: pd.DataFrame) -> PreparedDataset:
    """The same dataset whose unlabelled training images have the labels of ``table``; row numbers stay.

    Only training images without any label take one: val and test are scored with real labels.

    Args:
        dataset: prepared with ``data.labels.keep_unlabelled``.
        table: ``COLUMNS``; rows of other images are left alone, a label of <NA> is none.

    Raises:
        StudyError: an image that is named twice, a class that the dataset does not have, or none of its images.
    """
    labels = table.dropna(subset=["label"]).set_index("image_id")
    known = labels["label"].astype("int64").between(0, len(dataset.classes) - 1)
    if labels.index.has_duplicates or not known.all():
        raise StudyError(
            "the pseudo-labels name an image twice, or a class that the data do not have",
            "remove the file, then resume",
        )
    manifest = dataset.manifest.copy()
    task = next(iter(dataset.tasks))
    rows = dataset.unlabelled_rows()
    rows = rows[manifest["image_id"].iloc[rows].isin(labels.index).to_numpy()]
    if len(labels) and not len(rows):
        raise StudyError(
            "the pseudo-labels name none of the images without a label; the dataset was prepared again, by other names",
            "restore the dataset with its key, or give the study another name",
        )
    chosen = labels.loc[manifest["image_id"].iloc[rows]]
    place = manifest.index[rows]
    for column in {"label", label_column(task)} & set(manifest):
        manifest.loc[place, column] = chosen["label"].astype("int64").to_numpy()
    origin, doubt = f"{task}_origin", f"{task}_uncertainty"
    manifest[origin] = manifest.get(origin, "reader")
    manifest[doubt] = manifest.get(doubt, 0.0)
    manifest.loc[place, origin] = PSEUDO
    manifest.loc[place, doubt] = chosen["uncertainty"].to_numpy()
    labelled = PreparedDataset(dataset.root, dataset.about)
    labelled.__dict__["manifest"] = manifest  # in the place of what the property would read
    return labelled
