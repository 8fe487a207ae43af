"""Every example of docs/search.md is a study file that loads."""

import re
from pathlib import Path

import pytest

from study.config import load_config
from study.ledger import ALGORITHMS, PRUNERS

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
EXAMPLES: list[str] = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
HEAD = "study: page\ndata: {prepared: x, sources: [{kind: mias, root: y}]}\n"


def whole(example: str) -> str:
    """A study file around an example, which is a search section or the space of one."""
    if example.startswith("search:"):
        return HEAD + example
    lines = "".join(f"    {line}\n" for line in example.splitlines())
    return f"{HEAD}search:\n  trials: 9\n  space:\n{lines}"


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(tmp_path: Path, example: str) -> None:
    """An example of the page is refused, or its parameters are not those that it names."""
    path = tmp_path / "page.yaml"
    path.write_text(whole(example), encoding="utf-8")
    config = load_config(path)
    assert config.search is not None
    assert len(config.search.space) >= 1
    again = tmp_path / "again.yaml"
    from study.config import config_yaml

    again.write_text(config_yaml(config), encoding="utf-8")
    assert load_config(again) == config


def test_names() -> None:
    """An algorithm or pruner is missing on the page."""
    assert len(EXAMPLES) >= 10
    for name in (*ALGORITHMS, *PRUNERS):
        assert f"| `{name}` |" in PAGE
