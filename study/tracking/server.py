"""Reaching MLflow: a client that is quiet, names that it accepts, and what its failures mean."""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any, Final

from study.errors import EnvironmentFault, InputError

logger = logging.getLogger(__name__)

MAX_KEY: Final = 250
MAX_VALUE: Final = 6000
MAX_TAG: Final = 8000
CONFIG_DIGEST: Final = "study.config_sha256"  # tag of a study's run
DIGEST: Final = "study.sha256/"  # and the path of an artifact: tag of its run
SQLITE: Final = "sqlite:///"
# A retried POST whose answer was lost would make a second run; our own retry looks for the run first.
ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PERMANENT: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"})
FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9_\-./ ]")


def default_uri(study_dir: Path) -> str:
    """Tracking URI of the database that lies in the study's own directory."""
    return f"{SQLITE}{study_dir.resolve() / 'mlflow.db'}"


def is_local(tracking_uri: str) -> bool:
    """Whether the URI is a database file, whose artifacts then belong beside it."""
    return tracking_uri.startswith(SQLITE)


def make_client(tracking_uri: str) -> Any:
    """An MlflowClient that prints nothing, reports nothing home and leaves retrying to its caller.

    A database file is created when it is missing (about 1.5 s).
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    library_logger = logging.getLogger("mlflow")
    library_logger.handlers.clear()
    library_logger.propagate = True
    library_logger.setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if is_local(tracking_uri):
        _create_database(Path(tracking_uri.removeprefix(SQLITE)))
    return MlflowClient(tracking_uri=tracking_uri)


def _create_database(path: Path) -> None:
    """Make a missing database under another name and rename it.

    MLflow makes its tables in many steps; a kill between two of them leaves a file that it never accepts again.
    """
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    for leftover in path.parent.glob(f"{partial.name}*"):
        leftover.unlink()
    MlflowClient(tracking_uri=f"{SQLITE}{partial}").search_experiments(max_results=1)
    partial.replace(path)


def make_reader(tracking_uri: str) -> Any:
    """As `make_client`, but a database file that is missing is not created.

    Raises:
        InputError: there is no such file.
        EnvironmentFault: the database or server cannot be used.
    """
    if is_local(tracking_uri) and not Path(tracking_uri.removeprefix(SQLITE)).exists():
        raise InputError(
            f"there is no MLflow database at {tracking_uri.removeprefix(SQLITE)}",
            "check the name of the study and the storage root, or run the study first",
        )
    try:
        return make_client(tracking_uri)
    except Exception as error:
        raise unreachable(tracking_uri, error) from error


def check_answers(tracking_uri: str) -> None:
    """Ask MLflow for anything; a database file is made when it is missing.

    Raises:
        EnvironmentFault: MLflow does not answer, or refuses this user.
    """
    try:
        make_client(tracking_uri).search_experiments(max_results=1)
    except Exception as error:
        raise unreachable(tracking_uri, error) from error


def unreachable(tracking_uri: str, error: Exception) -> EnvironmentFault:
    """The error to raise when MLflow does not answer; a password in the URI is not shown."""
    return EnvironmentFault(
        f"MLflow at {without_password(tracking_uri)} cannot be used: {reason_of(error)}",
        "start the server or check its address; the study's own table is in `study status`",
    )


def reason_of(error: Exception) -> str:
    """One line that says what went wrong, without passwords."""
    lines = str(error).strip().splitlines()
    return without_password(lines[0])[:300] if lines else type(error).__name__


def without_password(text: str) -> str:
    """``text`` without user and password of the addresses in it."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def is_permanent(error: Exception) -> bool:
    """Whether asking again cannot help: MLflow refuses the content, or the file to be sent is gone."""
    return getattr(error, "error_code", "") in PERMANENT or isinstance(error, FileNotFoundError)


def clean_key(name: str) -> str:
    """``name`` in MLflow's alphabet: letters, digits, ``_-. /``, no empty or dotted parts, at most 250 characters."""
    parts = [part for part in FORBIDDEN.sub("_", name).split("/") if part.strip(". ")]
    return "/".join(parts)[:MAX_KEY].rstrip("/") or "unnamed"


def param_text(value: object) -> str:
    """A sampled value as text: texts as they are, all else as JSON (``true``, ``0.001``, ``null``)."""
    return (value if isinstance(value, str) else json.dumps(value))[:MAX_VALUE]
