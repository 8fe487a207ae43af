"""Compressed frames to arrays: the fastest permissively licensed decoder of each encoding, told by the bytes.

The stream says what it is, for some files declare another encoding than theirs; size and depth are read from its own
header before a decoder may reserve memory for them. How fast each is, against pydicom's: docs/pictures.md.
"""

import io
import math
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from study.data.dicom_file import DECODING_ERRORS
from study.errors import DicomError

Array = npt.NDArray[Any]
Kind = Literal["JPEG", "JPEG Lossless", "JPEG-LS", "JPEG 2000", "HTJ2K", "RLE"]

REDUCED_BY: Final = 2
CODESTREAM: Final = b"\xff\x4f\xff\x51"  # JPEG 2000: SOC and SIZ
JPEG_START: Final = b"\xff\xd8"
STREAM_END: Final = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000
SIZ_BYTES: Final = 43
MOST_TILES: Final = 65_535  # ISO/IEC 15444-1 table A.5
HIGH_THROUGHPUT: Final = 0x4000  # Rsiz bit of ISO/IEC 15444-15
FRAME_MARKERS: Final[dict[int, Kind]] = {
    0xC0: "JPEG",
    0xC1: "JPEG",
    0xC2: "JPEG",
    0xC3: "JPEG Lossless",
    0xF7: "JPEG-LS",
}
BARE_MARKERS: Final = (0x01, *range(0xD0, 0xD9))
DAMAGED: Final = "fetch the file again, or export it uncompressed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHeader:
    """What a compressed stream says of itself; ``precision`` in bits."""

    kind: Kind
    rows: int
    cols: int
    samples: int
    precision: int
    is_signed: bool = False


def decode_grey(frame: memoryview, *, rows: int, cols: int, bits_allocated: int, reduced: bool = False) -> Array:
    """Decode one grey frame: integers [rows, cols], or half of that if ``reduced``.

    Raises:
        DicomError: the stream is damaged, in colour, or of another size than the file's header says.
    """
    header = stream_header(frame, rows=rows, cols=cols, bits_allocated=bits_allocated)
    found = (header.rows, header.cols, header.samples)
    if found != (rows, cols, 1):
        reason = f"the {header.kind} stream holds {found[0]} x {found[1]} px of {found[2]} samples"
        raise DicomError(f"{reason}; the header says {rows} x {cols} of 1", "fetch the file again or leave it out")
    if header.kind in ("JPEG 2000", "HTJ2K"):
        _check_tiles(frame)
    try:
        if reduced and header.kind == "JPEG 2000" and not header.is_signed:
            return _reduced_jpeg2000(frame, header)
        decoded = _rle(frame, header) if header.kind == "RLE" else _decode(frame, header.kind)
    except DECODING_ERRORS:
        raise DicomError(f"PixelData cannot be decoded ({header.kind})", DAMAGED) from None
    if decoded.shape != (rows, cols):
        raise DicomError(f"PixelData cannot be decoded ({header.kind})", DAMAGED)
    return decoded


def stream_header(frame: memoryview, *, rows: int, cols: int, bits_allocated: int) -> StreamHeader:
    """Kind, size and depth of a compressed stream; an RLE stream has none of its own but its number of segments.

    Raises:
        DicomError: no known encoding, or a stream without its end.
    """
    start = bytes(frame[:12])
    if start.startswith(JPEG_START):
        header = _jpeg_header(frame)
    elif start.startswith(CODESTREAM) or start[4:8] == b"jP  ":
        header = _jpeg2000_header(frame)
    elif 1 <= int.from_bytes(start[:4], "little") <= 15 and int.from_bytes(start[4:8], "little") == 64:
        segments = int.from_bytes(start[:4], "little")
        samples = segments // max(1, bits_allocated // 8)
        return StreamHeader(kind="RLE", rows=rows, cols=cols, samples=samples, precision=bits_allocated)
    else:
        raise DicomError("PixelData is in no known encoding", "export the file uncompressed")
    if bytes(frame[-64:]).rstrip(b"\0")[-2:] != STREAM_END:
        raise DicomError(f"the {header.kind} stream is cut short", "fetch the file again or leave it out")
    return header


def _jpeg_header(frame: memoryview) -> StreamHeader:
    """The first frame marker of a JPEG or JPEG-LS stream (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2)."""
    place = 2
    while place + 10 <= len(frame):
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if frame[place] != 0xFF:
            break
        if marker == 0xFF or marker in BARE_MARKERS:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in FRAME_MARKERS:
            return StreamHeader(
                kind=FRAME_MARKERS[marker],
                precision=frame[place + 4],
                rows=int.from_bytes(frame[place + 5 : place + 7], "big"),
                cols=int.from_bytes(frame[place + 7 : place + 9], "big"),
                samples=frame[place + 9],
            )
        place += 2 + length
    raise DicomError("the JPEG stream has no frame that can be decoded", DAMAGED)


def _jpeg2000_header(frame: memoryview) -> StreamHeader:
    """The SIZ segment of a codestream, with or without JP2 boxes around it (ISO/IEC 15444-1 A.5.1)."""
    siz = _siz(frame)
    cols, rows, left, top = struct.unpack_from(">4I", siz, 8)
    is_fast = int.from_bytes(siz[6:8], "big") & HIGH_THROUGHPUT
    return StreamHeader(
        kind="HTJ2K" if is_fast else "JPEG 2000",
        rows=rows - top,
        cols=cols - left,
        samples=int.from_bytes(siz[40:42], "big"),
        precision=(siz[42] & 0x7F) + 1,
        is_signed=bool(siz[42] & 0x80),
    )


def _siz(frame: memoryview) -> bytes:
    start = bytes(frame[:4096]).find(CODESTREAM)
    siz = bytes(frame[start : start + SIZ_BYTES]) if start >= 0 else b""
    if len(siz) < SIZ_BYTES:
        raise DicomError("the JPEG 2000 stream has no size", DAMAGED)
    return siz


def _check_tiles(frame: memoryview) -> None:
    """Refuse tiles that no encoder makes: decoders divide by their size, or keep a record of each (A.5.1, B.3)."""
    cols, rows, begin_x, begin_y, width, height, left, top = struct.unpack_from(">8I", _siz(frame), 8)
    sides = ((width, left, begin_x, cols), (height, top, begin_y, rows))
    if any(size < 1 or not first <= begin < min(last, first + size) for size, first, begin, last in sides):
        raise DicomError("the JPEG 2000 stream has tiles of an impossible size", DAMAGED)
    if math.prod(-(-(last - first) // size) for size, first, _, last in sides) > MOST_TILES:
        raise DicomError(f"the JPEG 2000 stream has more than {MOST_TILES} tiles", DAMAGED)


def _decode(frame: memoryview, kind: Kind) -> Array:
    decoders: dict[Kind, Callable[[Any], Array]] = {
        "JPEG": imagecodecs.jpeg8_decode,
        "JPEG Lossless": imagecodecs.jpeg8_decode,
        "JPEG-LS": imagecodecs.jpegls_decode,
        "JPEG 2000": _jpeg2000,
        "HTJ2K": _htj2k,
    }
    return decoders[kind](frame)


def _jpeg2000(frame: Any) -> Array:
    return imagecodecs.jpeg2k_decode(frame, numthreads=1)


def _htj2k(frame: Any) -> Array:
    with _no_ignored_errors():
        return imagecodecs.htj2k_decode(frame)


def _rle(frame: Any, header: StreamHeader) -> Array:
    """Segments of high and low bytes, each packed on its own (PS3.5 annex G).

    Together they would be 0.7 ms a megapixel faster, by a decoder that trusts the table of segments and writes where it
    says.
    """
    size, count = header.rows * header.cols, header.precision // 8
    number, *starts = struct.unpack_from("<16I", frame)
    ends = [*starts[1:count], len(frame)]
    if number != count or sorted({*starts[:count], *ends}) != [*starts[:count], len(frame)]:
        raise ValueError("the table of segments makes no sense")
    values = np.empty((size, count), dtype=np.uint8)
    for place, (start, end) in enumerate(zip(starts[:count], ends, strict=True)):
        packed = np.frombuffer(imagecodecs.packbits_decode(frame[start:end]), dtype=np.uint8)
        values[:, count - 1 - place] = packed[:size]  # the first segment holds the high bytes
    return values.view("<u2" if count == 2 else np.uint8).reshape(header.rows, header.cols)


def _reduced_jpeg2000(frame: memoryview, header: StreamHeader) -> Array:
    """The stream without its finest wavelet level: half the rows and columns, rounded up."""
    with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as picture:
        if not hasattr(picture, "reduce"):
            raise ValueError("no reduction")
        picture.reduce = 1  # type: ignore[method-assign, assignment]  # the plugin's documented switch
        picture.load()
        shifted = np.asarray(picture)
    depth = 8 * shifted.dtype.itemsize
    return shifted >> (depth - header.precision)  # Pillow moves values up to the top of the container


@contextmanager
def _no_ignored_errors() -> Iterator[None]:
    """Raise what the HTJ2K decoder only prints, with paths, before it returns a part of the picture."""
    seen: list[object] = []
    hooks = sys.unraisablehook, sys.excepthook
    sys.unraisablehook = seen.append
    sys.excepthook = lambda *error: seen.append(error)
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = hooks
    if seen:
        raise ValueError("the decoder gave up")
