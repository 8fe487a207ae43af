"""CBIS-DDSM, the curated films of the Digital Database for Screening Mammography: a row per full view.

Source: Lee et al., A curated mammography data set for use in computer-aided detection and diagnosis research,
Scientific Data 2017;4:170177.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from study.data.files import is_file, join, shown
from study.data.manifest import finish_manifest
from study.data.sources.cells import columns_found, need_columns, read_text_table, take
from study.data.sources.places import names_below
from study.data.sources.wide import agreed, words_of
from study.errors import InputError

# Words of the table's name and of its folders.
TABLES: Final = (
    ("mass", "train", "Mass-Training", "training"),
    ("mass", "test", "Mass-Test", "test"),
    ("calc", "train", "Calc-Training", "training"),
    ("calc", "test", "Calc-Test", "test"),
)
DENSITY_NAMES: Final = ("breast_density", "breast density")  # mass tables, calcification tables
COLUMNS: Final = {
    "patient_id": "patient_id",
    "left or right breast": "laterality",
    "image view": "view",
    "assessment": "birads",
    "image file path": "path",
}
VIEW: Final = ["patient_id", "laterality", "view"]
FILLED: Final = ("patient_id", "left or right breast", "image view", "assessment", "pathology")
PATHOLOGY: Final = {"MALIGNANT": "malignant", "BENIGN": "benign", "BENIGN_WITHOUT_CALLBACK": "benign"}
ASSESSMENTS: Final = ("0", "1", "2", "3", "4", "5")
SEVERITY: Final = {"5": 0, "4": 1, "0": 2, "3": 3, "2": 4, "1": 5}  # an incomplete one lies between 3 and 4
VIEW_FOLDER: Final = re.compile(r"(?:Mass|Calc)-(?:Training|Test)_P_\d+_(?:LEFT|RIGHT)_(?:CC|MLO)")
DOWNLOADED: Final = "1-1.dcm"


def read_cbis_ddsm(root: str | Path, *, name: str = "cbis_ddsm", tables: str = "tables") -> pd.DataFrame:
    """Read the four case tables to one row per full view, with the worst pathology and assessment of its lesions.

    Views of the mass and calcification tables are merged by patient, side and view: the published splits share 31
    patients and 29 views. A view of both splits says ``training``. Files are found by the folder of their view, because
    the tables name files that no download holds; a view that was not downloaded keeps its expected place.

    Args:
        root: the folder that holds the pictures at any depth, or a URI.
        name: what the column ``source`` says.
        tables: folder of the four tables below the root; the root itself is searched as well.

    Raises:
        InputError: a table or column is missing, a cell holds an unknown value, or a view has several files.
    """
    lesions = pd.concat([_read_lesions(root, tables, words) for words in TABLES], ignore_index=True)
    views = _merge_views(lesions)
    found = _downloads(root)
    views["path"] = [_place(root, path, found) for path in views["path"]]
    return finish_manifest(views.assign(image_kind="film"), source=name)


def _read_lesions(root: str | Path, folder: str, words: tuple[str, str, str, str]) -> pd.DataFrame:
    """One table, a row per lesion, in the manifest's words."""
    kind, part, view_folder, split = words
    place = _find_table(root, folder, f"{kind}_case_description_{part}_set.csv")
    frame = read_text_table(place)
    need_columns(frame, [*COLUMNS, "pathology"], table=place)
    density = next((column for column in DENSITY_NAMES if column in frame), None)
    if density is None:
        raise InputError(
            f"{shown(place)}: column {' or '.join(DENSITY_NAMES)} is missing; found {columns_found(frame, COLUMNS)}",
            "use the published table",
        )
    words_of(frame["assessment"], {text: text for text in ASSESSMENTS}, allowed="0 to 5", table=place)
    frame[density] = frame[density].mask(frame[density] == "0", "")
    lesions = take(frame, {**COLUMNS, density: "density"}, table=place)
    lesions["biopsy"] = words_of(frame["pathology"], PATHOLOGY, allowed=", ".join(PATHOLOGY), table=place)
    for column in FILLED:
        _check_filled(frame[column], place)
    expected = f"{view_folder}_" + frame["patient_id"] + "_" + frame["left or right breast"] + "_" + frame["image view"]
    _check_paths(frame["image file path"], expected, place)
    return lesions.assign(split_official=split)


def _find_table(root: str | Path, folder: str, file: str) -> str:
    for place in (join(root, folder, file), join(root, file)):
        if is_file(place):
            return place
    raise InputError(
        f"no table {file} in {shown(join(root, folder))} or {shown(join(root))}",
        "give all four case tables: patients and views are shared between them",
    )


def _check_filled(cells: pd.Series, place: str) -> None:
    empty = (cells == "").to_numpy()
    if empty.any():
        row = 1 + int(empty.argmax())
        raise InputError(
            f"{shown(place)}: column {cells.name}, data row {row}: empty; expected a value", "use the published table"
        )


def _check_paths(paths: pd.Series, expected: pd.Series, place: str) -> None:
    """A path must lead to the folder of its own row's view."""
    strange = (paths.str.partition("/")[0] != expected).to_numpy()
    if strange.any():
        row = 1 + int(strange.argmax())
        raise InputError(
            f"{shown(place)}: column image file path, data row {row}: the folder is not that of the "
            "row's patient, side and view",
            "use the published table",
        )


def _merge_views(lesions: pd.DataFrame) -> pd.DataFrame:
    """One row per view, in the order of the tables."""
    by_severity = lesions.assign(severity=lesions["raw_birads"].map(SEVERITY)).sort_values("severity", kind="stable")
    views = lesions.groupby(VIEW, sort=False)
    merged = pd.DataFrame(
        {
            "path": views["path"].first(),
            "density": agreed(views["density"]),
            # In the order of the alphabet the worse word comes last in each of the two columns.
            "biopsy": views["biopsy"].max(),
            "split_official": views["split_official"].max(),
            "n_findings": views.size(),
            **{column: by_severity.groupby(VIEW)[column].first() for column in ("birads", "raw_birads")},
        }
    ).reset_index()
    parts = merged["path"].str.split("/")
    return merged.assign(
        label3=merged["biopsy"],
        raw_view=merged["view"],
        study_id=parts.str[1],
        series_id=parts.str[2],
        image_id=merged["patient_id"] + "_" + merged["laterality"] + "_" + merged["view"],
    )


def _downloads(root: str | Path) -> dict[str, list[str]]:
    """DICOM files below each view's folder, wherever below the root that folder lies."""
    found: dict[str, list[str]] = {}
    for name in names_below(root, suffixes=(".dcm",)):
        folder = next((part for part in name.split("/") if VIEW_FOLDER.fullmatch(part)), None)
        if folder is not None:
            found.setdefault(folder, []).append(name)
    return found


def _place(root: str | Path, path: str, found: Mapping[str, list[str]]) -> str:
    """The downloaded file of a view; where it would lie if there is none."""
    folder, study, series, *_ = path.split("/")
    files = found.get(folder, [])
    if not files:
        return join(root, "CBIS-DDSM", folder, study, series, DOWNLOADED)
    named = [file for file in files if f"/{series}/" in file]
    choice = named if len(named) == 1 else files
    if len(choice) > 1:
        raise InputError(
            f"the folder of a full view holds {len(choice)} DICOM files; expected one", "leave one download per view"
        )
    return join(root, choice[0])
