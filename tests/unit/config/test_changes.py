"""Configurations made from others: trial parameters, without search, as text, compared."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.config import (
    CornConfig,
    FocalConfig,
    StudyConfig,
    apply_params,
    changed_paths,
    config_yaml,
    is_budget,
    load_config,
    settable_paths,
    without_search,
)
from study.config.paths import find
from study.errors import ConfigError
from study.space import Scalar, SpaceNode, walk

Write = Callable[[Any], Path]


@pytest.fixture
def config(raw: dict[str, Any]) -> StudyConfig:
    return StudyConfig.model_validate(raw)


def test_params_are_applied(config: StudyConfig) -> None:
    """A trial runs with other values than were suggested, or another field changes with them."""
    new = apply_params(config, {"loss.name": "focal", "loss.gamma": 0.7, "optim.lr": 5e-3, "train.epochs": 3})
    assert new.loss == FocalConfig(name="focal", gamma=0.7, class_weights="balanced")
    assert (new.optim.lr, new.train.epochs) == (5e-3, 3)
    assert changed_paths(config, new) == ["loss.gamma", "optim.lr", "train.epochs"]
    assert config.optim.lr == 1e-3


def test_another_loss_drops_foreign_parameters(config: StudyConfig) -> None:
    """A parameter of the file's loss or of the suggestion reaches a loss that does not have it."""
    new = apply_params(config, {"loss.name": "corn", "loss.gamma": 2.0})
    assert new.loss == CornConfig(name="corn", class_weights="balanced")


def test_values_that_the_new_loss_does_not_take_are_dropped(raw: dict[str, Any]) -> None:
    """A normaliser of one loss is handed to another that does not know it."""
    raw["loss"] = {"name": "corn", "normaliser": "pairs", "class_weights": "sqrt_inv"}
    new = apply_params(StudyConfig.model_validate(raw), {"loss.name": "cross_entropy"})
    assert new.loss.model_dump() == {
        "name": "cross_entropy",
        "class_weights": "sqrt_inv",
        "class_weight_source": "sampled",
        "class_weight_beta": 0.9999,
        "normaliser": "weight",
        "label_smoothing": 0.0,
    }


def test_the_same_loss_keeps_its_parameters(config: StudyConfig) -> None:
    """Suggesting the loss that the file has resets its parameters."""
    assert apply_params(config, {"loss.name": "focal"}).loss == config.loss


def test_wrong_params_are_refused_together(config: StudyConfig) -> None:
    """A trial with impossible values starts, or only the first fault is told."""
    with pytest.raises(ConfigError) as caught:
        apply_params(config, {"optim.lr": -1.0, "train.epochs": 2.5, "loss.name": "fokal"})
    lines = caught.value.message.splitlines()
    assert lines[0] == "params: 3 problems"
    assert "  optim.lr: -1.0: expected a number above 0" in lines
    assert "  train.epochs: 2.5: expected a whole number" in lines
    [told] = [line for line in lines if line.startswith("  loss.name")]
    assert told.startswith("  loss.name: 'fokal': expected one of cross_entropy, focal, ")
    assert told.endswith("; did you mean 'focal'?")


def test_unknown_param(config: StudyConfig) -> None:
    """A parameter that no configuration has is dropped in silence."""
    with pytest.raises(ConfigError, match=r"optim\.rl: unknown path; did you mean 'optim\.lr'\?"):
        apply_params(config, {"optim.rl": 1.0})


def test_rules_hold_for_trials_too(config: StudyConfig) -> None:
    """A trial breaks a rule that the study file may not break."""
    with pytest.raises(ConfigError, match=r"min_epochs: 2: expected at most train\.epochs, which is 1"):
        apply_params(config, {"train.epochs": 1})


def test_without_search(config: StudyConfig, write: Write) -> None:
    """The file of the best trial searches again, or has other values than the trial."""
    new = without_search(config, {"loss.name": "emd", "optim.lr": 2e-3})
    assert new.search is None
    assert new.loss.name == "emd"
    assert new.optim.lr == 2e-3
    assert load_config(write(config_yaml(new))) == new


def test_changed_paths_and_budget(config: StudyConfig, raw: dict[str, Any]) -> None:
    """A change that is more than budget passes for budget, or the other way round."""
    raw["search"]["trials"] = 9
    raw["search"]["space"]["optim.lr"] = {"float": [1e-4, 1e-1], "scale": "log"}
    raw["confirm"] = None
    raw["resources"] = {"workers": 2}
    raw["data"]["sources"][0]["patients"] = 31
    raw["data"]["sources"].append({"kind": "phantom", "name": "c", "patients": 9})
    new = StudyConfig.model_validate(raw)
    changed = changed_paths(config, new)
    assert changed == ["data.sources", "search.trials", "search.space.optim.lr.float.1", "confirm", "resources.workers"]
    assert [path for path in changed if not is_budget(path)] == ["data.sources", "search.space.optim.lr.float.1"]
    assert not is_budget("search.trials_more")
    assert changed_paths(config, config) == []


def test_budget_is_not_the_rest_of_the_search() -> None:
    """Changing the metric or the space counts as more budget."""
    assert [path for path in settable_paths() if is_budget(path)] == [
        "search.trials",
        "search.budget.hours",
        "search.budget.gpu_hours",
        "search.budget.target",
        "search.budget.no_better_in",
        "search.retries.preempted",
        "search.retries.out_of_memory",
        "search.retries.crash",
        "search.max_failures",
        "confirm.top",
        "confirm.seeds",
        "confirm.baseline",
        "confirm.ensemble",
        "confirm.mc_dropout.samples",
        "confirm.mc_dropout.rate",
        "resources.workers",
        "resources.gpus_per_worker",
        "resources.cpus_per_worker",
        "resources.concurrent",
        "resources.priority",
        "resources.wait",
    ]


def test_settable_paths_lead_somewhere() -> None:
    """A path that is offered as settable does not exist, is listed twice, or a loss parameter is left out."""
    paths = settable_paths()
    assert len(set(paths)) == len(paths)
    assert [path for path in paths if find(path, {}) is None] == []
    assert {"loss.gamma", "loss.normaliser", "loss.label_smoothing", "search.pruner.min_epochs", "data.sources"} <= set(
        paths
    )


def test_dumps_round_trip(config: StudyConfig) -> None:
    """A configuration sent to a worker as JSON or pickle arrives as another one."""
    assert StudyConfig.model_validate(config.model_dump(mode="json")) == config
    assert StudyConfig.model_validate(config.model_dump()) == config
    assert pickle.loads(pickle.dumps(config)) == config


class Draw:
    """Suggests values drawn by hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def choice(self, path: str, options: Any) -> Scalar:
        return self.data.draw(st.sampled_from(options))

    def number(self, path: str, node: SpaceNode) -> float:
        low, high = math.log(node.low), math.log(node.high)
        return min(max(math.exp(self.data.draw(st.floats(low, high))), node.low), node.high)


CATEGORIES = ("Cs", "Cc", "Zl", "Zp", "Zs", "Co", "Cn", "Cf")
TEXTS = st.text(st.characters(exclude_categories=CATEGORIES, exclude_characters="$"), min_size=1, max_size=12)
TRAPS = st.sampled_from(
    ["1e3", "0x10", "yes", "null", "~", "010", "1:30", "2024-01-01", "true", ".5", "=", "<<", "- a", "{a", "#x"]
)
OPTIM = {"lr": st.floats(1e-300, 1e300), "weight_decay": st.floats(0, 1e9), "clip_norm": st.none() | st.floats(1e-9, 9)}
RESOURCES = {"concurrent": st.just("auto") | st.integers(1, 99), "gpus_per_worker": st.floats(0, 8)}


@pytest.mark.long
@given(
    st.data(),
    st.builds(
        dict,
        seed=st.integers(0, 2**32 - 1),
        optim=st.fixed_dictionaries(OPTIM),
        model=st.fixed_dictionaries({"name": TRAPS | TEXTS, "pretrained": st.booleans() | TRAPS | TEXTS}),
        resources=st.fixed_dictionaries(RESOURCES),
    ),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_written_files_load_as_the_same(
    raw: dict[str, Any], write: Write, data: st.DataObject, sections: dict[str, Any]
) -> None:
    """A configuration written as a study file is read back as another one: a number, a text like a number, a trial."""
    config = StudyConfig.model_validate({**raw, **sections})
    assert load_config(write(config_yaml(config))) == config
    assert config.search is not None
    trial = apply_params(config, walk(config.search.space, Draw(data)))
    assert load_config(write(config_yaml(trial))) == trial
