"""Study directories: finding one by its name, and what may change when a study goes on."""

import contextlib
import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from study.cli.invocation import program, storage_option
from study.errors import InputError, StudyError
from study.secrecy import redacted

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.console import Places
    from study.ledger import Ledger
    from study.types import TrialRow

STUDY_FILE: Final = "study.yaml"


def is_study_name(text: str) -> bool:
    """Whether a study can be called so."""
    from pydantic import TypeAdapter, ValidationError

    from study.config.fields import Slug

    try:
        TypeAdapter(Slug).validate_python(text)
    except ValidationError:
        return False
    return True


def check_slashes(storage: str) -> None:
    """``s3:/bucket`` is no folder that anybody means.

    Raises:
        InputError: a slash is missing, or the scheme is written in capitals.
    """
    found = re.match(r"(s3|gs|abfss?|file):(//)?", storage, re.IGNORECASE)
    if found and (not found[2] or not found[1].islower()):
        scheme = found[1].lower()
        raise InputError(
            f"--storage {redacted(storage)}: neither a folder nor a store",
            f"a store is named {scheme}://BUCKET/FOLDER" if scheme != "file" else "name the folder: /shared/studies",
        )


def storage_root(storage: str, *, drive: bool = False) -> Path:
    """The directory in which studies live; of a store the folder of this machine's copies.

    With ``drive`` the copy is the one that the driver of a study writes, otherwise that of verbs that look.

    Raises:
        InputError: it is a file, or a URI that cannot be used.
    """
    check_slashes(storage)
    if "://" in storage:
        from study.remote import check_store, copy_root

        return copy_root(check_store(storage), "drive" if drive else "look")
    root = Path(storage)
    if root.exists() and not root.is_dir():
        raise InputError(f"--storage {storage}: a file; expected a directory", "name a directory")
    return root


def study_names(storage: str) -> list[str]:
    """Names of the studies in a storage directory, sorted; a directory counts when it holds a study file."""
    if "://" in storage:
        from study.remote import check_store, study_names_in

        return study_names_in(check_store(storage), STUDY_FILE)
    root = storage_root(storage)
    return sorted(path.parent.name for path in root.glob(f"*/{STUDY_FILE}")) if root.is_dir() else []


def directory_of(name: str, storage: str, *, drive: bool = False) -> Path:
    """The directory that a study of this name has or would have; its file is brought when it lies in a store.

    Raises:
        InputError: the storage cannot be used.
        EnvironmentFault: the store does not answer.
    """
    directory = storage_root(storage, drive=drive) / name
    if "://" in storage:
        from study.remote import bring_file

        bring_file(directory, STUDY_FILE)
    return directory


def study_directory(name: str, storage: str, *, drive: bool = False) -> Path:
    """The directory of an existing study.

    Raises:
        InputError: there is none of that name; the fix gives the nearest names.
    """
    if "://" in storage and "/" not in name:
        directory = directory_of(name, storage, drive=drive)
        if (directory / STUDY_FILE).exists():
            return directory
    names = study_names(storage)
    if name in names:
        return storage_root(storage) / name
    if Path(name).suffix in (".yaml", ".yml"):
        raise InputError(f"{name!r} is a file; expected the name of a study", f"`{program()} run {name}` runs a file")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        fix = f"did you mean {' or '.join(near)}?"
    elif names:
        fix = f"`{program()} list{storage_option(storage)}` shows the {len(names)} that are there"
    else:
        fix = f"start one: {program()} run search_spaces/quickstart.yaml"
    raise InputError(f"no study is called {name!r} in {storage.partition('?')[0]}", fix)


def stored_config(directory: Path, overrides: Sequence[str] = ()) -> "StudyConfig":
    """The resolved study file of an existing study, with overrides.

    Raises:
        ConfigError: the overrides have faults, or somebody has edited the file.
    """
    from study.config import load_config

    return load_config(directory / STUDY_FILE, overrides)


def store_config(directory: Path, config: "StudyConfig", *, storage: str = "") -> None:
    """Write the resolved study file, as a whole; call while holding the study's lock."""
    from study.config import config_yaml

    partial = directory / f".{STUDY_FILE}.{os.getpid()}"
    partial.write_text(config_yaml(config), encoding="utf-8")
    partial.replace(directory / STUDY_FILE)
    if "://" in storage:
        from study.remote import push_file

        push_file(directory, STUDY_FILE)


def check_same_study(old: "StudyConfig", new: "StudyConfig", *, storage: str, may_change: Sequence[str] = ()) -> None:
    """A study goes on with its own configuration; only its budget may change, and its trials only grow.

    ``may_change`` are sections that may change, too.

    Raises:
        InputError: something else changed; the message lists every path with both values, the fix both ways out.
    """
    from study.config import changed_paths, is_budget

    resume = f"`{program()} resume {old.study}{storage_option(storage)}`"
    paths = changed_paths(old, new)
    other = [path for path in paths if not is_budget(path)]
    other = [path for path in other if not any(f"{path}.".startswith(f"{free}.") for free in may_change)]
    if other:
        before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
        lines = "".join(f"\n  {path}: {_value(before, path)} -> {_value(after, path)}" for path in other)
        raise InputError(
            f"study {old.study!r} exists with another configuration:{lines}",
            f"{resume} goes on with the first one, --set study=NAME starts another study with the second "
            "(search.trials, budget, retries, max_failures, confirm and resources may change)",
        )
    if "search.trials" in paths and new.num_trials and new.num_trials < old.num_trials:
        raise InputError(
            f"search.trials: {new.num_trials}; expected at least {old.num_trials}, the budget of {old.study!r}",
            f"{resume} goes on with {old.num_trials}",
        )


def known_rows(config: "StudyConfig", directory: Path) -> "list[TrialRow]":
    """The trials that the ledger of a study holds; none when it has not begun.

    Raises:
        EnvironmentFault: the database does not answer.
    """
    ledger = open_ledger(config, directory)
    if ledger is None:
        return []
    with contextlib.closing(ledger):
        return list(ledger.rows())


def open_ledger(config: "StudyConfig", directory: Path) -> "Ledger | None":
    """The ledger for looking on; ``None`` when the study has not begun.

    Raises:
        EnvironmentFault: the database does not answer.
        StudyError: the ledger is damaged, or it was there and is gone.
    """
    from study.ledger import Ledger

    url = ledger_url(directory)
    if not os.environ.get("STUDY_LEDGER_URL") and not (directory / "ledger.db").exists():
        _check_not_begun(directory)
        return None
    try:
        return Ledger.open(url, config=config, read_only=True)
    except InputError:
        _check_not_begun(directory)
        return None


def _check_not_begun(directory: Path) -> None:
    """A study without a ledger is one that has not begun.

    Raises:
        StudyError: its journal knows of trials, so there has been one.
    """
    journal = directory / "journal.jsonl"
    if not journal.exists() or b'"kind": "start"' not in journal.read_bytes():
        return
    place = "the server of STUDY_LEDGER_URL" if os.environ.get("STUDY_LEDGER_URL") else f"{directory / 'ledger.db'}"
    raise StudyError(
        f"study {directory.name} has trials in its journal, but {place} holds no ledger of it",
        "put the ledger back, or set STUDY_LEDGER_URL to where it is; `mv` the study directory away to begin anew",
    )


def tracking_uri(directory: Path) -> str:
    """Where MLflow keeps the study: ``MLFLOW_TRACKING_URI``, else a file in the study directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{directory.resolve() / 'mlflow.db'}"


def ledger_url(directory: Path) -> str:
    """Where the ledger is: ``STUDY_LEDGER_URL``, else a file in the study directory.

    Raises:
        InputError: the study lies in a store, which cannot hold a ledger, and there is no server for it.
    """
    from study.ledger import default_url

    url = os.environ.get("STUDY_LEDGER_URL") or ""
    if not url.startswith(("postgresql", "postgres:")) and is_copy(directory):
        found = "STUDY_LEDGER_URL is not set" if not url else "STUDY_LEDGER_URL names a file of one machine"
        raise InputError(
            f"a study in a store needs its ledger on a server, and {found}",
            "export STUDY_LEDGER_URL=postgresql://user@host/database (password: PGPASSWORD) wherever you call study",
        )
    return url or default_url(directory)


def is_copy(directory: Path) -> bool:
    """Whether the study of a directory lies in a store, without the imports of `study.remote` for one that does not."""
    return any((above / ".store").is_file() for above in (directory, directory.parent))


def brought(directory: Path) -> Path:
    """The directory of a study with the small files of all its runs, where it lies in a store."""
    if is_copy(directory):
        from study.remote import bring_all

        bring_all(directory)
    return directory


def kept(directory: Path, folder: Path) -> str:
    """What was written into ``report/`` of a study goes to its store, too; where it is, for messages."""
    if not is_copy(directory) or not folder.is_relative_to(directory):
        return ""
    from study.remote import push_file, shown_place

    for path in sorted(folder.rglob("*")):
        if path.is_file():
            push_file(directory, path.relative_to(directory).as_posix())
    return f"kept in {shown_place(directory)}/{folder.relative_to(directory).as_posix()}"


def place_of(directory: Path) -> str:
    """Where a study is kept, for messages: its directory, or its place in the store."""
    if not is_copy(directory):
        return str(directory)
    from study.remote import shown_place

    return shown_place(directory)


def places(directory: Path, *, storage: str) -> "Places":
    """Where the parts of a study lie, in words that can be copied."""
    from study.console import Places

    figure = directory / "report" / "search.png"
    return Places(
        directory=place_of(directory),
        # The address of a server is a secret; whoever looks for it knows where it was taken from.
        ledger="the server of STUDY_LEDGER_URL" if os.environ.get("STUDY_LEDGER_URL") else ledger_url(directory),
        mlflow_uri=tracking_uri(directory),
        log=str(directory / "study.log"),
        figure=str(figure) if figure.exists() else "",
        program=program(),
        mlflow=program("mlflow"),
        options=storage_option(storage),
    )


def _value(tree: object, path: str) -> str:
    """The value at a dotted path, short; ``absent`` when there is none."""
    value = tree
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return "absent"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
