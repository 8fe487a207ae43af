"""The files of a study itself: study file, journal, log, a teacher's labels, report. Each is one object of its name."""

import contextlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from study.data.files import delete, download, file_state, file_states, join, read_bytes, stored_files, stored_folders
from study.data.files import write_bytes as write
from study.errors import StudyError
from study.remote.places import answered, is_copy, uri_of
from study.remote.snapshots import folder_lock

logger = logging.getLogger(__name__)

RECORD: Final = ".files.json"
EVERY_S: Final = 15.0
FEW: Final = 64
# What lies in a study directory and belongs to this machine: databases, and what Ray writes.
HOME_ONLY: Final = ("mlflow.db", "mlartifacts", "ledger.db", "run.out")
ENSEMBLE: Final = "-ensemble"
State = list[int]


def has_file(directory: Path, name: str) -> bool:
    """Whether the store has a file of a study; of a directory of its own, whether it is there."""
    if not is_copy(directory):
        return (directory / name).exists()
    place = join(uri_of(directory), name)
    return answered(place, file_state, place)[0] >= 0


def bring_file(directory: Path, name: str) -> None:
    """Make one local file what the store has; it is gone here when it is gone there."""
    if not is_copy(directory):
        return
    place, path = join(uri_of(directory), name), directory / name
    try:
        content = answered(place, read_bytes, place)
    except FileNotFoundError:
        path.unlink(missing_ok=True)
        return
    if not path.exists() or path.read_bytes() != content:
        _replace(path, content)


def push_file(directory: Path, name: str) -> None:
    """Bring one file to the store."""
    if is_copy(directory):
        place = join(uri_of(directory), name)
        answered(place, write, place, (directory / name).read_bytes())


def probe(directory: Path) -> None:
    """Write a small object into a directory of a copy, in the store alone, and remove it.

    Raises:
        EnvironmentFault: the store does not answer, or may not be written.
    """
    place = join(uri_of(directory), f".probe-{uuid.uuid4().hex}")
    answered(place, write, place, b"study")
    answered(place, delete, place)


def bring_study(directory: Path) -> None:
    """The study's own files, but for those that only this machine has gone on with since both were alike."""
    if not is_copy(directory):
        return
    uri = uri_of(directory)
    with folder_lock(directory):
        record = _read(directory)
        for name, stored in _stored(uri).items():
            path, known = directory / name, record.get(name)
            if path.exists() and known is not None and known[1] == list(stored):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            answered(uri, download, join(uri, name), part)
            part.replace(path)
            record[name] = (_state(path), list(stored))
        _write(directory, record)


def study_names_in(uri: str, file: str) -> list[str]:
    """Names of the folders of a store that hold ``file``, sorted."""
    names = answered(uri, stored_folders, uri)
    found = []
    for first in range(0, len(names), FEW):
        part = names[first : first + FEW]
        states = answered(uri, file_states, [join(uri, name, file) for name in part])
        found += [name for name, state in zip(part, states, strict=True) if state[0] >= 0]
    return found


class FilesMirror:
    """While open, brings what changes among the study's own files to the store, every few seconds and at the end.

    Args:
        directory: of the study.
        is_lost: whether another driver has the study now, so that this one may not write.
        tell: gets a line when files could not be brought there in the end.
        with_cursor: also how far MLflow has the journal, which says something where MLflow is a server.
    """

    def __init__(
        self, directory: Path, *, is_lost: Callable[[], bool], tell: Callable[[str], None], with_cursor: bool
    ) -> None:
        self._directory, self._is_lost, self._tell = directory, is_lost, tell
        self._without = HOME_ONLY if with_cursor else (*HOME_ONLY, "journal.cursor")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="files-mirror", daemon=True)

    def __enter__(self) -> Self:
        if is_copy(self._directory):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._thread.ident:
            return
        self._over.set()
        self._thread.join()
        try:
            self.push()
        except (StudyError, OSError) as failed:
            text = failed.message if isinstance(failed, StudyError) else type(failed).__name__
            self._tell(f"the study's own files are not all in the store: {text}; a resume here brings them there")

    def push(self) -> None:
        """Bring what has changed to the store."""
        if self._is_lost():
            return
        uri = uri_of(self._directory)
        with folder_lock(self._directory):
            record = _read(self._directory)
            for name, path in _own_files(self._directory, self._without):
                state = _state(path)
                if name in record and record[name][0] == state:
                    continue
                place = join(uri, name)
                answered(place, write, place, path.read_bytes())
                record[name] = (state, list(answered(place, file_state, place)))
                _write(self._directory, record)

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                self.push()
            except (StudyError, OSError) as error:
                logger.warning("files of the study wait for the store: %s", type(error).__name__)


def _own_files(directory: Path, without: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Files of a study that are of no run."""
    for folder, inner, names in os.walk(directory):
        below = Path(folder).relative_to(directory)
        inner[:] = [name for name in inner if _is_own(below / name, without)]
        for name in names:
            if _is_own(below / name, without):
                yield (below / name).as_posix(), Path(folder) / name


def _is_own(path: Path, without: tuple[str, ...]) -> bool:
    first = path.parts[0]
    if path.name.startswith(".") or first.startswith(without):
        return False
    return first != "runs" or len(path.parts) == 1 or path.parts[1].endswith(ENSEMBLE)


def _stored(uri: str) -> dict[str, tuple[int, int]]:
    """The study's own objects with their states; runs are not listed, their ensembles are."""
    found: dict[str, tuple[int, int]] = {}
    for folder in answered(uri, stored_folders, uri):
        if folder != "runs":
            below = answered(uri, stored_files, join(uri, folder))
            found |= {f"{folder}/{name}": state for name, state in below.items()}
    for run in answered(uri, stored_folders, join(uri, "runs")):
        if run.endswith(ENSEMBLE):
            below = answered(uri, stored_files, join(uri, "runs", run))
            found |= {f"runs/{run}/{name}": state for name, state in below.items()}
    return found | answered(uri, lambda: stored_files(uri, recursive=False))


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _state(path: Path) -> State:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _read(directory: Path) -> dict[str, tuple[State, State]]:
    with contextlib.suppress(FileNotFoundError, ValueError):
        found = json.loads((directory / RECORD).read_bytes())
        return {name: (states[0], states[1]) for name, states in found.items()}
    return {}


def _write(directory: Path, record: dict[str, tuple[State, State]]) -> None:
    _replace(directory / RECORD, json.dumps(record).encode())
