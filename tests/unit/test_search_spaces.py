"""The study files that come with the product."""

import re
from itertools import takewhile
from pathlib import Path

import pytest

from study.config import check_study_file, config_warnings, load_config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "search_spaces").rglob("*.y*ml"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "search_spaces").with_suffix("").as_posix()


def test_there_are_some() -> None:
    """The folder has no study file, so the tests below check nothing."""
    assert {path.stem for path in FILES} >= {"quickstart", "mias"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_loads_without_faults(path: Path) -> None:
    """A study file of the product has faults or warnings, or its search space is empty."""
    partial, faults = check_study_file(path)
    assert not faults
    assert partial.warnings == ()
    config = load_config(path)
    assert config_warnings(config) == []
    assert config.study == name_of(path).replace("/", "-").replace("_", "-")
    assert config.search is not None
    assert len(config.search.space) > 0


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_header(path: Path) -> None:
    """The comment on top lacks the question, the time it takes, or the command."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    header = "".join(takewhile(lambda line: line.startswith("#"), lines))
    assert "?" in header
    assert re.search(r"\d+ (minutes|hours?) on .+ (cores|GPU)", header)
    assert f"study run {path.relative_to(ROOT).as_posix()}" in header


def test_films_can_lie_elsewhere() -> None:
    """The folder of the MIAS films cannot be changed from the command line."""
    config = load_config(ROOT / "search_spaces" / "mias.yaml", ["data.sources.0.root=/films"])
    source = config.data.sources[0]
    assert source.kind == "mias"
    assert source.root == "/films"
