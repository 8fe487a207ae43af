"""Every example of docs/search.md is a study file that loads."""

import re
from pathlib import Path
from typing import Any

import pytest

from study.config import StudyConfig, apply_params, flat_values, load_config, settable_paths
from study.config.searching import space_faults
from study.config.view import View
from study.ledger import ALGORITHMS, PRUNERS
from study.ledger.estimate import first_configurations
from study.space import check_space

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
EXAMPLES: list[str] = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
HEAD = "study: page\ndata: {prepared: x, sources: [{kind: mias, root: y}]}\n"


def whole(example: str) -> str:
    """A study file around an example, which is a search section or the space of one."""
    if re.match(r"(#.*\n)*search:", example):
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
    for params in first_configurations(config, 6):
        trial = apply_params(config, params)
        tree = flat_values(trial)
        assert {path: tree[path] for path in params} == params


def values_of(path: str) -> list[Any]:
    """The default of a knob, where it has one that is no choice between records."""
    tree = flat_values(load_base())
    return [tree[path]] if path in tree else []


def load_base() -> StudyConfig:
    """A file that searches nothing."""
    data = {"prepared": "x", "sources": [{"kind": "mias", "root": "y"}]}
    return StudyConfig.model_validate({"study": "page", "data": data})


def test_every_knob_can_be_searched(tmp_path: Path) -> None:
    """A knob that a run reads is refused by the search, or a searched value does not reach the run."""
    fixed = ("study", "seed", "strict", "data", "search", "confirm", "resources", "evaluate")
    base = load_base()
    knobs = [path for path in settable_paths() if path.split(".")[0] not in fixed and not path.startswith("tasks.")]
    knobs += [path for path in settable_paths() if path.startswith("data.labels.uncertainty.")]
    assert len(knobs) > 40
    checked = 0
    for path in knobs:
        values = values_of(path)
        if not values or path == "train.metric":
            continue
        space, faults = check_space({path: {"choice": values}})
        view = View({**base.model_dump(mode="json"), "search": {"space": space.to_raw(), "trials": 3}})
        assert (path, [*faults, *space_faults(space, view)]) == (path, [])
        assert (path, flat_values(apply_params(base, {path: values[0]}))[path]) == (path, values[0])
        checked += 1
    assert checked > 30


def test_names() -> None:
    """An algorithm or pruner is missing on the page."""
    assert len(EXAMPLES) >= 10
    for name in (*ALGORITHMS, *PRUNERS):
        assert f"| `{name}` |" in PAGE
