"""How a study goes on beyond its file: more trials, another search space."""

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from study.cli.folders import open_ledger
from study.cli.invocation import program, storage_option
from study.errors import ConfigError, InputError

if TYPE_CHECKING:
    from study.config import StudyConfig

SPACE_PATHS: Final = ("search.space", "search.start_with")


def trials_override(config: "StudyConfig", trials: str | None) -> list[str]:
    """``--trials 60`` or ``--trials +20`` as an override of the study file; none for None.

    Raises:
        InputError: it is no such number, or the study has no number of trials that could grow.
    """
    from study.space import count

    if trials is None:
        return []
    if not re.fullmatch(r"\+?[1-9][0-9]{0,8}", trials):
        raise InputError(f"--trials {trials}: expected a number, as in 60, or +20 for 20 more", "correct the number")
    if config.search is None:
        raise InputError(f"study {config.study!r} searches nothing", "only a search can have more trials")
    cells = count(config.search.space) if config.search.algorithm == "grid" else None
    if cells is not None and config.num_trials >= cells:
        raise InputError(
            f"--trials {trials}: all {cells} cells of the grid are in the budget of study {config.study!r} already",
            "give a larger space with --space FILE alone, or start another study",
        )
    if not trials.startswith("+"):
        return [f"search.trials={trials}"]
    if not config.num_trials:
        limits = "its search.budget"
        raise InputError(
            f"--trials {trials}: the search of study {config.study!r} has no number of trials, {limits} ends it",
            "name a number of trials, or --set search.budget....",
        )
    return [f"search.trials={config.num_trials + int(trials)}"]


def space_overrides(file: Path | None) -> list[str]:
    """The search space of a file as overrides: a study file, its search section, or the space alone.

    Its start points take the place of the old ones.

    Raises:
        ConfigError: the file cannot be read, or holds no space.
    """
    from study.config import raise_faults
    from study.config.yamlfile import MAX_CHARACTERS, read_yaml

    if file is None:
        return []
    try:
        if file.stat().st_size > MAX_CHARACTERS:
            raise ConfigError(f"--space {file}: larger than 1 MiB", "name a YAML file of a few kilobytes")
        document = read_yaml(file.read_text(encoding="utf-8-sig"), name=str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--space {file}: cannot be read", "name a YAML file with a search space") from error
    raise_faults(file, document.faults)
    raw: Any = document.value
    search = raw.get("search", raw) if isinstance(raw, dict) else None
    space = search.get("space", search) if isinstance(search, dict) else None
    if not isinstance(space, dict) or not space or "data" in space:
        raise ConfigError(f"--space {file}: no search space in it", "write parameters as under search.space")
    points = search.get("start_with", []) if isinstance(search, dict) and "space" in search else []
    return [f"search.space={json.dumps(space)}", f"search.start_with={json.dumps(points)}"]


def check_budget_left(config: "StudyConfig", directory: Path, *, name: str, storage: str) -> None:
    """Another space is of no use to a study whose budget is spent.

    Raises:
        InputError: no trial could begin.
    """
    ledger = open_ledger(config, directory)
    if ledger is None:
        return
    with contextlib.closing(ledger):
        if not ledger.left():
            raise InputError(
                f"the search of study {name!r} is over: {ledger.over}",
                f"{program()} resume {name}{storage_option(storage)} --trials +20 --space FILE",
            )
