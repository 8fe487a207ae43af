"""Branches, groups, grids and constants of a search space; its size, its cells, and points of the unit cube."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.space import (
    UnitPoint,
    active_nodes,
    cells,
    check_space,
    count,
    describe,
    finite_values,
    grid_turn,
    parse_space,
    takes,
    value_in,
    walk,
)
from study.space.sizes import from_unit

RAW: dict[str, Any] = {
    "loss": {
        "choice": [
            {"name": "alpa", "preset": "v2"},
            {"name": "focal", "gamma": {"float": [0.5, 5.0], "step": 0.5}},
            {"name": "emd"},
        ]
    },
    "model.drop_rate": {"choice": [0.1, 0.2], "when": {"loss.name": ["alpa", "emd"]}},
    "optim": {"lr": {"grid": [0.1, 0.01]}, "weight_decay": 0.05},
    "augment.policy": {"constant": "none", "when": {"loss.name": "emd"}},
    "data.shapes": {"choice": [[1, 2], [3]]},
}


def test_groups_branches_and_constants() -> None:
    """A group is not taken apart, or an option does not set its values under their own paths."""
    space = parse_space(RAW)
    assert [node.key for node in space.nodes] == [
        "loss", "loss[1].gamma", "model.drop_rate", "optim.lr", "optim.weight_decay", "augment.policy", "data.shapes",
    ]  # fmt: skip
    point = [0.5, 0.99, 0.0, 0.0, 0.0, 0.0, 0.9]
    assert walk(space, UnitPoint(space, point)) == {
        "loss.name": "focal",
        "loss.gamma": 5.0,
        "optim.lr": 0.1,
        "optim.weight_decay": 0.05,
        "data.shapes": [3],
    }
    point[0] = 0.99
    assert walk(space, UnitPoint(space, point)) == {
        "loss.name": "emd",
        "model.drop_rate": 0.1,
        "optim.lr": 0.1,
        "optim.weight_decay": 0.05,
        "augment.policy": "none",
        "data.shapes": [3],
    }
    assert parse_space(space.to_raw()) == space
    assert [row.when for row in describe(space)][1] == "loss = {name=focal}"


def test_branches_inside_branches() -> None:
    """A range two options deep is lost, or two options cannot have a range of the same path."""
    raw = {
        "loss": {
            "choice": [
                {"name": "a", "x": {"choice": [{"y": 1, "z": {"int": [1, 2]}}, {"y": 2}]}},
                {"name": "b", "x": {"z": {"int": [5, 6]}}},
            ]
        },
        "deep": {"choice": [0], "when": {"loss.x.z": 2, "loss.name": "a"}},
    }
    space = parse_space(raw)
    assert parse_space(space.to_raw()) == space
    assert [tuple(one.items()) for one in cells(space)] == [
        (("loss.name", "a"), ("loss.x.y", 1), ("loss.x.z", 1)),
        (("loss.name", "a"), ("loss.x.y", 1), ("loss.x.z", 2), ("deep", 0)),
        (("loss.name", "a"), ("loss.x.y", 2)),
        (("loss.name", "b"), ("loss.x.z", 5)),
        (("loss.name", "b"), ("loss.x.z", 6)),
    ]
    assert count(space) == 5


def test_the_seed_is_the_innermost_axis() -> None:
    """Seeds of a grid vary slower than another parameter, or the file's order counts for them."""
    space = parse_space({"seed": {"grid": [0, 1]}, "a": {"choice": ["x", "y"]}})
    assert [(one["a"], one["seed"]) for one in cells(space)] == [("x", 0), ("x", 1), ("y", 0), ("y", 1)]


def test_grid_parameters_take_turns() -> None:
    """Under another algorithm some combination of the grid parameters comes more often than the others."""
    space = parse_space({"a": {"grid": [1, 2]}, "b": {"grid": ["x", "y", "z"]}, "c": {"float": [0, 1]}})
    turns = [tuple(grid_turn(space, number).values()) for number in range(12)]
    assert turns[:6] == turns[6:]
    assert len(set(turns)) == 6


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Small spaces with conditions, branches and steps; every parameter finite."""
    raw: dict[str, Any] = {}
    for i in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["choice", "grid", "int", "float", "branch", "constant"]))
        line: dict[str, Any] = {
            "choice": {"choice": [0, "b", True][: draw(st.integers(1, 3))]},
            "grid": {"grid": [0, 1]},
            "int": {"int": [0, 4], "step": 2},
            "float": {"float": [0, 1], "step": 0.5},
            "branch": {"choice": [{"name": 0, "sub": {"int": [0, 1]}}, {"name": 1}]},
            "constant": {"constant": 0},
        }[kind]
        if i and draw(st.booleans()):
            parent = draw(st.sampled_from(sorted(raw)))
            if "float" not in raw[parent]:
                is_branch = isinstance(next(iter(raw[parent].values())), list) and parent.startswith("branch")
                line["when"] = {f"{parent}.name" if is_branch else parent: 0}
        raw[f"{kind}{i}"] = line
    return raw


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_count_cells_and_points_agree(raw: dict[str, Any], seed: int) -> None:
    """The size is not the number of cells, a cell comes twice, or a drawn configuration is none of them."""
    space, faults = check_space(raw)
    assert not faults
    assert parse_space(space.to_raw()) == space
    every = [repr(sorted(cell.items())) for cell in cells(space)]
    assert len(set(every)) == len(every) == count(space)
    drawn = random.Random(seed)
    params = walk(space, UnitPoint(space, [drawn.random() for _ in space.nodes]))
    assert repr(sorted(params.items())) in every
    assert {path for node in active_nodes(space, params) for path in node.provides if path in params} == set(params)
    assert all(value_in(node, params) is not None for node in active_nodes(space, params))


def test_size_of_a_large_space() -> None:
    """Counting walks through every configuration, or a float range counts as one value."""
    raw: dict[str, Any] = {f"p{i}": {"choice": list(range(10))} for i in range(30)}
    raw["q"] = {"int": [1, 1000], "when": {"p0": [1, 2]}}
    assert count(parse_space(raw)) == 10**29 * 8 + 10**29 * 2 * 1000
    raw["r"] = {"float": [0, 1], "when": {"p1": 3}}
    assert count(parse_space(raw)) is None


@pytest.mark.parametrize(
    ("line", "low", "high"),
    [
        ({"int": [1, 4]}, 1, 4),
        ({"int": [0, 9], "step": 3}, 0, 9),
        ({"int": [1, 64], "scale": "log"}, 1, 64),
        ({"float": [0.0, 1.0], "step": 0.25}, 0.0, 1.0),
        ({"float": [1e-4, 1e-2], "scale": "log"}, 1e-4, 1e-2),
    ],
)
def test_from_unit(line: dict[str, Any], low: float, high: float) -> None:
    """Numbers leave their range or steps, an end is never drawn, or the order of the unit interval is lost."""
    [node] = parse_space({"a": line}).nodes
    drawn = [from_unit(node, i / 1000) for i in range(1000)]
    assert (drawn[0], drawn[-1]) == (pytest.approx(low), pytest.approx(high, rel=0.01))
    assert all(takes(node, value) for value in drawn)
    assert all(one <= other for one, other in itertools.pairwise(drawn))
    if finite_values(node) and not node.log:
        shares = {value: drawn.count(value) for value in set(drawn)}
        assert max(shares.values()) - min(shares.values()) <= 1
