"""Where the study file refuses gradient accumulation, and where not."""

import pytest

from study.config import load_config
from study.config.loss_rules import BATCH_LEVEL, WHY_NOT
from study.errors import ConfigError


def test_batch_level_losses_are_mirrored() -> None:
    """The study file lets a loss be accumulated that must not be, or gives another reason than the loss does."""
    from study.losses import LOSSES

    assert {name for name, kind in LOSSES.items() if kind.is_batch_level} == set(BATCH_LEVEL)
    assert {LOSSES[name].why_no_accumulation for name in BATCH_LEVEL} == {WHY_NOT}


def faults_of(raw, write):
    with pytest.raises(ConfigError) as caught:
        load_config(write(raw))
    return caught.value.message


@pytest.mark.parametrize("name", BATCH_LEVEL)
def test_a_fixed_loss(raw, write, name) -> None:
    """A batch-level loss is accumulated in silence."""
    del raw["search"]["space"]["loss.name"], raw["search"]["space"]["loss.gamma"]
    raw["loss"] = {"name": name}
    raw["train"]["accumulate"] = 2
    message = faults_of(raw, write)
    assert "train.accumulate" in message
    assert f"loss {name} cannot be accumulated: {WHY_NOT}" in message


def test_a_searched_loss_meets_a_fixed_number(raw, write) -> None:
    """Only the loss that stands in the file itself is looked at."""
    raw["train"]["accumulate"] = 2
    raw["search"]["space"]["loss.name"]["choice"].append("wk")
    message = faults_of(raw, write)
    assert "search.space.loss.name.choice.4" in message
    assert "loss wk cannot be accumulated" in message


@pytest.mark.parametrize("range_", [{"choice": [1, 4]}, {"int": [1, 4]}], ids=["choice", "int"])
def test_both_are_searched(raw, write, range_) -> None:
    """A combination that the search can draw is found out when its trial starts."""
    space = raw["search"]["space"]
    space["loss.name"]["choice"].append("soft_mcc")
    space["train.accumulate"] = range_
    message = faults_of(raw, write)
    assert "search.space.train.accumulate" in message
    assert "loss soft_mcc cannot be accumulated" in message
    space["train.accumulate"] = {**range_, "when": {"loss.name": ["emd", "focal"]}}
    assert load_config(write(raw)).train.accumulate == 1


def test_more_parts_than_images(raw, write) -> None:
    """A worker's share of the batch is cut into more parts than it has images."""
    raw["resources"] = {"workers": 4}
    raw["train"]["accumulate"] = 16
    assert "16: expected at most a worker's 8 images of a batch" in faults_of(raw, write)
    raw["train"]["accumulate"] = 8
    assert load_config(write(raw)).train.accumulate == 8


def test_the_loss_of_another_task(raw, write) -> None:
    """Only the loss of the task that decides is looked at."""
    raw["data"]["labels"] = {"task": "birads3", "auxiliary": ["density"]}
    raw["tasks"] = {"density": {"loss": "wk"}}
    assert load_config(write(raw)).train.accumulate == 1
    raw["train"]["accumulate"] = 2
    assert "train.accumulate: 2: loss wk cannot be accumulated" in faults_of(raw, write)
