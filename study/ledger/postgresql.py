"""A PostgreSQL server's address: the driver, what libpq's options mean to it, and words that hold no secret.

The driver is pg8000 (pure Python, BSD). It knows none of libpq's own options and files, so those that people use in
URLs are translated here: ``sslmode``, ``sslrootcert``, ``host`` as a socket's folder, ``connect_timeout``,
``application_name``; ``PGPASSWORD`` and the password file when the URL has no password. Their meanings are those of the
PostgreSQL manual, sections 32.1.2 and 32.16. Another driver that the URL names (``postgresql+psycopg://``) gets the
URL as it is.
"""

import os
import ssl
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import URL

from study.errors import InputError

DRIVER: Final = "postgresql+pg8000"
SILENCE_S: Final = 30  # no answer of the server for so long is none
PORT: Final = 5432
SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
OPTIONS: Final = ("host", "port", "user", "password", "sslmode", "sslrootcert", "connect_timeout", "application_name")


def is_server(address: URL) -> bool:
    """Whether the address is that of a server, which several machines reach, and not a file."""
    return address.get_backend_name() in ("postgresql", "postgres")


def with_driver(address: URL) -> tuple[URL, dict[str, Any]]:
    """The address with its driver, and what the driver is to be called with.

    Raises:
        InputError: an option of the URL is not known, or has a value that is not.
    """
    if address.drivername not in ("postgresql", "postgres", DRIVER):
        return address, {}
    options = {key: str(value) for key, value in address.query.items()}
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise InputError(
            f"the ledger's address has the option {unknown[0]}; expected some of {', '.join(OPTIONS)}",
            "leave it out of STUDY_LEDGER_URL",
        )
    host = options.get("host") or address.host or "localhost"
    port = int(options.get("port") or address.port or PORT)
    arguments: dict[str, Any] = {"timeout": int(options.get("connect_timeout") or SILENCE_S)}
    if host.startswith("/"):
        arguments |= {"host": None, "unix_sock": f"{host}/.s.PGSQL.{port}", "ssl_context": False}
    else:
        arguments |= {"ssl_context": _ssl_context(options.get("sslmode") or "prefer", options.get("sslrootcert"))}
    if "application_name" in options:
        arguments["application_name"] = options["application_name"]
    user = options.get("user") or address.username or os.environ.get("PGUSER") or "postgres"
    password = options.get("password") or (str(address.password) if address.password else "")
    password = password or _kept_password(host=host, port=port, database=address.database or user, user=user)
    plain = URL.create(
        DRIVER,
        username=user,
        password=password or None,
        host="localhost" if host.startswith("/") else host,
        port=port,
        database=address.database,
    )
    return plain, arguments


def shown(address: URL) -> str:
    """Where a ledger is, for a message: a file's path, or host and database; never user, password or options."""
    if not is_server(address):
        return address.database or "memory"
    host = address.query.get("host") or address.host or "localhost"
    return f"PostgreSQL on {host}" + (f", database {address.database}" if address.database else "")


def _ssl_context(mode: str, roots: str | None) -> ssl.SSLContext | bool | None:
    """pg8000's argument: False for no encryption, None for encryption where the server has it, True for always."""
    if mode not in SSL_MODES:
        raise InputError(
            f"the ledger's address has sslmode={mode}; expected one of {', '.join(SSL_MODES)}",
            "correct STUDY_LEDGER_URL",
        )
    if mode in ("disable", "allow", "prefer", "require"):
        return {"disable": False, "require": True}.get(mode)
    try:
        context = ssl.create_default_context(cafile=roots)
    except OSError as error:
        raise InputError(
            f"the ledger's address has sslrootcert={roots}, which cannot be read ({error})", "correct STUDY_LEDGER_URL"
        ) from error
    context.check_hostname = mode == "verify-full"
    return context


def _kept_password(*, host: str, port: int, database: str, user: str) -> str:
    """The password of ``PGPASSWORD``, else of the first line of the password file that fits; empty without one."""
    if os.environ.get("PGPASSWORD"):
        return os.environ["PGPASSWORD"]
    path = Path(os.environ.get("PGPASSFILE") or Path.home() / ".pgpass")
    if not path.is_file() or path.stat().st_mode & 0o077:  # libpq ignores a file that others can read, too
        return ""
    wanted = (host, str(port), database, user)
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = _fields(line)
        if len(fields) == 5 and all(part in ("*", want) for part, want in zip(fields, wanted, strict=False)):
            return fields[4]
    return ""


def _fields(line: str) -> list[str]:
    """The parts of a line between colons; a backslash keeps what follows it."""
    if line.startswith("#"):
        return []
    fields, is_kept = [""], False
    for letter in line:
        if is_kept or letter not in ":\\":
            fields[-1] += letter
            is_kept = False
        elif letter == "\\":
            is_kept = True
        else:
            fields.append("")
    return fields
