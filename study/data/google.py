"""Google Cloud Storage through pyarrow, made to behave as the other stores do.

- What goes wrong is an :class:`OSError` in a few words: pyarrow raises errors of other kinds, with the names of files
  and objects in them, and calls a bucket that does not exist a file that does not.
- A request is tried again for seconds, not for the 15 minutes that are the default of Google's library; a store that
  does not answer at all is noticed by the first request. Google's library would wait 120 s for each.
- Folders are what names have in common: pyarrow lists only those for which somebody wrote an empty object.
- A file can be asked for its end, as readers of archives do; pyarrow would ask the store for bytes that are not there.
- What is read as a whole is read without Python's lock, which pyarrow keeps while it opens a file that can seek.
"""

import contextlib
import errno
import io
import os
import re
import threading
from collections.abc import Iterator
from typing import Any, Final, cast

from study.errors import EnvironmentFault, InputError

SCHEME: Final = "gs://"
OTHER_SCHEME: Final = "gcs://"  # the same to pyarrow; `study.data.files` would take it for a store of another kind
RETRY_S: Final = 6  # three tries with pauses of 1 to 2 and of 2 to 4 s; one more pause passes before the error is told
FIRST_ANSWER_S: Final = 30.0
BUFFER: Final = 64 * 2**10
PART: Final = 8 * 2**20
CREDENTIALS: Final = "access token"
NO_BUCKET: Final = "bucket does not exist"
NO_SUCH_BUCKET: Final = "NO_SUCH_BUCKET"
NO_CREDENTIALS: Final = "NO_CREDENTIALS"
KEYS: Final = (
    "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run gcloud auth application-default login; a machine of "
    "Google's needs a service account; a public bucket is asked with anonymous@ before its name"
)


def open_google(uri: str) -> tuple["GoogleStore", str]:
    """The store of a URI, whose first request has been answered in one way or another, and the path in it.

    Raises:
        ValueError, OSError: pyarrow cannot open the URI.
        InputError: the scheme is the other one.
        EnvironmentFault: the store, or the service that gives credentials, does not answer, or there are none.
    """
    from pyarrow import fs

    base, _, query = uri.partition("?")
    if base.startswith(OTHER_SCHEME):
        raise InputError(f"{OTHER_SCHEME}: Google's store is named by {SCHEME}", f"write {SCHEME}BUCKET/FOLDER")
    if "retry_limit_seconds=" not in query:
        query = f"{query}&retry_limit_seconds={RETRY_S}".lstrip("&")
    system, path = fs.FileSystem.from_uri(f"{base}?{query}")
    store, errors = GoogleStore(system), list[str]()
    asking = threading.Thread(target=_ask, args=(store, path, errors), name="first-request", daemon=True)
    asking.start()
    asking.join(FIRST_ANSWER_S)
    if asking.is_alive():
        raise EnvironmentFault(
            f"{SCHEME}{path}: no answer within {FIRST_ANSWER_S:g} s", f"check the network, and {KEYS}"
        )
    if any(NO_CREDENTIALS in error for error in errors):
        raise EnvironmentFault(f"{SCHEME}{path}: no credentials, or none that can be used", KEYS)
    return store, path


def _ask(store: "GoogleStore", path: str, errors: list[str]) -> None:
    """Any request, to learn whether it is answered."""
    try:
        store.get_file_info(f"{path}/.study")
    except OSError as error:
        errors.append(str(error))


class GoogleStore:
    """What `files` asks of a file system of pyarrow.

    Args:
        system: the ``GcsFileSystem``.
    """

    def __init__(self, system: Any) -> None:
        self.system = system

    def equals(self, other: Any) -> bool:
        """Whether it is the same store, asked in the same way."""
        return isinstance(other, GoogleStore) and bool(self.system.equals(other.system))

    def get_file_info(self, places: Any) -> Any:
        """As pyarrow's."""
        with told():
            return self.system.get_file_info(places)

    def folders(self, path: str) -> list[str]:
        """Names of the folders right below a path, sorted. All that lies below is listed for it."""
        from pyarrow import fs

        found = self.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        below = ((info, *info.path[len(path) + 1 :].partition("/")) for info in found)
        return sorted({name for info, name, slash, _ in below if slash or not info.is_file})

    def open_input_file(self, path: str) -> io.BufferedReader:
        """A file to read, with ``seek``."""
        with told():
            return io.BufferedReader(_Reader(self.system.open_input_file(path)), BUFFER)

    def parts(self, path: str) -> Iterator[bytes]:
        """The content in pieces: one request, where a file with ``seek`` takes three, one under Python's lock."""
        with told():
            stream = self.system.open_input_stream(path)
        try:
            while True:
                with told():
                    part = cast("bytes", stream.read(PART))
                if not part:
                    return
                yield part
        finally:
            with told():
                stream.close()

    def put(self, path: str, content: bytes | memoryview) -> None:
        """One object in one go: it appears when all of it has arrived, and if that fails the former one stays."""
        try:
            with told():
                stream = self.system.open_output_stream(path)
                try:
                    stream.write(content)
                except BaseException:
                    with contextlib.suppress(Exception):  # the first error is the one to tell
                        stream.close()
                    raise
                stream.close()
        except FileNotFoundError:  # nothing but the bucket can be missing
            raise OSError(f"Google Error {NO_SUCH_BUCKET}") from None

    def copy_file(self, path: str, goal: str) -> None:
        """As pyarrow's."""
        with told():
            self.system.copy_file(path, goal)

    def delete_file(self, path: str) -> None:
        """As pyarrow's."""
        with told():
            self.system.delete_file(path)


class _Reader(io.RawIOBase):
    """A stream of pyarrow that is moved when bytes are wanted, and never beyond its end."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._size = int(stream.size())
        self._wanted = self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._wanted, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._wanted = start + offset
        return self._wanted

    def tell(self) -> int:
        return self._wanted

    def readinto(self, buffer: Any) -> int:
        content = self._next(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        parts = []
        while part := self._next(max(0, self._size - self._wanted)):
            parts.append(part)
        return b"".join(parts)

    def _next(self, count: int) -> bytes:
        if self._wanted >= self._size or not count:
            return b""
        with told():
            if self._wanted != self._at:
                self._stream.seek(self._wanted)
            content = cast("bytes", self._stream.read(count))
        self._wanted = self._at = self._wanted + len(content)
        if not content:
            raise OSError("Google Error CUT_SHORT")
        return content

    def close(self) -> None:
        if not self.closed:
            with told():
                self._stream.close()
        super().close()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors of pyarrow as :class:`OSError` whose text holds no name."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise _translated(error) from None


def _translated(error: Exception) -> OSError:
    text = str(error)
    if CREDENTIALS in text:
        return OSError(f"Google Error {NO_CREDENTIALS}")
    if NO_BUCKET in text:
        return OSError(f"Google Error {NO_SUCH_BUCKET}")
    if isinstance(error, FileNotFoundError) or text.startswith("No such file"):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    status = re.search(r"google::cloud::Status\(([A-Z_]+)", text)
    return OSError(f"Google Error {status[1] if status else type(error).__name__.upper()}")
