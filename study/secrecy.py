"""What must stay secret: which variables hold it, the files that they are read from, and texts without it."""

import os
import re
import stat
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from study.errors import EnvironmentFault

# Addresses and passwords of the ledger and of MLflow, which the driver alone speaks to.
SECRETS: Final = (
    "STUDY_LEDGER_URL",
    "PGPASSWORD",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
ADDRESSES: Final = ("STUDY_LEDGER_URL", "MLFLOW_TRACKING_URI")
SHOWN: Final = (*ADDRESSES, "MLFLOW_TRACKING_USERNAME")  # a user's name alone opens nothing, and may be any word
# Secrets of other programs, which workers need, too: stores of data, the cluster's token, the hub of weights.
OTHERS: Final = (
    *("RAY_AUTH_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("HF_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET"),
)
SUFFIX: Final = "_FILE"
MOST_BYTES: Final = 65_536
SHORTEST: Final = 4  # a shorter word is replaced in no text: it would stand in half of all others
HIDDEN: Final = "***"
IN_ADDRESS: Final = re.compile(r"(?<=://)[^/@\s'\"]*@")


def take_secret_files(environ: MutableMapping[str, str]) -> None:
    """Read ``STUDY_LEDGER_URL_FILE`` and its like for every variable of `SECRETS` into the variable itself.

    A file that others can read is refused. One of another owner, as orchestrators mount them, may be readable by this
    process's group.

    Raises:
        EnvironmentFault: both variables are set, or the file is missing, empty, too large, or readable by others.
    """
    for name in SECRETS:
        place = environ.get(name + SUFFIX)
        if not place:
            continue
        if environ.get(name):
            raise EnvironmentFault(f"{name} and {name}{SUFFIX} are both set", f"unset {name}, or {name}{SUFFIX}")
        environ[name] = _content(name + SUFFIX, Path(place))
        del environ[name + SUFFIX]


def redacted(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text without users and passwords of addresses, and without what the variables of secrets hold.

    ``environ`` defaults to the variables of the process.
    """
    known = os.environ if environ is None else environ
    words = [known[name] for name in OTHERS if known.get(name)]
    words += [known[name] for name in SECRETS if known.get(name) and name not in SHOWN]
    for name in ADDRESSES:
        words += _passwords(known.get(name, ""))
    for word in sorted(set(words), key=len, reverse=True):
        if len(word) >= SHORTEST:
            text = text.replace(word, HIDDEN)
    return IN_ADDRESS.sub(f"{HIDDEN}@", text)


def _passwords(address: str) -> list[str]:
    """The password of an address, as it is written and as it is meant."""
    # By hand: what is not a URL at all, or has a slash in its password, is what an error is about.
    user = address.partition("://")[2].partition("?")[0].rpartition("@")[0]
    password = user.partition(":")[2]
    queried = re.findall(r"[?&]password=([^&]+)", address)
    return [word for each in (password, *queried) for word in (each, unquote(each)) if word]


def _content(name: str, path: Path) -> str:
    try:
        state = path.stat()
    except OSError as error:
        raise EnvironmentFault(f"{name}: {path} cannot be read ({error.strerror})", "name a file that exists") from None
    if not stat.S_ISREG(state.st_mode) or state.st_size > MOST_BYTES:
        raise EnvironmentFault(f"{name}: {path} is no file that holds one secret", "name a file of one line")
    is_own = state.st_uid == os.getuid()
    if state.st_mode & (0o077 if is_own else 0o007):
        found = f"mode {stat.S_IMODE(state.st_mode):03o}"
        raise EnvironmentFault(f"{name}: others can read {path} ({found}); expected 600", f"chmod 600 {path}")
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise EnvironmentFault(f"{name}: {path} cannot be read ({error.strerror})", "make it your own file") from None
    except UnicodeDecodeError:
        raise EnvironmentFault(f"{name}: {path} is not text in UTF-8", "write one line of text") from None
    if not text or len(text.splitlines()) > 1 or "\0" in text:
        found = "is empty" if not text else "holds a zero byte" if "\0" in text else "holds several lines"
        raise EnvironmentFault(f"{name}: {path} {found}; expected one line", "write the secret alone into it")
    return text
