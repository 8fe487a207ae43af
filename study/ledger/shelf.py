"""A database of ledgers, looked at by somebody who has no study directory: which studies it holds, and their files."""

import contextlib

from study.errors import InputError
from study.ledger.notes import STUDY_FILE, StudyNotes
from study.ledger.storage import answered, close_storage, find_study, open_storage, study_names


@answered
def names_at(url: str) -> list[str]:
    """The studies whose ledgers lie in a database, sorted by name.

    Raises:
        InputError: the URL is malformed, or there is no such file.
        EnvironmentFault: the database does not answer.
    """
    storage = open_storage(url, create=False)
    with contextlib.ExitStack() as stack:
        stack.callback(close_storage, storage, read_only=True)
        return study_names(storage)


@answered
def file_at(url: str, name: str) -> str:
    """The resolved study file (YAML) that the ledger of a study holds.

    Raises:
        InputError: there is no such study, or an earlier release has written its ledger, without the file.
        EnvironmentFault: the database does not answer.
    """
    storage = open_storage(url, create=False)
    with contextlib.ExitStack() as stack:
        stack.callback(close_storage, storage, read_only=True)
        notes = StudyNotes(storage, find_study(storage, name), read_only=True)
        text = notes.stage(STUDY_FILE)
    if not isinstance(text, str):
        raise InputError(
            f"the ledger of study {name!r} does not hold its study file, as one that was never resumed since",
            "resume the study once, or name the storage in which its directory lies: --storage ROOT",
        )
    return text
