"""Pictures in one folder per class, with or without folders for published splits around them."""

import re
from pathlib import Path, PurePosixPath
from typing import Final

import pandas as pd

from study.data.files import join, shown
from study.data.manifest import finish_manifest
from study.data.sources.places import names_below
from study.errors import InputError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm")
NOT_READ: Final = (".gif", ".webp", ".jp2", ".dcm", ".dicom")  # pictures that a user would miss
SPLIT_WORDS: Final = ("train", "training", "val", "valid", "validation", "test", "testing")


def read_image_folder(
    root: str | Path, *, name: str = "image_folder", patient_pattern: str | None = None
) -> pd.DataFrame:
    """Read ``<class>/**.png`` or ``<split>/<class>/**.png``; the class is the folder's name.

    JPEG, TIFF, BMP, PGM and PPM are read as well. Folders are splits if all of them are words such as train, val and
    test. Hidden and other files are ignored; a picture outside a class folder is dropped.

    Args:
        root: the folder of the classes or splits, or a URI.
        name: what the column ``source`` says.
        patient_pattern: a regular expression whose one group finds the patient in the file's name. Without it every
            picture counts as a patient of its own, so pictures of one person may fall into different splits.

    Raises:
        InputError: no pictures, folders of splits beside others, or file names that the pattern does not match.
    """
    pattern = _compiled(patient_pattern) if patient_pattern is not None else None
    pictures = _list_pictures(root)
    below = [PurePosixPath(picture).parts for picture in pictures]
    depth = 1 if _has_splits([parts[0] for parts in below if len(parts) > 1], root) else 0
    # Patients of one id are one patient in all sources, but pictures of one name in two folders are not one person.
    alone = [f"{name}::{picture}" for picture in pictures]
    is_classed = [len(parts) > depth + 1 for parts in below]
    rows = pd.DataFrame(
        {
            "path": [join(root, picture) for picture in pictures],
            "image_id": pictures,
            "patient_id": _patients(pictures, pattern, root) if pattern else alone,
            "class_name": [parts[depth] if inside else None for parts, inside in zip(below, is_classed, strict=True)],
            "split_official": [parts[0] if depth and len(parts) > 1 else None for parts in below],
            "drop_reason": [_reason(picture, inside) for picture, inside in zip(pictures, is_classed, strict=True)],
        }
    )
    return finish_manifest(rows, source=name)


def _reason(picture: str, is_classed: bool) -> str:
    if not is_classed:
        return "outside a class folder"
    return "" if picture.lower().endswith(SUFFIXES) else "picture of a format that is not read"


def _compiled(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"patient_pattern {text!r} is no regular expression: {error}", "correct it") from None
    if pattern.groups != 1:
        raise InputError(
            f"patient_pattern {text!r} has {pattern.groups} groups; expected one",
            "put brackets around the patient's part of the file name, and (?:...) around others",
        )
    return pattern


def _list_pictures(root: str | Path) -> list[str]:
    """Pictures below the root, by their path from there, sorted."""
    pictures = names_below(root, suffixes=(*SUFFIXES, *NOT_READ))
    if not pictures:
        raise InputError(
            f"no pictures below {shown(join(root))}; expected <class>/*{SUFFIXES[0]} or <split>/<class>/*{SUFFIXES[0]}",
            "check the root of this source",
        )
    return pictures


def _has_splits(folders: list[str], root: str | Path) -> bool:
    """Whether the outer folders are splits; a mixture is refused."""
    names = sorted(set(folders))
    splits = [folder for folder in names if folder.lower() in SPLIT_WORDS]
    if splits and len(splits) < len(names):
        raise InputError(
            f"{shown(join(root))}: {len(splits)} folders are splits ({', '.join(splits)}) and "
            f"{len(names) - len(splits)} are not; expected either splits or classes",
            "set the root to one of them, or move the others away",
        )
    return bool(splits)


def _patients(pictures: list[str], pattern: re.Pattern[str], root: str | Path) -> list[str]:
    """The pattern's group in each file name; names that do not match are counted, not shown: they may be identities."""
    found = [pattern.search(PurePosixPath(picture).name) for picture in pictures]
    patients = [(match[1] or "") if match else "" for match in found]
    unknown = [row for row, patient in enumerate(patients, start=1) if not patient]
    if unknown:
        raise InputError(
            f"{shown(join(root))}: {len(unknown)} of {len(pictures)} file names do not match patient_pattern "
            f"{pattern.pattern!r}; the first is number {unknown[0]} of the sorted list of pictures",
            "correct the pattern, or leave it out if every picture is a patient of its own",
        )
    return patients
