"""One grey image to the square uint8 picture that networks see. Pure: the same pixels give the same picture."""

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from study.data.breast import Box, find_breast
from study.data.dicom import DicomImage
from study.errors import InputError

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]

BRIGHT_PERCENTILE: Final = 99.9
SMALLEST_IMAGE_SIZE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """How pictures are prepared.

    ``image_size`` is the side of the square result in px; ``crop`` keeps the breast alone or the whole frame;
    ``margin`` widens the breast box on each side, as a fraction of its longer side; ``flip`` puts all chest walls left.
    """

    image_size: int
    crop: Literal["breast", "none"] = "breast"
    margin: float = 0.02
    flip: bool = True

    def __post_init__(self) -> None:
        """Check the values once, at construction."""
        if self.image_size < SMALLEST_IMAGE_SIZE:
            raise InputError(f"image_size is {self.image_size}; expected {SMALLEST_IMAGE_SIZE} px or more")
        if self.crop not in ("breast", "none"):
            raise InputError(f"crop is {self.crop!r}; expected 'breast' or 'none'")
        if not 0 <= self.margin <= 0.5:
            raise InputError(f"margin is {self.margin}; expected a fraction from 0 to 0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """A prepared picture and how it was cut out of the original.

    ``pixels`` is uint8 [S, S]; ``box`` is (left, top, right, bottom) in original px, right and bottom excluded;
    ``scale`` is prepared px per original px, as (x, y): equal but for rounding to whole px; ``pad`` is (left, top) in
    prepared px; ``is_cropped`` is False where the whole frame was kept.
    """

    pixels: U8
    box: Box
    scale: tuple[float, float]
    pad: tuple[int, int]
    flipped: bool
    is_cropped: bool

    def map_point(self, x: float, y: float) -> tuple[float, float]:
        """Where an original point comes to lie; px, with whole numbers at pixel centres, origin top left."""
        mapped_x = (x + 0.5 - self.box[0]) * self.scale[0] + self.pad[0] - 0.5
        mapped_y = (y + 0.5 - self.box[1]) * self.scale[1] + self.pad[1] - 0.5
        if self.flipped:
            mapped_x = self.pixels.shape[1] - 1 - mapped_x
        return mapped_x, mapped_y


def prepare_image(
    image: DicomImage, *, laterality: Literal["L", "R"] | None = None, settings: PrepareSettings
) -> PreparedImage:
    """Crop to the breast, blacken all else, flip, scale to 8 bits, and fit into a square.

    Grey scale: the background level becomes 0 and the 99.9th percentile inside the breast (after resizing) becomes
    255, linearly. Bit depth does not enter, so 12-bit values in any container and encoding give one result, and
    vendors who use a part of their range are not dark. The aspect is kept; black padding is symmetric.

    The side is the half of the full frame with more tissue. ``laterality`` decides only where the halves are about
    equal: headers are wrong more often than that (CMMD has 16 images with the wrong side).

    Raises:
        InputError: ``laterality`` is not L, R or None.
    """
    if laterality not in ("L", "R", None):
        raise InputError(f"laterality is {laterality!r}; expected 'L', 'R' or None")
    region = find_breast(image.pixels_hw, margin=settings.margin)
    rows, cols = image.pixels_hw.shape
    is_cropped = settings.crop == "breast" and region.mask_hw is not None
    box = region.box if is_cropped else (0, 0, cols, rows)
    size_wh, scale, pad = _fit(box, settings.image_size)
    resized = _resize(image.pixels_hw[box[1] : box[3], box[0] : box[2]], size_wh)
    mask = _mask_in_box(region.mask_hw, box=box, frame_hw=(rows, cols), size_wh=size_wh)
    grey = _to_bytes(resized, mask, background=region.background)
    if is_cropped:
        grey[~mask] = 0
    canvas = np.zeros((settings.image_size, settings.image_size), dtype=np.uint8)
    canvas[pad[1] : pad[1] + size_wh[1], pad[0] : pad[0] + size_wh[0]] = grey
    side = region.side or laterality
    flipped = settings.flip and side == "R"
    pixels = np.ascontiguousarray(canvas[:, ::-1]) if flipped else canvas
    return PreparedImage(pixels=pixels, box=box, scale=scale, pad=pad, flipped=flipped, is_cropped=is_cropped)


def _fit(box: Box, image_size: int) -> tuple[tuple[int, int], tuple[float, float], tuple[int, int]]:
    """Size (width, height) of the box inside the square, true scale (x, y), and padding (left, top)."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = image_size / max(width, height)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    pad = ((image_size - size_wh[0]) // 2, (image_size - size_wh[1]) // 2)
    return size_wh, (size_wh[0] / width, size_wh[1] / height), pad


def _resize(pixels_hw: U16, size_wh: tuple[int, int]) -> U16:
    """Average over areas when shrinking (no aliasing of calcifications), interpolate linearly when growing."""
    is_smaller = size_wh[0] < pixels_hw.shape[1] or size_wh[1] < pixels_hw.shape[0]
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels_hw), size_wh, interpolation=method), dtype=np.uint16)


def _mask_in_box(
    mask_hw: npt.NDArray[np.bool_] | None, *, box: Box, frame_hw: tuple[int, int], size_wh: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """The breast mask, found on a small copy of the frame, at the size of the resized box; all True without one."""
    if mask_hw is None:
        return np.ones((size_wh[1], size_wh[0]), dtype=np.bool_)
    ratio_y, ratio_x = mask_hw.shape[0] / frame_hw[0], mask_hw.shape[1] / frame_hw[1]
    centres_y = box[1] + (np.arange(size_wh[1]) + 0.5) * (box[3] - box[1]) / size_wh[1]
    centres_x = box[0] + (np.arange(size_wh[0]) + 0.5) * (box[2] - box[0]) / size_wh[0]
    rows = np.clip((centres_y * ratio_y).astype(np.intp), 0, mask_hw.shape[0] - 1)
    cols = np.clip((centres_x * ratio_x).astype(np.intp), 0, mask_hw.shape[1] - 1)
    return np.asarray(mask_hw[np.ix_(rows, cols)], dtype=np.bool_)


def _to_bytes(pixels_hw: U16, mask_hw: npt.NDArray[np.bool_], *, background: float) -> U8:
    """Linear window from the background level to the 99.9th percentile inside the mask."""
    inside = pixels_hw[mask_hw]
    bright = float(np.percentile(inside, BRIGHT_PERCENTILE)) if inside.size else float(pixels_hw.max())
    span = max(bright - background, 1.0)
    scaled = (pixels_hw.astype(np.float32) - np.float32(background)) * np.float32(255.0 / span)
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)
