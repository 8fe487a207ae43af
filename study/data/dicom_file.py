"""A DICOM file's bytes to the wanted header attributes and the one frame of pixel data, which is not copied."""

import io
import logging
import mmap
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydicom import Dataset, filereader
from pydicom.dataset import FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from study.data.dicom_tags import TAG_KEYWORDS
from study.errors import DicomError

PIXEL_KEYWORDS: Final = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PlanarConfiguration",
)
VOI_KEYWORDS: Final = (
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ModalityLUTSequence",
)
Content = bytes | mmap.mmap
WANTED: Final = (*PIXEL_KEYWORDS, *VOI_KEYWORDS, *TAG_KEYWORDS, "SOPClassUID")
RAW_CLASSES: Final = (DigitalMammographyXRayImageStorageForProcessing, DigitalXRayImageStorageForProcessing)
WANTED_TAGS: Final[list[int]] = [int(Tag(keyword)) for keyword in WANTED]
PIXEL_DATA: Final = 0x7FE00010
PREAMBLE_BYTES: Final = 132
UNDEFINED: Final = 0xFFFFFFFF
INFLATED_MOST: Final = 2**28  # bytes: the largest frame that is read in 16 bits, and a header
FOREIGN: Final = "neither DICOM nor a known picture format"
TRUNCATED: Final = "the file is truncated"
ITEM: Final = b"\xfe\xff\x00\xe0"
# All that pydicom and the decoders were seen to raise on damaged files.
DECODING_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    BytesLengthException,
    InvalidDicomError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFile:
    """The wanted attributes of a file and its frame: raw values, or one compressed stream."""

    dataset: Dataset
    frame: memoryview
    is_compressed: bool


def has_preamble(content: Content) -> bool:
    """Whether the bytes are marked as a DICOM file."""
    return content[PREAMBLE_BYTES - 4 : PREAMBLE_BYTES] == b"DICM"


def parse_dicom(content: Content) -> DicomFile:
    """Read the wanted attributes, stop at the pixel data, and find the frame in the bytes.

    Raises:
        DicomError: the structure is damaged, or the file has no pixel data that may be used.
    """
    place: list[tuple[int, int]] = []
    is_marked = has_preamble(content)

    def at_pixels(tag: BaseTag, _vr: str | None, length: int) -> bool:
        if tag == PIXEL_DATA:
            place.append((stream.tell(), length))
        return int(tag) >= PIXEL_DATA

    with quiet() as caught:
        try:
            content, outer = _inflated(content)
            stream: Any = _stream(content)
            dataset: Dataset = filereader.read_partial(stream, at_pixels, force=True, specific_tags=WANTED_TAGS)
            dataset.file_meta = dataset.file_meta if outer is None else outer
            known = any(dataset.get(keyword) is not None for keyword in ("Rows", "Columns", "Modality"))
            _refuse_raw(dataset)
        except DECODING_ERRORS:
            reason = "the DICOM structure is damaged" if is_marked else FOREIGN
            raise DicomError(reason, "fetch the file again or leave it out") from None
        if any("End of file" in str(warning.message) for warning in caught):
            raise DicomError(TRUNCATED, "fetch the file again or leave it out")
    if not known and not is_marked:
        raise DicomError(FOREIGN, "leave the file out of the table")
    if not place:
        raise DicomError("the file has no PixelData", "fetch the file again or leave it out")
    start, length = place[0]
    is_compressed = length == UNDEFINED
    if not is_compressed:
        _declare_encoding(dataset)
    frame = _joined_fragments(content, start) if is_compressed else memoryview(content)[start : start + length]
    return DicomFile(dataset=dataset, frame=frame, is_compressed=is_compressed)


def _stream(content: Content) -> Any:
    stream: Any = io.BytesIO(content) if isinstance(content, bytes) else content
    stream.seek(0)
    return stream


def _file_meta(stream: Any) -> FileMetaDataset:
    """The file's own header, as pydicom sees it before it reads, or inflates, the rest."""
    filereader.read_preamble(stream, force=True)
    return filereader._read_file_meta_info(stream)  # noqa: SLF001 - the public readers inflate without a limit


def _inflated(content: Content) -> tuple[Content, FileMetaDataset | None]:
    """The data set of a file that is deflated as a whole, and its header; other files as they are, and None.

    A few kilobytes can be deflated gigabytes, so that no more than a picture is taken (PS3.5 A.5).
    """
    stream = _stream(content)
    meta = _file_meta(stream)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return content, None
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    inside = unpacker.decompress(content[stream.tell() :], INFLATED_MOST)
    if not unpacker.eof and len(inside) >= INFLATED_MOST:
        raise DicomError(f"the deflated file is larger than {INFLATED_MOST >> 20} MiB", "export it uncompressed")
    if not unpacker.eof or _file_meta(_stream(inside)):
        raise ValueError("cut short, or another file inside")
    return inside, meta


def _refuse_raw(dataset: Dataset) -> None:
    """Refuse values of the detector, which are no picture; where the intent is missing, the class of the file tells."""
    intent = str(dataset.get("PresentationIntentType") or "").strip().upper()
    classes = (dataset.get("SOPClassUID"), dataset.file_meta.get("MediaStorageSOPClassUID"))
    if intent == "FOR PROCESSING" or (not intent and any(each in RAW_CLASSES for each in classes)):
        raise DicomError("raw detector values (FOR PROCESSING); expected FOR PRESENTATION", "export processed images")


def _declare_encoding(dataset: Dataset) -> None:
    """Name the encoding of a file without a meta header, from the way its elements were read."""
    if dataset.file_meta.get("TransferSyntaxUID"):
        return
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _joined_fragments(content: Content, start: int) -> memoryview:
    """The items after the table of offsets, as one stream; a single one, which is usual, is not copied (PS3.5 A.4)."""
    view, fragments, place = memoryview(content), [], start
    while content[place : place + 4] == ITEM:
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + length
        if place > len(content):
            raise DicomError(TRUNCATED, "fetch the file again or leave it out")
        fragments.append(view[place - length : place])
    if len(fragments) < 2:
        raise DicomError(TRUNCATED, "fetch the file again or leave it out")
    return fragments[1] if len(fragments) == 2 else memoryview(b"".join(fragments[1:]))


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Collect warnings and mute pydicom's logger: both quote file names and element text."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        logger.setLevel(level)
