"""More small data sets in the exact layout of the published ones: EMBED, CBIS-DDSM, CMMD, class folders, arrays."""

import functools
import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
from PIL import Image
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian
from trees import csv_text, dicom, write

Row = dict[str, Any]

EMBED_CLINICAL = (
    "",
    "empi_anon",
    "acc_anon",
    "study_date_anon",
    "desc",
    "numfind",
    "side",
    "asses",
    "tissueden",
    "massshape",
    "path_severity",
    "bside",
    "path1",
    "GENDER_DESC",
    "age_at_study",
)
EMBED_METADATA = (
    "",
    "anon_dicom_path",
    "empi_anon",
    "acc_anon",
    "study_date_anon",
    "StudyDescription",
    "SeriesDescription",
    "FinalImageType",
    "ImageLateralityFinal",
    "ViewPosition",
    "spot_mag",
    "ROI_coords",
    "num_roi",
    "Manufacturer",
    "ManufacturerModelName",
    "Rows",
    "Columns",
    "BitsStored",
)
SERVER = "/mnt/NAS2/mammo/anon_dicom/"
UID = "1.2.826.0.1.3680043.8.498."
CBIS_MASS = (
    "patient_id",
    "breast_density",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "mass shape",
    "mass margins",
    "assessment",
    "pathology",
    "subtlety",
    "image file path",
    "cropped image file path",
    "ROI mask file path",
)
CBIS_CALC = tuple({"breast_density": "breast density", "mass shape": "calc type"}.get(name, name) for name in CBIS_MASS)
CBIS_FOLDERS = {
    "mass_train": "Mass-Training",
    "mass_test": "Mass-Test",
    "calc_train": "Calc-Training",
    "calc_test": "Calc-Test",
}
CMMD_COLUMNS = ("ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype")
CMMD_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}


def finding(patient: object = 10000001, exam: object = 9568336662008395, **cells: Any) -> Row:
    """One row of EMBED's clinical table: a negative bilateral screening exam unless told otherwise."""
    return {
        "empi_anon": patient,
        "acc_anon": exam,
        "study_date_anon": "2017-04-19",
        "desc": "MG Screen Bilat w/Tomo/CAD Stnd Protocol",
        "numfind": 1,
        "asses": "N",
        "tissueden": "2.0",
        "GENDER_DESC": "Female",
        "age_at_study": "57.0",
        **cells,
    }


def file_row(number: int, patient: object = 10000001, exam: object = 9568336662008395, **cells: Any) -> Row:
    """One row of EMBED's metadata table: a plain 2D picture of the left breast unless told otherwise."""
    below = f"cohort_1/{patient}/{UID}{exam}/{UID}7.{number}/{UID}8.{number}.dcm"
    return {
        "anon_dicom_path": SERVER + below,
        "empi_anon": patient,
        "acc_anon": exam,
        "study_date_anon": "2017-04-18",
        "StudyDescription": "MG Screen Bilat, with a comma\nand a line break",
        "FinalImageType": "2D",
        "ImageLateralityFinal": "L",
        "ViewPosition": "CC",
        "ROI_coords": "()",
        "num_roi": 0,
        "Manufacturer": "HOLOGIC, Inc.",
        "ManufacturerModelName": "Selenia Dimensions",
        "Rows": 3328,
        "Columns": 2560,
        "BitsStored": 12,
        **cells,
    }


def exam_files(
    patient: object = 10000001, exam: object = 9568336662008395, *, start: int = 1, **cells: Any
) -> list[Row]:
    """The four standard views, numbered L CC, L MLO, R CC, R MLO."""
    views = [(side, view) for side in "LR" for view in ("CC", "MLO")]
    return [
        file_row(start + i, patient, exam, ImageLateralityFinal=side, ViewPosition=view, **cells)
        for i, (side, view) in enumerate(views)
    ]


def write_embed(
    root: Path,
    findings: Sequence[Row],
    files: Sequence[Row],
    *,
    ending: str = ".csv",
    folder: str = "tables",
    without: Iterable[str] = (),
) -> Path:
    """Both tables as pandas writes them, the index first; ``ending`` may ask for the reduced or packed names."""
    for kind, columns, rows in (("clinical", EMBED_CLINICAL, findings), ("metadata", EMBED_METADATA, files)):
        extra = {column: None for row in rows for column in row if column not in columns}
        table = csv_text(
            [column for column in (*columns, *extra) if column not in without],
            [{"": i, **row} for i, row in enumerate(rows)],
        )
        place = root / folder / f"EMBED_OpenData_{kind}{ending}"
        write(place, gzip.compress(table) if ending.endswith(".gz") else table)
    return root


def case(patient: str = "P_00001", side: str = "LEFT", view: str = "CC", **cells: Any) -> Row:
    """One lesion of CBIS-DDSM's case tables."""
    return {
        "patient_id": patient,
        "density": "3",
        "left or right breast": side,
        "image view": view,
        "abnormality id": 1,
        "assessment": "4",
        "pathology": "BENIGN",
        "subtlety": 4,
        **cells,
    }


def write_cbis(root: Path, *, folder: str = "tables", **tables: Sequence[Row]) -> Path:
    """All four case tables; a last cell with a line break, in quotes, as published."""
    for key, view_folder in CBIS_FOLDERS.items():
        columns = CBIS_MASS if key.startswith("mass") else CBIS_CALC
        lines = [",".join(columns)]
        for row in tables.get(key, [case("P_09999")]):
            inside = f"{view_folder}_{row['patient_id']}_{row['left or right breast']}_{row['image view']}"
            uids = f"{UID}{key.encode().hex()[:4]}.1/{UID}{key.encode().hex()[:4]}.2"
            kind = key[:4]
            values = {
                "abnormality type": {"mass": "mass", "calc": "calcification"}[kind],
                "image file path": f"{inside}/{uids}/000000.dcm",
                "cropped image file path": f"{inside}_1/{uids}/000000.dcm",
                "ROI mask file path": f'"{inside}_1/{uids}/000001.dcm\n"',
                columns[1]: row["density"],
                **row,
            }
            lines.append(",".join(str(values.get(column, "")) for column in columns))
        kind, part = key.split("_")
        write(root / folder / f"{kind}_case_description_{part}_set.csv", ("\n".join(lines) + "\n").encode())
    return root


def write_film(root: Path, view_folder: str, *names: str, exam: str = "10-04-2016-DDSM-NA-29789") -> None:
    """A download of one view as the archive's program stores it: exam and series by date and number."""
    for name in names or ("1-1.dcm",):
        write(root / "CBIS-DDSM" / view_folder / exam / "1.000000-full mammogram images-24515" / name, dicom())


@functools.lru_cache
def cmmd_dicom(side: str = "L", view: str = "CC", *, bits: int = 8) -> bytes:
    """A header of CMMD: side in ImageLaterality, view in ViewCodeSequence, the usual tags empty."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = f"{UID}1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    code = Dataset()
    code.CodeValue, code.CodeMeaning = CMMD_CODES[view]
    code.CodingSchemeDesignator = "SCT"
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.ImageType = "MG", ["DERIVED", "PRIMARY"]
    dataset.Manufacturer, dataset.Laterality, dataset.ViewPosition = "", "", ""
    dataset.ImageLaterality, dataset.ViewCodeSequence = side, [code]
    dataset.PatientName, dataset.PatientID = "D1-9999", "D1-9999"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 4, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits, bits - 1, 0
    dataset.PixelData = b"\0" * (2 * bits)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def breast(patient: str = "D1-0001", side: str = "L", result: str = "Malignant", **cells: Any) -> Row:
    """One row of CMMD's clinical sheet."""
    row = {"ID1": patient, "LeftRight": side, "Age": 44, "number": 2, "abnormality": "mass", "classification": result}
    return {**row, **cells}


def write_cmmd(
    root: Path, breasts: Sequence[Row], pictures: Mapping[str, Sequence[tuple[str, str]]], *, excel: bool = True
) -> Path:
    """The sheet, and each patient's pictures as pairs of side and view, numbered in order."""
    if excel:
        book = openpyxl.Workbook()
        sheet = book.active
        sheet.append(list(CMMD_COLUMNS))
        for row in breasts:
            sheet.append([row.get(column) for column in CMMD_COLUMNS])
        root.mkdir(parents=True, exist_ok=True)
        book.save(root / "CMMD_clinicaldata_revision.xlsx")
    else:
        write(root / "CMMD_clinicaldata_revision.csv", csv_text(CMMD_COLUMNS, breasts))
    for patient, views in pictures.items():
        for number, (side, view) in enumerate(views, start=1):
            write(cmmd_place(root, patient, number), cmmd_dicom(side, view))
    write(root / "CMMD" / "LICENSE", b"CC BY 4.0")
    return root


def cmmd_place(root: Path, patient: str, number: int) -> Path:
    return root / "CMMD" / patient / "07-18-2010-NA-NA-79377" / "1.000000-NA-70244" / f"1-{number}.dcm"


@functools.lru_cache
def picture(suffix: str = ".png") -> bytes:
    """A colour picture of 8 pixels."""
    buffer = io.BytesIO()
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}[suffix]
    Image.new("RGB", (8, 8), (90, 40, 20)).save(buffer, format=kind)
    return buffer.getvalue()


def write_pictures(root: Path, *names: str) -> Path:
    """Pictures and whatever else by their path below the root."""
    for name in names:
        suffix = Path(name).suffix.lower()
        is_picture = suffix in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
        write(root / name, picture(suffix) if is_picture else b"no picture")
    return root


def write_npz(place: Path, *, packed: bool = False, **arrays: Any) -> Path:
    """An array file; by default two splits of 8 px, 3 and 2 images, labels [N, 1], as MedMNIST stores them."""
    arrays = arrays or {
        "train_images": np.zeros((3, 8, 8), dtype=np.uint8),
        "train_labels": np.array([[0], [1], [10]], dtype=np.uint8),
        "test_images": np.zeros((2, 8, 8), dtype=np.uint8),
        "test_labels": np.array([[1], [0]], dtype=np.uint8),
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if packed else np.savez)(place, **arrays)
    return place


def _embed(root: Path) -> dict[str, object]:
    write_embed(root, [finding()], exam_files())
    return {}


def _cbis_ddsm(root: Path) -> dict[str, object]:
    write_cbis(root)
    return {}


def _cmmd(root: Path) -> dict[str, object]:
    write_cmmd(root, [breast()], {"D1-0001": [("L", "CC"), ("L", "MLO")]})
    return {}


def _image_folder(root: Path) -> dict[str, object]:
    write_pictures(root, "0_normal/a.png", "1_mild/b.jpeg")
    return {}


def _npz(root: Path) -> dict[str, object]:
    write_npz(root / "set.npz")
    return {}


TREES = {"embed": _embed, "cbis_ddsm": _cbis_ddsm, "cmmd": _cmmd, "image_folder": _image_folder, "npz": _npz}
ROOTS = {"npz": "set.npz"}  # where a kind's root is not the folder
