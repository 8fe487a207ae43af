"""One image file to grey values or colours, and the few tags that a study may know."""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt

from study.data.arrays import array_picture, is_array_place
from study.data.dicom_file import DECODING_ERRORS, Content, has_preamble, parse_dicom, quiet
from study.data.dicom_pixels import colour_pixels, grey_pixels
from study.data.dicom_tags import DicomTags, tags_from_dataset
from study.data.files import is_remote, open_file
from study.data.pictures import PICTURE_MAGIC, Picture, picture_from_bytes
from study.errors import DicomError, InputError

__all__ = ["DicomImage", "DicomTags", "ReadOptions", "read_dicom", "read_image"]

SAMPLE_EVERY: Final = 64
LONGEST_MAGIC: Final = max(map(len, PICTURE_MAGIC))
AT_ONCE: Final = getattr(mmap, "MAP_POPULATE", 0)  # Linux: one call, no fault per page


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
    """Read one DICOM file, with or without a preamble, from a local path or a URI.

    Native, RLE, JPEG, JPEG Lossless, JPEG-LS, JPEG 2000 and HTJ2K pixels are decoded; pixels of one image are the same
    in each lossless encoding. Nothing is written to standard error, and only the tags of `DicomTags` leave this
    function.

    Raises:
        DicomError: with the reason the file cannot be used; it names neither the file nor anything read from it.
    """
    return _dicom_from_bytes(_content(path), options)


def read_image(path: str | Path, *, options: ReadOptions = AS_STORED) -> DicomImage:
    """Read one image by content, not by name: DICOM, PNG, TIFF, JPEG, BMP, PGM or PPM; or one image of an array file.

    Args:
        path: a local path, a URI, or ``<file>.npz::<member>::<index>``.
        options: how to read it.

    Raises:
        DicomError: with the reason the file cannot be used, free of paths and identifiers.
    """
    if is_array_place(path):
        with quiet():
            return _image_of(array_picture(path, colour=options.colour))
    content = _content(path)
    if not content[:LONGEST_MAGIC].startswith(PICTURE_MAGIC) or has_preamble(content):
        return _dicom_from_bytes(content, options)
    with quiet():
        return _image_of(picture_from_bytes(bytes(content), colour=options.colour))


def _content(path: str | Path) -> Content:
    """The whole file: mapped where it is local, so that an uncompressed frame is never copied, else read."""
    try:
        with open_file(path) as file:
            content = file.read() if is_remote(path) else _mapped(file)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DicomError(f"the file cannot be opened ({why})", "check the path and its rights") from None
    if not len(content):
        raise DicomError("the file is empty", "fetch the file again or leave it out")
    return content


def _mapped(file: BinaryIO) -> Content:
    try:
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | AT_ONCE, prot=mmap.PROT_READ)
    except (OSError, ValueError):  # empty, or a file system that maps nothing
        return file.read()


def _dicom_from_bytes(content: Content, options: ReadOptions) -> DicomImage:
    file = parse_dicom(content)
    with quiet():
        try:
            factor = 1
            if options.colour == "rgb" and file.dataset.get("SamplesPerPixel") == 3:
                pixels = colour_pixels(content, file.dataset)
            else:
                pixels, factor = grey_pixels(file, voi=options.lut == "voi", reduce_to=options.reduce_to)
                pixels = np.stack([pixels] * 3, axis=-1) if options.colour == "rgb" else pixels
            tags = tags_from_dataset(file.dataset)
        except DECODING_ERRORS:
            raise DicomError("the header holds values of the wrong kind", "fetch the file again") from None
    return DicomImage(pixels=_not_flat(pixels), tags=tags, reduced_by=factor)


def _image_of(picture: Picture) -> DicomImage:
    rows, cols = picture.pixels.shape[:2]
    photometric = "RGB" if picture.pixels.ndim == 3 else "MONOCHROME2"
    tags = DicomTags(rows=rows, cols=cols, bits_stored=picture.bits, photometric=photometric)
    return DicomImage(pixels=_not_flat(picture.pixels), tags=tags)


def _not_flat(pixels: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Refuse a picture of one value; a few pixels show that most are not."""
    if pixels.size and (pixels[::SAMPLE_EVERY, ::SAMPLE_EVERY] != pixels[0, 0]).any():
        return pixels
    if pixels.size == 0 or int(pixels.min()) == int(pixels.max()):
        raise DicomError("the picture is blank: every pixel has the same value", "leave the file out")
    return pixels
