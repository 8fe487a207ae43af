"""Augmentation policies: 8-bit one-channel images in and out, a pure function of (image, seed, draw).

Images stay uint8 with one channel (float32 with three channels costs five times as much), OpenCV runs with one thread,
and :func:`tune_malloc` spares the allocator a system call for every temporary image.
"""

import ctypes
import functools
import os
import random
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from study.errors import InputError

Pixels = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16

PIXEL_DROPOUT_RATE: Final = 0.01  # the paper gives none; the library's default
_MALLOC_THRESHOLD: Final = 1 << 30
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def _library() -> Any:
    """Import albumentations without its look-up of newer versions on the network."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations
    import cv2

    cv2.setNumThreads(0)  # one reader per core is faster than many threads per reader
    return albumentations


def _none() -> list[Any]:
    return []


def _mammogram() -> list[Any]:
    """Geometry, then exposure, then occlusion, with the probabilities and ranges of paper ordinal, section 2.2.

    Not in the paper and taken from the library: probability 0.5 of rotation by 90 degrees and of both flips, the limit
    0.3 and 5 steps of the grid distortion, 1 % dropped pixels, lightness of the sharpened image, and that a single clip
    limit means the range from 1. One scale for both axes, since the paper says that the breast is never stretched.
    """
    library = _library()
    border = {"border_mode": 0, "fill": 0}  # cv2.BORDER_CONSTANT: zero padding
    return [
        library.RandomRotate90(p=0.5),
        library.HorizontalFlip(p=0.5),
        library.VerticalFlip(p=0.5),
        library.Affine(
            translate_percent=(-0.0625, 0.0625), scale=(0.9, 1.1), keep_ratio=True, rotate=(-45, 45), p=0.35, **border
        ),
        library.OpticalDistortion(distort_limit=(-0.3, 0.3), p=0.5, **border),
        library.GridDistortion(num_steps=5, distort_limit=(-0.3, 0.3), p=0.2, **border),
        library.CLAHE(clip_limit=1.5, p=0.35),
        library.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.5),
        library.RandomGamma(gamma_limit=(80, 120), p=0.5),  # percent: gamma from 0.8 to 1.2
        library.Sharpen(alpha=(0.02, 0.2), p=0.35),
        _pixel_dropout(library)(p=0.3),
        library.GridDropout(ratio=0.35, p=0.1),
    ]


@functools.lru_cache(maxsize=1)
def _pixel_dropout(library: Any) -> Any:
    """Class of a pixel dropout that draws positions, not one number per pixel: same distribution, far fewer numbers."""

    class SparsePixelDropout(library.ImageOnlyTransform):  # type: ignore[misc]  # untyped base
        """Set each pixel to 0 with probability ``PIXEL_DROPOUT_RATE``, independently."""

        def apply(self, img: Pixels, **_params: Any) -> Pixels:
            count = self.random_generator.binomial(img.size, PIXEL_DROPOUT_RATE)
            out = img.copy()
            out.reshape(-1)[self.random_generator.choice(img.size, count, replace=False, shuffle=False)] = 0
            return out

    return SparsePixelDropout


POLICIES: Final[dict[str, Callable[[], list[Any]]]] = {"none": _none, "mammogram": _mammogram}


class Augment:
    """One policy for images of one shape; not thread-safe (one per thread), cheap to pickle.

    Attributes:
        policy: its name in ``POLICIES``.
        shape: of the images, (H, W) or (H, W, 3).
        dtype: of the images, uint8 or uint16.
    """

    def __init__(self, policy: str, *, shape: tuple[int, ...], bits: int = 8) -> None:
        self.policy = policy
        self.shape = shape
        self.bits = bits
        self.dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)

    def __reduce__(self) -> tuple[Callable[..., "Augment"], tuple[str, tuple[int, ...], int]]:
        return _rebuild, (self.policy, self.shape, self.bits)

    @functools.cached_property
    def pipeline(self) -> Any:
        """The albumentations pipeline; ``None`` for a policy without transforms."""
        transforms = POLICIES[self.policy]()
        return _library().Compose(transforms, seed=0) if transforms else None

    def __call__(self, image: Pixels, *, seed: int, draw: int) -> Pixels:
        """Augment one image.

        Args:
            image: of the shape and type that the policy was made for; it is not changed.
            seed: seed of the run, >= 0.
            draw: number of the draw in the run (step times batch size plus place), >= 0.

        Returns:
            An image of the same shape and type, the same bytes for the same arguments in any process and any order of
            calls; ``image`` itself for a policy without transforms.

        Raises:
            InputError: the image has another shape or type.
        """
        if image.shape != self.shape or image.dtype != self.dtype:
            expected = f"{self.dtype} {list(self.shape)}"
            raise InputError(f"image of shape {image.shape}, {image.dtype}; expected {expected}")
        if self.pipeline is None:
            return image
        # One generator for all transforms: seeding the pipeline by number would give each its own copy of one stream,
        # and an image with one transform would get every other that is at least as likely.
        key = mixed_key(seed, draw)
        self.pipeline.set_random_state(np.random.Generator(np.random.Philox(key=key)), random.Random(key))
        return np.ascontiguousarray(self.pipeline(image=image)["image"])


def make_augment(policy: str, *, image_hw: tuple[int, int], channels: int = 1, bits: int = 8) -> Augment:
    """Make the augmentation of a policy for images of height and width ``image_hw``, in px.

    Raises:
        InputError: unknown policy, a size below 1, or other than 1 or 3 channels of 8 or 16 bits.
    """
    if policy not in POLICIES:
        raise InputError(f"augment.policy is {policy!r}; expected one of {', '.join(POLICIES)}", "edit augment.policy")
    if min(image_hw) < 1:
        raise InputError(f"image size is {image_hw} pixels; expected at least 1 by 1", "edit data.image_size")
    if channels not in (1, 3) or bits not in (8, 16):
        raise InputError(f"images of {channels} channels and {bits} bits; expected 1 or 3 channels of 8 or 16 bits")
    return Augment(policy, shape=tuple(image_hw) if channels == 1 else (*image_hw, channels), bits=bits)


def mixed_key(seed: int, draw: int) -> int:
    """A 64-bit key in which every bit depends on every bit of seed and draw (splitmix64, applied twice)."""
    return _splitmix(_splitmix(seed) ^ draw)


def _splitmix(value: int) -> int:
    mask = (1 << 64) - 1
    mixed = (value + 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return mixed ^ (mixed >> 31)


def _rebuild(policy: str, shape: tuple[int, ...], bits: int) -> Augment:
    return Augment(policy, shape=shape, bits=bits)


def tune_malloc() -> bool:
    """Let this process keep freed image-sized memory instead of returning it to the system after every image.

    glibc maps and unmaps allocations above 128 KiB each time, which costs the augmentation a third of its speed; both
    thresholds go to 1 GiB. Returns whether that was possible (glibc only).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MALLOC_THRESHOLD)) and bool(mallopt(_M_TRIM_THRESHOLD, _MALLOC_THRESHOLD))
