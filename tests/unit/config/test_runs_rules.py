"""The study file's ``search.seeds`` and ``search.folds``: what fits together, and every fault at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study.config import check_study_file, config_warnings, config_yaml, load_config
from study.types import RunKey

Write = Callable[[Any], Path]
FILE = """\
study: s
seed: 4
data: {{prepared: p, sources: [{{kind: phantom, name: a, patients: 9}}]{data}}}
search:
  trials: 3
  {search}
  space: {{optim.lr: {{float: [1.0e-4, 1.0e-2]}}{space}}}
"""


def text(search: str, *, data: str = "", space: str = "") -> str:
    return FILE.format(search=search, data=data, space=space)


def faults(path: Path) -> list[str]:
    return [fault.path for fault in check_study_file(path)[1]]


@pytest.mark.parametrize(
    ("search", "keys"),
    [
        ("algorithm: tpe", [RunKey(seed=4)]),
        ("seeds: [2, 0]", [RunKey(seed=2), RunKey(seed=0)]),
        ("folds: 3", [RunKey(seed=4, fold=1), RunKey(seed=4, fold=2), RunKey(seed=4, fold=3)]),
    ],
)
def test_the_runs_of_a_trial(write: Write, search: str, keys: list[RunKey]) -> None:
    """A trial has other runs than the file says, or the resolved file loses them."""
    config = load_config(write(text(search)))
    assert list(config.run_keys) == keys
    assert load_config(write(config_yaml(config))).run_keys == config.run_keys


@pytest.mark.parametrize(
    ("given", "places"),
    [
        (text("seeds: [0, 1, 0]"), ["search.seeds"]),
        (text("seeds: []"), ["search.seeds"]),
        (text("seeds: [0, -1]"), ["search.seeds.1"]),
        (text("folds: 1"), ["search.folds"]),
        (text("folds: 101"), ["search.folds"]),
        (text("seeds: [0, 1]\n  folds: 3"), ["search.folds"]),
        (text("pruner: {name: wilcoxon}"), ["search.pruner.name"]),
        (text("seeds: [1]\n  pruner: {name: wilcoxon}"), ["search.pruner.name"]),
        (
            text("algorithm: grid\n  seeds: [0, 1]", space=", seed: {grid: [0, 1]}"),
            ["search.seeds", "search.space.optim.lr"],
        ),
        (text("folds: 3", data=", labels: {flip: {birads3: 0.1}}"), ["data.labels.flip"]),
        (text("folds: 3", data=", labels: {leave_out: {all: 0.5}}"), ["data.labels.leave_out"]),
        (text("folds: 0\n  seeds: [1, 1]\n  pruner: {name: wilcoxon}\n  budgt: {}"), None),
    ],
)
def test_faults(write: Write, given: str, places: list[str] | None) -> None:
    """A file that cannot be run is started, or only its first fault is told."""
    found = faults(write(given))
    if places is None:
        assert {"search.folds", "search.seeds", "search.budgt"} <= set(found)
    else:
        assert found == places


def test_a_test_that_can_never_stop_anything_is_told(write: Write) -> None:
    """Three seeds and a level that they cannot reach look like a pruner."""
    few = load_config(write(text("seeds: [0, 1, 2]\n  pruner: {name: wilcoxon, p_value: 0.1}")))
    assert any("never stops a trial of 3 runs" in warning for warning in config_warnings(few))
    many = load_config(write(text("folds: 5\n  pruner: {name: wilcoxon, p_value: 0.1}")))
    assert not any("wilcoxon" in warning for warning in config_warnings(many))
    other = load_config(write(text("folds: 5\n  pruner: {name: median, p_value: 0.2}")))
    assert not any("p_value" in warning for warning in config_warnings(other))
    single = load_config(write(text("pruner: {name: median, p_value: 0.2}")))
    assert any("p_value has no effect" in warning for warning in config_warnings(single))
