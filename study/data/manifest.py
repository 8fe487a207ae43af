"""The one table that all sources are brought to: a row per image, dropped rows kept with their reason."""

from typing import Final

import pandas as pd

from study.errors import InputError

ID_COLUMNS: Final = ("patient_id", "study_id", "series_id", "image_id", "breast_id")
TEXT_COLUMNS: Final = (
    *ID_COLUMNS,
    "path",
    "laterality",
    "view",
    "raw_view",
    "raw_birads",
    "birads_sub",
    "label3",
    "biopsy",
    "class_name",
    "lesions",
    "density",
    "split_official",
    "manufacturer",
    "model",
    "photometric",
    "transfer_syntax",
    "image_kind",
)
NUMBER_COLUMNS: Final = (
    "birads",
    "age",
    "rows",
    "cols",
    "bits_stored",
    "spot_mag",
    "implant",
    "n_findings",
    "file_bytes",
)
MANIFEST_COLUMNS: Final = ("source", *TEXT_COLUMNS, *NUMBER_COLUMNS, "drop_reason")

CLASSES3: Final = ("normal", "benign", "malignant")


def finish_manifest(frame: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """Give a source's table all manifest columns, in order: text as ``str`` (missing is NaN), numbers as float64.

    ``breast_id`` is the patient with the side where a source has none of its own; ``drop_reason`` is empty for rows
    that are kept; the index runs from 0.

    Raises:
        InputError: no rows, a row without a patient or image id, or an image id that occurs twice; counts only, no ids.
    """
    if frame.empty:
        raise InputError(f"source {source!r} has no images", "check its root and table")
    rows = frame.reset_index(drop=True)
    columns: dict[str, pd.Series] = {"source": pd.Series(source, index=rows.index, dtype="str")}
    for column in TEXT_COLUMNS:
        columns[column] = _text(rows, column)
    for column in NUMBER_COLUMNS:
        columns[column] = _numbers(rows, column)
    columns["drop_reason"] = _text(rows, "drop_reason").fillna("")
    manifest = pd.DataFrame(columns)
    manifest["breast_id"] = manifest["breast_id"].fillna(manifest["patient_id"] + "_" + manifest["laterality"])
    _check_ids(manifest, source)
    return manifest


def usable_rows(manifest: pd.DataFrame) -> pd.Series:
    """True for rows without a reason to drop them."""
    return manifest["drop_reason"].fillna("") == ""


def _text(rows: pd.DataFrame, column: str) -> pd.Series:
    if column not in rows:
        return pd.Series(None, index=rows.index, dtype="str")
    text = rows[column].astype("str")
    return text.mask(text == "")


def _numbers(rows: pd.DataFrame, column: str) -> pd.Series:
    if column not in rows:
        return pd.Series(float("nan"), index=rows.index, dtype="float64")
    return rows[column].astype("float64")


def _check_ids(manifest: pd.DataFrame, source: str) -> None:
    without_patient = int(manifest["patient_id"].isna().sum())
    if without_patient:
        raise InputError(
            f"source {source!r}: {without_patient} of {len(manifest)} rows have no patient_id; expected one in each",
            "fill patient_id in every row: splits are made by patient",
        )
    nameless = manifest["image_id"].isna().to_numpy()
    if nameless.any():
        raise InputError(
            f"source {source!r}: {int(nameless.sum())} of {len(manifest)} rows have no image_id; the first is data row "
            f"{1 + int(nameless.argmax())}; expected one in every row",
            "fill image_id in every row",
        )
    repeated = manifest["image_id"].duplicated()
    if repeated.any():
        first = int(repeated.to_numpy().argmax()) + 1
        raise InputError(
            f"source {source!r}: {int(repeated.sum())} rows repeat an image_id; the first is data row {first}; "
            "expected each once",
            "give every image an image_id of its own",
        )
