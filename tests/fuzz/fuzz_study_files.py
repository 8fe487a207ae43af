"""Damaged study files, overrides and space files.

python -m tests.fuzz.fuzz_study_files --inputs 5000 --seed 0
"""

import functools
import json
import random
import sys
from pathlib import Path

from study.cli.larger import space_overrides
from study.config import check_study_file, load_config
from study.errors import ConfigError
from tests.fuzz.command import run
from tests.fuzz.isolated import Target
from tests.fuzz.mutations import WORDS, mutated_text

ROOT = Path(__file__).resolve().parents[2]
NAME = "study.yaml"
PATHS = (
    "optim.lr",
    "loss",
    "loss.gamma",
    "data.sources.0.kind",
    "search.space",
    "confirm.seeds",
    "a.b",
    "",
    "..",
    "x" * 300,
)
LONGEST = 20_000  # characters of all faults together, of one path 2,000


@functools.cache
def texts() -> tuple[str, ...]:
    """The study files that come with the project, and those of the tests that are wrong already."""
    good = sorted((ROOT / "search_spaces").rglob("*.yaml"))
    broken = [
        path for path in sorted((ROOT / "tests" / "e2e" / "broken").glob("*.yaml")) if path.name != "not_utf8.yaml"
    ]
    return tuple(path.read_text(encoding="utf-8") for path in (*good, *broken))


def make(rng: random.Random, folder: Path) -> None:
    """One damaged study file; whole ones are damaged twice as often as broken ones."""
    others = texts()
    (folder / NAME).write_bytes(mutated_text(rng, rng.choice(others[: len(others) // 2] + others), others))


def judge(rng: random.Random, folder: Path) -> str:
    """Check the file, now and then with overrides, or as a file of a search space."""
    file = folder / NAME
    if rng.random() < 0.1:
        return _space(file)
    overrides = [f"{rng.choice(PATHS)}={rng.choice(WORDS)}"] if rng.random() < 0.2 else []
    try:
        partial, faults = check_study_file(file, overrides, environ={})
    except ConfigError as error:
        return _readable(error)
    assert (partial.config is None) == bool(faults), "a study with faults, or none without"
    if not faults:
        return "accepted"
    for fault in faults:
        assert fault.message, f"no message at {fault.path}"
        assert len(fault.message) < 2000, f"a message of {len(fault.message)} characters at {fault.path}"
    try:
        load_config(file, overrides)
    except ConfigError as error:
        assert len(str(error)) < LONGEST * max(1, len(faults) // 10), "more than anybody reads"
        return f"{faults[0].message[:60]}"
    raise AssertionError("faults, and yet a study")


def _space(file: Path) -> str:
    try:
        found = space_overrides(file)
    except ConfigError as error:
        return _readable(error)
    assert json.loads(found[0].partition("=")[2])
    return "accepted"


def _readable(error: ConfigError) -> str:
    assert error.message
    assert error.fix
    assert len(str(error)) < 1000, "more than anybody reads"
    return error.message.partition(": ")[2] or error.message


def prepare() -> None:
    """Read the files once, before processes are forked."""
    texts()


def tidy() -> None:
    """Nothing is left behind."""


TARGET = Target(name="study_files", make=make, judge=judge)

if __name__ == "__main__":
    sys.exit(run(TARGET, inputs=5_000, prepare=prepare, tidy=tidy))
