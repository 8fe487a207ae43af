"""``--set path=value``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from study.config import EmdConfig, FocalConfig, check_study_file, load_config, settable_paths
from study.config.overrides import apply_overrides
from study.config.yamlfile import Document

Write = Callable[[Any], Path]


def faults_of(path: Path, *overrides: str) -> list[tuple[str, str]]:
    return [(fault.path, fault.message) for fault in check_study_file(path, overrides)[1]]


def test_values_are_yaml(write: Write, raw: dict[str, Any]) -> None:
    """A number, list, null or mapping of the command line arrives as something else."""
    overrides = [
        "optim.lr=1e-4",
        "confirm.seeds=[4, 5]",
        "optim.clip_norm=null",
        "data.flip=false",
        "study=other",
        "search=",
    ]
    config = load_config(write(raw), overrides)
    assert (config.optim.lr, config.optim.clip_norm, config.data.flip, config.study) == (1e-4, None, False, "other")
    assert config.confirm is not None
    assert config.confirm.seeds == (4, 5)
    assert config.search is None


def test_the_last_one_counts(write: Write, raw: dict[str, Any]) -> None:
    """Of two overrides of one path, the first wins."""
    assert load_config(write(raw), ["seed=1", "seed=2"]).seed == 2


def test_value_with_equals_sign(write: Write, raw: dict[str, Any]) -> None:
    """A value is cut at its own equals sign."""
    assert load_config(write(raw), ["data.prepared=a=b"]).data.prepared == "a=b"


def test_list_entries(write: Write, raw: dict[str, Any]) -> None:
    """An entry of a list cannot be reached by its index."""
    config = load_config(write(raw), ["data.sources.1.root=/films", "confirm.seeds.0=7"])
    assert config.data.sources[1].root == "/films"
    assert config.confirm is not None
    assert config.confirm.seeds == (7, 1)


def test_sections_that_the_file_lacks(write: Write, raw: dict[str, Any]) -> None:
    """A value of a section that the file does not have cannot be set."""
    raw["resources"] = None
    config = load_config(write(raw), ["resources.workers=2", "data.splits.val.fraction=0.3"])
    assert config.resources.workers == 2
    assert config.data.splits.val.fraction == 0.3


def test_searched_parameters(write: Write, raw: dict[str, Any]) -> None:
    """A line of the search space cannot be replaced or added."""
    overrides = ["search.space.optim.lr={float: [1e-5, 1e-3]}", "search.space.model.drop_rate={choice: [0.1, 0.5]}"]
    config = load_config(write(raw), overrides)
    assert config.search is not None
    assert config.search.space.paths == ("loss.name", "loss.gamma", "optim.lr", "model.drop_rate")
    assert config.search.space.nodes[2].high == 1e-3
    assert not config.search.space.nodes[2].log


def test_another_loss_leaves_foreign_parameters_behind(write: Write, raw: dict[str, Any]) -> None:
    """The file's gamma makes ``--set loss.name=emd`` a fault, or its class weights are lost."""
    config = load_config(write(raw), ["loss.name=emd", "search=null"])
    assert config.loss == EmdConfig(name="emd", class_weights="balanced")


def test_loss_and_its_parameter_in_any_order(write: Write, raw: dict[str, Any]) -> None:
    """A parameter of the new loss must come after ``loss.name``."""
    raw["loss"] = {"name": "cross_entropy", "label_smoothing": 0.1}
    for overrides in (["loss.gamma=3", "loss.name=focal"], ["loss.name=focal", "loss.gamma=3"]):
        assert load_config(write(raw), overrides).loss == FocalConfig(name="focal", gamma=3)
    assert faults_of(write(raw), "loss.name=emd", "loss.gamma=3") == [
        ("loss.gamma", "unknown key; it belongs to focal, focal_sigmoid, hill and cb"),
    ]


def test_faults_of_values_come_with_their_path(write: Write, raw: dict[str, Any]) -> None:
    """A wrong value of the command line is reported without its path, or hides the file's faults."""
    raw["train"]["epochs"] = 0
    assert faults_of(write(raw), "optim.lr=-1", "search.trials=x") == [
        ("train.epochs", "0: expected a whole number from 1 to 100000"),
        ("search.trials", "'x': expected a whole number"),
        ("optim.lr", "-1: expected a number above 0"),
    ]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("optim.lr", "--set", "'optim.lr': expected PATH=VALUE, as in optim.lr=0.001"),
        ("=3", "--set", "'=3': expected PATH=VALUE, as in optim.lr=0.001"),
        ("optim.rl=3", "--set optim.rl", "unknown path; did you mean 'optim.lr'?"),
        ("lr=3", "--set lr", "unknown path; did you mean 'optim.lr'?"),
        ("data.sources.0.rot=3", "--set data.sources.0.rot", "unknown path; did you mean 'data.sources.0.root'?"),
        ("data.sources.x.root=3", "--set data.sources.x.root", "unknown path; did you mean 'data.sources.0.root'?"),
        (
            "data.sources.7.root=3",
            "--set data.sources.7.root",
            "data.sources has 2 entries in the file; the first is 0",
        ),
        ("confirm.seeds.9=3", "--set confirm.seeds.9", "confirm.seeds has 2 entries in the file; the first is 0"),
        ("optim.lr=[1", "--set optim.lr", "'[1': expected a value in YAML"),
        ("optim.lr=!!set {1}", "--set optim.lr", "tag !!set is not read here; write a plain value"),
        ("study.name=3", "--set study.name", "unknown path"),
    ],
)
def test_malformed(write: Write, raw: dict[str, Any], text: str, path: str, message: str) -> None:
    """An override that cannot be applied is dropped in silence or gives another message."""
    assert faults_of(write(raw), text) == [(path, message)]


def test_file_of_the_wrong_shape(write: Write, raw: dict[str, Any]) -> None:
    """An override into a section that is no mapping crashes."""
    raw["optim"] = 3
    raw["train"] = [1]
    assert [path for path, _ in faults_of(write(raw), "optim.lr=1", "train.epochs=2")] == [
        "train",
        "optim",
        "--set optim.lr",
        "--set train.epochs",
    ]


def cuts(path: str) -> set[str]:
    """The path, and what is left of it without any one of its letters."""
    return {path} | {path[:spot] + path[spot + 1 :] for spot in range(len(path))}


def twins() -> set[str]:
    """Paths that one or two slips turn into another path: of them a typo may be led to either."""
    owners: dict[str, set[str]] = {}
    for path in settable_paths():
        for cut in cuts(path):
            owners.setdefault(cut, set()).add(path)
    return {path for paths in owners.values() if len(paths) > 1 for path in paths}


TWINS = twins() | {f"loss.{name}" for name in ("eta", "beta", "tau", "kind", "link")}


@pytest.mark.long
@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_single_slip_is_understood(data: st.DataObject) -> None:
    """A valid path with one letter missing, added, changed or swapped is not led back to that path."""
    paths = settable_paths()
    path = data.draw(st.sampled_from(paths))
    spot = data.draw(st.integers(0, len(path) - 2))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz"))
    slips = {
        "missing": path[:spot] + path[spot + 1 :],
        "added": path[:spot] + letter + path[spot:],
        "changed": path[:spot] + letter + path[spot + 1 :],
        "swapped": path[:spot] + path[spot + 1] + path[spot] + path[spot + 2 :],
    }
    typo = slips[data.draw(st.sampled_from(sorted(slips)))]
    assume(typo not in paths and "." in path and path not in TWINS and not typo.startswith("search.space."))
    assume(not any(other.startswith(f"{typo}.") for other in paths))
    document = Document(value={})
    assert [fault.message for fault in apply_overrides(document, [f"{typo}=1"])] == [
        f"unknown path; did you mean {path!r}?"
    ]


@pytest.mark.parametrize("value", ["{a: 1}", "[focal]", "[[]]"])
def test_a_loss_that_is_no_name(tmp_path, value):
    """An override of the loss's name by a mapping or a list ends in a TypeError."""
    path = tmp_path / "study.yaml"
    path.write_text(
        "study: a\ndata: {prepared: x, sources: [{kind: phantom, name: a, patients: 9}]}\nloss: {name: emd}\n"
    )
    _, faults = check_study_file(path, [f"loss.name={value}"])
    assert [fault.path for fault in faults] == ["loss.name"]
