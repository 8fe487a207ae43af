"""``scales`` in a study file, and ``--scale``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study.config import check_study_file, config_yaml, load_config
from study.errors import ConfigError

Write = Callable[[Any], Path]
PHANTOM = [{"kind": "phantom", "name": "site_b", "patients": 12}]
SMALL = {"data.prepared": "data/tiny", "data.sources": PHANTOM, "train.epochs": 2, "search.trials": 2}


def faults_of(path: Path, *overrides: str, **options: Any) -> list[tuple[str, str]]:
    return [(fault.path, fault.message) for fault in check_study_file(path, overrides, **options)[1]]


def test_a_scale_takes_the_place_of_values(write: Write, raw: dict[str, Any], tmp_path: Path) -> None:
    """Without the scale it has an effect, with it it has none, or both studies share a name."""
    file = write({**raw, "scales": {"small": SMALL}})
    whole = load_config(file)
    assert whole == load_config(write(raw))
    file = write({**raw, "scales": {"small": SMALL}})
    small = load_config(file, scale="small")
    assert (whole.study, small.study) == ("small", "small-small")
    assert (small.train.epochs, small.num_trials, small.data.prepared) == (2, 2, "data/tiny")
    assert [source.name for source in small.data.sources] == ["site_b"]
    assert small.search is not None
    assert whole.search is not None
    assert (small.loss, small.search.space) == (whole.loss, whole.search.space)
    stored = tmp_path / "stored.yaml"
    stored.write_text(config_yaml(small))
    assert "scales" not in stored.read_text()
    assert load_config(stored) == small


def test_set_comes_after_the_scale(write: Write, raw: dict[str, Any]) -> None:
    """A value of the command line loses to one of the scale."""
    file = write({**raw, "scales": {"small": SMALL}})
    small = load_config(file, ["train.epochs=5", "study=mine", "data.sources.0.patients=40"], scale="small")
    assert (small.train.epochs, small.study) == (5, "mine")
    assert small.data.sources[0].kind == "phantom"
    assert small.data.sources[0].patients == 40


def test_another_loss_leaves_parameters_behind(write: Write, raw: dict[str, Any]) -> None:
    """The order of a scale's lines decides whether a parameter of its loss arrives."""
    scale = {"loss.alpha": 2.0, "loss.name": "cdw_ce"}
    small = load_config(write({**raw, "scales": {"other": scale}}), scale="other")
    assert small.loss.model_dump()["alpha"] == 2.0
    assert small.loss.name == "cdw_ce"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", "'smal': expected one of small, tiny; did you mean 'small'?"),
        ("huge", "'huge': expected one of small, tiny"),
    ],
)
def test_unknown_scale(write: Write, raw: dict[str, Any], name: str, message: str) -> None:
    """A scale that the file does not have is taken for none, or hides the file's own faults."""
    file = write({**raw, "seed": -1, "scales": {"small": SMALL, "tiny": {"train.epochs": 3}}})
    assert faults_of(file, scale=name) == [
        ("seed", "-1: expected a whole number from 0 to 4294967295"),
        ("--scale", message),
    ]
    assert check_study_file(file, scale=name)[0].valid == frozenset()  # so nobody looks for the data of the whole study
    with pytest.raises(ConfigError) as error:
        load_config(file, scale=name)
    assert error.value.exit_code == 2


def test_a_broken_scale_is_asked_for(write: Write, raw: dict[str, Any]) -> None:
    """A broken scale is said to be missing, or hides that another one is."""
    file = write({**raw, "scales": {"small": 3, "tiny": {"train.epochs": 3}}})
    broken = ("scales.small", "3: expected values by dotted path, as in {train.epochs: 2}")
    assert faults_of(file, scale="small") == [broken]
    assert faults_of(file, scale="tin") == [broken, ("--scale", "'tin': expected one of tiny; did you mean 'tiny'?")]


def test_a_file_without_scales(write: Write, raw: dict[str, Any]) -> None:
    """A scale is asked of a file that has none, or the section is empty."""
    assert faults_of(write(raw), scale="small") == [("--scale", "'small': the file has no section scales")]
    assert faults_of(write({**raw, "scales": None})) == []


FAULTS: list[tuple[Any, list[tuple[str, str]]]] = [
    ("small", [("scales", "'small': expected a mapping, as in {small: {train.epochs: 2}}")]),
    ({"small": 3}, [("scales.small", "3: expected values by dotted path, as in {train.epochs: 2}")]),
    ({"small": {}}, [("scales.small", "empty: expected values by dotted path, as in {train.epochs: 2}")]),
    (
        {"a b": SMALL},
        [("scales.a b", "'a b': expected 1 to 32 letters, digits, '-' or '_', the first a letter or digit")],
    ),
    ({"small": {"train.epoch": 2}}, [("scales.small.train.epoch", "unknown path; did you mean 'train.epochs'?")]),
    ({"small": {"train.epochs": 0}}, [("scales.small.train.epochs", "0: expected a whole number from 1 to 100000")]),
    (
        {"small": {"data.prepared": "x", "data.sources": [{"kind": "phantom", "name": "a"}]}},
        [("scales.small.data.sources.0.patients", "missing; expected a whole number")],
    ),
    (
        {"small": {"search.trials": 1}},
        [("scales.small", "then confirm.top: 2: expected at most search.trials, which is 1")],
    ),
    (
        {"small": {"search.space.optim.lr": {"float": [-1, 1]}}},
        [("scales.small.search.space.optim.lr.float.0", "-1.0: expected a number above 0")],
    ),
    (
        {"small": {"study": "other"}},
        [("scales.small.study", "a study at scale small is called as the file says, and -small; leave it out")],
    ),
    (
        {"small": {"data.image_size": 64}},
        [
            (
                "scales.small",
                "data.image_size is another one, and so is the prepared dataset; expected a data.prepared of its own",
            )
        ],
    ),
    (
        {"small": {"data.labels.uncertainty": {"reader": 2}}},
        [("scales.small.data.labels.uncertainty.reader", "2: expected a number from 0 to 1")],
    ),
]


@pytest.mark.parametrize(("scales", "wanted"), FAULTS)
def test_faults_without_asking(write: Write, raw: dict[str, Any], scales: Any, wanted: list[tuple[str, str]]) -> None:
    """A scale that nobody has asked for is not checked, or its faults keep those of the file from being told."""
    assert faults_of(write({**raw, "scales": scales})) == wanted
    both = faults_of(write({**raw, "seed": -1, "scales": scales}))
    assert sorted(both) == sorted([("seed", "-1: expected a whole number from 0 to 4294967295"), *wanted])


def test_faults_of_the_scale_that_is_asked_for(write: Write, raw: dict[str, Any]) -> None:
    """A fault is told for the file's own line instead of the scale's, or although --set has replaced the value."""
    file = write({**raw, "scales": {"small": {**SMALL, "optim.lr": -1}}})
    message = "-1: expected a number above 0"
    assert faults_of(file, scale="small") == [("scales.small.optim.lr", message)]
    assert faults_of(file, "optim.lr=-2", scale="small") == [("optim.lr", "-2: expected a number above 0")]
    assert faults_of(file, "optim.lr=0.1", scale="small") == []


def test_places(write: Write) -> None:
    """Faults of a scale are not told in file order."""
    file = write(
        "scales:\n  small: {train.epochs: 0}\nstudy: my\ntrain: {epochs: 0}\n"
        "data: {prepared: x, sources: [{kind: mias, root: y}]}\n"
    )
    assert [path for path, _ in faults_of(file)] == ["scales.small.train.epochs", "train.epochs"]


def test_variables(write: Write, raw: dict[str, Any]) -> None:
    """A variable that only one scale needs must be set for the other."""
    raw["data"]["sources"][1]["root"] = "${FILMS}"
    scale = {"data.sources": PHANTOM, "data.prepared": "${SCRATCH}/tiny"}
    file = write({**raw, "scales": {"small": scale}})
    assert faults_of(file, environ={}) == [("data.sources.1.root", "environment variable FILMS is not set")]
    assert faults_of(file, environ={"FILMS": "/films"}) == []
    assert faults_of(file, scale="small", environ={"SCRATCH": "/tmp"}) == []
    wanted = [("scales.small.data.prepared", "environment variable SCRATCH is not set")]
    assert faults_of(file, scale="small", environ={}) == wanted


def test_misspelt_section(write: Write, raw: dict[str, Any]) -> None:
    """A misspelt section is not understood."""
    assert faults_of(write({**raw, "scale": {"small": SMALL}})) == [("scale", "unknown key; did you mean 'scales'?")]
