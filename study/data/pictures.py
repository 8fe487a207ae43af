"""Grey PNG, TIFF and JPEG pictures."""

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from study.errors import DicomError

FORMATS: Final = ("PNG", "TIFF", "JPEG")
GREY_MODES: Final = ("L", "I;16", "I;16B", "I;16L")
COLOUR_MODES: Final = ("LA", "P", "PA", "RGB", "RGBA")
DEPTHS: Final = (8, 10, 12, 14, 16)
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
)


def grey_picture(content: bytes) -> tuple[npt.NDArray[np.uint16], int]:
    """Decode one picture: uint16 [rows, columns] and its bit depth.

    Colour is accepted where all channels are equal. A 16-bit container often holds 12-bit values, so its depth is the
    smallest of 8, 10, 12, 14 and 16 that holds the brightest pixel.

    Raises:
        DicomError: damaged, in true colour, several pages, or of another depth.
    """
    pixels = _decode(content)
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint16), 8
    brightest = int(pixels.max(initial=0))
    return pixels.astype(np.uint16), next(depth for depth in DEPTHS if brightest < 2**depth)


def _decode(content: bytes) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            pages = int(getattr(picture, "n_frames", 1))
            if pages != 1:
                raise DicomError(f"the file holds {pages} pictures; expected one", "save one per file")
            picture.load()
            is_deep_colour = _is_deep_colour_png(content)
            mode = picture.mode
            array = np.asarray(picture if mode in GREY_MODES else _as_rgba(picture, mode))
    except DAMAGE:
        raise DicomError("the picture is damaged or truncated", "fetch the file again or leave it out") from None
    if mode in GREY_MODES:
        return array
    colours = array[..., :3]
    if is_deep_colour or (colours != colours[..., :1]).any() or (array[..., 3] != 255).any():
        raise DicomError("the picture is in colour; expected 8- or 16-bit grey", "save it as a grey picture")
    return np.ascontiguousarray(colours[..., 0])


def _as_rgba(picture: Image.Image, mode: str) -> Image.Image:
    if mode not in COLOUR_MODES:
        raise DicomError("the picture is neither 8- nor 16-bit grey", "save it as 8- or 16-bit grey")
    return picture.convert("RGBA")


def _is_deep_colour_png(content: bytes) -> bool:
    """A PNG with 16 bits per colour channel, which Pillow would quietly cut to 8 (PNG specification, IHDR)."""
    return content.startswith(b"\x89PNG") and content[24] == 16 and content[25] in (2, 4, 6)
