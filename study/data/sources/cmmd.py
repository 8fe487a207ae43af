"""CMMD, the Chinese Mammography Database: pictures from the folders, side and view from the headers.

Source: Cai et al., The Chinese Mammography Database (CMMD), The Cancer Imaging Archive 2022,
doi 10.7937/tcia.eqde-4b16.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from pydicom import dcmread

from study.data.archives import unpacks_too_far
from study.data.dicom_file import DECODING_ERRORS, quiet
from study.data.dicom_tags import TAG_KEYWORDS, DicomTags, tags_from_dataset
from study.data.files import is_file, join, open_file, read_bytes, shown
from study.data.manifest import finish_manifest
from study.data.sources.cells import need_columns, read_text_table, take
from study.data.sources.places import names_below
from study.data.sources.wide import words_of
from study.errors import InputError

SHEETS: Final = ("CMMD_clinicaldata_revision.xlsx", "CMMD_clinicaldata_revision.csv")
COLUMNS: Final = {"ID1": "patient_id", "LeftRight": "laterality", "Age": "age"}
CLASSES: Final = {"Benign": "benign", "Malignant": "malignant"}
# All that the readers of sheets were seen to raise on damaged files.
NO_SHEET: Final = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(SyntaxError, NotImplementedError, RuntimeError, ArithmeticError),
)
PATIENT: Final = re.compile(r"D[12]-\d{4}")
HEADER_TAGS: Final = (*TAG_KEYWORDS, "Rows", "Columns", "BitsStored", "PhotometricInterpretation")
THREADS: Final = 16  # headers wait for the disk or the network, not for the processor

# Found by readers who compared headers and pictures; which of a patient's pictures are meant is not published.
WRONG_SIDE: Final = frozenset(
    ("D1-0252", "D1-0690", "D1-0711", "D1-0999", "D2-0041", "D2-0112", "D2-0224", "D2-0229", "D2-0642")
)
WRONG_BREAST: Final = frozenset(("D2-0048", "D2-0132", "D2-0153", "D2-0212", "D2-0282", "D2-0458", "D2-0637"))


def read_cmmd(
    root: str | Path,
    *,
    name: str = "cmmd",
    table: str | None = None,
    unlabelled: Literal["drop", "normal"] = "drop",
    known_defects: Literal["drop", "keep"] = "drop",
) -> pd.DataFrame:
    """Read the clinical sheet and the header of every picture; a label belongs to a breast, a split to a patient.

    The 1,458 pictures of breasts without a row in the sheet have no published result; they are dropped, or taken for
    normal if asked. Pictures of 16 patients whose side or label is known to be wrong are dropped with their label
    kept in the row.

    Args:
        root: the folder that holds the patients' folders at any depth, or a URI.
        name: what the column ``source`` says.
        table: the sheet below the root (Excel or CSV); found by its published name if not given.
        unlabelled: what becomes of breasts without a row.
        known_defects: what becomes of patients whose side or label is known to be wrong.

    Raises:
        InputError: no sheet, no pictures, a column that is missing, or a cell with an unknown value.
    """
    breasts = _read_sheet(_find_sheet(root, table))
    files = _find_files(root)
    pictures = files.join(pd.DataFrame(_read_headers(files["path"].tolist())))
    rows = pictures.merge(breasts, on=["patient_id", "laterality"], how="left", validate="many_to_one")
    ages = breasts.groupby("patient_id")["age"].first()
    rows["age"] = rows["patient_id"].map(ages)
    rows["label3"] = rows["biopsy"]
    has_row = rows["biopsy"].notna()
    if unlabelled == "normal":
        rows["label3"] = rows["label3"].mask(~has_row & rows["laterality"].notna(), "normal")
    rows["drop_reason"] = _drop_reasons(rows, is_defect_kept=known_defects == "keep")
    return finish_manifest(rows, source=name)


def _find_sheet(root: str | Path, table: str | None) -> str:
    names = [table] if table else [f"{folder}{sheet}" for folder in ("", "tables/") for sheet in SHEETS]
    for sheet in names:
        if is_file(join(root, sheet)):
            return join(root, sheet)
    raise InputError(
        f"no clinical sheet below {shown(join(root))}; expected {' or '.join(names)}",
        "fetch it from the data set's page, or set the source's table",
    )


def _read_sheet(place: str) -> pd.DataFrame:
    """One row per labelled breast: patient_id, laterality, age, biopsy."""
    frame = _excel(place) if place.partition("?")[0].lower().endswith(".xlsx") else read_text_table(place)
    need_columns(frame, [*COLUMNS, "classification"], table=place)
    breasts = take(frame, COLUMNS, table=place)
    breasts["biopsy"] = words_of(frame["classification"], CLASSES, allowed="Benign or Malignant", table=place)
    incomplete = breasts[["patient_id", "laterality", "biopsy"]].replace("", np.nan).isna().any(axis=1).to_numpy()
    repeated = breasts.duplicated(["patient_id", "laterality"]).to_numpy()
    for faults, fault in (
        (incomplete, "ID1, LeftRight or classification is empty"),
        (repeated, "a breast comes twice"),
    ):
        if faults.any():
            raise InputError(
                f"{shown(place)}: data row {1 + int(faults.argmax())}: {fault}; expected one row per breast",
                "use the published sheet",
            )
    return breasts


def _excel(place: str) -> pd.DataFrame:
    try:
        sheet = io.BytesIO(read_bytes(place))
        with zipfile.ZipFile(sheet) as archive:
            if unpacks_too_far(archive):
                raise InputError(f"{shown(place)} unpacks to more than a sheet could hold", "give it as CSV")
        frame = pd.read_excel(sheet, dtype="str", na_filter=False, engine="openpyxl")
    except NO_SHEET:
        raise InputError(f"{shown(place)} is not an Excel sheet", "fetch it again, or give it as CSV") from None
    if frame.empty:
        raise InputError(f"{shown(place)} has no rows", "fetch it again, or give it as CSV")
    return pd.DataFrame({str(column).strip(): frame[column].astype("str").str.strip() for column in frame.columns})


def _find_files(root: str | Path) -> pd.DataFrame:
    """DICOM files in the patients' folders: ids from the folders, since headers carry nothing better."""
    rows = []
    for name in names_below(root, suffixes=(".dcm",)):
        parts = name.split("/")
        at = next((index for index, part in enumerate(parts) if PATIENT.fullmatch(part)), None)
        if at is not None and at < len(parts) - 1:
            below = [*parts[at + 1 : -1], "", ""]
            image_id = "/".join(parts[at:]).removesuffix(".dcm")
            ids = {"patient_id": parts[at], "study_id": below[0], "series_id": below[1], "image_id": image_id}
            rows.append({**ids, "path": join(root, name)})
    if not rows:
        raise InputError(
            f"no pictures below {shown(join(root))}; expected CMMD/D1-0001/<exam>/<series>/1-1.dcm and so on",
            "check the root of this source",
        )
    return pd.DataFrame(rows)


def _read_headers(paths: Sequence[str]) -> list[dict[str, object]]:
    """What the manifest keeps of each file's header, in order; ``is_read`` says whether there was one."""
    # Warnings are muted around all threads, not in each: the filters belong to the process.
    with quiet(), ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(_read_header, paths))
    return [
        {
            "is_read": tags is not None,
            "laterality": tags.laterality if tags else None,
            "view": tags.view if tags else None,
            "raw_view": tags.view if tags else None,
            "rows": tags.rows if tags else None,
            "cols": tags.cols if tags else None,
            "bits_stored": tags.bits_stored if tags else None,
            "photometric": tags.photometric if tags else None,
            "transfer_syntax": tags.transfer_syntax if tags else None,
            "manufacturer": tags.manufacturer if tags else None,
            "model": tags.model if tags else None,
            "image_kind": tags.image_kind if tags else None,
        }
        for tags in found
    ]


def _read_header(path: str) -> DicomTags | None:
    """The allowed tags of one file, without its pixels; None if it has no header that can be read."""
    try:
        with open_file(path) as file:
            dataset = dcmread(file, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
        return tags_from_dataset(dataset)
    except DECODING_ERRORS:
        return None


def _drop_reasons(rows: pd.DataFrame, *, is_defect_kept: bool) -> np.ndarray:
    """Why a picture is not used, empty where it is; the first reason that applies."""
    defects = (frozenset[str](), frozenset[str]()) if is_defect_kept else (WRONG_SIDE, WRONG_BREAST)
    reasons = {
        "header cannot be read": ~rows["is_read"].astype("bool"),
        "no side or view in the header": rows["laterality"].isna() | rows["view"].isna(),
        "side of this patient's pictures known to be wrong": rows["patient_id"].isin(defects[0]),
        "label of this patient known to be on the wrong breast": rows["patient_id"].isin(defects[1]),
        "breast without a row in the clinical sheet": rows["label3"].isna(),
    }
    return np.select([applies.to_numpy(dtype=bool) for applies in reasons.values()], list(reasons), default="")
