"""Which cluster is meant: the address of Ray's dashboard, which takes jobs."""

import os
from typing import Final
from urllib.parse import urlsplit

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
    scheme, separator, _ = address.partition("://")
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
    _check_parts(origin, address)
    return address.rstrip("/")


def _check_parts(origin: str, address: str) -> None:
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise InputError(
            f"{origin} {scheme_and_host(address)}: the URL has a user or a password, which logs would show",
            "put the cluster's token into RAY_AUTH_TOKEN_PATH, other headers into RAY_JOB_HEADERS",
        )
    try:
        is_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_host = False
    if not is_host or parts.query or parts.fragment:
        raise InputError(f"{origin} {address}: expected http://HOST:PORT", EXAMPLE)


def scheme_and_host(address: str) -> str:
    """An URL without what stands before the host."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _without_scheme(origin: str, address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
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
