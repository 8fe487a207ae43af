"""Who may speak to a cluster on this machine: its owner, by a token that nobody else can read.

Ray 2.60 asks for a token in every new local cluster and keeps it in ``~/.ray/auth_token``, which it writes with the
permissions that new files have: on most machines everybody can read it then, and with it run code as its owner.
"""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from study.errors import EnvironmentFault

OWN_TOKENS: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # whoever sets one of them looks after it
PRIVATE: Final = 0o600


def private_token() -> None:
    """Make the token of local clusters, or make it readable by its owner alone.

    Nothing is done where ``RAY_AUTH_MODE`` switches tokens off, or a variable names another token.

    Raises:
        EnvironmentFault: the file cannot be written, or belongs to somebody else who shares it.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or any(map(os.environ.get, OWN_TOKENS)):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            path.chmod(PRIVATE)
    except OSError as error:
        raise EnvironmentFault(
            f"the token of local Ray clusters, {path}, cannot be made private ({error.strerror})",
            "make that folder your own, or set RAY_AUTH_TOKEN",
        ) from error


def _make(path: Path) -> None:
    """A new token; of two processes that make one at the same time, the first wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()
