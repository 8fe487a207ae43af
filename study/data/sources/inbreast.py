"""INbreast: an assessment per image in `INbreast.csv`, the patient in the file name, contours in property lists."""

import math
import plistlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from xml.parsers.expat import ExpatError

import pandas as pd

from study.data.files import list_files, read_bytes, shown
from study.data.manifest import finish_manifest
from study.data.sources.boxes import Box, lesion_text
from study.data.sources.cells import SIDES, VIEWS, parts_of, read_text_table, take
from study.errors import InputError

TABLE_FILE: Final = "INbreast.csv"
IMAGES: Final = "AllDICOMs"
CONTOURS: Final = "AllXML"
COLUMNS: Final = {
    "File Name": "image_id",
    "Laterality": "laterality",
    "View": "view",
    "ACR": "density",
    "Bi-Rads": "birads",
    "Acquisition date": "date",
    "Patient age": "age",
}
REMOVED: Final = "removed"  # the word in every cell of the patient's columns
NUMBER: Final = re.compile(r"\d{8}")
IMAGE_NAME: Final = re.compile(
    r"(?P<number>\d{8})_(?P<patient>[0-9a-f]+)_MG_(?P<side>[LR])_(?P<view>[A-Z]+)_ANON\.dcm", re.IGNORECASE
)
FORM: Final = "<8 digits>_<16 hexadecimal digits>_MG_<L or R>_<CC or ML>_ANON.dcm"
OBLIQUE: Final = "ML"  # what file names call MLO
FULL_BREAST: Final = "FB"
NO_FILE: Final = f"no image file of this row in {IMAGES}"
NO_ROW: Final = f"no row of this image file in {TABLE_FILE}"
OTHER_NAME: Final = "side or view in the file name differs from the table's"
NOT_A_LIST: Final = (
    plistlib.InvalidFileException,
    ExpatError,
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    OverflowError,
    OSError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """What the name of one image file tells; ``view`` is CC, MLO or other."""

    number: str
    patient: str
    laterality: str
    view: str
    raw_view: str
    path: str


def read_inbreast(
    root: str | Path,
    *,
    name: str = "inbreast",
    fb_as_cc: bool = False,
    blank_density: Literal["missing", "B"] = "missing",
) -> pd.DataFrame:
    """Read the images below a root of any nesting; the patient is the hexadecimal part of the file name.

    Source: Moreira et al., INbreast: toward a full-field digital mammographic database, Academic Radiology 19, 2012.

    Args:
        root: a folder somewhere above `INbreast.csv`, `AllDICOMs` and `AllXML`.
        name: what the column ``source`` says.
        fb_as_cc: whether the one image of view FB counts as CC, as in paper multitask; else its view is ``other``.
        blank_density: the density of the one image whose ACR cell is blank; paper multitask counts it as B.

    Raises:
        InputError: the table or the images are not there or there twice, an image file has a name of another form, a
            cell is unknown, or an annotation cannot be read.
    """
    places = list_files(root)
    table = _only_table(places, root)
    files = _image_files(places, root)
    rows = _table_rows(table)
    if blank_density == "B":
        rows["density"] = rows["density"].fillna("B")
    images = _join(rows, files)
    if fb_as_cc:
        images["view"] = images["view"].mask(images["raw_view"].str.upper() == FULL_BREAST, "CC")
    contours = _contours(places, rows["image_id"], table=table)
    images["lesions"] = [lesion_text(contours.get(image, [])) for image in images["image_id"]]
    images["n_findings"] = images["image_id"].map({image: len(boxes) for image, boxes in contours.items()})
    return finish_manifest(images.assign(image_kind="FFDM"), source=name)


def _below(places: Iterable[str], folder: str, *, suffix: str) -> list[str]:
    """Places with a folder of that name above them and that suffix, whatever the case of both."""
    found = ((place, [part.lower() for part in parts_of(place)]) for place in places)
    return [place for place, parts in found if folder.lower() in parts[:-1] and parts[-1].endswith(suffix)]


def _only_table(places: Iterable[str], root: str | Path) -> str:
    tables = [place for place in places if parts_of(place)[-1].lower() == TABLE_FILE.lower()]
    if not tables:
        raise InputError(f"no {TABLE_FILE} below {shown(root)}", f"save {TABLE_FILE[:-4]}.xls under this name")
    if len(tables) > 1:
        raise InputError(f"{len(tables)} files {TABLE_FILE} below {shown(root)}", "give the folder of one copy")
    return tables[0]


def _image_files(places: Iterable[str], root: str | Path) -> dict[str, ImageFile]:
    """Image files by their number.

    Other files than `.dcm`, such as `DICOMDIR` or a mirror's `index.html`, are none.
    """
    found = _below(places, IMAGES, suffix=".dcm")
    if not found:
        raise InputError(f"no folder {IMAGES} with .dcm files below {shown(root)}", "check the root of this source")
    matches = [(place, IMAGE_NAME.fullmatch(parts_of(place)[-1])) for place in found]
    misnamed = sum(match is None for _, match in matches)
    if misnamed:
        raise InputError(
            f"{misnamed} of {len(found)} files in {IMAGES} have names of another form; expected {FORM}",
            "give the published names back: they alone tell the patient",
        )
    files = {match["number"]: _image_file(place, match) for place, match in matches if match is not None}
    if len(files) < len(found):
        raise InputError(f"{len(found) - len(files)} images in {IMAGES} are there twice", "give the folder of one copy")
    return files


def _image_file(place: str, match: re.Match[str]) -> ImageFile:
    raw = match["view"].upper()
    return ImageFile(
        number=match["number"],
        patient=match["patient"].lower(),
        laterality=SIDES[match["side"].upper()],
        view="MLO" if raw == OBLIQUE else VIEWS.get(raw, "other"),
        raw_view=raw,
        path=place,
    )


def _table_rows(table: str) -> pd.DataFrame:
    frame = read_text_table(table)
    ages = {"Patient age": frame["Patient age"].replace(REMOVED, "")} if "Patient age" in frame else {}
    rows = take(frame.assign(**ages), COLUMNS, table=table)
    odd = (~rows["image_id"].str.fullmatch(NUMBER)).to_numpy()
    if odd.any():
        row = int(odd.argmax()) + 1
        raise InputError(
            f"{shown(table)}: column File Name, data row {row}: not a number of 8 digits; expected one, as it begins "
            "the name of the image file",
            "use the published table",
        )
    rows["view"] = rows["view"].mask(rows["raw_view"].str.upper() == OBLIQUE, "MLO")
    return rows


def _join(rows: pd.DataFrame, files: Mapping[str, ImageFile]) -> pd.DataFrame:
    """Rows with their files; what has only one of both is kept with the reason why it is dropped.

    The patient of a row without a file is not known: such a row counts as a patient of its own.
    """
    found = [files.get(number) for number in rows["image_id"]]
    patients = [
        file.patient if file else f"unknown_{number}" for file, number in zip(found, rows["image_id"], strict=True)
    ]
    sides_and_views = zip(found, rows["laterality"], rows["view"], strict=True)
    known = rows.assign(
        patient_id=patients,
        study_id=[f"{patient}_{date}" for patient, date in zip(patients, rows["date"], strict=True)],
        path=[file.path if file else "" for file in found],
        drop_reason=[_reason(file, side=side, view=view) for file, side, view in sides_and_views],
    )
    listed = set(rows["image_id"])
    extra = [_without_row(file) for number, file in files.items() if number not in listed]
    return pd.concat([known, pd.DataFrame(extra)], ignore_index=True) if extra else known


def _reason(file: ImageFile | None, *, side: str, view: str) -> str:
    if file is None:
        return NO_FILE
    is_other_view = "other" not in (view, file.view) and view != file.view
    return OTHER_NAME if is_other_view or side != file.laterality else ""


def _without_row(file: ImageFile) -> dict[str, str]:
    return {
        "image_id": file.number,
        "patient_id": file.patient,
        "laterality": file.laterality,
        "view": file.view,
        "raw_view": file.raw_view,
        "path": file.path,
        "drop_reason": NO_ROW,
    }


def _contours(places: Iterable[str], image_ids: pd.Series, *, table: str) -> dict[str, list[Box]]:
    """Boxes around the contours of each image that has an annotation file."""
    rows = {image: row for row, image in enumerate(image_ids, start=1)}
    found = {parts_of(place)[-1][:-4]: place for place in _below(places, CONTOURS, suffix=".xml")}
    return {
        image: _boxes(
            place, fault=f"{CONTOURS}: the annotation of the image in data row {rows[image]} of {shown(table)}"
        )
        for image, place in found.items()
        if image in rows
    }


def _boxes(place: str, *, fault: str) -> list[Box]:
    try:
        content: Any = plistlib.loads(read_bytes(place), fmt=plistlib.FMT_XML)
        return [_around(roi["Point_px"]) for image in content["Images"] for roi in image["ROIs"] if roi["Point_px"]]
    except NOT_A_LIST:
        raise InputError(
            f"{fault} cannot be read; expected a property list with Images, ROIs and Point_px", "fetch the file again"
        ) from None


def _around(points: Sequence[str]) -> Box:
    """Smallest box of whole pixels around points such as ``(1203.5, 884.25)``; a single point is one pixel."""
    pairs = [[float(number) for number in point.strip("()").split(",")] for point in points]
    x, y = zip(*pairs, strict=True)
    return math.floor(min(x)), math.floor(min(y)), math.floor(max(x)) + 1, math.floor(max(y)) + 1
