"""One image to the picture that networks see, as content and its place in a frame. Pure: same pixels, same picture."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from study.data.breast import SHRINK, Bool, Box, BreastRegion, find_breast
from study.data.dicom import DicomImage, ReadOptions
from study.data.greyscale import Scaling, Stored, periodic_background, scaled_grey
from study.data.mapping import Placement, points_to_prepared
from study.data.resize import resize_grey
from study.errors import InputError

U16 = npt.NDArray[np.uint16]

SMALLEST_SIDE: Final = 16
CHOICES: Final = {
    "scaling": ("ordinal", "multitask", "periodic"),
    "crop": ("breast", "none"),
    "colour": ("grey", "rgb"),
    "lut": ("none", "voi"),
    "bits": (8, 16),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """How pictures are prepared.

    ``image_hw`` is the height and width of the frame in px (``multitask``: its height and greatest width); ``scaling``
    how grey values and frame are made, after the papers of these names; ``width_multiple`` what widths of ``multitask``
    are rounded up to; ``bits`` the depth that is stored; ``crop`` keeps the breast alone or the whole picture;
    ``margin`` widens the breast box on each side, as a fraction of its longer side; ``flip`` puts all chest walls left;
    ``lut`` and ``colour`` are those of `ReadOptions`; ``reduced`` lets JPEG 2000 files be decoded at half their size.
    """

    image_hw: tuple[int, int]
    scaling: Scaling = "ordinal"
    width_multiple: int = 64
    bits: Literal[8, 16] = 8
    colour: Literal["grey", "rgb"] = "grey"
    lut: Literal["none", "voi"] = "none"
    crop: Literal["breast", "none"] = "breast"
    margin: float = 0.02
    flip: bool = True
    reduced: bool = False

    def __post_init__(self) -> None:
        """Check the values once, at construction."""
        if min(self.image_hw) < SMALLEST_SIDE:
            raise InputError(
                f"image_hw is {self.image_hw}; expected a height and a width of {SMALLEST_SIDE} px or more"
            )
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, allowed))}")
        if self.width_multiple < 1:
            raise InputError(f"width_multiple is {self.width_multiple}; expected 1 px or more")
        if not 0 <= self.margin <= 0.5:
            raise InputError(f"margin is {self.margin}; expected a fraction from 0 to 0.5")
        if self.colour == "rgb" and (self.crop != "none" or self.scaling != "ordinal"):
            raise InputError(
                "colour pictures have no breast to cut out or to scale by", "set crop: none and scaling: ordinal"
            )

    @property
    def read_options(self) -> ReadOptions:
        """What the reader has to know of these settings."""
        return ReadOptions(lut=self.lut, colour=self.colour, reduce_to=max(self.image_hw) if self.reduced else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """The content of a prepared picture and how it was cut out of the original.

    ``pixels`` is uint8 or uint16 [h, w] or [h, w, 3], already flipped, without padding; it lies at ``offset`` (left,
    top) in a frame of ``frame_hw``, whose other pixels are ``background``. ``box`` is (left, top, right, bottom) in
    original px, right and bottom excluded; ``scale`` is prepared px per original px, as (x, y): equal but for rounding
    to whole px; ``is_cropped`` is False where the whole picture was kept.
    """

    pixels: Stored
    frame_hw: tuple[int, int]
    offset: tuple[int, int]
    background: int
    box: Box
    scale: tuple[float, float]
    flipped: bool
    is_cropped: bool

    @property
    def placement(self) -> Placement:
        """Where the original went, for the functions of `study.data.mapping`."""
        return Placement(box=self.box, scale=self.scale, offset=self.offset, flipped=self.flipped)

    def framed(self) -> Stored:
        """The whole picture: uint8 or uint16 [H, W] or [H, W, 3]."""
        frame = np.full((*self.frame_hw, *self.pixels.shape[2:]), self.background, dtype=self.pixels.dtype)
        left, top = self.offset
        height, width = self.pixels.shape[:2]
        frame[top : top + height, left : left + width] = self.pixels
        return frame

    def map_point(self, x: float, y: float) -> tuple[float, float]:
        """Where an original point comes to lie in the frame; px, with whole numbers at pixel centres."""
        ((mapped_x, mapped_y),) = points_to_prepared([(x, y)], self.placement)
        return float(mapped_x), float(mapped_y)


def prepare_image(
    image: DicomImage,
    *,
    laterality: Literal["L", "R"] | None = None,
    settings: PrepareSettings,
    mask_hw: Bool | None = None,
) -> PreparedImage:
    """Crop to the breast, blank all else, flip, scale the grey values, and fit into the frame.

    The aspect is kept. `study.data.greyscale` says what each scaling makes of the grey values; bit depth does not
    enter, so 12-bit values in any container and encoding give one result, and vendors who use a part of their range are
    not dark. Colours keep their values.

    The side is the half of the full frame with more tissue. ``laterality`` decides only where the halves are about
    equal: headers are wrong more often than that (CMMD has 16 images with the wrong side).

    Args:
        image: what was read.
        laterality: the side that table or header names.
        settings: the same for all images of a dataset.
        mask_hw: True on the breast, bool of any size with the field of view of the image; found in the picture if
            missing or without a usable box.

    Raises:
        InputError: ``laterality`` is not L, R or None, or the picture's colours are not those of the settings.
    """
    if laterality not in ("L", "R", None):
        raise InputError(f"laterality is {laterality!r}; expected 'L', 'R' or None")
    if (image.pixels.ndim == 3) != (settings.colour == "rgb"):
        raise InputError(f"a picture of shape {image.pixels.shape} and colour: {settings.colour}")
    rows, cols = image.pixels.shape[:2]
    region = _region(image, settings=settings, mask_hw=mask_hw)
    is_cropped = settings.crop == "breast" and region.mask_hw is not None
    box = region.box if is_cropped else (0, 0, cols, rows)
    flipped = settings.flip and (region.side or laterality) == "R"
    size_wh, frame_hw, offset = _fit(box, settings, flipped=flipped)
    resized = resize_grey(image.pixels[box[1] : box[3], box[0] : box[2]], size_wh)
    if image.pixels.ndim == 3:
        pixels, background = _colours(resized, image.max_value, bits=settings.bits), 0
    else:
        mask = _mask_in_box(region.mask_hw, box=box, frame_hw=(rows, cols), size_wh=size_wh)
        pixels = scaled_grey(resized, mask, scaling=settings.scaling, background=region.background, bits=settings.bits)
        background = _blank(pixels, mask, is_cropped=is_cropped, frame_hw=frame_hw, settings=settings)
    original = _original_box(box, image)
    return PreparedImage(
        pixels=np.ascontiguousarray(pixels[:, ::-1]) if flipped else pixels,
        frame_hw=frame_hw,
        offset=offset,
        background=background,
        box=original,
        scale=(size_wh[0] / (original[2] - original[0]), size_wh[1] / (original[3] - original[1])),
        flipped=flipped,
        is_cropped=is_cropped,
    )


def _region(image: DicomImage, *, settings: PrepareSettings, mask_hw: Bool | None) -> BreastRegion:
    """Where the breast is; a picture in colour has none."""
    if image.pixels.ndim == 3:
        rows, cols = image.pixels.shape[:2]
        return BreastRegion(box=(0, 0, cols, rows), mask_hw=None, side=None, background=0.0)
    shrink = SHRINK // image.reduced_by
    return find_breast(image.pixels, margin=settings.margin, mask_hw=mask_hw, shrink=shrink)


def _fit(
    box: Box, settings: PrepareSettings, *, flipped: bool
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Size (width, height) of the content, (height, width) of the frame, and offset (left, top) after flipping.

    Ordinal and periodic: as large as fits, in the middle; where the spare px are odd, the smaller half comes before
    the content in the original's direction. Multitask: the full height at the left edge; a box too wide for that is as
    wide as the widest frame.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    frame_h, frame_w = settings.image_hw
    if settings.scaling == "multitask":
        frame_w = math.ceil(frame_w / settings.width_multiple) * settings.width_multiple
    scale = min(frame_h / height, frame_w / width)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    top = (frame_h - size_wh[1]) // 2
    if settings.scaling == "multitask":
        return size_wh, (frame_h, math.ceil(size_wh[0] / settings.width_multiple) * settings.width_multiple), (0, top)
    left = (frame_w - size_wh[0]) // 2
    return size_wh, (frame_h, frame_w), (frame_w - size_wh[0] - left if flipped else left, top)


def _mask_in_box(mask_hw: Bool | None, *, box: Box, frame_hw: tuple[int, int], size_wh: tuple[int, int]) -> Bool:
    """The breast mask, found on a small copy of the frame, at the size of the resized box; all True without one."""
    if mask_hw is None:
        return np.ones((size_wh[1], size_wh[0]), dtype=np.bool_)
    ratio_y, ratio_x = mask_hw.shape[0] / frame_hw[0], mask_hw.shape[1] / frame_hw[1]
    centres_y = box[1] + (np.arange(size_wh[1]) + 0.5) * (box[3] - box[1]) / size_wh[1]
    centres_x = box[0] + (np.arange(size_wh[0]) + 0.5) * (box[2] - box[0]) / size_wh[0]
    rows = np.clip((centres_y * ratio_y).astype(np.intp), 0, mask_hw.shape[0] - 1)
    cols = np.clip((centres_x * ratio_x).astype(np.intp), 0, mask_hw.shape[1] - 1)
    return np.asarray(mask_hw[rows][:, cols], dtype=np.bool_)


def _blank(
    pixels: Stored, mask_hw: Bool, *, is_cropped: bool, frame_hw: tuple[int, int], settings: PrepareSettings
) -> int:
    """Blank what is not breast, in place, and return the level of the background."""
    level = 0
    if settings.scaling == "periodic":
        level = periodic_background(pixels[mask_hw], frame_pixels=frame_hw[0] * frame_hw[1], bits=settings.bits)
    if is_cropped or settings.scaling == "periodic":
        pixels[~mask_hw] = level
    return level


def _colours(pixels_hw3: U16, max_value: int, *, bits: int) -> Stored:
    """Colours at the depth that is stored: 8-bit values stay as they are in 8 bits."""
    kind = np.uint8 if bits == 8 else np.uint16
    return np.asarray(np.rint(pixels_hw3 * ((2**bits - 1) / max_value)), dtype=kind)


def _original_box(box: Box, image: DicomImage) -> Box:
    """The box in px of the file's own size, where it was decoded at a lower resolution."""
    factor = image.reduced_by
    if factor == 1:
        return box
    left, top, right, bottom = (factor * edge for edge in box)
    return left, top, min(right, image.tags.cols), min(bottom, image.tags.rows)
