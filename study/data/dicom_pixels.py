"""Stored values of one DICOM file, decoded and checked before anything is allowed to mask them."""

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian

from study.data.dicom_codecs import REDUCED_BY, decode_grey
from study.data.dicom_file import DECODING_ERRORS, Content, DicomFile
from study.data.dicom_voi import voi_table
from study.errors import DicomError

REQUIRED_KEYWORDS: Final = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation")
GREY: Final = ("MONOCHROME1", "MONOCHROME2")
LONGEST_SIDE: Final = 20_000
LARGEST_FRAME: Final = 100_000_000  # px: three times the largest scanned films
ROWS_AT_ONCE: Final = 512
REDUCED_MARGIN: Final = 1.5  # a reduced frame is longer than the target by this factor, for the breast is a part of it

Array = npt.NDArray[Any]
U16 = npt.NDArray[np.uint16]
Bool = npt.NDArray[np.bool_]


def grey_pixels(file: DicomFile, *, voi: bool = False, reduce_to: int | None = None) -> tuple[U16, int]:
    """Decode the one grey frame: uint16 [rows, columns] in 0 .. 2**BitsStored - 1, background low; may be read-only.

    MONOCHROME1 is turned by ``(2**BitsStored - 1) - x``, so that images of one scanner stay on one grey scale whatever
    their own extremes are. Signed values are moved up by half the range. Padding becomes 0, after the inversion.
    With ``voi`` the file's display transform comes before the inversion, as the standard has it (PS3.3 C.7.6.3.1.2);
    without, no look-up table is applied.

    Returns:
        The values, and the factor by which rows and columns were reduced (1 or 2).

    Raises:
        DicomError: the header or the values cannot be trusted; the reason names attributes, never their text.
    """
    dataset = file.dataset
    check_header(dataset)
    bits, signed = int(dataset.BitsStored), int(dataset.get("PixelRepresentation") or 0) == 1
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    stored, factor = _stored_values(file, signed=signed, reduce_to=reduce_to)
    top = 2**bits - 1
    has_blank_padding = not voi and not signed and _padding_range(dataset) == ((top, top) if inverted else (0, 0))
    padding = None if has_blank_padding else _padding_mask(dataset, stored)
    values = _checked(stored, padding, bits=bits, signed=signed)
    table = voi_table(dataset, bits=bits, signed=signed) if voi else None
    if table is not None:
        values = _looked_up(table, values)
    if inverted:
        values = np.bitwise_xor(values, np.uint16(top))  # top - x, for x within the bits
    if padding is not None:
        values = np.where(padding, np.uint16(0), values)
    return values, factor


def colour_pixels(content: Content, dataset: Dataset) -> U16:
    """Decode the one 8-bit colour frame of a DICOM file: uint16 [rows, columns, 3], red, green, blue.

    Raises:
        DicomError: the frame is of another kind, or cannot be decoded.
    """
    check_frame(dataset)
    if int(dataset.get("BitsAllocated") or 0) != 8 or "PALETTE" in str(dataset.get("PhotometricInterpretation")):
        raise DicomError("the colours are not 8-bit RGB or YBR", "export 8-bit RGB")
    try:
        decoded = pixel_array(dcmread(io.BytesIO(content)))
    except DECODING_ERRORS:
        raise DicomError("PixelData cannot be decoded (colour)", "export it uncompressed") from None
    if decoded.shape != (int(dataset.Rows), int(dataset.Columns), 3):
        raise DicomError("PixelData cannot be decoded (colour)", "export it uncompressed")
    return np.asarray(decoded, dtype=np.uint16)


def check_header(dataset: Dataset) -> None:
    """Refuse what the reader cannot turn into one grey picture.

    Raises:
        DicomError: with what was found and what was expected.
    """
    missing = [keyword for keyword in REQUIRED_KEYWORDS if dataset.get(keyword) in (None, "")]
    if missing:
        raise DicomError(f"the header lacks {', '.join(missing)}", "fetch the file again or leave it out")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if samples != 1 or dataset.PhotometricInterpretation not in GREY:
        raise DicomError("the picture is in colour; expected MONOCHROME1 or MONOCHROME2", "export a grey picture")
    check_frame(dataset)
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated not in (8, 16) or not 1 < bits <= allocated:
        raise DicomError(f"BitsStored {bits} of BitsAllocated {allocated}; expected 2 to 16 bits in 8 or 16")
    high = int(dataset.get("HighBit", bits - 1))
    if high != bits - 1:
        raise DicomError(f"HighBit is {high} with BitsStored {bits}; expected {bits - 1}", "export it right-aligned")


def check_frame(dataset: Dataset) -> None:
    """Refuse several frames, and sizes for which no decoder should reserve memory.

    Raises:
        DicomError: with the number of frames, or the size.
    """
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DicomError(f"the file holds {frames} frames; expected one", "export one picture per file")
    rows, cols = int(dataset.Rows), int(dataset.Columns)
    if min(rows, cols) < 1 or max(rows, cols) > LONGEST_SIDE or rows * cols > LARGEST_FRAME:
        raise DicomError(
            f"the frame has {rows} x {cols} px; expected 1 to {LONGEST_SIDE} a side, {LARGEST_FRAME:,} at most",
            "leave the file out",
        )


def _stored_values(file: DicomFile, *, signed: bool, reduce_to: int | None) -> tuple[Array, int]:
    """Values exactly as stored, without pydicom's silent masking of the bits above BitsStored."""
    dataset = file.dataset
    rows, cols, allocated = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
    if not file.is_compressed:
        return _native(file, rows=rows, cols=cols, signed=signed), 1
    reduced = reduce_to is not None and max(rows, cols) / REDUCED_BY >= REDUCED_MARGIN * reduce_to
    decoded = decode_grey(file.frame, rows=rows, cols=cols, bits_allocated=allocated, reduced=reduced)
    if signed and decoded.dtype.kind == "u":
        decoded = decoded.view(f"i{decoded.dtype.itemsize}")
    return decoded, 1 if decoded.shape == (rows, cols) else REDUCED_BY


def _native(file: DicomFile, *, rows: int, cols: int, signed: bool) -> Array:
    """Uncompressed values, as a view. A surplus is tolerated, as padding to an even length is."""
    depth = int(file.dataset.BitsAllocated) // 8
    expected, found = rows * cols * depth, len(file.frame)
    if found < expected:
        reason = f"PixelData is cut short: {found} bytes, expected {expected}"
        raise DicomError(reason, "fetch the file again or leave it out")
    is_big = file.dataset.file_meta.get("TransferSyntaxUID") == ExplicitVRBigEndian
    kind = f"{'>' if is_big else '<'}{'i' if signed else 'u'}{depth}"
    values = np.frombuffer(file.frame, dtype=kind, count=rows * cols).reshape(rows, cols)
    return values.astype(values.dtype.newbyteorder("=")) if is_big else values


def _padding_range(dataset: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value of padding; None where the file names none."""
    first, limit = _stored_integer(dataset, "PixelPaddingValue"), _stored_integer(dataset, "PixelPaddingRangeLimit")
    if first is None:
        return None
    return min(first, first if limit is None else limit), max(first, first if limit is None else limit)


def _padding_mask(dataset: Dataset, stored: Array) -> Bool | None:
    """True where a stored value is padding; None if there is none."""
    limits = _padding_range(dataset)
    if limits is None:
        return None
    low, high = limits
    mask = stored == low if low == high else (stored >= low) & (stored <= high)
    return np.asarray(mask, dtype=np.bool_) if mask.any() else None


def _stored_integer(dataset: Dataset, keyword: str) -> int | None:
    """A stored value that an attribute names; None where absent or not a number.

    Some files write it as unsigned though their pixels are signed, or the other way round: the same bits are meant.
    """
    value = dataset.get(keyword)
    if not isinstance(value, int):
        return None
    span: int = 1 << int(dataset.BitsAllocated)
    meant: int = value % span
    is_signed = int(dataset.get("PixelRepresentation") or 0) == 1
    return meant - span if is_signed and meant >= span // 2 else meant


def _checked(stored: Array, padding: Bool | None, *, bits: int, signed: bool) -> U16:
    """Move values to 0 .. 2**bits - 1; refuse any that BitsStored cannot hold (pydicom would mask them)."""
    half = 2 ** (bits - 1)
    low, high = (0 if stored.dtype.kind == "u" else int(stored.min())), int(stored.max())
    if padding is not None and not _fits(low, high, half=half, signed=signed):
        known = stored[~padding]
        low, high = (int(known.min()), int(known.max())) if known.size else (0, 0)
    if not _fits(low, high, half=half, signed=signed):
        first, last = (-half, half - 1) if signed else (0, 2 * half - 1)
        reason = f"stored values run from {low} to {high}; BitsStored allows {first} to {last}"
        raise DicomError(reason, "ask the sender for the file with its true BitsStored, or leave it out")
    if not signed:
        return stored.astype(np.uint16, copy=False)
    # The modulo takes two's complement in `bits` bits whose sign was not carried on to the full word.
    moved = stored.astype(np.uint16)
    moved += np.uint16(half)  # beyond 16 bits it begins at 0 again, and the modulo is one of a power of two
    moved &= np.uint16(2 * half - 1)
    return moved


def _looked_up(table: U16, values: U16) -> U16:
    """Values through a table, some rows at a time: as indices they take four times their memory."""
    found = np.empty_like(values)
    for start in range(0, len(values), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        np.take(table, values[rows], mode="clip", out=found[rows])
    return found


def _fits(low: int, high: int, *, half: int, signed: bool) -> bool:
    """Whether all values fit into BitsStored; signed ones also without the sign carried on."""
    is_whole = low >= 0 and high < 2 * half
    return is_whole or (signed and low >= -half and high < half)
