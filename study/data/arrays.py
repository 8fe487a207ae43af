"""One image out of an array file: ``<file>.npz::<member>::<index>``, as MedMNIST lays its data sets out."""

import functools
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from study.data.archives import unpacks_too_far
from study.data.files import ARRAY_MEMBER, file_state, open_file, whole_file
from study.data.pictures import Colour, Picture, picture_of
from study.errors import DicomError

DAMAGE: Final = (
    *(OSError, ValueError, EOFError, TypeError, AttributeError, NotImplementedError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


def is_array_place(path: str | Path) -> bool:
    """Whether the place names one image of an array file."""
    return ARRAY_MEMBER in str(path)


def array_picture(path: str | Path, *, colour: Colour) -> Picture:
    """One image of an array [N, rows, columns] or [N, rows, columns, 3] of uint8 or uint16.

    The array stays in this process's memory until another one is asked for, since files of one block lie in one array.

    Raises:
        DicomError: no such file, member or index, or an array of another shape or type.
    """
    inside = str(path).partition(ARRAY_MEMBER)[2].partition("?")[0].split("::")
    if len(inside) != len(("member", "index")) or not inside[1].isdecimal():
        raise DicomError("the place of an array image is not <file>.npz::<member>::<index>", "check the source's table")
    place, member, index = whole_file(str(path)), inside[0], int(inside[1])
    images = _array(place, member, file_state(place))
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)) or images.dtype not in (np.uint8, np.uint16):
        expected = "uint8 or uint16 [N, rows, columns] or [N, rows, columns, 3]"
        raise DicomError(f"the array is {images.dtype} {list(images.shape)}; expected {expected}")
    if index >= len(images):
        raise DicomError(f"the array holds {len(images)} images; there is no number {index}")
    return picture_of(images[index], colour=colour)


@functools.lru_cache(maxsize=1)
def _array(place: str, member: str, _state: tuple[int, int]) -> npt.NDArray[Any]:
    try:
        with open_file(place) as file, np.load(file, allow_pickle=False) as archive:
            if unpacks_too_far(archive.zip, f"{member}.npy"):
                raise DicomError("the array unpacks to more than pictures could be", "save it without compression")
            return np.asarray(archive[member])
    except KeyError:
        raise DicomError("the array file has no such member", "check the source's table") from None
    except DAMAGE:
        raise DicomError("the array file is missing or damaged", "fetch the file again") from None
