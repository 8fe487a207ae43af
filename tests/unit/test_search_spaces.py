"""The study files that come with the product."""

import re
from pathlib import Path

import pytest

from study.config import check_study_file, config_warnings, load_config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "search_spaces").rglob("*.y*ml"))


def test_there_are_some() -> None:
    """The folder has no study file, so the tests below check nothing."""
    assert {path.stem for path in FILES} >= {"quickstart", "mias"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_loads_without_faults(path: Path) -> None:
    """A study file of the product has faults or warnings, or its search space is empty."""
    partial, faults = check_study_file(path)
    assert not faults
    assert partial.warnings == ()
    config = load_config(path)
    assert config_warnings(config) == []
    assert config.study == path.stem
    assert config.search is not None
    assert len(config.search.space) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_header(path: Path) -> None:
    """The comment on top lacks the question, the time it takes, or the command."""
    header = "".join(
        line for line in path.read_text(encoding="utf-8").splitlines(keepends=True)[:6] if line.startswith("#")
    )
    assert "?" in header
    assert re.search(r"\d+ (minutes|hours) on .+ (cores|GPU)", header)
    assert f"study run {path.relative_to(ROOT).as_posix()}" in header


def test_films_can_lie_elsewhere() -> None:
    """The folder of the MIAS films cannot be changed from the command line."""
    config = load_config(ROOT / "search_spaces" / "mias.yaml", ["data.sources.0.root=/films"])
    source = config.data.sources[0]
    assert source.kind == "mias"
    assert source.root == "/films"
