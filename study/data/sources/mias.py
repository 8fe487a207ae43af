"""The mini-MIAS films, in the layout of a `labels.csv` beside an image folder."""

from pathlib import Path
from typing import Final

import pandas as pd

from study.data.manifest import finish_manifest
from study.data.sources.cells import read_text_table, understand
from study.errors import InputError

LABELS_FILE: Final = "labels.csv"
COLUMNS: Final = ("image_id", "patient_id", "laterality", "label", "path")


def read_mias(root: str | Path, *, name: str = "mias") -> pd.DataFrame:
    """Read digitised films: all MLO, one image per breast, label normal, benign or malignant.

    The tissue letters F, G and D (fatty, glandular, dense) are not ACR classes, so ``density`` stays missing.
    Source: Suckling et al., The Mammographic Image Analysis Society digital mammogram database, 1994.

    Raises:
        InputError: the table is missing, lacks a column, or holds an unknown value.
    """
    table = Path(root) / LABELS_FILE
    frame = read_text_table(table)
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise InputError(f"{table}: column {', '.join(missing)} is missing; found {', '.join(frame.columns)}")
    known = frame[list(COLUMNS)].rename(columns={"label": "label3"})
    if "n_lesions" in frame:
        known["n_findings"] = frame["n_lesions"]
    known = understand(known, table=table)
    known["path"] = [str((Path(root) / path).absolute()) for path in known["path"]]
    return finish_manifest(known.assign(view="MLO", image_kind="film"), source=name)
