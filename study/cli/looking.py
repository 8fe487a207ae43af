"""Finding a study from where one stands, and looking at it: by its directory, or by the ledger alone."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.cli.folders import STUDY_FILE, directory_of, open_ledger, place_of, stored_config, study_directory
from study.errors import EnvironmentFault, InputError

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.ledger import Ledger, LockHolder
    from study.types import StudyResult
    from study.watching import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A study: its file, and its directory where that can be seen from here."""

    config: "StudyConfig"
    directory: Path | None


def find(name: str, storage: str) -> Found:
    """A study by its name: in the storage, else in the ledger that ``STUDY_LEDGER_URL`` names.

    Raises:
        InputError: there is no such study in either.
        EnvironmentFault: the ledger's database does not answer.
    """
    url = os.environ.get("STUDY_LEDGER_URL")
    if not url or (directory_of(name, storage) / STUDY_FILE).exists():
        directory = study_directory(name, storage)
        return Found(config=stored_config(directory), directory=directory)
    from study.config import StudyConfig
    from study.config.yamlfile import read_yaml
    from study.ledger.shelf import file_at

    try:
        text = file_at(url, name)
    except InputError as error:
        raise InputError(f"{error.message}, and {storage} has no such directory", error.fix) from error
    raw = read_yaml(text, name=f"study {name}").value
    return Found(config=StudyConfig.model_validate(raw), directory=None)


class Looker:
    """Looks at a study again and again with one connection to its ledger."""

    def __init__(self, found: Found) -> None:
        from study.ledger import default_url
        from study.ledger.storage import server_engine

        self._found = found
        self._ledger: Ledger | None = None
        directory = found.directory
        self._url = os.environ.get("STUDY_LEDGER_URL") or (default_url(directory) if directory else "")
        self._is_asked = directory is not None or server_engine(self._url) is not None

    def _holder(self) -> "LockHolder | None":
        from study.ledger import lock_holder

        return lock_holder(self._found.directory or Path(self._found.config.study), url=self._url)

    def close(self) -> None:
        """Let go of the ledger."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def look(self) -> "Snapshot":
        """Where the study stands now.

        Raises:
            EnvironmentFault: the database does not answer.
        """
        from study.watching import nothing_yet, take_snapshot

        config, holder = self._found.config, self._holder()
        try:
            self._ledger = self._ledger or self._open()
            if self._ledger is None:
                return nothing_yet(config, holder=holder)
            return take_snapshot(self._ledger, config, holder=holder, is_asked=self._is_asked)
        except EnvironmentFault:
            self.close()
            raise

    def stage(self, name: str) -> Any:
        """What the ledger keeps about the study under a name; None before there is a ledger, or without it."""
        return self._ledger.stage(name) if self._ledger is not None else None

    def last_sign(self) -> float:
        """The driver's last sign of life, in seconds since 1970; 0 before there is a ledger, or without one."""
        now = self._ledger.now() if self._ledger is not None else None
        return now.told if now is not None else 0.0

    def brief(self) -> "StudyResult":
        """State and trials alone, without the statistics of a confirmation, which take half a second to import.

        Raises:
            EnvironmentFault: the database does not answer.
        """
        from study.watching import brief_result, is_driven, nothing_yet

        config, holder = self._found.config, self._holder()
        self._ledger = self._ledger or self._open()
        if self._ledger is None:
            return nothing_yet(config, holder=holder).result
        is_running = is_driven(self._ledger.now(), holder=holder, is_asked=self._is_asked, at=time.time())
        return brief_result(self._ledger, config, is_running=is_running)

    def _open(self) -> "Ledger | None":
        if self._found.directory is not None:
            return open_ledger(self._found.config, self._found.directory)
        from study.ledger import Ledger

        return Ledger.open(self._url, config=self._found.config, read_only=True)


@contextlib.contextmanager
def looking(found: Found) -> Iterator[Looker]:
    """A looker that lets go of its ledger in the end."""
    looker = Looker(found)
    try:
        yield looker
    finally:
        looker.close()


def log_of(found: Found, snapshot: "Snapshot") -> str:
    """Where the study's log lies: a path here, or one on the driver's machine; empty where nobody has told."""
    if found.directory is not None:
        return f"{place_of(found.directory)}/study.log"
    now = snapshot.now
    return f"{now.host}:{now.directory}/study.log" if now is not None else ""
