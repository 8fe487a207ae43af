"""What a request to a cluster's dashboard carries: its token, other headers, and whose certificates it trusts."""

import contextlib
import json
import os
from pathlib import Path
from typing import Final

from study.errors import EnvironmentFault

TOKEN_FILE: Final = Path(".ray") / "auth_token"
AUTHORITIES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
EXAMPLE: Final = """for example RAY_JOB_HEADERS='{"X-Name": "value"}'"""


def authority() -> str | bool:
    """The file with the certificates to trust, the same for requests and for the log's connection; True: the usual.

    Of the variables each library knows one, so a log could not be followed where everything else works.

    Raises:
        EnvironmentFault: there is no such file.
    """
    name = next((name for name in AUTHORITIES if os.environ.get(name)), "")
    if not name:
        return True
    if not Path(os.environ[name]).exists():
        raise EnvironmentFault(f"{name} names {os.environ[name]}, which is not there", "put the certificate there")
    return os.environ[name]


def headers() -> dict[str, str]:
    """What every request carries: the token, and what ``RAY_JOB_HEADERS`` asks for, as with Ray's own commands.

    Raises:
        EnvironmentFault: the token's file or the headers cannot be read.
    """
    try:
        found = json.loads(os.environ.get("RAY_JOB_HEADERS") or "{}")
        given = {str(name): str(value) for name, value in found.items()}
    except (ValueError, AttributeError):
        raise EnvironmentFault("RAY_JOB_HEADERS is not a JSON object", EXAMPLE) from None
    if any(not text.isprintable() or not text.isascii() for header in given.items() for text in header):
        raise EnvironmentFault("RAY_JOB_HEADERS has a header that cannot be sent; expected lines of ASCII", EXAMPLE)
    token = _token()
    if token and not any(name.lower() == "authorization" for name in given):
        given["Authorization"] = f"Bearer {token}"
    return given


def _token() -> str:
    """The token as Ray looks for it: RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token; else empty.

    Ray's own client sends it only with RAY_AUTH_MODE=token, and says otherwise that it is missing.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return ""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return _one_word(token, "RAY_AUTH_TOKEN")
    named, path = os.environ.get("RAY_AUTH_TOKEN_PATH"), _token_file()
    try:
        token = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        if not named:
            return ""
        raise EnvironmentFault(f"RAY_AUTH_TOKEN_PATH names {path}, which is not there", "put the token there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(
            f"the token of the cluster cannot be read from {path}: {type(error).__name__}", "make it a file of yours"
        ) from None
    if named and not token:
        raise EnvironmentFault(f"RAY_AUTH_TOKEN_PATH names {path}, which is empty", "put the token there")
    return _one_word(token, str(path))


def _token_file() -> Path:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / TOKEN_FILE


def open_token() -> str:
    """The file of the token that is sent, where everybody on this machine can read it; else empty.

    Ray itself writes such files, and Kubernetes mounts secrets so where it is not told otherwise.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return ""
    with contextlib.suppress(OSError):
        return str(_token_file()) if _token_file().stat().st_mode & 0o004 else ""
    return ""


def _one_word(token: str, place: str) -> str:
    """A token that a header can carry.

    Raises:
        EnvironmentFault: it cannot be one.
    """
    if not all("!" <= letter <= "~" for letter in token):
        raise EnvironmentFault(
            f"{place} holds something else than a cluster's token; expected one word of ASCII",
            "`ray get-auth-token` on the head node shows it",
        )
    return token
