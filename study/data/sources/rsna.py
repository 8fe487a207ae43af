"""RSNA Screening Mammography Breast Cancer Detection: cancer per breast, and BI-RADS 0 to 2 for one of two sites."""

from pathlib import Path
from typing import Final, Literal

import pandas as pd

from study.data.files import join, shown
from study.data.manifest import finish_manifest
from study.data.sources.cells import need_columns, read_text_table, take
from study.data.sources.wide import words_of
from study.errors import InputError

IMAGES: Final = "train_images"
KNOWN_COLUMNS: Final = {
    "patient_id": "patient_id",
    "image_id": "image_id",
    "laterality": "laterality",
    "view": "view",
    "age": "age",
    "BIRADS": "birads",
    "implant": "implant",
    "density": "density",
    "machine_id": "machine",
    "cancer": "cancer",
    "biopsy": "biopsied",
}
LABELS: Final = ("cancer", "biopsy", "BIRADS", "density")
FLAGS: Final = {"0": False, "1": True}
GRADES: Final = {key: grade for grade in "012" for key in (grade, f"{grade}.0")}
BLANK: Final = "known defect: every pixel is 0"
UNUSABLE: Final = "known defect: cropped too far, or no usable breast"
# Found by participants of the challenge and told on its public forum.
DEFECTS: Final = {
    "1942326353": BLANK,
    **dict.fromkeys(("802890376", "936880795", "1074322983", "1249735234"), UNUSABLE),
}


def read_rsna(
    root: str | Path, *, name: str = "rsna", table: str = "train.csv", known_defects: Literal["drop", "keep"] = "drop"
) -> pd.DataFrame:
    """Read the labelled images.

    A breast with cancer is malignant, and a biopsied one without cancer has a benign biopsy. All else is told by
    BI-RADS alone, which knows 0, 1 and 2 here: a breast with neither cancer nor BI-RADS has no class. ``model`` is
    the number of the machine, as the data set tells no vendor.

    Args:
        root: the folder that holds the table and `train_images/`.
        name: what the column ``source`` says.
        table: the label table, or a part of it; `test.csv` holds no labels.
        known_defects: whether the images of `DEFECTS` are dropped.

    Raises:
        InputError: a table or column is missing, a cell is unknown, or a breast with cancer has BI-RADS 1 or 2.
    """
    place = join(root, table)
    frame = read_text_table(place)
    if not set(LABELS) & set(frame.columns):
        raise InputError(f"{shown(place)} holds no labels ({', '.join(LABELS)})", "read train.csv: test.csv has none")
    need_columns(frame, KNOWN_COLUMNS, table=place)
    words_of(frame["BIRADS"], GRADES, allowed="0, 1, 2 or empty", table=place)
    images = take(frame, KNOWN_COLUMNS, table=place)
    cancer = _flags(images["cancer"], place=f"{shown(place)}: column cancer")
    biopsied = _flags(images["biopsied"], place=f"{shown(place)}: column biopsy")
    _check_grades(images["birads"], cancer, place=shown(place))
    images["label3"] = cancer.map({True: "malignant", False: ""})
    images["biopsy"] = images["label3"].mask(biopsied & ~cancer, "benign")
    images["model"] = images["machine"].map(lambda number: f"machine {number}" if number else "")
    folders = zip(images["patient_id"], images["image_id"], strict=True)
    images["path"] = [join(root, IMAGES, patient, f"{image}.dcm") for patient, image in folders]
    if known_defects == "drop":
        images["drop_reason"] = images["image_id"].map(DEFECTS).fillna("")
    return finish_manifest(images.assign(image_kind="FFDM"), source=name)


def _flags(cells: pd.Series, *, place: str) -> pd.Series:
    flags = cells.map(FLAGS)
    unknown = flags.isna().to_numpy()
    if unknown.any():
        row = int(unknown.argmax())
        raise InputError(
            f"{place}, data row {row + 1}: {cells.iloc[row][:40]!r}; expected 0 or 1", "use the published table"
        )
    return flags.astype("bool")


def _check_grades(birads: pd.Series, cancer: pd.Series, *, place: str) -> None:
    """No class may follow from an assessment that contradicts the cancer flag."""
    contradictory = (cancer & birads.isin((1, 2))).to_numpy()
    if contradictory.any():
        row = int(contradictory.argmax()) + 1
        raise InputError(
            f"{place}: data row {row}: cancer 1 with BIRADS 1 or 2; expected BIRADS 0 or empty with a cancer",
            "correct the row, or remove it",
        )
