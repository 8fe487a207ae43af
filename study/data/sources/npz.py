"""One array file in the layout of MedMNIST: images and labels of each split under names such as ``train_images``."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.lib import format as npy

from study.data.archives import unpacks_too_far
from study.data.files import is_file, join, open_file, shown
from study.data.manifest import finish_manifest
from study.errors import InputError

IMAGES: Final = "_images"
LABELS: Final = "_labels"
MEMBER: Final = ".npy"
COLOURS: Final = 3
# All that the readers of archives and arrays were seen to raise on damaged files.
DAMAGE: Final = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError)
# Bits that the values use; 16-bit arrays often hold 12-bit values, so theirs are unknown until the images are read.
DEPTHS: Final[Mapping[np.dtype[Any], int | None]] = {np.dtype(np.uint8): 8, np.dtype(np.uint16): None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split of the file: shape of its images, [N, H, W] or [N, H, W, 3], their depth, and a class per image."""

    name: str
    shape: tuple[int, ...]
    bits: int | None
    labels_n: npt.NDArray[np.int64]


def read_npz(root: str | Path, *, name: str = "npz") -> pd.DataFrame:
    """Read labels and shapes of an array file; the images stay where they are, each addressed by member and index.

    Images are uint8 or uint16 [N, H, W] or [N, H, W, 3], labels whole numbers [N] or [N, 1]. The class is the number as
    text, the published split the part of the name before ``_images``. The file knows no patients: each image is one.

    Args:
        root: the file ``*.npz``, or its URI.
        name: what the column ``source`` says.

    Raises:
        InputError: no such file, a member that is missing, or one of another type or shape.
    """
    place = join(root)
    table = shown(place)
    if not is_file(place):
        raise InputError(f"no array file at {table}", "set the root of this source to a file that ends in .npz")
    try:
        with open_file(place) as file, zipfile.ZipFile(file) as archive:
            splits = _read_splits(archive, table)
    except DAMAGE:
        raise InputError(f"{table} is not a whole array file", "fetch it again") from None
    images = pd.concat([_rows(split, place) for split in splits], ignore_index=True)
    # Patients of one id are one patient in all sources, but image 0 of two array files is not one person.
    return finish_manifest(images.assign(patient_id=f"{name}::" + images["image_id"]), source=name)


def _read_splits(archive: zipfile.ZipFile, table: str) -> list[Split]:
    members = [member.removesuffix(MEMBER) for member in archive.namelist() if member.endswith(MEMBER)]
    names = [member.removesuffix(IMAGES) for member in members if member.endswith(IMAGES)]
    if not names:
        found = ", ".join(members[:6]) or "no arrays"
        raise InputError(
            f"{table} holds {found}; expected train_images, train_labels and so on",
            "name the arrays as MedMNIST does",
        )
    missing = [f"{name}{LABELS}" for name in names if f"{name}{LABELS}" not in members]
    if missing:
        raise InputError(f"{table}: {', '.join(missing)} is missing", "give the labels of every split")
    return [_read_split(archive, name, table) for name in names]


def _read_split(archive: zipfile.ZipFile, name: str, table: str) -> Split:
    shape, kind = _shape(archive, f"{name}{IMAGES}{MEMBER}", table)
    is_picture = len(shape) == 3 or (len(shape) == 4 and shape[3] == COLOURS)
    if kind not in DEPTHS or not is_picture:
        raise InputError(
            f"{table}: {name}{IMAGES} is {kind} {list(shape)}; "
            f"expected uint8 or uint16 [N, H, W] or [N, H, W, {COLOURS}]",
            "give two-dimensional pictures",
        )
    labels_n = _labels(archive, name, table)
    if len(labels_n) != shape[0]:
        raise InputError(
            f"{table}: {name} has {shape[0]} images and {len(labels_n)} labels; expected as many",
            "give each image one label",
        )
    return Split(name=name, shape=shape, bits=DEPTHS[kind], labels_n=labels_n)


def _shape(archive: zipfile.ZipFile, member: str, table: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type from the array's header; its content is not read."""
    with archive.open(member) as file:
        try:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, kind = read(file)
        except ValueError:
            raise InputError(f"{table}: {member} is not an array", "fetch the file again") from None
    return tuple(shape), kind


def _labels(archive: zipfile.ZipFile, name: str, table: str) -> npt.NDArray[np.int64]:
    member = f"{name}{LABELS}"
    shape, kind = _shape(archive, f"{member}{MEMBER}", table)
    if unpacks_too_far(archive, f"{member}{MEMBER}"):
        raise InputError(f"{table}: {member} unpacks to more than labels could be", "fetch the file again")
    if len(shape) == 2 and shape[1] > 1:
        raise InputError(
            f"{table}: {member} is {list(shape)}: {shape[1]} labels for each image; expected one",
            "use a data set with one class per image",
        )
    if kind.kind not in "iu" or not (len(shape) == 1 or shape[1:] == (1,)):
        raise InputError(
            f"{table}: {member} is {kind} {list(shape)}; expected whole numbers [N] or [N, 1]",
            "store each image's class as its number",
        )
    with archive.open(f"{member}{MEMBER}") as file:
        return _content(file).astype(np.int64).reshape(-1)


def _content(file: IO[bytes]) -> npt.NDArray[np.integer]:
    array: npt.NDArray[np.integer] = npy.read_array(file, allow_pickle=False)
    return array


def _rows(split: Split, place: str) -> pd.DataFrame:
    """A row per image; a URI keeps its query at the end."""
    base, mark, query = place.partition("?") if "://" in place else (place, "", "")
    number, height, width, *_ = split.shape
    indices = pd.Series(np.arange(number)).astype("str")
    ids = f"{split.name}{IMAGES}::" + indices
    return pd.DataFrame(
        {
            "path": f"{base}::" + ids + f"{mark}{query}",
            "image_id": ids,
            "class_name": pd.Series(split.labels_n).astype("str"),
            "split_official": split.name,
            "rows": height,
            "cols": width,
            "bits_stored": split.bits,
        }
    )
