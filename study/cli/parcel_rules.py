"""What may not travel to a cluster: secrets, since who sees the dashboard sees a job; and paths of this machine."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from study.cli.folders import check_slashes
from study.errors import InputError

SECRET_NAMES: Final = re.compile(
    r"STUDY_LEDGER_URL|PGPASSWORD|PGPASSFILE|AWS_.*|.*(TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|KEY).*"
    r"|(.*_)?(PASS|PW|AUTH|SAS)|.+_PWD",
    re.IGNORECASE,
)
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What stands before the @ is no secret for Google's public buckets, nor where Azure names the container.
OPEN_USER: Final = r"(?!gs://anonymous@|abfss?://[^/\s?#:@]*@)"
LOADED_OPTION: Final = r"[^\s?#]*\?(?:[^\s#]*&)?[^\s=&#]*(?:token|passw|secret|sig|key)[^\s=&#]*="
USER_IN_URL: Final = re.compile(
    rf"\b{OPEN_USER}[a-z][a-z0-9+.-]*://[^/\s?#]*@|\b[a-z][a-z0-9+.-]*://{LOADED_OPTION}", re.IGNORECASE
)
OWN_PACKAGES: Final = ("ray", "study")
URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ON_NODES: Final = "set it in the environment of the nodes, before `ray start` or in the pod's secret; "


def forwarded(names: Sequence[str], own: Sequence[str] = ()) -> dict[str, str]:
    """The values of environment variables that a job gets by name; ``own`` are names that the program sets itself.

    Raises:
        InputError: one is not set here, is no name, or holds a secret.
    """
    found = {}
    for name in names:
        if not NAME.fullmatch(name):
            raise InputError(
                f"--env {name.partition('=')[0]}: expected the name of a variable", "its value is taken from here"
            )
        if SECRET_NAMES.fullmatch(name):
            raise InputError(
                f"--env {name}: a secret; everybody who can open the cluster's dashboard can read what a job is given",
                f"{ON_NODES}the driver runs on the head node",
            )
        if name in own or name.startswith("RAY_"):
            raise InputError(f"--env {name}: the program or Ray sets it itself", f"{ON_NODES}leave --env {name} out")
        value = os.environ.get(name)
        if value is None:
            raise InputError(f"--env {name}: not set here", f"export {name}=..., or leave --env {name} out")
        if USER_IN_URL.search(value):
            raise InputError(
                f"--env {name}: its value is an URL with a user or a password, which the dashboard would show",
                f"{ON_NODES}or take the user out of the URL",
            )
        found[name] = value
    return found


def check_packages(specs: Sequence[str]) -> tuple[str, ...]:
    """Packages as pip spells them; sorted, each once.

    Raises:
        InputError: one is not such a text, carries a password, or would replace Ray or this program.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    for spec in specs:
        if USER_IN_URL.search(spec):
            raise InputError(
                "--package: an URL with a user or a password, which the dashboard would show", f"{ON_NODES}"
            )
        try:
            name = Requirement(spec).name.lower()
        except InvalidRequirement as error:
            reason = next(iter(str(error).splitlines()), "")
            raise InputError(
                f"--package {spec}: expected NAME or NAME==VERSION; {reason}", "as pip spells it"
            ) from None
        if name in OWN_PACKAGES:
            raise InputError(
                f"--package {spec}: the nodes have their own Ray, and study travels with the job", "leave it out"
            )
    return tuple(sorted(set(specs)))


def check_changes(overrides: Sequence[str]) -> None:
    """What ``--set`` changes in a study that exists is part of the job's command, for everybody to see.

    Raises:
        InputError: a value is an URL with a user or a password, or a change is no change.
    """
    for change in overrides:
        path, mark, _ = change.partition("=")
        if not path or not mark:
            raise InputError(f"--set {change!r}: expected PATH=VALUE", "for example --set search.trials=80")
        if USER_IN_URL.search(change):
            raise InputError(
                f"--set {change.partition('=')[0]}: an URL with a user or a password, which the dashboard would show",
                f"{ON_NODES}name the place without them",
            )


def check_storage(storage: str, *, is_default: bool) -> str:
    """Where the study lies must mean the same on every node, and be spelt alike by whoever sends it again.

    Returns:
        The place without slashes and dots that mean nothing.

    Raises:
        InputError: it is relative to a folder of this machine, carries a password, or is no place for studies.
    """
    if USER_IN_URL.search(storage):
        raise InputError(
            f"--storage {storage.partition('://')[0]}://...: its credentials would be seen in the dashboard",
            f"{ON_NODES}name the place without them",
        )
    check_slashes(storage)
    if not URI.match(storage) and not storage.startswith("/"):
        found = f"{storage} is the default, and" if is_default else f"{storage} is"
        raise InputError(
            f"--storage: {found} relative; a job runs in a folder that the cluster deletes when it ends",
            "name a folder that every node sees under the same absolute path, or a store: --storage /shared/studies",
        )
    if URI.match(storage):
        from study.remote import check_store

        return check_store(storage)
    return os.path.normpath(storage)


def local_paths(config: Any) -> list[str]:
    """Values of a study file that mean nothing on another machine, as ``path: value``."""
    tree = config.model_dump(mode="json")
    return [
        f"{path}: {value}"
        for path, value in _texts(tree["data"], "data")
        if _is_place(path) and not URI.match(value) and not value.startswith("/")
    ]


def secret_paths(config: Any) -> list[str]:
    """Paths of values that are URLs with a user or a password."""
    return [path for path, value in _texts(config.model_dump(mode="json"), "") if USER_IN_URL.search(value)]


def check_file(config: Any) -> None:
    """A study file that can travel has absolute paths or URIs, and no passwords.

    Raises:
        InputError: it has others; all of them are named.
    """
    secrets = secret_paths(config)
    if secrets:
        raise InputError(
            "the study file has URLs with a user or a password, which the job would show: " + ", ".join(secrets),
            f"{ON_NODES}name the places without them",
        )
    relative = local_paths(config)
    if relative:
        first = relative[0].partition(":")[0]
        raise InputError(
            "the study file has paths of this machine, and data do not travel:\n  " + "\n  ".join(relative),
            f"name folders that every node sees, or a store: --set {first}=/shared/...",
        )


def _is_place(path: str) -> bool:
    """Whether a folder stands there; tables and pictures of a source lie below its root."""
    return path in ("data.prepared", "data.masks") or re.fullmatch(r"data\.sources\.\d+\.root", path) is not None


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _texts(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _texts(below, f"{path}.{index}" if path else str(index))
    elif isinstance(value, str):
        yield path, value
