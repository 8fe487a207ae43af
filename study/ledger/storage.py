"""Opening the database of a ledger, and saying clearly why it cannot be opened or does not answer."""

import contextlib
import difflib
import functools
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from study.errors import EnvironmentFault, InputError
from study.ledger.glance import looked_at
from study.ledger.outage import Outage
from study.ledger.postgresql import is_server, shown, with_driver
from study.ledger.seal import UNSEAL, check_file, seal

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
PATIENCE_S: Final = 60.0  # how long a writer waits for a server that has gone, as it does when it is restarted
FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 2.0
NO_TABLES: Final = (
    "no such table: version_info",
    'relation "version_info" does not exist',
)  # SQLite's words, PostgreSQL's
# What a server says while it starts, stops or is full, and what pg8000 says when there is none.
GONE: Final = ("57P01", "57P02", "57P03", "53300", "network error", "connection is closed", "Can't create a connection")
# pg8000 lets the socket's own errors through, and half an answer is an error of the module that takes it apart.
UNANSWERED: Final = (SQLAlchemyError, StorageInternalError, OSError, struct.error)


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
    address, arguments = _address(url)
    is_file = not is_server(address)
    if is_file and address.database:
        _prepare_file(Path(address.database), create=create)
    options: dict[str, Any] = {"connect_args": {"timeout": SQLITE_TIMEOUT_S}}
    if not is_file:
        options = {"pool_pre_ping": True, "connect_args": arguments}
    plain = address.render_as_string(hide_password=False)
    try:
        backend = looked_at(plain, options) if is_file and not create else None
        if backend is None:
            # Optuna fills in {SCHEMA_VERSION}; braces of ours have to be doubled.
            backend = RDBStorage(
                plain.replace("{", "{{").replace("}", "}}"), engine_kwargs=options, skip_table_creation=not create
            )
        backend.url = backend._version_manager.url = shown(address)  # noqa: SLF001 - it would go into pickles as it is
        return optuna.storages.get_storage(backend)
    except (ImportError, NoSuchModuleError) as error:
        raise EnvironmentFault(
            f"no driver for the ledger ({address.drivername}): {error}",
            "install it, or write the address without a driver: postgresql://user@host/database",
        ) from error
    except (*UNANSWERED, RuntimeError) as error:
        if not create and any(word in _reason(error) for word in NO_TABLES):
            raise InputError(
                f"there is no ledger in {shown(address)} yet", "check the name of the study, or run it first"
            ) from error
        raise EnvironmentFault(
            f"the ledger ({shown(address)}) cannot be opened: {_reason(error)}",
            "check that the database runs, that the address is right and that the file is a ledger",
        ) from error


def server_engine(url: str) -> Engine | None:
    """Connections to the server that holds the ledger, each closed after its use; None when the ledger is a file."""
    address, arguments = _address(url)
    return create_engine(address, connect_args=arguments, poolclass=NullPool) if is_server(address) else None


def file_of(url: str) -> Path | None:
    """The file that holds the ledger; None when a server does, or memory."""
    address, _ = _address(url)
    return None if is_server(address) or not address.database else Path(address.database)


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


def study_names(storage: BaseStorage) -> list[str]:
    """The studies in a database, sorted by name."""
    return sorted(study.study_name for study in storage.get_all_studies())


def answered(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a database that stops answering into an error that says so; the study can be resumed afterwards.

    A method of something with a ``patience_s`` waits so long for a server to come back, and is then called again: such
    methods give the same result when an earlier call of them was done by halves. Its ``outage`` is told of that.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        patience = getattr(args[0], "patience_s", 0.0) if args else 0.0
        outage: Outage | None = getattr(args[0], "outage", None) if args else None
        deadline, pause = time.monotonic() + patience, FIRST_PAUSE_S
        while True:
            try:
                result = function(*args, **kwargs)
            except UNANSWERED as error:
                if time.monotonic() > deadline or not _is_gone(error):
                    raise EnvironmentFault(
                        f"the ledger's database did not answer: {_reason(error)}",
                        "see to the database, then resume the study",
                    ) from error
                if outage is not None:
                    outage.go_on(_reason(error), patience_s=patience)
            else:
                if outage is not None and pause > FIRST_PAUSE_S:
                    outage.end()
                return result
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)

    return wrapper


def patience_for(storage: BaseStorage) -> float:
    """How long a writer waits for this storage to come back: a server may, a file that fails will fail again."""
    backend = _database_of(storage)
    return PATIENCE_S if backend is not None and backend.engine.dialect.name == "postgresql" else 0.0


def _is_gone(error: BaseException) -> bool:
    """Whether the connection is at fault, and not what was asked for."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    if not isinstance(cause, SQLAlchemyError) or getattr(cause, "connection_invalidated", False):
        return True
    said = str(getattr(cause, "orig", None) or cause)
    return any(word in said for word in GONE)


def _reason(error: BaseException) -> str:
    """The first line of what a database said; drivers put neither passwords nor URLs into it."""
    cause = error.__cause__ if isinstance(error, StorageInternalError | RuntimeError) and error.__cause__ else error
    said = getattr(cause, "orig", None) or cause
    if said.args and isinstance(said.args[0], dict):  # pg8000 gives all fields of a message of the server
        return f"{said.args[0].get('M', said.args[0])}"
    return next(iter(str(said).strip().splitlines()), type(said).__name__)


def quiet_optuna() -> None:
    """Hand Optuna's messages to the logging module, warnings and above only; it would print them otherwise."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _address(url: str) -> tuple[URL, dict[str, Any]]:
    """The address, and the arguments of its driver; messages say where it was found, not what it is."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(
            "what STUDY_LEDGER_URL holds is not a database URL",
            "write it as postgresql://user@host/database or sqlite:////abs/ledger.db",
        ) from None
    backend = address.drivername.partition("+")[0]
    if backend not in ("sqlite", "postgresql", "postgres"):
        raise InputError(
            f"STUDY_LEDGER_URL names a ledger of kind {backend!r}; expected postgresql or sqlite",
            "write it as postgresql://user@host/database, or unset it for a file in the study directory",
        )
    return with_driver(address) if is_server(address) else (address, {})


def _prepare_file(path: Path, *, create: bool) -> None:
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        raise InputError(f"there is no ledger at {path}", "check the name of the study, or run it first")
    if path.is_file():
        check_file(path)


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
        connection.exec_driver_sql(UNSEAL)
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
        backend.engine.dispose()  # what another thread has given back is still open, and would be in the way
        with contextlib.suppress(SQLAlchemyError), backend.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=1000")
            connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    backend.engine.dispose()
    if not read_only and backend.engine.dialect.name == "sqlite" and backend.engine.url.database:
        seal(Path(backend.engine.url.database))


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
