"""Files by local path or by a URI that pyarrow opens (`s3://`, `gs://`, ...): read, list, join, date.

Sources and readers use these functions alone, so that every data set may lie anywhere.
"""

import functools
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from study.errors import InputError

URI: Final = re.compile(r"[a-z][a-z0-9+.-]+://")
LOCAL: Final = "file://"


def is_remote(place: str | Path) -> bool:
    """Whether the place is a URI of another store than this machine's file system."""
    text = str(place)
    return URI.match(text) is not None and not text.startswith(LOCAL)


def local_path(place: str | Path) -> Path:
    """The local path of a place that is not remote; ``file://`` in front is understood."""
    return Path(str(place).removeprefix(LOCAL)).absolute()


def join(root: str | Path, *parts: str) -> str:
    """A place below ``root``: an absolute local path, or a URI with the query of the root's."""
    text = str(root)
    if not is_remote(text):
        return str(local_path(text).joinpath(*parts))
    base, mark, query = text.partition("?")
    return posixpath.join(base, *parts) + mark + query


def read_bytes(place: str | Path) -> bytes:
    """The whole content.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    with open_file(place) as file:
        return file.read()


def open_file(place: str | Path) -> BinaryIO:
    """Open for reading bytes, with ``seek``.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    if not is_remote(place):
        return local_path(place).open("rb")
    system, path = _system(str(place))
    return cast("BinaryIO", system.open_input_file(path))


def file_state(place: str | Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns; -1 and 0 where there is no file."""
    if not is_remote(place):
        try:
            found = local_path(place).stat()
        except OSError:
            return -1, 0
        return found.st_size, found.st_mtime_ns
    system, path = _system(str(place))
    info = system.get_file_info(path)
    return (int(info.size), int(info.mtime_ns or 0)) if info.is_file else (-1, 0)


def is_file(place: str | Path) -> bool:
    """Whether a file lies there."""
    return file_state(place)[0] >= 0


def list_files(root: str | Path, *, suffixes: Iterable[str] = ()) -> list[str]:
    """All files below ``root`` at any depth, sorted, as ``join`` would name them; hidden ones are left out.

    Args:
        root: a local folder or a URI.
        suffixes: lower-case name endings, such as ``.dcm``; all files if empty.

    Raises:
        InputError: there is no such folder.
    """
    endings = tuple(suffixes)
    names = _remote_names(str(root)) if is_remote(root) else _local_names(local_path(root))
    wanted = (name for name in names if not endings or name.lower().endswith(endings))
    return [join(root, name) for name in sorted(wanted)]


def _local_names(root: Path) -> list[str]:
    if not root.is_dir():
        raise InputError(f"no folder at {root}", "check the root of this source")
    names = []
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = os.path.relpath(folder, root)
        names += [posixpath.normpath(posixpath.join(below, name)) for name in files if not name.startswith(".")]
    return names


def _remote_names(root: str) -> list[str]:
    from pyarrow import fs

    system, path = _system(root)
    try:
        found = system.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise InputError(f"no folder at {root.partition('?')[0]}", "check the root of this source") from error
    names = [posixpath.relpath(info.path, path) for info in found if info.is_file]
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def _system(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it; a file system is made once per process and store."""
    base, mark, query = uri.partition("?")
    scheme, _, rest = base.partition("://")
    bucket, _, path = rest.partition("/")
    system, root = _store(f"{scheme}://{bucket}{mark}{query}")
    return system, posixpath.join(root, path) if path else root


@functools.lru_cache(maxsize=16)
def _store(uri: str) -> tuple[Any, str]:
    from pyarrow import ArrowInvalid, fs

    try:
        system, root = fs.FileSystem.from_uri(uri)
    except (ArrowInvalid, OSError, ValueError) as error:
        raise InputError(f"{uri.partition('?')[0]}: no such kind of place", "use a folder, s3:// or gs://") from error
    return system, root
