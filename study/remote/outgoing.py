"""What a run writes goes to the store in the background, while it trains; nothing counts before it has arrived.

A checkpoint that is saved is linked aside and waits for its upload. When the next one comes sooner than the upload of
the last ends, it takes the place of one that still waits, so that training never waits for the network and uploads
never pile up. `settle` waits, before anybody is told that a run has ended.
"""

import contextlib
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from study.data.files import THREADS, delete_all, join, shown, stored_files, stored_folders
from study.errors import EnvironmentFault, StudyError
from study.remote.files import ENSEMBLE, bring_file
from study.remote.places import answered, is_copy, uri_of
from study.remote.snapshots import (
    Hashes,
    Head,
    StaleAttempt,
    drop_older,
    drop_unreferenced,
    local_files,
    newest_attempt,
    note_pushed,
    pull,
    upload,
    write_head,
)

logger = logging.getLogger(__name__)

ASIDE: Final = ".outgoing"
SETTLE_S: Final = 900.0  # a checkpoint of 10 GB at 11 MB/s; every request in it ends sooner by itself
LABELS: Final = "pseudo.parquet"
APPENDED: Final = ".jsonl"  # such files grow in place, so they are copied and not linked


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Files set aside: the folder that holds them, and by their paths in the run's folder."""

    aside: Path
    files: dict[str, Path]
    states: dict[str, tuple[int, int]]


@dataclass(eq=False)
class _Outgoing:
    """Uploads of one run's folder by this process."""

    directory: Path
    attempt: int
    head: Head
    hashes: Hashes = field(default_factory=Hashes)
    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: _Snapshot | None = None
    is_busy: bool = False
    error: BaseException | None = None
    count: int = 0

    def add(self) -> None:
        """Set the folder aside, in the place of what still waits."""
        with self.changed:
            self.raise_error()
            self.count += 1
            former, self.waiting = self.waiting, _set_aside(self.directory, self.count)
            if not self.is_busy:
                self.is_busy = True
                threading.Thread(target=self._run, name="outgoing", daemon=True).start()
        if former is not None:
            shutil.rmtree(former.aside, ignore_errors=True)

    def wait(self, timeout_s: float) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: not self.is_busy, timeout_s):
                raise EnvironmentFault(
                    f"the files of run {self.directory.name} did not reach {shown(uri_of(self.directory))} within "
                    f"{timeout_s:g} s",
                    "check the network, then resume the study",
                )
            self.raise_error()

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        while True:
            with self.changed:
                snapshot, self.waiting = self.waiting, None
                if snapshot is None or self.error is not None:
                    self.is_busy = False
                    self.changed.notify_all()
                    return
            try:
                self._upload(snapshot)
            except BaseException as error:  # noqa: BLE001 - whoever saves next, or waits, gets to know it
                logger.warning("an upload of run %s failed: %s", self.directory.name, type(error).__name__)
                with self.changed:
                    self.error = error
            finally:
                shutil.rmtree(snapshot.aside, ignore_errors=True)

    def _upload(self, snapshot: _Snapshot) -> None:
        """Objects first, then the head, then what no head needs any more; a replaced attempt stops in between."""
        uri, before = uri_of(self.directory), self.head
        entries = upload(uri, snapshot.files, known=before, hashes=self.hashes)
        check_newest(uri, self.attempt)
        self.head = Head(self.attempt, entries)
        write_head(uri, self.head)
        check_newest(uri, self.attempt)
        note_pushed(self.directory, entries, snapshot.states)
        answered(uri, delete_all, [join(uri, name) for name in _objects(before) - _objects(self.head)])


_RUNS: Final[dict[Path, _Outgoing]] = {}


def claim(directory: Path, attempt: int) -> None:
    """Reserve a run's folder in the store for an attempt, and make the local one what it is there.

    Raises:
        StaleAttempt: a newer attempt has it.
        EnvironmentFault: the store does not answer.
    """
    if not is_copy(directory):
        return
    forget(directory)
    uri = uri_of(directory)
    check_newest(uri, attempt)
    found = pull(directory)
    head = Head(attempt, {} if found is None else found.files)
    write_head(uri, head)
    check_newest(uri, attempt)
    drop_older(uri, attempt)
    drop_unreferenced(uri, head)
    shutil.rmtree(directory / ASIDE, ignore_errors=True)
    _RUNS[directory.absolute()] = _Outgoing(directory, attempt, head)


def adopt(directory: Path) -> None:
    """Make the local folder of a run that is trained what the store has, in order to add files to it.

    Raises:
        StudyError: it is damaged there.
        EnvironmentFault: the store does not answer.
    """
    if not is_copy(directory):
        return
    forget(directory)
    head = pull(directory)
    if head is not None:
        _RUNS[directory.absolute()] = _Outgoing(directory, head.attempt, head)


def send(directory: Path) -> None:
    """Bring the folder to the store in the background; an earlier upload that failed is told now.

    Raises:
        StaleAttempt: a newer attempt has the run.
        EnvironmentFault: the store did not take the former upload.
    """
    if not is_copy(directory):
        return
    run = _RUNS.get(directory.absolute())
    if run is None:
        raise StudyError(f"{directory} is a copy that this process has neither claimed nor adopted")
    run.add()


def settle(directory: Path, timeout_s: float = SETTLE_S) -> None:
    """Wait until everything that was sent has arrived.

    Raises:
        StaleAttempt: a newer attempt has the run.
        EnvironmentFault: the store did not take it, or not in time.
    """
    run = _RUNS.get(directory.absolute())
    if run is not None:
        run.wait(timeout_s)


def forget(directory: Path) -> None:
    """End what this process does with a folder, whatever became of it."""
    run = _RUNS.pop(directory.absolute(), None)
    if run is not None:
        with contextlib.suppress(StudyError):
            run.wait(SETTLE_S)


def bring(directory: Path, *, small: bool = False) -> None:
    """Make the local folder of a run what the store has; with ``small`` without weights. Whoever writes it has it.

    Raises:
        StudyError: it is damaged there.
        EnvironmentFault: the store does not answer.
    """
    if is_copy(directory) and directory.absolute() not in _RUNS:
        pull(directory, small=small)


def bring_all(study_dir: Path) -> None:
    """The small files of all runs of a study, many at a time, and the labels of its teacher."""
    if not is_copy(study_dir):
        return
    bring_file(study_dir, LABELS)
    uri = uri_of(study_dir / "runs")
    names = answered(uri, stored_folders, uri)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: _bring_small(study_dir, name), names))


def _bring_small(study_dir: Path, name: str) -> None:
    if not name.endswith(ENSEMBLE):
        bring(study_dir / "runs" / name, small=True)
        return
    uri = uri_of(study_dir / "runs" / name)
    for file in answered(uri, stored_files, uri):
        bring_file(study_dir, f"runs/{name}/{file}")


def check_newest(uri: str, attempt: int) -> None:
    """Raise when a newer attempt has the run."""
    newest = newest_attempt(uri)
    if newest > attempt:
        raise StaleAttempt(f"attempt {attempt} of the run in {shown(uri)} was replaced by attempt {newest}")


def _objects(head: Head) -> set[str]:
    return {entry.object for entry in head.files.values()}


def _set_aside(directory: Path, count: int) -> _Snapshot:
    """Links to the files of a folder, which their writer may remove or replace meanwhile."""
    aside = directory / ASIDE / str(count)
    files, states = {}, {}
    for name, path in local_files(directory).items():
        target = aside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == APPENDED:
            shutil.copy2(path, target)
        else:
            os.link(path, target)
        state = target.stat()
        files[name], states[name] = target, (state.st_size, state.st_mtime_ns)
    return _Snapshot(aside, files, states)
