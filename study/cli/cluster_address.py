"""Which cluster is meant: the address of Ray's dashboard, which takes jobs."""

import os
import re
from typing import Final
from urllib.parse import urlsplit

from study.cli.folders import is_study_name
from study.errors import InputError

VARIABLES: Final = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # in Ray's own order
EXAMPLE: Final = "--address http://HEAD:8265"


def cluster_address(given: str | None) -> str:
    """The URL of the cluster's dashboard: the one that was given, else the one that Ray's variables name.

    Raises:
        InputError: there is none, or it is the address of another of Ray's services.
    """
    found = [("--address", given), *((name, os.environ.get(name)) for name in VARIABLES)]
    origin, address = next(((origin, text.strip()) for origin, text in found if text and text.strip()), ("", ""))
    if not address:
        raise InputError("no cluster is named; expected --address URL", f"{EXAMPLE}, or set {VARIABLES[0]}")
    if "@" in address:  # anywhere: a password may hold a slash
        raise InputError(
            f"{origin} ...@{address.rpartition('@')[2]}: the URL has a user or a password, which logs would show",
            "put the cluster's token into RAY_AUTH_TOKEN_PATH, other headers into RAY_JOB_HEADERS",
        )
    if not _can_be_split(address):
        raise InputError(f"{origin} {address!r}: expected http://HOST:PORT", EXAMPLE)
    scheme, separator, rest = address.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise InputError(*_without_scheme(origin, address))
    if scheme == "ray":
        host = urlsplit(address).hostname or "HEAD"
        raise InputError(
            f"{origin} {address}: the address of Ray Client; jobs are sent to the dashboard, over http or https",
            f"--address http://{host}:8265",
        )
    if scheme not in ("http", "https"):
        raise InputError(f"{origin} {address}: expected an URL of http or https", EXAMPLE)
    address = f"{scheme}://{rest}"
    _check_parts(origin, address)
    return address.rstrip("/")


def check_name(name: str) -> None:
    """The name of a study, which stands in the URL that the cluster is asked.

    Raises:
        InputError: no study can be called so.
    """
    if not is_study_name(name):
        raise InputError(f"no study can be called {name[:80]!r}", "name one as its study file does")


def _can_be_split(address: str) -> bool:
    """Whether it is one printable word, with brackets that close."""
    try:
        urlsplit(address)
    except ValueError:
        return False
    return address.isprintable() and not any(letter.isspace() or letter == "\\" for letter in address)


def _check_parts(origin: str, address: str) -> None:
    parts = urlsplit(address)
    try:
        is_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_host = False
    if not is_host or parts.query or parts.fragment:
        raise InputError(f"{origin} {address}: expected http://HOST:PORT", EXAMPLE)


def _without_scheme(origin: str, address: str) -> tuple[str, str]:
    address = re.sub(r"^(https?:/*|:?/+)", "", address)  # http:/HEAD:8265, //HEAD:8265
    host, _, port = address.rpartition(":")
    if address.count(":") > 1 and "]" not in address:  # IPv6 without brackets has no port
        host, port = f"[{address}]", "8265"
        address = f"{host}:{port}"
    if address in ("auto", "local"):
        return f"{origin} {address}: expected an URL of http or https, which can be reached from everywhere", EXAMPLE
    if port == "6379":
        return (
            f"{origin} {address}: the address by which nodes join; jobs are sent to the dashboard, over http or https",
            f"--address http://{host}:8265",
        )
    return (
        f"{origin} {address}: an address without http:// or https://",
        f"--address http://{address if host else f'{address}:8265'}",
    )
