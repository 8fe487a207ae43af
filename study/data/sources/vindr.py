"""VinDr-Mammo 1.0.0: four images per exam, an assessment and a density per breast, boxes of findings."""

import ast
from pathlib import Path
from typing import Final

import pandas as pd

from study.data.files import is_file, join, shown
from study.data.manifest import finish_manifest
from study.data.sources.boxes import Box, lesion_text
from study.data.sources.cells import columns_found, need_columns, read_text_table, take
from study.errors import InputError

BREASTS_FILE: Final = "breast-level_annotations.csv"
FINDINGS_FILE: Final = "finding_annotations.csv"
METADATA_FILE: Final = "metadata.csv"
IMAGES: Final = "images"
BREAST_COLUMNS: Final = {
    "study_id": "study_id",
    "series_id": "series_id",
    "image_id": "image_id",
    "laterality": "laterality",
    "view_position": "view",
    "height": "rows",
    "width": "cols",
    "breast_birads": "birads",
    "breast_density": "density",
    "split": "split_official",
}
SPLITS: Final = ("training", "test")
NO_FINDING: Final = "No Finding"
PUBLISHED_TABLE: Final = "use the published table"
EDGES: Final = ("xmin", "ymin", "xmax", "ymax")
IMAGE_KEY: Final = "sopinstanceuid"
DEVICE_COLUMNS: Final = {
    "manufacturer": "manufacturer",
    "manufacturersmodelname": "model",
    "manufacturermodelname": "model",
    "photometricinterpretation": "photometric",
}


def read_vindr(root: str | Path, *, name: str = "vindr") -> pd.DataFrame:
    """Read the exams; an exam is its own patient, because the data set tells no other.

    Vendor, model and photometric interpretation come from `metadata.csv` where there is one.
    Source: Nguyen et al., VinDr-Mammo: a large-scale benchmark dataset for computer-aided detection and diagnosis in
    full-field digital mammography, Scientific Data 10, 2023.

    Raises:
        InputError: a table or column is missing, or a cell is none of the published values.
    """
    table = join(root, BREASTS_FILE)
    images = take(read_text_table(table), BREAST_COLUMNS, table=table)
    _check_splits(images["split_official"], table=table)
    images["patient_id"] = images["study_id"]
    images["path"] = [
        join(root, IMAGES, study, f"{image}.dicom")
        for study, image in zip(images["study_id"], images["image_id"], strict=True)
    ]
    boxes = _boxes(join(root, FINDINGS_FILE))
    sizes = zip(images["image_id"], images["rows"], images["cols"], strict=True)
    images["lesions"] = [lesion_text(boxes.get(image, []), size_hw=(rows, cols)) for image, rows, cols in sizes]
    images["n_findings"] = images["image_id"].map({image: len(found) for image, found in boxes.items()})
    if is_file(join(root, METADATA_FILE)):
        images = images.merge(_devices(join(root, METADATA_FILE)), on="image_id", how="left")
    return finish_manifest(images.assign(image_kind="FFDM"), source=name)


def _check_splits(splits: pd.Series, *, table: str) -> None:
    unknown = ~splits.isin(SPLITS).to_numpy()
    if unknown.any():
        row = int(unknown.argmax())
        found = repr(splits.iloc[row][:40])
        raise InputError(
            f"{shown(table)}: column split, data row {row + 1}: {found}; expected {' or '.join(SPLITS)}",
            PUBLISHED_TABLE,
        )


def _boxes(table: str) -> dict[str, list[Box]]:
    """Boxes of each image in the table, as it gives them; an empty list where it says that there is no finding."""
    frame = read_text_table(table)
    need_columns(frame, ("image_id", "finding_categories", *EDGES), table=table)
    findings = frame[["image_id", "finding_categories", *EDGES]]
    boxes: dict[str, list[Box]] = {}
    for row, (image, categories, *edges) in enumerate(findings.itertuples(index=False), start=1):
        place = f"{shown(table)}: data row {row}"
        box = _box(edges, place=place)
        if (_categories(categories, place=place) == [NO_FINDING]) != (box is None):
            found = "a finding without a box" if box is None else f"a box with {NO_FINDING!r}"
            raise InputError(
                f"{place}: {found}; expected a box with a finding, and four empty cells with {NO_FINDING!r}",
                PUBLISHED_TABLE,
            )
        boxes.setdefault(image, []).extend([] if box is None else [box])
    return boxes


def _categories(text: str, *, place: str) -> list[str]:
    """The cell is the text of a Python list, such as ``['Mass', 'Skin Thickening']``."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(category, str) for category in found):
        raise InputError(
            f"{place}, column finding_categories: {text[:40]!r}; expected a list such as ['Mass']", PUBLISHED_TABLE
        )
    return found


def _box(edges: list[str], *, place: str) -> Box | None:
    if not any(edges):
        return None
    try:
        left, top, right, bottom = map(float, edges)
    except ValueError:
        raise InputError(
            f"{place}, columns {', '.join(EDGES)}: a box in part; expected four numbers or four empty cells",
            PUBLISHED_TABLE,
        ) from None
    return left, top, right, bottom


def _devices(table: str) -> pd.DataFrame:
    """Vendor, model and photometric interpretation per image; headers are DICOM names, with or without blanks."""
    frame = read_text_table(table)
    plain = {column: "".join(filter(str.isalpha, str(column).lower())) for column in frame.columns}
    keys = [column for column, text in plain.items() if text == IMAGE_KEY]
    if not keys:
        known = [column for column, text in plain.items() if text in DEVICE_COLUMNS]
        raise InputError(
            f"{shown(table)}: column SOP Instance UID is missing; found {columns_found(frame, known)}", PUBLISHED_TABLE
        )
    found = {column: DEVICE_COLUMNS[text] for column, text in plain.items() if text in DEVICE_COLUMNS}
    devices = frame[[keys[0], *found]].rename(columns={keys[0]: "image_id", **found}).drop_duplicates()
    repeated = devices["image_id"].duplicated().to_numpy()
    if repeated.any():
        raise InputError(
            f"{shown(table)}: {int(repeated.sum())} images have two rows that differ in vendor, model or photometric "
            "interpretation",
            "keep the rows that are right",
        )
    return devices
