"""Opening the database of a ledger, and saying clearly why it cannot be opened or does not answer."""

import contextlib
import difflib
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from study.errors import EnvironmentFault, InputError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
NETWORK: Final = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "fuse",
    "lustre",
    "beegfs",
    "gpfs",
    "ceph",
    "gluster",
    "afs",
    "ocfs",
    "gfs",
)
MOUNTS: Final = Path("/proc/self/mounts")
SQLITE_TIMEOUT_S: Final = 60.0  # how long the writer waits for a reader, and a reader for the writer
CONNECT_TIMEOUT_S: Final = 15


def default_url(study_dir: Path) -> str:
    """URL of the ledger that lies in the study's own directory."""
    return f"sqlite:///{study_dir.resolve() / 'ledger.db'}"


def open_storage(url: str, *, create: bool) -> BaseStorage:
    """The Optuna storage at ``url`` (sqlite or PostgreSQL), with finished trials cached in memory.

    Args:
        url: database URL, as in ``sqlite:////abs/ledger.db`` or ``postgresql://user@host/db``.
        create: make the file and the tables when they are missing; readers pass False.

    Raises:
        InputError: the URL is malformed, or there is no ledger to be read.
        EnvironmentFault: the database does not answer, or its driver or schema does not fit.
    """
    quiet_optuna()
    address = _address(url)
    is_file = address.get_backend_name() == "sqlite"
    if is_file and address.database:
        _prepare_file(Path(address.database), create=create)
    options: dict[str, Any] = {"connect_args": {"timeout": SQLITE_TIMEOUT_S}} if is_file else {"pool_pre_ping": True}
    if address.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S}
    plain = address.render_as_string(hide_password=False)
    try:
        # Optuna fills in {SCHEMA_VERSION}; braces of ours have to be doubled.
        backend = RDBStorage(
            plain.replace("{", "{{").replace("}", "}}"), engine_kwargs=options, skip_table_creation=not create
        )
        return optuna.storages.get_storage(backend)
    except (ImportError, NoSuchModuleError) as error:
        raise EnvironmentFault(
            f"no driver for the ledger at {_shown(address)}: {error}",
            "install the driver (`pip install 'psycopg[binary]'` for PostgreSQL)",
        ) from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        raise EnvironmentFault(
            f"the ledger at {_shown(address)} cannot be opened: {reason}",
            "check that the database runs, that the address is right and that the file is a ledger",
        ) from error


def find_study(storage: BaseStorage, name: str) -> int:
    """Optuna's id of the study called ``name``.

    Raises:
        InputError: there is none; the fix names studies that sound alike.
    """
    names = {study.study_name: study._study_id for study in storage.get_all_studies()}  # noqa: SLF001
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=3) or sorted(names)[:3]
    fix = f"did you mean {' or '.join(near)}?" if near else "run it first: `study run FILE`"
    raise InputError(f"the ledger knows no study {name!r}", fix)


def answered(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a database that stops answering into an error that says so; the study can be resumed afterwards."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (SQLAlchemyError, StorageInternalError) as error:
            cause = error.__cause__ or error
            reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
            raise EnvironmentFault(
                f"the ledger's database did not answer: {reason}", "see to the database, then resume the study"
            ) from error

    return wrapper


def quiet_optuna() -> None:
    """Hand Optuna's messages to the logging module, warnings and above only; it would print them otherwise."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise InputError(
            f"the ledger's address {url.rpartition('@')[2]!r} is not a database URL",
            "write it as sqlite:////abs/ledger.db",
        ) from error
    # Without a driver in the URL, SQLAlchemy before 2.1 would ask for psycopg2.
    return address.set(drivername="postgresql+psycopg") if address.drivername in {"postgresql", "postgres"} else address


def _prepare_file(path: Path, *, create: bool) -> None:
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        raise InputError(f"there is no ledger at {path}", "check the name of the study, or run it first")


def write_ahead(storage: BaseStorage) -> None:
    """From now on let SQLite append to a log that is not waited for, instead of rewriting pages; readers never wait.

    A process that dies loses nothing. When the power fails, the last writes may be missing, and a study makes them
    again from its checkpoints; `sync_storage` waits for the disk. The log needs memory that all processes share, so a
    file on a network keeps SQLite's usual journal. Called when a search begins to write: looking at one that is over
    must not change a byte.
    """
    backend = _database_of(storage)
    if backend is None or backend.engine.dialect.name != "sqlite" or not backend.engine.url.database:
        return
    if is_on_network(Path(backend.engine.url.database)):
        return

    def on_connect(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.remove_session()
    event.listen(backend.engine, "connect", on_connect)
    with backend.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    backend.engine.dispose()  # so that every connection from here on is made with the hook


def sync_storage(storage: BaseStorage) -> None:
    """Wait until all that was written is on the disk."""
    backend = _database_of(storage)
    if backend is not None and backend.engine.dialect.name == "sqlite":
        with backend.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")


def _database_of(storage: BaseStorage) -> RDBStorage | None:
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage  # noqa: SLF001
    return backend if isinstance(backend, RDBStorage) else None


def close_storage(storage: BaseStorage, *, read_only: bool) -> None:
    """Let go of the database; the writer of an SQLite file leaves it as one file that can be copied and only read.

    While somebody reads, the log stays for the next writer to take in.
    """
    storage.remove_session()
    backend = _database_of(storage)
    if backend is None:
        return
    if not read_only and backend.engine.dialect.name == "sqlite":
        with contextlib.suppress(SQLAlchemyError), backend.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=1000")
            connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    backend.engine.dispose()


def is_on_network(path: Path, mounts: Path = MOUNTS) -> bool:
    """Whether a file lies on a file system that other machines can see, as far as the table of mounts tells."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True  # unknown, so the journal that works everywhere
    place, best, kind = path.resolve(), -1, ""
    for line in lines:
        _, point, found, *_ = line.split(" ")
        folder = Path(point.replace("\\040", " "))
        if place.is_relative_to(folder) and len(folder.parts) >= best:
            best, kind = len(folder.parts), found
    return kind.startswith(NETWORK)


def _shown(address: URL) -> str:
    return address.render_as_string(hide_password=True)
