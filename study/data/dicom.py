"""One image file to grey values and the few tags that a study may know."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset

from study.data.dicom_pixels import DECODING_ERRORS, PIXEL_KEYWORDS, grey_pixels
from study.data.dicom_tags import TAG_KEYWORDS, DicomTags, tags_from_dataset
from study.data.pictures import grey_picture
from study.errors import DicomError, InputError

__all__ = ["DicomImage", "DicomTags", "ReadOptions", "read_dicom", "read_image"]

PREAMBLE_BYTES: Final = 132
PICTURE_MAGIC: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How an image file is read.

    ``lut`` applies the display look-up table or window of a DICOM file (``voi``) or none; ``colour`` reads grey values
    or three channels; ``reduce_to`` lets JPEG 2000 files be decoded at half their resolution, where that leaves clearly
    more than so many px on the longer side.
    """

    lut: Literal["none", "voi"] = "none"
    colour: Literal["grey", "rgb"] = "grey"
    reduce_to: int | None = None


AS_STORED: Final = ReadOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomImage:
    """Values and tags of one image.

    ``pixels`` is uint16 [rows, columns], or [rows, columns, 3] in colour, in 0 .. ``max_value``; background is low
    whatever the file's photometric interpretation was. It may be read-only. ``reduced_by`` is 2 where the file was
    decoded at half its resolution; ``tags.rows`` and ``tags.cols`` are always those of the file.
    """

    pixels: npt.NDArray[np.uint16]
    tags: DicomTags
    reduced_by: int = 1

    @property
    def pixels_hw(self) -> npt.NDArray[np.uint16]:
        """Grey values [rows, columns]."""
        if self.pixels.ndim != 2:
            raise InputError("the picture is in colour", "read it with colour: grey")
        return self.pixels

    @property
    def max_value(self) -> int:
        """Largest value that the bit depth allows: ``2**bits_stored - 1``."""
        return int(2**self.tags.bits_stored - 1)


def read_dicom(path: str | Path, *, options: ReadOptions = AS_STORED) -> DicomImage:
    """Read one DICOM file, with or without a preamble.

    Native, RLE, JPEG, JPEG Lossless, JPEG-LS and JPEG 2000 pixels are decoded; pixels of one image are the same in
    each lossless encoding. Nothing is written to standard error, and only the tags of `DicomTags` leave this function.

    Raises:
        DicomError: with the reason the file cannot be used; it names neither the file nor anything read from it.
    """
    return _dicom_from_bytes(_content(path))


def read_image(path: str | Path, *, options: ReadOptions = AS_STORED) -> DicomImage:
    """Read one image by content, not by name: DICOM, or an 8- or 16-bit grey PNG, TIFF or JPEG.

    Raises:
        DicomError: with the reason the file cannot be used, free of paths and identifiers.
    """
    content = _content(path)
    if not content.startswith(PICTURE_MAGIC) or content[PREAMBLE_BYTES - 4 : PREAMBLE_BYTES] == b"DICM":
        return _dicom_from_bytes(content)
    with _quiet():
        pixels_hw, bits = grey_picture(content)
    rows, cols = pixels_hw.shape
    tags = DicomTags(rows=rows, cols=cols, bits_stored=bits, photometric="MONOCHROME2")
    return DicomImage(pixels=_not_flat(pixels_hw), tags=tags)


def _content(path: str | Path) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DicomError(f"the file cannot be opened ({error.strerror})", "check the path and its rights") from None
    if not content:
        raise DicomError("the file is empty", "fetch the file again or leave it out")
    return content


def _dicom_from_bytes(content: bytes) -> DicomImage:
    with _quiet() as caught:
        dataset = _dataset(content, caught)
        try:
            pixels_hw = grey_pixels(dataset)
            tags = tags_from_dataset(dataset)
        except DECODING_ERRORS:
            raise DicomError("the header holds values of the wrong kind", "fetch the file again") from None
    return DicomImage(pixels=_not_flat(pixels_hw), tags=tags)


def _dataset(content: bytes, caught: list[warnings.WarningMessage]) -> Dataset:
    """Parse the wanted tags only; a cut-off file gives a warning and an empty data set in pydicom, here an error."""
    wanted = [*PIXEL_KEYWORDS, *TAG_KEYWORDS]
    has_preamble = content[PREAMBLE_BYTES - 4 : PREAMBLE_BYTES] == b"DICM"
    try:
        dataset = pydicom.dcmread(io.BytesIO(content), force=True, specific_tags=list(wanted))
        known = any(dataset.get(keyword) is not None for keyword in ("Rows", "Columns", "Modality"))
    except DECODING_ERRORS:
        reason = "the DICOM structure is damaged" if has_preamble else "neither DICOM nor a known picture format"
        raise DicomError(reason, "fetch the file again or leave it out") from None
    if any("End of file" in str(warning.message) for warning in caught):
        raise DicomError("the file is truncated", "fetch the file again or leave it out")
    if not known and not has_preamble:
        raise DicomError("neither DICOM nor a known picture format", "leave the file out of the table")
    if dataset.get("PresentationIntentType") == "FOR PROCESSING":
        raise DicomError("raw detector values (FOR PROCESSING); expected FOR PRESENTATION", "export processed images")
    return dataset


def _not_flat(pixels_hw: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    if pixels_hw.size == 0 or int(pixels_hw.min()) == int(pixels_hw.max()):
        raise DicomError("the picture is blank: every pixel has the same value", "leave the file out")
    return pixels_hw


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
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
