"""The open data of the EMory BrEast imaging Dataset (EMBED): findings of each exam joined to the files of each breast.

Source: Jeong et al., The EMory BrEast imaging Dataset (EMBED), Radiology: Artificial Intelligence 2023;5(1):e220047.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from study.data.files import is_file, join, shown
from study.data.manifest import finish_manifest
from study.data.sources.boxes import lesion_text
from study.data.sources.cells import DENSITIES, FLAGS, VIEWS, take
from study.data.sources.places import places
from study.data.sources.wide import agreed, id_texts, read_wide_table, words_of
from study.errors import InputError

ENDINGS: Final = (".csv", ".csv.gz", "_reduced.csv", "_reduced.csv.gz")
EXAM: Final = ["empi_anon", "acc_anon"]
BREAST: Final = [*EXAM, "breast"]

CLINICAL: Final = (*EXAM, "desc", "side", "asses", "tissueden", "path_severity")
CLINICAL_EXTRA: Final = ("bside", "age_at_study")
CODED: Final = ("ViewPosition", "FinalImageType", "spot_mag")
METADATA: Final = {
    "ImageLateralityFinal": "laterality",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "model",
}
SIZES: Final = {"Rows": "rows", "Columns": "cols", "BitsStored": "bits_stored"}
# The boxes of the PNG files of some releases are mirrored against the DICOM files; where both are there, this one wins.
ROI_COLUMNS: Final = ("DCM_ROI_coords", "ROI_coords")

# Worst first. Joins both published orders, screening A B N and diagnostic K M S P B N: an exam needs no kind.
WORST_FIRST: Final = "KMSAPBN"
BIRADS_OF: Final = {"A": 0, "N": 1, "B": 2, "P": 3, "S": 4, "M": 5, "K": 6}
NOT_ASSESSED: Final = len(WORST_FIRST)
RANKS: Final = {**{letter: str(rank) for rank, letter in enumerate(WORST_FIRST)}, "X": str(NOT_ASSESSED)}
SIDES: Final = {"L": "L", "R": "R", "B": "B"}
# 5 and 6 mean normal tissue and other cancers in one release's legend and the reverse in another's.
SEVERITIES: Final = {
    key: meaning
    for number, meaning in enumerate(["malignant", "malignant", "benign", "benign", "benign", None, None])
    for key in (f"{number}", f"{number}.0")
}
TISSUE: Final = {**{key: value for key, value in DENSITIES.items() if key[0].isdigit()}, "5": None, "5.0": None}
IMAGE_KINDS: Final = {"2D": "FFDM", "CVIEW": "cview", **dict.fromkeys(("3D", "ROI_SSC", "ROI_SS"))}
MORE_VIEWS: Final = ("RL", "RM", "RI", "RS", "SPECIMEN")  # rolled in four directions; a specimen has no breast
EMBED_VIEWS: Final = {**VIEWS, **dict.fromkeys(MORE_VIEWS, "other")}


def read_embed(
    root: str | Path,
    *,
    name: str = "embed",
    tables: str = "tables",
    images: str = "images",
    include_cview: bool = False,
    include_spot_mag: bool = False,
    include_other_views: bool = False,
) -> pd.DataFrame:
    """Read the clinical and the metadata table: a row per file, with the worst assessment of its breast in its exam.

    A finding belongs to the breast of its side, or to both where the side is B or empty. In a bilateral exam whose
    findings all lie in one breast the other one is negative (N). The letters A N B P S M K become BI-RADS 0 to 6.
    Pathology counts for the breast that was biopsied: severity 0 and 1 malignant, 2 to 4 benign, 5 and 6 unknown.

    Args:
        root: the folder that holds ``tables`` and ``images``, or a URI.
        name: what the column ``source`` says.
        tables: folder of the two tables below the root; the root itself is searched as well.
        images: folder below the root that holds ``cohort_1`` and ``cohort_2``.
        include_cview: use synthetic 2D pictures, too.
        include_spot_mag: use spot and magnified pictures, too.
        include_other_views: use views other than CC and MLO, too.

    Raises:
        InputError: a table or column is missing, or a cell holds a value that the code book does not.
    """
    findings = _read_findings(_find_table(root, tables, "clinical"))
    place = _find_table(root, tables, "metadata")
    files = _read_files(place).drop_duplicates("path", ignore_index=True)
    rows = _join(files, findings)
    kept = {"cview": include_cview, "spot_mag": include_spot_mag, "other": include_other_views}
    rows["drop_reason"] = _drop_reasons(rows, kept=[kind for kind, is_kept in kept.items() if is_kept])
    return finish_manifest(_named(rows, root=root, images=images), source=name)


def _find_table(root: str | Path, folder: str, kind: str) -> str:
    names = [f"EMBED_OpenData_{kind}{ending}" for ending in ENDINGS]
    for parts in ((folder,), ()):
        for file in names:
            if is_file(join(root, *parts, file)):
                return join(root, *parts, file)
    raise InputError(
        f"no {kind} table in {shown(join(root, folder))} or {shown(join(root))}; expected one of {', '.join(names)}",
        "fetch the tables of the data set, or set the source's tables",
    )


def _read_findings(place: str) -> pd.DataFrame:
    """Findings with ``rank`` (0 worst, `NOT_ASSESSED` for X and empty), side, density, biopsy, and ``bilateral``."""
    table = read_wide_table(place, needed=CLINICAL, optional=CLINICAL_EXTRA)
    side = words_of(table["side"], SIDES, allowed="L, R, B or empty", table=place).fillna("B")
    letters = f"{', '.join(RANKS)} or empty"
    rank = pd.to_numeric(words_of(table["asses"], RANKS, allowed=letters, table=place)).fillna(NOT_ASSESSED)
    biopsied = side
    if "bside" in table:
        biopsied = words_of(table["bside"], SIDES, allowed="L, R, B or empty", table=place).fillna(side)
    age = {"age": take(table, {"age_at_study": "age"}, table=place)["age"]} if "age_at_study" in table else {}
    return pd.DataFrame(
        {
            **{column: id_texts(table[column], table=place) for column in EXAM},
            "side": side,
            "rank": rank.astype("int8"),
            "is_bilateral": table["desc"].str.contains("bilat", case=False),
            "density": words_of(table["tissueden"], TISSUE, allowed="1 to 5 or empty", table=place),
            "biopsy": words_of(table["path_severity"], SEVERITIES, allowed="0 to 6 or empty", table=place),
            "biopsied": biopsied,
            **age,
        }
    )


def _read_files(place: str) -> pd.DataFrame:
    """Rows of the metadata table under the manifest's names; ``path`` begins with the cohort."""
    optional = (*SIZES, *ROI_COLUMNS)
    table = read_wide_table(place, needed=("anon_dicom_path", *EXAM, *METADATA, *CODED), optional=optional)
    sizes = {column: meaning for column, meaning in SIZES.items() if column in table}
    files = take(table, {**METADATA, **sizes}, table=place).assign(raw_view=table["ViewPosition"])
    view, kind = table["ViewPosition"].str.upper(), table["FinalImageType"].str.upper()
    files["view"] = words_of(view, EMBED_VIEWS, allowed=f"{', '.join(EMBED_VIEWS)} or empty", table=place)
    files["image_kind"] = words_of(kind, IMAGE_KINDS, allowed="2D, cview, 3D, ROI_SSC or empty", table=place)
    spot = words_of(table["spot_mag"], FLAGS, allowed="1, 0 or empty", table=place)
    files["spot_mag"] = pd.to_numeric(spot).fillna(0.0)
    files["path"] = _paths(table["anon_dicom_path"], place)
    for column in EXAM:
        files[column] = id_texts(table[column], table=place)
    _check_patients(files["empi_anon"], place)
    files["lesions"], files["n_findings"] = _lesions(table, files, place)
    return files


def _paths(cells: pd.Series, place: str) -> pd.Series:
    """What follows the folders of the machine that wrote the table; a path is never shown: it holds the patient."""
    paths = cells.str.replace(r"^.*?(?=cohort_)", "", regex=True)
    strange = ~paths.str.startswith("cohort_").to_numpy()
    if strange.any():
        row = 1 + int(strange.argmax())
        raise InputError(
            f"{shown(place)}: column {cells.name}, data row {row}: no folder cohort_1 or cohort_2 in the path",
            "use the published table",
        )
    return paths


def _check_patients(patients: pd.Series, place: str) -> None:
    empty = (patients == "").to_numpy()
    if empty.any():
        row = 1 + int(empty.argmax())
        raise InputError(
            f"{shown(place)}: column empi_anon, data row {row}: empty; expected a patient in every row",
            "use the published table",
        )


def _lesions(table: pd.DataFrame, files: pd.DataFrame, place: str) -> tuple[list[str | None], list[float]]:
    """Boxes of each file as the manifest's text, and how many there are; most files have none."""
    texts: list[str | None] = [None] * len(table)
    counts = [np.nan] * len(table)
    column = next((column for column in ROI_COLUMNS if column in table), None)
    if column is None:
        return texts, counts
    has_size = "rows" in files and "cols" in files
    marked = np.flatnonzero(table[column].str.contains(r"\d"))
    for row in marked.tolist():
        numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", table[column].iloc[row])]
        if len(numbers) % 4:
            raise InputError(
                f"{shown(place)}: column {column}, data row {row + 1}: {len(numbers)} numbers; "
                "expected four of each box (ymin, xmin, ymax, xmax)",
                "correct the cell, or write () for no box",
            )
        boxes = [(x0, y0, x1, y1) for y0, x0, y1, x1 in np.reshape(numbers, (-1, 4)).tolist()]
        height, width = (files["rows"].iloc[row], files["cols"].iloc[row]) if has_size else (np.nan, np.nan)
        texts[row] = lesion_text(boxes, size_hw=(height, width) if height > 0 and width > 0 else None)
        counts[row] = len(boxes)
    return texts, counts


def _join(files: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    """Add ``rank``, density, age and biopsy to the files; the order and number of files stay."""
    keyed = files.rename(columns={"laterality": "breast"})
    exams = _exams(findings)
    rows = keyed.merge(exams, on=EXAM, how="left", validate="many_to_one")
    rows = rows.merge(_worst(findings), on=BREAST, how="left", validate="many_to_one")
    rows = rows.merge(_biopsies(findings), on=BREAST, how="left", validate="many_to_one")
    return rows.rename(columns={"breast": "laterality"})


def _exams(findings: pd.DataFrame) -> pd.DataFrame:
    """Density and age of each exam; a density that its rows disagree on is unknown."""
    exams = findings.groupby(EXAM, sort=False)
    columns = {"density": agreed(exams["density"])}
    if "age" in findings:
        columns["age"] = exams["age"].first()
    return pd.DataFrame(columns).assign(is_known_exam=True).reset_index()


def _both_sides(findings: pd.DataFrame, side: str) -> pd.DataFrame:
    """Each finding once per breast that it concerns, in the column ``breast``."""
    parts = [findings[findings[side].isin([breast, "B"])].assign(breast=breast) for breast in "LR"]
    return pd.concat(parts, ignore_index=True)


def _worst(findings: pd.DataFrame) -> pd.DataFrame:
    """The worst ``rank`` of each breast, and N for the breast that a bilateral exam has no row for."""
    breasts = _both_sides(findings, "side").groupby(BREAST, sort=False)
    worst = pd.DataFrame({"rank": breasts["rank"].min(), "is_bilateral": breasts["is_bilateral"].any()}).reset_index()
    is_alone = ~worst.duplicated(EXAM, keep=False)
    # An exam that nobody assessed says nothing about its other breast either.
    alone = worst[is_alone & worst["is_bilateral"] & (worst["rank"] < NOT_ASSESSED)]
    other = alone.assign(breast=alone["breast"].map({"L": "R", "R": "L"}), rank=WORST_FIRST.index("N"))
    return pd.concat([worst, other], ignore_index=True).drop(columns="is_bilateral")


def _biopsies(findings: pd.DataFrame) -> pd.DataFrame:
    """The worst result of each breast; a result whose breast nobody wrote down is left out."""
    results = findings.dropna(subset="biopsy")
    sided = _both_sides(results[results["biopsied"] != "B"], "biopsied")
    is_malignant = (sided["biopsy"] == "malignant").groupby([sided[key] for key in BREAST], sort=False).any()
    biopsy = is_malignant.map({True: "malignant", False: "benign"}).astype("str")
    return biopsy.rename("biopsy").reset_index()


def _drop_reasons(rows: pd.DataFrame, *, kept: Sequence[str]) -> np.ndarray:
    """Why a file is not used, empty where it is; the first reason that applies."""
    kind, view = rows["image_kind"], rows["view"]
    reasons = {
        "neither a 2D picture nor a C-view": kind.isna(),
        "synthetic 2D picture (C-view)": (kind == "cview") & ("cview" not in kept),
        "spot or magnified picture": (rows["spot_mag"] == 1) & ("spot_mag" not in kept),
        "side unknown": rows["laterality"].isna(),
        "view unknown": view.isna(),
        "view other than CC and MLO": (view == "other") & ("other" not in kept),
        "exam without a row in the clinical table": rows["is_known_exam"].isna(),
        "no finding for this breast in its exam": rows["rank"].isna(),
        "no assessment (X or empty)": rows["rank"] == NOT_ASSESSED,
    }
    return np.select([applies.to_numpy(dtype=bool) for applies in reasons.values()], list(reasons), default="")


def _named(rows: pd.DataFrame, *, root: str | Path, images: str) -> pd.DataFrame:
    """The manifest's columns."""
    letter = rows["rank"].map(dict(enumerate(WORST_FIRST)))
    return rows.assign(
        patient_id=rows["empi_anon"],
        study_id=rows["acc_anon"],
        series_id=rows["path"].str.extract(r"^cohort_[^/]*/[^/]*/[^/]*/([^/]*)/[^/]*$", expand=False),
        image_id=rows["path"].str.replace(r"\.dcm$", "", regex=True),
        path=places(rows["path"], root=root, folder=images),
        raw_birads=letter,
        birads=letter.map(BIRADS_OF),
    )
