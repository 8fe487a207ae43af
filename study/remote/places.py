"""Which store a directory belongs to, and where this machine keeps its copies.

``STUDY_CACHE`` (``~/.cache/study``) holds up to three copies of a store, so that nobody changes what another process
writes: one of the driver, one of the workers, and one of the verbs that look. A file at the top of each names the
store.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, ParamSpec, TypeVar
from urllib.parse import parse_qsl

from study.data.files import is_remote, join, shown, why
from study.data.shards_cache import cache_folder
from study.errors import EnvironmentFault, InputError

P = ParamSpec("P")
R = TypeVar("R")
Role = Literal["drive", "work", "look"]
MARK: Final = ".store"
OPTIONS: Final = frozenset({"region", "scheme", "endpoint_override", "retry_limit_seconds", "enable_tls"})
PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)  # between the tries of one request; pyarrow itself has tried three times by then
PATIENCE_S: Final = 30.0  # no third try after it, nor a later one: with Google's pauses that is under a minute
SCHEMES: Final = ("s3", "gs", "abfs", "abfss")


def check_store(uri: str) -> str:
    """The URI of a place in which studies lie, without a slash at its end.

    Raises:
        InputError: it holds a user, a password or an option that is not known to be harmless, or no bucket, or
            its scheme is that of no store.
    """
    base, mark, query = uri.partition("?")
    credentials = (
        "credentials of a store come from the environment or the machine's role (AWS_ACCESS_KEY_ID, "
        "GOOGLE_APPLICATION_CREDENTIALS, ...)"
    )
    if not is_remote(uri):
        raise InputError(f"{uri}: expected a folder or a URI such as s3://bucket/folder", "name one of the two")
    scheme = uri.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InputError(
            f"{shown(uri)}: studies cannot lie in {scheme}://; expected {known} or a folder",
            "a share is mounted on every node and named as a folder: --storage /nfs/studies",
        )
    if shown(base) != base.replace("gs://anonymous@", "gs://", 1):  # this user is none
        raise InputError(f"{shown(uri)}: the URI holds a user or a password", credentials)
    unknown = sorted({name for name, _ in parse_qsl(query, keep_blank_values=True)} - OPTIONS)
    if unknown:
        known = ", ".join(sorted(OPTIONS))
        raise InputError(f"{shown(uri)}: unknown option {', '.join(unknown)}; expected one of {known}", credentials)
    if not base.partition("://")[2].partition("/")[0]:
        raise InputError(f"{shown(uri)}: no bucket", "name one, as in s3://bucket/folder")
    return base.rstrip("/") + mark + query


def copy_root(uri: str, role: Role) -> Path:
    """The folder in which this machine keeps one of its copies of a store; it is made when missing."""
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    root = cache_folder() / "studies" / name / role
    mark = root / MARK
    if not mark.exists():
        root.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps({"store": uri}), encoding="utf-8")
    return root


def _marked(directory: Path) -> Path | None:
    """The top of the copy in which a directory lies; it is a study's, a run's, or one of their folders."""
    absolute = directory.absolute()
    return next((above for above in (absolute, *list(absolute.parents)[:3]) if (above / MARK).is_file()), None)


def root_of(directory: Path) -> str:
    """URI of the store of which a directory is part of a copy; empty for a directory of its own."""
    top = _marked(directory)
    return "" if top is None else str(json.loads((top / MARK).read_text(encoding="utf-8"))["store"])


def is_copy(directory: Path) -> bool:
    """Whether a directory is part of a copy of a store."""
    return _marked(directory) is not None


def uri_of(directory: Path) -> str:
    """Where a directory of a copy lies in the store.

    Raises:
        ValueError: it is part of no copy.
    """
    top = _marked(directory)
    if top is None:
        raise ValueError(f"{directory} is no copy of a store")
    return join(root_of(top), *directory.absolute().relative_to(top).parts)


def shown_place(directory: Path) -> str:
    """Where a directory is kept, for messages: its URI without its options, or its path."""
    return shown(uri_of(directory)) if is_copy(directory) else str(directory)


def at_work(directory: str, store: str, *, depth: int = 3) -> Path:
    """The directory as a worker uses it: in the copy of its own machine when the study lies in a store.

    ``depth`` is the number of names below the store: 3 for the folder of a run, 1 for that of a study.
    """
    return copy_root(store, "work").joinpath(*Path(directory).parts[-depth:]) if store else Path(directory)


def answered(place: str, function: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """Ask a store again, finitely often, when it does not answer; a file that is not there is an answer.

    Raises:
        FileNotFoundError: there is no such file.
        EnvironmentFault: the store does not answer or refuses.
    """
    begun = time.monotonic()
    for tries, pause in enumerate((*PAUSES_S, None), start=1):
        try:
            return function(*args, **options)
        except FileNotFoundError:
            raise
        except OSError as error:
            if pause is None or (tries > 1 and time.monotonic() - begun > PATIENCE_S):
                raise EnvironmentFault(
                    f"{shown(place)}: the store does not do what it is asked ({why(error)}; {tries} tries)",
                    "check the bucket, the credentials in the environment, and the network",
                ) from None
            time.sleep(pause)
    raise AssertionError("unreachable")
