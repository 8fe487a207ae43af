"""Small data sets in the exact layout of the published ones, with phantom pixels."""

import functools
import hashlib
import plistlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.data.phantom_file import phantom_file
from study.errors import InputError

Row = dict[str, Any]

VINDR_COLUMNS = (
    "study_id",
    "series_id",
    "image_id",
    "laterality",
    "view_position",
    "height",
    "width",
    "breast_birads",
    "breast_density",
    "split",
)
VINDR_METADATA = (
    "SOP Instance UID",
    "Patient's Age",
    "Manufacturer",
    "Manufacturer's Model Name",
    "Photometric Interpretation",
    "Window Center",
)
INBREAST_HEADER = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
RSNA_COLUMNS = (
    "site_id",
    "patient_id",
    "image_id",
    "laterality",
    "view",
    "age",
    "cancer",
    "biopsy",
    "invasive",
    "BIRADS",
    "implant",
    "density",
    "machine_id",
    "difficult_negative_case",
)
MIAS_HEADER = """\
INFORMATION:

    The films of this list belong to the mdb pairs below.

1st column: reference number.
5th, 6th columns: x, y of the centre; the origin of the coordinates is the bottom-left corner.

(3) circles that make no sense were left out.

REFNUM BG CLASS SEVERITY X Y RADIUS
"""


@functools.lru_cache
def dicom(side: str = "L", view: str = "CC") -> bytes:
    """A drawn breast of 64 pixels as a DICOM file."""
    row = {
        "image_id": "i",
        "patient_id": "p",
        "study_id": "2.25.1",
        "series_id": "2.25.2",
        "laterality": side,
        "view": view,
        "label3": "benign",
        "density": "B",
        "age": 50,
        "manufacturer": "Alpha",
        "rows": 64,
        "cols": 64,
    }
    return phantom_file(row, image_seed=1, breast_seed=2, site="tree")


def digest(*parts: object) -> str:
    """32 hexadecimal digits, as VinDr names everything."""
    return hashlib.md5(repr(parts).encode()).hexdigest()


def message_of(call: Any, *args: Any, **kwargs: Any) -> str:
    """The message of the input error that the call must raise."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    return caught.value.message


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Cells with a comma in quotes, as pandas writes them."""
    cells = ([str(row.get(column, "")) for column in columns] for row in rows)
    lines = [",".join(columns), *(",".join(f'"{cell}"' if "," in cell else cell for cell in line) for line in cells)]
    return ("\n".join(lines) + "\n").encode()


def vindr_row(study: object, side: str = "L", view: str = "CC", **cells: Any) -> Row:
    """One row of the breast table; ids are digests of what is given."""
    image = cells.pop("image", (side, view))
    return {
        "study_id": digest(study),
        "series_id": digest(study, "series"),
        "image_id": digest(study, image),
        "laterality": side,
        "view_position": view,
        "height": 3518,
        "width": 2800,
        "breast_birads": "BI-RADS 2",
        "breast_density": "DENSITY C",
        "split": "training",
        **cells,
    }


def vindr_exam(study: object, **cells: Any) -> list[Row]:
    return [vindr_row(study, side, view, **cells) for side in "LR" for view in ("CC", "MLO")]


def vindr_finding(row: Row, categories: str, *edges: object) -> Row:
    """One row of the finding table."""
    places = dict(zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)) if edges else {}
    return {**row, "finding_categories": categories, "finding_birads": "BI-RADS 4" if edges else "", **places}


def write_vindr(root: Path, rows: list[Row], *, findings: Sequence[Row] = (), pictures: bool = True) -> Path:
    """Tables, and the pictures they name; an image without a finding has the row that says so."""
    found = {finding["image_id"] for finding in findings}
    none = [vindr_finding(row, "['No Finding']") for row in rows if row["image_id"] not in found]
    columns = [*VINDR_COLUMNS[:9], "finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax", "split"]
    write(root / "breast-level_annotations.csv", csv_text(VINDR_COLUMNS, rows))
    write(root / "finding_annotations.csv", csv_text(columns, [*findings, *none]))
    write(root / "LICENSE.txt", b"for credentialed users\n")
    for row in rows if pictures else ():
        place = root / "images" / row["study_id"] / f"{row['image_id']}.dicom"
        write(place, dicom(row["laterality"], row["view_position"]))
    write(root / "images" / "index.html", b"<html>left by a mirror</html>")
    return root


def write_vindr_metadata(root: Path, rows: Iterable[Row], *, blanks: bool = True, **cells: Any) -> None:
    columns = {name: name if blanks else name.replace(" ", "") for name in VINDR_METADATA}
    device = {
        "Patient's Age": "050Y",
        "Manufacturer": "SIEMENS",
        "Manufacturer's Model Name": "Mammomat Inspiration",
        "Photometric Interpretation": "MONOCHROME1",
        "Window Center": "['1576', '1800']",
        **cells,
    }
    table = [
        {columns[key]: value for key, value in {**device, "SOP Instance UID": row["image_id"]}.items()} for row in rows
    ]
    write(root / "metadata.csv", csv_text(list(columns.values()), table))


def inbreast_row(number: int, patient: object = 1, side: str = "L", view: str = "CC", **cells: Any) -> Row:
    return {
        "number": f"{number:08d}",
        "patient": digest(patient)[:16],
        "side": side,
        "view": view,
        "date": "201001",
        "acr": "2",
        "birads": "2",
        **cells,
    }


def inbreast_name(row: Row) -> str:
    token = {"MLO": "ML"}.get(row["view"], row["view"])
    return f"{row['number']}_{row['patient']}_MG_{row['side']}_{token}_ANON.dcm"


def write_inbreast(root: Path, rows: list[Row], *, inside: str = "INbreast Release 1.0", age: str = "removed") -> Path:
    """Table, pictures and the folders that nobody reads."""
    folder = root / inside
    order = ("side", "view", "date", "number", "acr", "birads")
    lines = [";".join(["removed", age, *(row[cell] for cell in order)]) for row in rows]
    write(folder / "INbreast.csv", ("\r\n".join([INBREAST_HEADER, *lines]) + "\r\n").encode())
    for row in rows:
        write(folder / "AllDICOMs" / inbreast_name(row), dicom(row["side"]))
    write(folder / "AllDICOMs" / "index.html", b"<html></html>")
    write(folder / "AllDICOMs" / "DICOMDIR", b"\0" * 132)
    write(folder / "AllDICOMs" / f"._{inbreast_name(rows[0])}", b"left by a file manager")
    write(folder / "MedicalReports" / f"{rows[0]['number']}.txt", b"a report")
    return folder


def write_contours(folder: Path, number: str, *contours: Sequence[tuple[float, float]], name: str = "Mass") -> None:
    """An annotation in the form of OsiriX: texts such as ``(12.5, 30.0)``."""
    rois = [
        {"Name": name, "NumberOfPoints": len(points), "Point_px": [f"({x:f}, {y:f})" for x, y in points]}
        for points in contours
    ]
    content = plistlib.dumps({"Images": [{"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": rois}]})
    write(folder / "AllXML" / f"{number}.xml", content)


def rsna_row(patient: object, image: object, side: str = "L", view: str = "CC", **cells: Any) -> Row:
    return {
        "site_id": 2,
        "patient_id": patient,
        "image_id": image,
        "laterality": side,
        "view": view,
        "age": "61.0",
        "cancer": 0,
        "biopsy": 0,
        "invasive": 0,
        "BIRADS": "",
        "implant": 0,
        "density": "",
        "machine_id": 29,
        "difficult_negative_case": False,
        **cells,
    }


def write_rsna(root: Path, rows: list[Row], *, pictures: bool = True) -> Path:
    hidden = ("cancer", "biopsy", "invasive", "BIRADS", "density", "difficult_negative_case")
    write(root / "train.csv", csv_text(RSNA_COLUMNS, rows))
    columns = [*(column for column in RSNA_COLUMNS if column not in hidden), "prediction_id"]
    write(root / "test.csv", csv_text(columns, [{**rsna_row(10008, 736471439), "prediction_id": "10008_L"}]))
    for row in rows if pictures else ():
        write(root / "train_images" / str(row["patient_id"]) / f"{row['image_id']}.dcm", dicom(row["laterality"]))
    return root


def write_mias(root: Path, *lines: str, inside: str = "all-mias", end: str = "\r\n") -> Path:
    """`Info.txt` and a PGM picture for each film in it."""
    write(root / "Info.txt", (MIAS_HEADER + "\n".join(lines) + "\n").replace("\n", end).encode())
    pixels = np.arange(64, dtype=np.uint8).tobytes()
    for film in {line.split()[0] for line in lines}:
        write(root / inside / f"{film}.pgm", b"P5\n8 8\n255\n" + pixels)
    return root


def _vindr(root: Path) -> dict[str, object]:
    write_vindr(root, vindr_exam("a") + vindr_exam("b"))
    return {}


def _inbreast(root: Path) -> dict[str, object]:
    write_inbreast(root, [inbreast_row(20586908), inbreast_row(20586934, view="MLO")])
    return {}


def _rsna(root: Path) -> dict[str, object]:
    write_rsna(root, [rsna_row(10006, 462822612, BIRADS="1.0"), rsna_row(10006, 1459541791, view="MLO", BIRADS="2.0")])
    return {}


def _mias(root: Path) -> dict[str, object]:
    write_mias(root, "mdb001 G CIRC B 535 425 197", "mdb002 G NORM")
    return {}


def _phantom(_root: Path) -> dict[str, object]:
    return {"patients": 3, "rows": 64, "cols": 64}


def _table(root: Path) -> dict[str, object]:
    write(root / "t.csv", b"path,patient_id,label\na.png,007,0\nb.png,8,malignant\n")
    return {"table": "t.csv"}


TREES = {"vindr": _vindr, "inbreast": _inbreast, "rsna": _rsna, "mias": _mias, "phantom": _phantom, "table": _table}
