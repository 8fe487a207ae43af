"""The grammar of the search space: reading, conditions, walking."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.errors import ConfigError
from study.space import Scalar, SearchSpace, SpaceNode, check_space, describe, is_active, parse_space, takes, walk
from study.space.spelling import nearest, show

RAW = {
    "loss.gamma": {"float": [0.5, 5], "when": {"loss.name": "focal"}},
    "optim.warmup_steps": {
        "int": [0, 100],
        "step": 50,
        "when": {"optim.schedule": ["cosine", "step"], "loss.name": "emd"},
    },
    "loss.name": {"choice": ["emd", "focal"]},
    "optim.schedule": {"choice": ["constant", "cosine", "step"]},
    "optim.lr": {"float": [1e-4, 1e-2], "scale": "log"},
    "optim.step_epochs": {"int": [1, 3], "when": {"optim.warmup_steps": [50, 100]}},
}


class Fixed:
    """Suggests given values, and remembers what it was asked for."""

    def __init__(self, values: dict[str, Scalar]) -> None:
        self.values = values
        self.asked: list[str] = []

    def choice(self, path: str, options: Sequence[Scalar]) -> Scalar:
        assert self.values[path] in options
        self.asked.append(path)
        return self.values[path]

    def number(self, path: str, node: SpaceNode) -> Any:
        assert node.path == path
        self.asked.append(path)
        return self.values[path]


class Random:
    """Suggests values of the ranges at random."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def choice(self, path: str, options: Sequence[Scalar]) -> Scalar:
        return self.rng.choice(options)

    def number(self, path: str, node: SpaceNode) -> Any:
        if node.kind == "int":
            return self.rng.randrange(int(node.low), int(node.high) + 1, int(node.step or 1))
        return self.rng.uniform(node.low, node.high)


def test_fields() -> None:
    """A range or scale is read as something else than was written."""
    space = parse_space(RAW)
    lr, gamma, warmup = space.node("optim.lr"), space.node("loss.gamma"), space.node("optim.warmup_steps")
    assert lr is not None
    assert gamma is not None
    assert warmup is not None
    assert (lr.kind, lr.low, lr.high, lr.log, lr.step, lr.when) == ("float", 1e-4, 1e-2, True, None, ())
    assert isinstance(gamma.high, float)
    assert not gamma.log
    assert (warmup.kind, warmup.step) == ("int", 50)
    assert isinstance(warmup.low, int)
    assert [(condition.path, condition.values) for condition in warmup.when] == [
        ("optim.schedule", ("cosine", "step")),
        ("loss.name", ("emd",)),
    ]
    assert space.paths == tuple(RAW)
    assert len(space) == 6
    assert space.node("model.name") is None


def test_walk_skips_what_does_not_exist() -> None:
    """A parameter whose condition fails is asked for, or one whose condition holds is not."""
    suggest = Fixed({"loss.name": "focal", "loss.gamma": 2.0, "optim.schedule": "cosine", "optim.lr": 1e-3})
    assert walk(parse_space(RAW), suggest) == suggest.values
    assert suggest.asked == ["loss.name", "loss.gamma", "optim.schedule", "optim.lr"]


def test_walk_follows_chains_of_conditions() -> None:
    """A parameter exists although its parent, which exists under a condition, does not."""
    values = {
        "loss.name": "emd",
        "optim.schedule": "step",
        "optim.lr": 1e-3,
        "optim.warmup_steps": 100,
        "optim.step_epochs": 2,
    }
    assert walk(parse_space(RAW), Fixed(dict(values))) == values
    values["optim.warmup_steps"] = 0
    assert "optim.step_epochs" not in walk(parse_space(RAW), Fixed(dict(values)))
    values["optim.schedule"] = "constant"
    assert set(walk(parse_space(RAW), Fixed(dict(values)))) == {"loss.name", "optim.schedule", "optim.lr"}


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_walk_and_is_active_agree(seed: int) -> None:
    """``walk`` and ``is_active`` disagree about which parameters exist, or a value lies outside its range."""
    space = parse_space(RAW)
    params = walk(space, Random(seed))
    assert {path for path in space.paths if is_active(space, path, params)} == set(params)
    assert all(takes(node, params[node.path]) for node in space.nodes if node.path in params)


@given(st.permutations(list(RAW)))
@settings(max_examples=30, deadline=None)
def test_order_of_lines_does_not_matter(order: list[str]) -> None:
    """A parent that stands below its child is walked after it."""
    space = parse_space({path: RAW[path] for path in order})
    done: set[str] = set()
    for node in space.ordered():
        assert all(condition.path in done for condition in node.when)
        done.add(node.path)
    assert done == set(RAW)


def test_is_active_of_a_foreign_path() -> None:
    """A path that is not searched is called active or inactive instead of being refused."""
    with pytest.raises(KeyError):
        is_active(parse_space(RAW), "model.name", {})


def test_describe() -> None:
    """The table's rows say something else than the study file, or children stand before parents."""
    rows = [(row.path, row.values, row.scale, row.when) for row in describe(parse_space(RAW))]
    assert rows == [
        ("loss.name", "emd | focal", "", ""),
        ("loss.gamma", "float 0.5 to 5", "linear", "loss.name = focal"),
        ("optim.schedule", "constant | cosine | step", "", ""),
        ("optim.warmup_steps", "int 0 to 100, step 50", "linear", "optim.schedule = cosine | step and loss.name = emd"),
        ("optim.lr", "float 0.0001 to 0.01", "log", ""),
        ("optim.step_epochs", "int 1 to 3", "linear", "optim.warmup_steps = 50 | 100"),
    ]


def test_to_raw_round_trip() -> None:
    """A space written out and read again is another one."""
    space = parse_space({**RAW, "optim.clip_norm": {"choice": [None, 1.0, True]}})
    assert parse_space(space.to_raw()) == space


def test_true_is_not_one() -> None:
    """``true`` and 1 are taken for the same choice or condition."""
    space = parse_space({"a": {"choice": [1, True]}, "b": {"choice": [0, 1], "when": {"a": True}}})
    assert is_active(space, "b", {"a": True})
    assert not is_active(space, "b", {"a": 1})
    assert check_space({"a": {"choice": [1, 2]}, "b": {"choice": [0], "when": {"a": True}}})[1]


def test_all_faults_at_once() -> None:
    """``parse_space`` stops at the first fault."""
    with pytest.raises(ConfigError) as caught:
        parse_space({"a": {"float": [1, 0]}, "b": {"choice": [1], "when": {"c": 1}}})
    assert caught.value.message == (
        "search space: 2 problems\n  a.float: 1 to 0: expected low below high\n"
        "  b.when.c: not a parameter of this search space; search it too, or drop the condition"
    )


def test_longer_circle() -> None:
    """A circle of three conditions is not found, or is reported more than once."""
    raw = {name: {"choice": [1, 2], "when": {parent: 1}} for name, parent in (("a", "b"), ("b", "c"), ("c", "a"))}
    _, faults = check_space({**raw, "d": {"choice": [1], "when": {"a": 1}}})
    assert [(fault.path, fault.message) for fault in faults] == [
        ("a.when", "conditions form a circle: a -> b -> c -> a")
    ]


@pytest.mark.parametrize(
    ("node", "inside", "outside"),
    [
        ({"float": [0, 1], "step": 0.25}, [0, 0.25, 1.0], [0.1, -0.25, 1.25, True, "0", None]),
        ({"int": [2, 8], "step": 3}, [2, 5, 8], [3, 2.5, 11, True]),
        ({"choice": ["a", None, 2]}, ["a", None, 2, 2.0], ["b", True, ""]),
    ],
)
def test_takes(node: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    """A value outside of a parameter's grid is taken, or one inside refused."""
    parsed = parse_space({"a": node}).nodes[0]
    assert [value for value in inside if not takes(parsed, value)] == []
    assert [value for value in outside if takes(parsed, value)] == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["a", "b", "choice", "float", "int", "scale", "step", "when"]), inner, max_size=3
            )
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_data_is_read_or_refused(raw: object) -> None:
    """Some plain data makes the reader crash instead of naming a fault."""
    space, faults = check_space(raw)
    assert isinstance(space, SearchSpace)
    assert faults or describe(space)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("gama", "gamma"),
        ("GAMMA", "gamma"),
        ("agmma", "gamma"),
        ("gm", None),
        ("name", "name"),
        ("zzz", None),
        ("", None),
    ],
)
def test_nearest(word: str, expected: str | None) -> None:
    """A slip of the finger is not understood, or a word that is far from all is."""
    assert nearest(word, ["name", "gamma", "class_weights"]) == expected


def test_nearest_prefers_the_same_start() -> None:
    """Of two equally near options, the one that continues the word comes second."""
    assert nearest("val/auroc_malign", ["val/auroc_benign", "val/auroc_malignant"]) == "val/auroc_malignant"


def test_show_is_short() -> None:
    """A value of the file floods the message."""
    assert [show(value) for value in (None, True, 1e-3, "a", [], {})] == [
        "null",
        "true",
        "0.001",
        "'a'",
        "a list",
        "a mapping",
    ]
    assert len(show("x" * 1000)) <= 60
