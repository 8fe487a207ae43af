"""Files by local path or by a URI that pyarrow opens (`s3://`, `gs://`, `abfs://`, ...): read, write, list, date.

All that reads or writes data goes through these functions, so that every data set may lie anywhere. Credentials come
from the environment, the machine's role, or the URI itself; :func:`shown` is how a place may stand in a message.
Buckets are never made. Another S3 service is named by ``AWS_ENDPOINT_URL`` or by ``?endpoint_override=host:port``.
"""

import contextlib
import functools
import os
import posixpath
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import unquote

from study.data.google import OTHER_SCHEME, SCHEME, GoogleStore, open_google
from study.errors import InputError

URI: Final = re.compile(r"[a-z][a-z0-9+.-]+://")
LOCAL: Final = "file://"
ARRAY_MEMBER: Final = ".npz::"
FEW: Final = 64  # so many single questions cost less than listing a store
THREADS: Final = 16
CHUNK: Final = 8 * 2**20
SMALLEST_PART: Final = 5 * 2**20  # of S3; what is smaller goes in one request


def is_remote(place: str | Path) -> bool:
    """Whether the place is a URI of another store than this machine's file system."""
    text = str(place)
    return URI.match(text) is not None and not text.startswith(LOCAL)


def local_path(place: str | Path) -> Path:
    """The local path of a place that is not remote; ``file://`` URIs are understood, ``%20`` in them too."""
    text = str(place)
    return Path(unquote(text.removeprefix(LOCAL)) if text.startswith(LOCAL) else text).absolute()


def shown(place: str | Path) -> str:
    """The place as it may stand in a message: a URI without user, password and query."""
    text = str(place)
    if not is_remote(text):
        return text
    scheme, _, rest = text.partition("?")[0].partition("://")
    store, slash, path = rest.partition("/")
    # Azure names the container before the @: the one scheme whose user part is no secret.
    open_part = store if scheme.startswith("abfs") and ":" not in store else store.rpartition("@")[2]
    return f"{scheme}://{open_part}{slash}{path}"


def join(root: str | Path, *parts: str) -> str:
    """A place below ``root``: an absolute local path, or a URI with the query of the root's."""
    text = str(root)
    if not is_remote(text):
        return str(local_path(text).joinpath(*parts))
    base, mark, query = text.partition("?")
    return posixpath.join(base, *parts) + mark + query


def whole_file(place: str) -> str:
    """The file that holds a place: ``a.npz?q`` for ``a.npz::images::3?q``, the place itself otherwise."""
    name, mark, rest = place.partition(ARRAY_MEMBER)
    _, question, query = rest.partition("?")
    return name + ARRAY_MEMBER.removesuffix("::") + question + query if mark else place


def why(error: OSError) -> str:
    """The cause of a failed access in a few words that hold neither a name nor a credential."""
    if error.errno:
        return os.strerror(error.errno)
    found = re.search(r"(?:AWS|Google) Error ([A-Z_]+)", str(error))
    return found[1].lower().replace("_", " ") if found else type(error).__name__


def read_bytes(place: str | Path) -> bytes:
    """The whole content.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    if (store := _google(place)) is not None:
        return b"".join(store[0].parts(store[1]))
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


def write_bytes(place: str | Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all; the folders above a local one are made.

    Raises:
        OSError: it cannot be written.
    """
    if is_remote(place):
        _put(str(place), content)
        return
    path = local_path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _put(uri: str, content: bytes | memoryview) -> None:
    """One object in one go; if that fails the former one stays. pyarrow may publish parts of a stream that fails."""
    if (store := _google(uri)) is not None:
        store[0].put(store[1], content)
        return
    system, path = _system(uri)
    leaves_a_part = len(content) > SMALLEST_PART and not is_file(uri)
    stream = system.open_output_stream(path)
    try:
        stream.write(content)
        stream.close()
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            stream.close()
        if leaves_a_part:
            with contextlib.suppress(OSError):
                delete(uri)
        raise


def download(place: str | Path, path: Path) -> None:
    """Copy a file to a local path; the path may hold a part of it if this fails.

    Raises:
        OSError: the one cannot be read, or the other not written.
    """
    if (store := _google(place)) is not None:
        with path.open("wb") as target:
            target.writelines(store[0].parts(store[1]))
        return
    with open_file(place) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, CHUNK)


def copy(source: str | Path, target: str | Path) -> None:
    """Copy a file: by the store itself within one store, through this machine's memory otherwise.

    Raises:
        OSError: the one cannot be read, or the other not written.
    """
    if is_remote(source) and is_remote(target):
        system, path = _system(str(source))
        other, goal = _system(str(target))
        if system.equals(other):
            system.copy_file(path, goal)
            return
    write_bytes(target, read_bytes(source))


def delete(place: str | Path) -> None:
    """Delete a file; one that is not there is no fault.

    Raises:
        OSError: it cannot be deleted.
    """
    with contextlib.suppress(FileNotFoundError):
        if is_remote(place):
            system, path = _system(str(place))
            system.delete_file(path)
        else:
            local_path(place).unlink()


def delete_all(places: Iterable[str]) -> None:
    """Delete many files, several at a time.

    Raises:
        OSError: one cannot be deleted.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(delete, places))


def file_state(place: str | Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns; -1 and 0 where there is no file."""
    if not is_remote(place):
        try:
            found = local_path(place).stat()
        except OSError:
            return -1, 0
        return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, 0)
    system, path = _system(str(place))
    return _state(system.get_file_info(path))


def file_states(places: Sequence[str]) -> list[tuple[int, int]]:
    """:func:`file_state` of many places; those of one remote store by listing it once, 1,000 names a request."""
    known: dict[str, tuple[int, int]] = {}
    stores: dict[str, list[str]] = {}
    for place in dict.fromkeys(places):
        if is_remote(place):
            base, _, query = place.partition("?")
            stores.setdefault("/".join(base.split("/")[:3]) + "?" + query, []).append(place)
        else:
            known[place] = file_state(place)
    for members in stores.values():
        known.update(_remote_states(members))
    return [known[place] for place in places]


def _remote_states(places: list[str]) -> dict[str, tuple[int, int]]:
    if len(places) <= FEW:
        with ThreadPoolExecutor(THREADS) as pool:
            return dict(zip(places, pool.map(file_state, places), strict=True))
    from pyarrow import fs

    system = _system(places[0])[0]
    paths = [_system(place)[1] for place in places]
    above = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    listed = {
        info.path: _state(info)
        for info in system.get_file_info(fs.FileSelector(above, recursive=True, allow_not_found=True))
    }
    return {place: listed.get(path, (-1, 0)) for place, path in zip(places, paths, strict=True)}


def _state(info: Any) -> tuple[int, int]:
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


def stored_files(root: str, *, recursive: bool = True) -> dict[str, tuple[int, int]]:
    """The files below a URI by their path in it, with :func:`file_state`; none where nothing lies yet.

    Raises:
        OSError: the store does not answer.
    """
    from pyarrow import fs

    system, path = _system(root)
    found = system.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
    # Two dots are letters to a store, and would lead out of a folder here.
    inside = (info for info in found if info.is_file and ".." not in info.path.split("/"))
    return {posixpath.relpath(info.path, path): _state(info) for info in inside}


def stored_folders(root: str) -> list[str]:
    """Names of the folders right below a URI, sorted; none where nothing lies yet.

    Raises:
        OSError: the store does not answer.
    """
    from pyarrow import fs

    if (store := _google(root)) is not None:
        return store[0].folders(store[1])
    system, path = _system(root)
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if not info.is_file)


def _local_names(root: Path) -> list[str]:
    if not root.is_dir():
        raise InputError(f"no folder at {root}", "check the root of this source")
    names: list[str] = []
    above: dict[str, frozenset[str]] = {}
    for folder, inner, files in os.walk(root, followlinks=True):
        trail, real = above.get(str(Path(folder).parent), frozenset()), os.path.realpath(folder)
        if real in trail:  # a link that leads in a circle would never end
            inner.clear()
            continue
        above[folder] = trail | {real}
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
        raise InputError(f"no folder at {shown(root)} ({why(error)})", "check the root of this source") from None
    names = (posixpath.relpath(info.path, path) for info in found if info.is_file)
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def _system(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it; a file system is made once per process and store."""
    base, mark, query = uri.partition("?")
    scheme, _, rest = base.partition("://")
    bucket, _, path = rest.partition("/")
    system, root = _store(f"{scheme}://{bucket}{mark}{query}")
    return system, posixpath.join(root, path) if path else root


def _google(place: str | Path) -> tuple[GoogleStore, str] | None:
    """Google's store and the path in it, for what is done in another way there; nothing for all other places."""
    return _system(str(place)) if str(place).startswith(SCHEME) else None


@functools.lru_cache(maxsize=16)
def _store(uri: str) -> tuple[Any, str]:
    from pyarrow import ArrowException, fs

    try:
        return open_google(uri) if uri.startswith((SCHEME, OTHER_SCHEME)) else fs.FileSystem.from_uri(uri)
    except (ArrowException, OSError, ValueError) as error:
        # pyarrow repeats the whole URI, credentials too, so neither its text nor the error itself is passed on
        kind = why(error) if isinstance(error, OSError) else type(error).__name__
        raise InputError(
            f"{shown(uri)} cannot be opened ({kind})", "use a folder, or a URI such as s3://bucket/folder"
        ) from None
