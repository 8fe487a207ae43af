"""Several tasks in the study file: faults all at once, what can be searched, what a trial gets."""

from pathlib import Path
from typing import Any

import pytest

from study.config import apply_params, check_study_file, chosen_tasks, config_warnings, load_config
from study.config.load import check_raw

ROOT = Path(__file__).parents[3]


def several(raw: dict[str, Any], **sections: Any) -> dict[str, Any]:
    raw["data"]["labels"] = {"task": "binary", "auxiliary": ["acr", "view"]}
    return {**raw, **sections}


def faults_of(raw: dict[str, Any]) -> dict[str, str]:
    return {fault.path: fault.message for fault in check_raw(raw)[1]}


def test_a_file_without_tasks_is_as_it_was(raw: dict[str, Any]) -> None:
    """An old file gets faults or warnings, or another network."""
    partial, faults = check_raw(raw)
    assert faults == []
    assert partial.config is not None
    assert config_warnings(partial.config) == []
    assert partial.config.tasks.of("acr").weight == 1.0
    assert partial.config.model.tasks == "all"


def test_all_faults_at_once(raw: dict[str, Any]) -> None:
    """A file with several faults of its tasks names the first alone, or accepts what nothing would read."""
    tasks = {
        "binary": {"loss": "corn", "weight": 0.0},
        "acr": {"weight": -1.0, "factor": 20.0},
        "view": {"loss": "corn", "normaliser": "weight", "class_weights": "balancd", "factor_classes": ["acr_9"]},
        "density": {"weight": 0.5},
        "acl": {},
        "reconstruction": {"wieght": 1.0},
    }
    found = faults_of(several(raw, tasks=tasks, model={"name": "hourglass", "tasks": "acr+viewe", "fusion": 3}))
    assert set(found) == {
        "tasks.binary.loss",
        "tasks.binary.weight",
        "tasks.acr.weight",
        "tasks.acr.factor_classes",
        "tasks.view.normaliser",
        "tasks.view.class_weights",
        "tasks.view.factor_classes.0",
        "tasks.density",
        "tasks.acl",
        "tasks.reconstruction.wieght",
        "model.tasks",
        "model.fusion",
    }
    beta = faults_of(several(raw, tasks={"view": {"loss": "soft_label_beta"}, "acr": {"loss": "soft_label_beta"}}))
    assert set(beta) == {"tasks.view.loss"}
    assert "3 to 14 classes" in beta["tasks.view.loss"]
    assert "loss.name" in found["tasks.binary.loss"]
    assert "did you mean 'acr'" in found["tasks.acl"]
    assert "expected one of pairs, batch or labelled" in found["tasks.view.normaliser"]
    assert "did you mean 'acr_1'" in found["tasks.view.factor_classes.0"]
    assert "expected one of binary, acr, view" in found["tasks.density"]
    assert "did you mean 'view'" in found["model.tasks"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("all", ("acr", "view")), ("none", ()), ("view", ("view",)), ("view+acr", ("acr", "view"))],
)
def test_chosen_tasks(raw: dict[str, Any], text: str, wanted: tuple[str, ...]) -> None:
    """A choice of tasks means other ones, or depends on their order."""
    assert faults_of(several(raw, model={"name": "hourglass", "tasks": text})) == {}
    assert chosen_tasks(text, ("acr", "view")) == wanted


@pytest.mark.parametrize("text", ["", "acr+", "binary", "all+acr", "density", "acr, view"])
def test_choices_that_mean_nothing(raw: dict[str, Any], text: str) -> None:
    """A misspelt choice trains fewer tasks in silence."""
    assert set(faults_of(several(raw, model={"name": "hourglass", "tasks": text}))) == {"model.tasks"}


def test_everything_can_be_searched(raw: dict[str, Any]) -> None:
    """Weights, factors, losses, divisors, switches or doubts cannot be searched, or reach no trial."""
    raw["search"]["space"] |= {
        "tasks.acr.weight": {"float": [0.0, 2.0]},
        "tasks.acr.loss": {"choice": ["cross_entropy", "emd", "corn"]},
        "tasks.view.normaliser": {"choice": ["batch", "weight", "labelled", None]},
        "tasks.view.factor": {"choice": [1.0, 20.0]},
        "tasks.reconstruction.weight": {"float": [0.01, 1.0], "scale": "log"},
        "model.tasks": {"choice": ["all", "none", "acr"]},
        "model.fusion": {"choice": [True, False]},
        "model.reconstruct": {"choice": [True, False]},
        "data.labels.uncertainty.synthetic": {"float": [0.0, 1.0]},
        "data.labels.uncertainty.flipped": {"choice": [0.0, 0.5]},
    }
    raw = several(raw, tasks={"view": {"factor_classes": ["acr_4", "acr_5"]}}, model={"name": "hourglass"})
    partial, faults = check_raw(raw)
    assert faults == []
    assert partial.config is not None
    params = {
        "tasks.acr.weight": 0.25,
        "tasks.acr.loss": "corn",
        "tasks.view.factor": 20.0,
        "model.tasks": "acr",
        "data.labels.uncertainty.synthetic": 0.9,
    }
    trial = apply_params(partial.config, params)
    assert (trial.tasks.of("acr").weight, trial.tasks.of("acr").loss) == (0.25, "corn")
    assert trial.tasks.of("view").factor == 20.0
    assert trial.data.labels.uncertainty.synthetic == 0.9
    assert trial.model.tasks == "acr"


def test_searched_values_are_checked(raw: dict[str, Any]) -> None:
    """A search draws what the file itself may not say, and the trial fails hours later."""
    raw["search"]["space"] |= {
        "tasks.binary.weight": {"float": [0.0, 1.0]},
        "tasks.density.weight": {"float": [0.5, 1.0]},
        "tasks.acr.loss": {"choice": ["corn", "wk"]},
        "model.tasks": {"choice": ["all", "density"]},
        "data.labels.uncertainty.synthetic": {"float": [0.0, 1.5]},
        "data.labels.task": {"choice": ["binary", "acr"]},
        "data.labels.uncertainty": {"choice": [0.0, 0.5]},
    }
    found = faults_of(several(raw, tasks={"acr": {"normaliser": "weight"}}, model={"name": "hourglass"}))
    space = "search.space"
    assert set(found) == {
        f"{space}.tasks.binary.weight.float.0",
        f"{space}.tasks.density.weight.float.0",
        f"{space}.tasks.density.weight.float.1",
        f"{space}.tasks.acr.loss.choice.0",
        f"{space}.tasks.acr.loss.choice.1",
        f"{space}.model.tasks.choice.1",
        f"{space}.data.labels.uncertainty.synthetic.float.1",
        f"{space}.data.labels.task",
        f"{space}.data.labels.uncertainty",
    }
    assert "loss wk has no normaliser" in found[f"{space}.tasks.acr.loss.choice.1"]


def test_switches_of_another_network_are_told(raw: dict[str, Any]) -> None:
    """A switch that the network has not is believed to act."""
    partial, faults = check_raw({**raw, "model": {"reconstruct": True}, "tasks": {"reconstruction": {"weight": 0.5}}})
    assert faults == []
    words = " ".join(partial.warnings)
    assert "model.reconstruct has no effect without model.name: hourglass" in words
    assert "tasks.reconstruction.weight has no effect" in words


def test_the_search_space_of_the_ablation() -> None:
    """The search that comes with the product lacks a row of the paper's Table 4, or a weight."""
    assert check_study_file(ROOT / "search_spaces" / "multitask.yaml")[1] == []
    config = load_config(ROOT / "search_spaces" / "multitask.yaml")
    assert config.search is not None
    space = config.search.space
    assert {"tasks.acr.weight", "tasks.reconstruction.weight", "model.fusion"} <= set(space.paths)
    rows = [("all", True), ("none", False), ("none", True), ("acr", False), ("density", False), ("view", False)]
    for tasks, reconstruct in rows:
        trial = apply_params(config, {"model.tasks": tasks, "model.reconstruct": reconstruct})
        own = chosen_tasks(trial.model.tasks, trial.data.labels.auxiliary)
        assert own == (("acr", "density", "view") if tasks == "all" else () if tasks == "none" else (tasks,))
