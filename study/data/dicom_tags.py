"""The only DICOM attributes that may leave a file: no dates, no names, no identifiers, no free text but the device."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from pydicom import Dataset
from pydicom.uid import UID

ImageKind = Literal["FFDM", "cview", "film"]
Laterality = Literal["L", "R"]
View = Literal["CC", "MLO", "other"]

TAG_KEYWORDS: Final = (
    "Modality",
    "ImageType",
    "PresentationIntentType",
    "ImageLaterality",
    "Laterality",
    "FrameLaterality",
    "SharedFunctionalGroupsSequence",
    "ViewPosition",
    "ViewCodeSequence",
    "SeriesDescription",
    "Manufacturer",
    "ManufacturerModelName",
    "ImagerPixelSpacing",
    "PixelSpacing",
    "ConversionType",
    "EstimatedRadiographicMagnificationFactor",
    "BreastImplantPresent",
)
# SNOMED codes, in both editions that scanners write (DICOM PS3.16, context group 4014).
VIEW_CODES: Final[dict[str, View]] = {"399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO"}
# View modifiers (context group 4015): codes in both editions, and the words that scanners write beside them.
SPOT_MAG_CODES: Final = ("399163009", "R-102D6", "399055006", "R-102D7", "111136")
DISPLACED_CODES: Final = ("399209000", "R-102D5")
SPOT_MAG_WORDS: Final = re.compile(r"SPOT|MAGNI|\bMAG\b")
DISPLACED_WORDS: Final = re.compile(r"IMPLANT.?DISPLACED|\bID\b")
MAGNIFIED: Final = 1.4  # a contact view magnifies by up to 1.2, a magnification stand by 1.5 and more
# Names that vendors give to the 2D picture computed from a tomosynthesis.
SYNTHETIC: Final = re.compile(r"(?<![A-Z])(?:C.?VIEW|S.?VIEW|V.?PREVIEW|INTELLIGENT.?2D|INSIGHT.?2D|SYNTH)")
DESCRIBED: Final = re.compile(r"(?<![A-Z])(L|LT|LEFT|R|RT|RIGHT)?[ _-]*(CC|MLO)?(?![A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomTags:
    """What a study may know about one image file; None or empty where the file does not say.

    ``spacing_mm`` is (row, column) pixel pitch; ``bits_stored`` the grey depth; ``transfer_syntax`` a registered UID
    (empty for other picture formats); ``spot_mag`` marks spot compression and magnification views, ``displaced`` views
    with the implant pushed back; ``implant`` says whether there is one.
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
    spot_mag: bool = False
    displaced: bool = False
    implant: bool | None = None


def tags_from_dataset(dataset: Dataset) -> DicomTags:
    """Copy the allowed attributes, trying the places in which scanners really write side and view."""
    described = _described(str(dataset.get("SeriesDescription") or ""))
    positioned = _described(str(dataset.get("ViewPosition") or ""))
    displaced = _has_modifier(dataset, DISPLACED_CODES, DISPLACED_WORDS)
    return DicomTags(
        rows=int(dataset.Rows),
        cols=int(dataset.Columns),
        bits_stored=int(dataset.BitsStored),
        photometric=str(dataset.PhotometricInterpretation),
        transfer_syntax=_transfer_syntax(dataset),
        laterality=_laterality(dataset) or positioned[0] or described[0],
        view=_view(dataset) or described[1],
        manufacturer=_device_text(dataset, "Manufacturer"),
        model=_device_text(dataset, "ManufacturerModelName"),
        spacing_mm=_spacing(dataset),
        image_kind=_image_kind(dataset),
        spot_mag=_has_modifier(dataset, SPOT_MAG_CODES, SPOT_MAG_WORDS) or _magnification(dataset) >= MAGNIFIED,
        displaced=displaced,
        implant=True if displaced else {"YES": True, "NO": False}.get(_upper(dataset, "BreastImplantPresent")),
    )


def _transfer_syntax(dataset: Dataset) -> str:
    """The declared UID if it is a registered one: another could be any text."""
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ""))
    return str(syntax) if syntax.name != str(syntax) else ""


def _upper(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip().upper()


def _laterality(dataset: Dataset) -> Laterality | None:
    groups = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    anatomy = groups[0].get("FrameAnatomySequence") or [Dataset()]
    for holder, keyword in (
        (dataset, "ImageLaterality"),
        (dataset, "Laterality"),
        (dataset, "FrameLaterality"),
        (anatomy[0], "FrameLaterality"),
    ):
        value = _upper(holder, keyword)
        if value == "L":
            return "L"
        if value == "R":
            return "R"
    return None


def _view(dataset: Dataset) -> View | None:
    position = _upper(dataset, "ViewPosition")
    if position:
        return _described(position)[1] or "other"
    codes = dataset.get("ViewCodeSequence") or []
    if not codes:
        return None
    return VIEW_CODES.get(_upper(codes[0], "CodeValue"), "other")


def _has_modifier(dataset: Dataset, codes: tuple[str, ...], words: re.Pattern[str]) -> bool:
    """Whether the view's modifiers name one of the codes, or describe it."""
    modifiers = [
        modifier
        for view in dataset.get("ViewCodeSequence") or []
        for modifier in view.get("ViewModifierCodeSequence") or []
    ]
    return any(
        _upper(modifier, "CodeValue") in codes or words.search(_upper(modifier, "CodeMeaning"))
        for modifier in modifiers
    )


def _magnification(dataset: Dataset) -> float:
    """The estimated magnification at the breast; 1 where the file does not say."""
    value = dataset.get("EstimatedRadiographicMagnificationFactor")
    return float(value) if isinstance(value, int | float) else 1.0


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
    if "GENERATED_2D" in kinds or SYNTHETIC.search(description):
        return "cview"
    is_digitised = str(dataset.get("ConversionType") or "").upper() == "DF"
    if is_digitised or str(dataset.get("Modality") or "").upper() in ("RG", "CR"):
        return "film"
    return "FFDM"
