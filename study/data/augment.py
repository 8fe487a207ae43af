"""Augmentation as a pure function of (image, seed, draw), and contact sheets of it.

Two modes with the same probabilities and ranges. ``fast`` moves a picture once, by one composed warp, and changes its
levels by one table; ``compatible`` is albumentations' own output, step by step. Images stay integers with the channels
they have (float32 with three channels costs five times as much as uint8 with one), OpenCV runs with one thread, and
:func:`tune_malloc` spares the allocator a system call for every temporary image.
"""

import ctypes
import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.augment_levels import relevelled
from study.data.augment_policies import POLICIES, Kind, library
from study.data.augment_recipe import draw_recipe, mixed_key
from study.data.augment_spec import SPECS
from study.data.augment_transforms import Pixels
from study.data.augment_warp import warped
from study.errors import InputError

__all__ = ["MODES", "POLICIES", "Augment", "contact_sheet", "make_augment", "tune_malloc"]

MODES: Final = ("fast", "compatible")
SHEET_CELL: Final = 160  # px, the longer side of one picture on a contact sheet
SHEET_DRAWS: Final = 7
SHEET_GAP: Final = 4
_MALLOC_THRESHOLD: Final = 1 << 30
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


class Augment:
    """One policy for images of one shape; not thread-safe (one per thread), cheap to pickle.

    Attributes:
        policy: its name in ``POLICIES``.
        shape: of the images, (H, W) or (H, W, 3).
        dtype: of the images, uint8 or uint16.
        mode: one of ``MODES``.
    """

    def __init__(self, policy: str, *, shape: tuple[int, ...], bits: int = 8, mode: str = "fast") -> None:
        self.policy = policy
        self.shape = shape
        self.bits = bits
        self.mode = mode
        self.dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
        if mode == "fast":
            cv2.setNumThreads(0)  # one reader per core is faster than many threads per reader

    def __reduce__(self) -> tuple[Callable[..., "Augment"], tuple[str, dict[str, Any]]]:
        return _rebuild, (self.policy, {"shape": self.shape, "bits": self.bits, "mode": self.mode})

    @functools.cached_property
    def pipeline(self) -> Any:
        """The albumentations pipeline of mode ``compatible``; ``None`` for a policy without transforms."""
        transforms = POLICIES[self.policy](Kind(image_hw=(self.shape[0], self.shape[1]), bits=self.bits))
        return library().Compose(transforms, seed=0) if transforms else None

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
        self._check(image, self.shape)
        if self.policy == "none":
            return image
        out = np.empty(self.shape, self.dtype)
        self._augment(image, out, seed=seed, draw=draw)
        return out

    def block(
        self, images_nhw: Pixels, *, seed: int, draws_n: Sequence[int] | NDArray[Any], out: Pixels | None = None
    ) -> Pixels:
        """Augment many images: the same bytes as one call for each.

        Args:
            images_nhw: [N, H, W] or [N, H, W, 3]; they are not changed.
            seed: seed of the run, >= 0.
            draws_n: number of the draw of each image, >= 0.
            out: memory for the result, of the images' shape and type and C order; must not overlap them.

        Returns:
            ``out``, or new memory without one; for a policy without transforms and without ``out`` the images
            themselves.

        Raises:
            InputError: images or ``out`` have another shape or type, or there are not as many draws as images.
        """
        self._check(images_nhw, (len(images_nhw), *self.shape))
        if len(draws_n) != len(images_nhw):
            raise InputError(f"{len(draws_n)} draws for {len(images_nhw)} images; expected one for each")
        if out is not None:
            self._check(out, images_nhw.shape)
            if not out.flags.c_contiguous or np.may_share_memory(out, images_nhw):
                raise InputError("memory of the result is not in C order, or that of the images; expected its own")
        if self.policy == "none" and out is None:
            return images_nhw
        made = np.empty(images_nhw.shape, self.dtype) if out is None else out
        if self.policy == "none":
            np.copyto(made, images_nhw)
            return made
        for image, target, draw in zip(images_nhw, made, draws_n, strict=True):
            self._augment(image, target, seed=seed, draw=int(draw))
        return made

    def _check(self, images: Pixels, shape: tuple[int, ...]) -> None:
        if images.shape != shape or images.dtype != self.dtype:
            raise InputError(f"image of shape {images.shape}, {images.dtype}; expected {self.dtype} {list(shape)}")

    def _augment(self, image: Pixels, out: Pixels, *, seed: int, draw: int) -> None:
        if self.mode == "fast":
            hw = (self.shape[0], self.shape[1])
            recipe = draw_recipe(SPECS[self.policy], image_hw=hw, seed=seed, draw=draw)
            warped(image, recipe, out)
            relevelled(out, recipe)
            return
        # One generator for all transforms: seeding the pipeline by number would give each its own copy of one stream,
        # and an image with one transform would get every other that is at least as likely.
        key = mixed_key(seed, draw)
        self.pipeline.set_random_state(np.random.Generator(np.random.Philox(key=key)), random.Random(key))
        np.copyto(out, self.pipeline(image=image)["image"])


def make_augment(
    policy: str, *, image_hw: tuple[int, int], channels: int = 1, bits: int = 8, mode: str = "fast"
) -> Augment:
    """Make the augmentation of a policy for images of height and width ``image_hw``, in px.

    Raises:
        InputError: unknown policy or mode, a size below 1, or other than 1 or 3 channels of 8 or 16 bits.
    """
    if policy not in POLICIES:
        raise InputError(f"augment.policy is {policy!r}; expected one of {', '.join(POLICIES)}", "edit augment.policy")
    if mode not in MODES:
        raise InputError(f"augment.mode is {mode!r}; expected one of {', '.join(MODES)}", "edit augment.mode")
    if min(image_hw) < 1:
        raise InputError(f"image size is {image_hw} pixels; expected at least 1 by 1", "edit data.image_size")
    if channels not in (1, 3) or bits not in (8, 16):
        raise InputError(f"images of {channels} channels and {bits} bits; expected 1 or 3 channels of 8 or 16 bits")
    return Augment(policy, shape=tuple(image_hw) if channels == 1 else (*image_hw, channels), bits=bits, mode=mode)


def contact_sheet(policy: str, images: Sequence[Pixels], seed: int, *, mode: str = "fast") -> NDArray[np.uint8]:
    """Pictures beside what a policy makes of them: a row per image, first as it is, then draws 0, 1, 2 and so on.

    Args:
        policy: its name in ``POLICIES``.
        images: uint8 or uint16 [H, W] or [H, W, 3]; sizes may differ, channels not.
        seed: as for :class:`Augment`.
        mode: one of ``MODES``.

    Returns:
        uint8 [h, w] or [h, w, 3], on a grey ground.

    Raises:
        InputError: no images, or an unknown policy or mode.
    """
    if not images:
        raise InputError("a contact sheet of no images", "name at least one image")
    rows = []
    for image in images:
        bits, channels = 8 * image.dtype.itemsize, image.shape[2] if image.ndim == 3 else 1
        augment = make_augment(policy, image_hw=image.shape[:2], channels=channels, bits=bits, mode=mode)
        rows.append([image, *(augment(image, seed=seed, draw=draw) for draw in range(SHEET_DRAWS))])
    step = SHEET_CELL + SHEET_GAP
    size = (len(rows) * step + SHEET_GAP, (1 + SHEET_DRAWS) * step + SHEET_GAP, *images[0].shape[2:])
    sheet = np.full(size, 128, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            cell = _cell(picture)
            top, left = SHEET_GAP + i * step, SHEET_GAP + j * step
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def _cell(picture: Pixels) -> NDArray[np.uint8]:
    """A picture in 8 bits at the size of a cell."""
    scale = SHEET_CELL / max(picture.shape[:2])
    size_wh = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    small: Any = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA)
    return np.asarray(small if small.dtype == np.uint8 else small >> 8, dtype=np.uint8)


def _rebuild(policy: str, options: dict[str, Any]) -> Augment:
    return Augment(policy, **options)


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
