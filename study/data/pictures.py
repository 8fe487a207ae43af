"""PNG, TIFF, JPEG, BMP, PGM and PPM pictures, in grey or colour; and breast masks."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from study.data.files import read_bytes
from study.errors import DicomError

Colour = Literal["grey", "rgb"]
Array = npt.NDArray[Any]
U16 = npt.NDArray[np.uint16]

PICTURE_MAGIC: Final = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+", b"BM"),
    *(b"P2", b"P3", b"P5", b"P6"),
)
FORMATS: Final = ("PNG", "TIFF", "JPEG", "BMP")
GREY_MODES: Final = ("L", "I;16", "I;16B", "I;16L")
COLOUR_MODES: Final = ("LA", "P", "PA", "RGB", "RGBA")
DEPTHS: Final = (8, 10, 12, 14, 16)
NETPBM: Final = re.compile(rb"P([2356])(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)\s")
DAMAGE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    EOFError,
    Image.DecompressionBombError,
    cv2.error,
)
REASON_DAMAGED: Final = "the picture is damaged or truncated"
REASON_DEPTH: Final = "the picture is neither 8- nor 16-bit grey"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """``pixels`` is uint16 [rows, columns] or [rows, columns, 3] (red, green, blue); ``bits`` their depth."""

    pixels: U16
    bits: int


def picture_from_bytes(content: bytes, *, colour: Colour = "grey") -> Picture:
    """Decode one picture.

    Read as grey, colour is accepted where all channels are equal; read as colour, a grey picture gets three equal
    channels. A 16-bit container often holds 12-bit values, so its depth is the smallest of 8, 10, 12, 14 and 16 that
    holds the brightest pixel.

    Raises:
        DicomError: damaged, of several pages or another depth, transparent, or in true colour when read as grey.
    """
    decoded = _netpbm(content) if content[:2] in (b"P2", b"P3", b"P5", b"P6") else _decoded(content)
    return picture_of(decoded, colour=colour)


def picture_of(values: Array, *, colour: Colour) -> Picture:
    """Bring uint8 or uint16 values [rows, columns] or [rows, columns, 3] to the channels that are asked for.

    Raises:
        DicomError: as :func:`picture_from_bytes`.
    """
    bits = 8
    if values.dtype != np.uint8:
        brightest = int(values.max(initial=0))
        bits = next(depth for depth in DEPTHS if brightest < 2**depth)
    if colour == "grey" and values.ndim == 3:
        if (values != values[..., :1]).any():
            raise DicomError("the picture is in colour; expected 8- or 16-bit grey", "save it as a grey picture")
        values = values[..., 0]
    if colour == "rgb" and values.ndim == 2:
        values = np.stack([values] * 3, axis=-1)
    return Picture(pixels=np.ascontiguousarray(values, dtype=np.uint16), bits=bits)


def read_mask(path: str | Path) -> npt.NDArray[np.bool_]:
    """Read a breast mask from a grey picture: bool [rows, columns], True where it is not black.

    Raises:
        DicomError: the file cannot be read as a grey picture.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DicomError(f"the mask cannot be opened ({why})", "check the folder of masks") from None
    return np.asarray(picture_from_bytes(content).pixels > 0, dtype=np.bool_)


def _decoded(content: bytes) -> Array:
    """uint8 or uint16 [rows, columns] or [rows, columns, 3]."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            pages = int(getattr(picture, "n_frames", 1))
            if pages != 1:
                raise DicomError(f"the file holds {pages} pictures; expected one", "save one per file")
            if _is_deep_colour_png(content):
                return _deep_colours(content)
            picture.load()
            if picture.mode in GREY_MODES:
                return np.asarray(picture)
            if picture.mode not in COLOUR_MODES:
                raise DicomError(REASON_DEPTH, "save it as 8- or 16-bit grey")
            colours = np.asarray(picture.convert("RGBA"))
    except DAMAGE:
        raise DicomError(REASON_DAMAGED, "fetch the file again or leave it out") from None
    if (colours[..., 3] != 255).any():
        raise DicomError("the picture is in colour with transparent parts", "save it without an alpha channel")
    return colours[..., :3]


def _is_deep_colour_png(content: bytes) -> bool:
    """A PNG with 16 bits per colour channel, which Pillow would quietly cut to 8 (PNG specification, IHDR)."""
    return content.startswith(b"\x89PNG") and content[24] == 16 and content[25] in (2, 4, 6)


def _deep_colours(content: bytes) -> Array:
    """16 bits per channel; an alpha channel is dropped by the decoder."""
    decoded = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if decoded is None:
        raise DicomError(REASON_DAMAGED, "fetch the file again or leave it out")
    return np.asarray(decoded)[..., ::-1]


def _netpbm(content: bytes) -> Array:
    """PGM and PPM, as text or bytes, values as they stand: decoders would stretch 12 bits to 16 (netpbm, man 5 pgm)."""
    match = NETPBM.match(content)
    if match is None:
        raise DicomError(REASON_DAMAGED, "fetch the file again or leave it out")
    kind, cols, rows, top = (int(text) for text in match.groups())
    shape = (rows, cols) if kind in (2, 5) else (rows, cols, 3)
    body, count = content[match.end() :], int(np.prod(shape))
    if not 0 < top < 2**16 or count == 0:
        raise DicomError(REASON_DEPTH, "save it as 8- or 16-bit grey")
    try:
        if kind in (2, 3):
            values = np.array(body.split()[:count], dtype=np.uint16)
        else:
            values = np.frombuffer(body, dtype=">u2" if top > 255 else "u1", count=count)
        return values.reshape(shape).astype(np.uint16 if top > 255 else np.uint8)
    except (ValueError, OverflowError):
        raise DicomError(REASON_DAMAGED, "fetch the file again or leave it out") from None
