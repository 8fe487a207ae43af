"""The only DICOM attributes that may leave a file: no dates, no names, no identifiers, no free text but the device."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from pydicom import Dataset

ImageKind = Literal["FFDM", "cview", "film"]
Laterality = Literal["L", "R"]
View = Literal["CC", "MLO", "other"]

TAG_KEYWORDS: Final = (
    "Modality",
    "ImageType",
    "PresentationIntentType",
    "ImageLaterality",
    "Laterality",
    "ViewPosition",
    "ViewCodeSequence",
    "SeriesDescription",
    "Manufacturer",
    "ManufacturerModelName",
    "ImagerPixelSpacing",
    "PixelSpacing",
    "ConversionType",
)
# SNOMED codes, in both editions that scanners write (DICOM PS3.16, context group 4014).
VIEW_CODES: Final[dict[str, View]] = {"399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO"}
DESCRIBED: Final = re.compile(r"(?<![A-Z])(L|LT|LEFT|R|RT|RIGHT)?[ _-]*(CC|MLO)?(?![A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomTags:
    """What a study may know about one image file; None or empty where the file does not say.

    ``spacing_mm`` is (row, column) pixel pitch; ``bits_stored`` the grey depth; ``transfer_syntax`` a registered UID
    (empty for other picture formats).
    """

    rows: int
    cols: int
    bits_stored: int
    photometric: str
    transfer_syntax: str = ""
    laterality: Laterality | None = None
    view: View | None = None
    manufacturer: str = ""
    model: str = ""
    spacing_mm: tuple[float, float] | None = None
    image_kind: ImageKind | None = None


def tags_from_dataset(dataset: Dataset) -> DicomTags:
    """Copy the allowed attributes, trying the places in which scanners really write side and view."""
    syntax = dataset.file_meta.TransferSyntaxUID
    described = _described(str(dataset.get("SeriesDescription") or ""))
    return DicomTags(
        rows=int(dataset.Rows),
        cols=int(dataset.Columns),
        bits_stored=int(dataset.BitsStored),
        photometric=str(dataset.PhotometricInterpretation),
        transfer_syntax=str(syntax) if syntax.name != str(syntax) else "",
        laterality=_laterality(dataset) or described[0],
        view=_view(dataset) or described[1],
        manufacturer=_device_text(dataset, "Manufacturer"),
        model=_device_text(dataset, "ManufacturerModelName"),
        spacing_mm=_spacing(dataset),
        image_kind=_image_kind(dataset),
    )


def _laterality(dataset: Dataset) -> Laterality | None:
    for keyword in ("ImageLaterality", "Laterality"):
        value = str(dataset.get(keyword) or "").strip().upper()
        if value == "L":
            return "L"
        if value == "R":
            return "R"
    return None


def _view(dataset: Dataset) -> View | None:
    position = str(dataset.get("ViewPosition") or "").strip().upper()
    if position == "CC":
        return "CC"
    if position == "MLO":
        return "MLO"
    if position:
        return "other"
    codes = dataset.get("ViewCodeSequence") or []
    if not codes:
        return None
    return VIEW_CODES.get(str(codes[0].get("CodeValue") or "").strip(), "other")


def _described(text: str) -> tuple[Laterality | None, View | None]:
    """Side and view from a series description such as ``L CC`` or ``RMLO``; None where it does not say or says two."""
    found = [match.groups() for match in DESCRIBED.finditer(text.upper())]
    sides = {side[0] for side, _ in found if side}
    views = {view for _, view in found if view}
    side: Laterality | None = None
    if len(sides) == 1:
        side = "L" if sides == {"L"} else "R"
    view: View | None = None
    if len(views) == 1:
        view = "CC" if views == {"CC"} else "MLO"
    return side, view


def _device_text(dataset: Dataset, keyword: str) -> str:
    return " ".join(str(dataset.get(keyword) or "").split())


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Pitch at the detector if given, else in the picture; in mm, (row, column)."""
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        value = dataset.get(keyword)
        if value is not None and not isinstance(value, str) and len(value) == 2 and min(map(float, value)) > 0:
            return float(value[0]), float(value[1])
    return None


def _image_kind(dataset: Dataset) -> ImageKind:
    """Synthetic view, digitised film, or (as for nearly all of Modality MG) a full-field digital image."""
    kinds = {str(kind).upper() for kind in dataset.get("ImageType") or []}
    description = str(dataset.get("SeriesDescription") or "").upper()
    if "GENERATED_2D" in kinds or "C-VIEW" in description:
        return "cview"
    is_digitised = str(dataset.get("ConversionType") or "").upper() == "DF"
    if is_digitised or str(dataset.get("Modality") or "").upper() in ("RG", "CR"):
        return "film"
    return "FFDM"
