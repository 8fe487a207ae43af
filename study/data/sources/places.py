"""Where the files of a data set lie: names below a root, and whole columns of places."""

import os
import posixpath
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import pandas as pd

from study.data.files import is_remote, join, list_files, local_path, shown
from study.errors import InputError

MARK: Final = "\0"  # what no path and no URI holds


def names_below(root: str | Path, *, suffixes: Iterable[str]) -> list[str]:
    """Files below the root by their path from there, with ``/``, sorted; hidden ones are left out.

    Args:
        root: a folder or a URI.
        suffixes: lower-case name endings.

    Raises:
        InputError: there is no such folder.
    """
    before, _, after = join(root, MARK).partition(MARK)
    return [place.removeprefix(before).removesuffix(after) for place in list_files(root, suffixes=suffixes)]


def places(names: pd.Series, *, root: str | Path, folder: str = ".") -> pd.Series:
    """The places of many names below a folder of the root, from one join: half a million take no time."""
    before, _, after = join(root, folder, MARK).partition(MARK)
    return before + names + after


def check_inside(found: Iterable[str], root: str | Path, *, name: str) -> None:
    """Refuse places that lead out of a source's root: by ``..``, as absolute paths or URIs, or through links.

    A table that somebody else made could name any file of this machine. Nothing of the places is repeated, for file
    names may be identities.

    Args:
        found: places of files, whether they exist or not.
        root: the source's folder or URI; it may be a link itself.
        name: of the source.

    Raises:
        InputError: with how many there are, and the row of the first.
    """
    places = list(found)
    is_inside = _below_uri(str(root)) if is_remote(root) else _Below(local_path(root))
    outside = [row for row, place in enumerate(places, start=1) if not is_inside(place)]
    if outside:
        raise InputError(
            f"source {name}: {len(outside)} of {len(places)} files lie outside of its root {shown(root)}, the first in "
            f"row {outside[0]}",
            "correct the table, set root to a folder above them, or set allow_outside: true for this source",
        )


def _below_uri(root: str) -> Callable[[str], bool]:
    base = root.partition("?")[0].rstrip("/")

    def is_inside(place: str) -> bool:
        scheme, mark, path = place.partition("?")[0].partition("://")
        return bool(mark) and f"{scheme}://{posixpath.normpath(path)}".startswith(base + "/")

    return is_inside


def _links(folder: str) -> frozenset[str]:
    """Names of the links in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        return frozenset()


class _Below:
    """Whether places lie below a folder, links followed; folders are listed once, so no file is asked for itself."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._folders: dict[str, tuple[bool, frozenset[str]]] = {}

    def __call__(self, place: str) -> bool:
        if is_remote(place):
            return False
        path = place if place.startswith("/") else str(local_path(place))
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = self._holds(os.path.realpath(folder)), _links(folder)
        is_inside, links = self._folders[folder]
        if name in ("", ".", "..") or name in links:
            return self._holds(os.path.realpath(path))
        return is_inside

    def _holds(self, real: str) -> bool:
        return os.path.commonpath([real, self._root]) == self._root
