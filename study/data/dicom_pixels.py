"""Stored pixel values of one DICOM data set, decoded and checked before anything is allowed to mask them."""

import importlib
import struct
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

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
    "PixelData",
)
REQUIRED_KEYWORDS: Final = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation")
GREY: Final = ("MONOCHROME1", "MONOCHROME2")
# All that pydicom and its decoders were seen to raise on damaged files.
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

U16 = npt.NDArray[np.uint16]
I32 = npt.NDArray[np.int32]


def grey_pixels(dataset: Dataset) -> U16:
    """Decode the one grey frame: [rows, columns] uint16 in 0 .. 2**BitsStored - 1, background low.

    MONOCHROME1 is turned by ``(2**BitsStored - 1) - x``, so that images of one scanner stay on one grey scale whatever
    their own extremes are. Signed values are moved up by half the range. Padding becomes 0, after the inversion.
    Neither the modality nor the display look-up table is applied.

    Raises:
        DicomError: the header or the values cannot be trusted; the reason names attributes, never their text.
    """
    _check_header(dataset)
    bits = int(dataset.BitsStored)
    stored = _stored_values(dataset)
    padding = _padding_mask(dataset, stored)
    values = _check_range(stored, padding, bits=bits, signed=int(dataset.get("PixelRepresentation") or 0) == 1)
    top = 2**bits - 1
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = top - values
    grey = values.astype(np.uint16)
    grey[padding] = 0
    return grey


def _check_header(dataset: Dataset) -> None:
    """Refuse what the reader cannot turn into one grey picture."""
    missing = [keyword for keyword in REQUIRED_KEYWORDS if dataset.get(keyword) in (None, "")]
    if missing:
        raise DicomError(f"the header lacks {', '.join(missing)}", "fetch the file again or leave it out")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if samples != 1 or dataset.PhotometricInterpretation not in GREY:
        raise DicomError("the picture is in colour; expected MONOCHROME1 or MONOCHROME2", "export a grey picture")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DicomError(f"the file holds {frames} frames; expected one", "export one picture per file")
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated not in (8, 16) or not 1 < bits <= allocated:
        raise DicomError(f"BitsStored {bits} of BitsAllocated {allocated}; expected 2 to 16 bits in 8 or 16")
    high = int(dataset.get("HighBit", bits - 1))
    if high != bits - 1:
        raise DicomError(f"HighBit is {high} with BitsStored {bits}; expected {bits - 1}", "export it right-aligned")


def _stored_values(dataset: Dataset) -> I32:
    """Values exactly as stored, without pydicom's silent masking of the bits above BitsStored."""
    if "PixelData" not in dataset:
        raise DicomError("the file has no PixelData", "fetch the file again or leave it out")
    _declare_transfer_syntax(dataset)
    _check_length(dataset)
    _silence_gdcm()
    try:
        decoded = pixel_array(dataset, raw=True, correct_unused_bits=False)
    except DECODING_ERRORS:
        raise DicomError(_undecodable(dataset), "fetch the file again, or export it uncompressed") from None
    return np.asarray(decoded, dtype=np.int32)


def _declare_transfer_syntax(dataset: Dataset) -> None:
    """Name the transfer syntax of a file without a meta header, from the way its elements were read."""
    if dataset.file_meta.get("TransferSyntaxUID"):
        return
    if dataset["PixelData"].is_undefined_length:
        raise DicomError("compressed PixelData without a TransferSyntaxUID", "export the file with its meta header")
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_length(dataset: Dataset) -> None:
    """Uncompressed values must be as many as the header says; surplus is tolerated, as padding to even length is."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    expected = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    found = len(dataset.PixelData or b"")
    if found < expected:
        reason = f"PixelData is cut short: {found} bytes, expected {expected}"
        raise DicomError(reason, "fetch the file again or leave it out")


def _undecodable(dataset: Dataset) -> str:
    """Say which encoding failed: by its registered name, since an unknown one could be any text."""
    syntax = dataset.file_meta.TransferSyntaxUID
    name = syntax.name if syntax.name != str(syntax) else "an unknown encoding"
    return f"PixelData cannot be decoded ({name})"


def _silence_gdcm() -> None:
    """Keep the native decoder from writing to standard error; its failures still arrive as exceptions."""
    gdcm: Any = importlib.import_module("gdcm")
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    gdcm.Trace.DebugOff()


def _padding_mask(dataset: Dataset, stored: I32) -> npt.NDArray[np.bool_]:
    """True where a stored value is PixelPaddingValue, or between it and PixelPaddingRangeLimit."""
    first = _number(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = _number(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if limit is None else limit))
    return (stored >= low) & (stored <= high)


def _number(dataset: Dataset, keyword: str) -> int | None:
    """An integer attribute; None where absent or not a number."""
    value = dataset.get(keyword)
    return int(value) if isinstance(value, int) else None


def _check_range(stored: I32, padding: npt.NDArray[np.bool_], *, bits: int, signed: bool) -> I32:
    """Move values to 0 .. 2**bits - 1; refuse any that BitsStored cannot hold (pydicom would mask them)."""
    known = stored[~padding] if padding.any() else stored
    low, high = (int(known.min()), int(known.max())) if known.size else (0, 0)
    half = 2 ** (bits - 1)
    if not signed:
        if low < 0 or high >= 2 * half:
            _refuse_range(low, high, allowed=(0, 2 * half - 1))
        return stored
    if low >= 0 and half <= high < 2 * half:
        return np.asarray(
            (stored + half) % (2 * half), dtype=np.int32
        )  # two's complement in `bits` bits, without the sign carried on
    if low < -half or high >= half:
        _refuse_range(low, high, allowed=(-half, half - 1))
    return np.asarray(stored + half, dtype=np.int32)


def _refuse_range(low: int, high: int, *, allowed: tuple[int, int]) -> None:
    reason = f"stored values run from {low} to {high}; BitsStored allows {allowed[0]} to {allowed[1]}"
    raise DicomError(reason, "ask the sender for the file with its true BitsStored, or leave it out")
