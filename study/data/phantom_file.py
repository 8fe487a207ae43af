"""A drawn breast as a DICOM file of a fictitious vendor, with identifiers in it that `prepare` has to leave behind."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from study.data.phantom_breast import F32, draw_breast

VIEW_CODES: Final = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """How a fictitious scanner turns brightness 0 .. 1 into stored values.

    ``gamma`` bends and ``gain`` scales the response; ``grain`` is noise (SD, of 1); ``blur_px`` the width of the
    detector's spread at 512 rows; ``text`` the size of the burned-in marker.
    """

    model: str
    bits: int
    photometric: str
    gamma: float
    gain: float
    grain: float
    blur_px: float
    text: float
    transfer_syntax: str = str(ExplicitVRLittleEndian)


VENDORS: Final[Mapping[str, Vendor]] = {
    "Alpha": Vendor(
        model="Alpha One", bits=12, photometric="MONOCHROME2", gamma=1.0, gain=0.9, grain=0.012, blur_px=0.0, text=0.8
    ),
    "Beta": Vendor(
        model="Beta Duo", bits=14, photometric="MONOCHROME1", gamma=1.3, gain=0.7, grain=0.02, blur_px=0.8, text=1.1
    ),
    "Gamma": Vendor(
        model="Gamma III", bits=16, photometric="MONOCHROME2", gamma=0.7, gain=0.5, grain=0.006, blur_px=1.4, text=0.6
    ),
    "Delta": Vendor(
        model="Delta 4", bits=8, photometric="MONOCHROME1", gamma=1.2, gain=0.95, grain=0.03, blur_px=0.4, text=1.4
    ),
}


def phantom_file(row: Mapping[str, Any], *, image_seed: int, breast_seed: int, site: str) -> bytes:
    """The DICOM file of one label row: pixels follow from the seeds, the site's own look from its name.

    A row with ``severity`` shows a lesion of that grade, others one of their class.
    """
    rng = np.random.default_rng(image_seed)
    look = _site_look(site)
    brightness = draw_breast(
        (row["rows"], row["cols"]),
        rng,
        breast_seed=breast_seed,
        view=row["view"],
        label=row["label3"],
        density=row["density"],
        slope=look["slope"],
        severity=row.get("severity"),
    )
    vendor = VENDORS[row["manufacturer"]]
    stored = _stored(brightness, vendor, rng, gamma=vendor.gamma * look["gamma"])
    if row["laterality"] == "R":
        stored = np.ascontiguousarray(stored[:, ::-1])
    _burn_in(stored, f"{row['laterality']} {row['view']}", vendor=vendor, at_right=row["laterality"] == "L")
    if vendor.photometric == "MONOCHROME1":
        stored = np.asarray(2**vendor.bits - 1 - stored, dtype=stored.dtype)
    return _encode(_header(row, vendor), stored)


def uid(*parts: object) -> str:
    """A fixed DICOM UID under the 2.25 root (from 128 bits, as PS3.5 B.2 has it)."""
    return f"2.25.{_number(*parts, bits=128)}"


def _number(*parts: object, bits: int = 64) -> int:
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=bits // 8).digest(), "big")


@lru_cache(maxsize=32)
def _site_look(site: str) -> dict[str, float]:
    """What all images of a site share, whatever the scanner: contrast and coarseness of the texture."""
    first, second = np.random.default_rng(_number("look", site)).random(2)
    return {"gamma": 0.8 + 0.4 * float(first), "slope": 1.6 + 0.5 * float(second)}


def _stored(brightness: F32, vendor: Vendor, rng: np.random.Generator, *, gamma: float) -> npt.NDArray[Any]:
    """Brightness 0 .. 1 to stored values: blur, response, grain inside the breast, exact zero outside."""
    sigma = vendor.blur_px * brightness.shape[0] / 512
    spread = cv2.GaussianBlur(brightness, (0, 0), sigma) if sigma > 0.2 else brightness
    response = np.power(np.clip(spread, 0, 1), np.float32(gamma)) * np.float32(vendor.gain)
    response += rng.standard_normal(brightness.shape, dtype=np.float32) * np.float32(vendor.grain)
    response[brightness <= 0] = 0
    top = 2**vendor.bits - 1
    kind = np.uint8 if vendor.bits <= 8 else np.uint16
    return np.asarray(np.clip(np.rint(response * top), 0, top), dtype=kind)


def _burn_in(stored: npt.NDArray[Any], text: str, *, vendor: Vendor, at_right: bool) -> None:
    """Write side and view into the upper corner away from the chest wall, at full brightness."""
    scale = vendor.text * stored.shape[0] / 512
    weight = max(1, round(1.6 * scale))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
    edge = max(2, stored.shape[0] // 50)
    left = stored.shape[1] - width - edge if at_right else edge
    canvas = np.zeros(stored.shape, dtype=np.uint8)
    cv2.putText(canvas, text, (left, height + edge), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, weight)
    stored[canvas > 0] = 2**vendor.bits - 1


def _header(row: Mapping[str, Any], vendor: Vendor) -> FileDataset:
    """Every attribute that a real file would carry, identifiers included."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = UID(uid("image", row["series_id"]))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    code, meaning = VIEW_CODES[row["view"]]
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = code, "SCT", meaning
    patient = str(row["patient_id"])
    values: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": row["study_id"],
        "SeriesInstanceUID": row["series_id"],
        "PatientID": patient,
        "PatientName": f"Phantom^{patient}",
        "PatientBirthDate": f"{2020 - int(row['age'])}0615",
        "PatientSex": "F",
        "PatientAge": f"{int(row['age']):03d}Y",
        "StudyDate": "20200615",
        "AccessionNumber": patient[-16:],
        "InstitutionName": "Phantom Hospital",
        "Modality": "MG",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": row["manufacturer"],
        "ManufacturerModelName": vendor.model,
        "ImageLaterality": row["laterality"],
        "ViewPosition": row["view"],
        "ViewCodeSequence": [view],
        "BodyPartExamined": "BREAST",
        "ImagerPixelSpacing": [0.4, 0.4],
        "PatientOrientation": ["A", "FR"] if row["laterality"] == "L" else ["P", "FL"],
        "BurnedInAnnotation": "YES",
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _encode(dataset: FileDataset, stored: npt.NDArray[Any]) -> bytes:
    """Add the pixels and write the file to memory."""
    vendor = VENDORS[dataset.Manufacturer]
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = vendor.photometric
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = vendor.bits, vendor.bits - 1, 0
    if vendor.photometric == "MONOCHROME1":
        dataset.PixelPaddingValue = 2**vendor.bits - 1
    content = stored.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
