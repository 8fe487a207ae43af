"""Optimisers, schedules, averaging, freezing, patience: by hand, and exact on resumption."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from study import checkpoint
from study.errors import InputError
from study.models import make_model
from study.models.heads import head_parameters
from study.optimisation import TrainSettings, WeightAverage, is_exhausted, learning_rate, make_optimiser
from study.training import Hooks
from tests.unit.test_training import Bench, curve, same

NAN = math.nan


def settings(**changes: object) -> TrainSettings:
    base = {"epochs": 9, "steps_per_epoch": 10, "batch_size": 4, "seed": 0, "metric": "m", "mode": "max", "lr": 1.0}
    return TrainSettings(**{**base, **changes})  # type: ignore[arg-type]


def stop_after(number: int) -> Hooks:
    left = iter([False] * (number - 1) + [True])
    return Hooks(should_stop=lambda: next(left))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "sgd", "lr": 1e-2},
        {"optimiser": "adam"},
        {"ema_decay": 0.9},
        {"freeze_epochs": 2},
        {"schedule": "plateau", "plateau_epochs": 0},
        {"channels_last": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_variant_resumes_bit_by_bit(tiny_dataset, tmp_path: Path, changes):
    """A run with this setting that is interrupted ends elsewhere than one that is not."""
    bench = Bench(tiny_dataset, **changes)
    bench.run(tmp_path / "whole")
    assert bench.run(tmp_path / "cut", hooks=stop_after(7)).state == "waiting"
    assert bench.run(tmp_path / "cut", attempt=2).state == "complete"
    assert same(curve(tmp_path / "whole"), curve(tmp_path / "cut"))
    one, other = checkpoint.load_last(tmp_path / "whole"), checkpoint.load_last(tmp_path / "cut")
    for left, right in ((one.model, other.model), (one.raw, other.raw)):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_plateaus_by_hand():
    """The rate falls at other epochs than with torch's own scheduler."""
    given = settings(schedule="plateau", plateau_epochs=1, step_factor=0.5)
    values = [0.5, 0.6, 0.6, 0.6, 0.7, NAN, 0.7, 0.7, 0.7]
    rates = [learning_rate(10 * i, given, values[:i]) for i in range(10)]
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, mode="max", factor=0.5, patience=1, threshold=0.0, threshold_mode="abs"
    )
    expected = [1.0]
    for value in values:
        scheduler.step(value if not math.isnan(value) else -math.inf)
        expected.append(optimiser.param_groups[0]["lr"])
    assert rates == expected == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_patience_by_hand():
    """A run ends an epoch too early or too late, or never when its metric is undefined."""
    given = settings(patience=2)
    assert not is_exhausted([], given)
    assert not is_exhausted([0.5, 0.4], given)
    assert is_exhausted([0.5, 0.4, 0.5], given)
    assert not is_exhausted([0.5, 0.4, 0.6], given)
    assert is_exhausted([NAN, NAN], given)
    assert not is_exhausted([0.1] * 50, settings())
    assert is_exhausted([0.1, 0.2, 0.3], settings(patience=2, mode="min"))


def test_a_run_without_progress_ends_early_and_stays_ended(tiny_dataset, tmp_path: Path):
    """Patience does not save any epoch, or a resumed run trains on."""
    bench = Bench(tiny_dataset, lr=1e-12, patience=1)
    outcome = bench.run(tmp_path / "run")
    assert outcome.state == "complete"
    trained = len(curve(tmp_path / "run"))
    assert trained < 4
    assert bench.run(tmp_path / "run", attempt=2).state == "complete"
    assert len(curve(tmp_path / "run")) == trained


def test_a_frozen_backbone_does_not_move(tiny_dataset, tmp_path: Path):
    """Weights or running statistics of the backbone change while only the head should learn, or stay so for ever."""
    bench = Bench(tiny_dataset, freeze_epochs=1)
    steps = bench.settings.steps_per_epoch
    bench.run(tmp_path / "first", hooks=stop_after(1))
    bench.run(tmp_path / "frozen", hooks=stop_after(steps - 1))
    bench.run(tmp_path / "thawed", hooks=stop_after(steps + 1))
    first, frozen, thawed = (checkpoint.load_last(tmp_path / name).model for name in ("first", "frozen", "thawed"))
    moved = {key for key in first if not torch.equal(first[key], frozen[key])}
    assert moved == {"head.2.weight", "head.2.bias"}
    assert {key for key in first if not torch.equal(frozen[key], thawed[key])} == set(first)


def test_the_average_by_hand():
    """The averaged weights are not those of the formula, or the learning weights are lost while they are applied."""
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
    average = WeightAverage(network, decay=0.5)
    expected = 1.0
    for step, value in enumerate((2.0, 4.0, 8.0)):
        with torch.no_grad():
            network.weight.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert network.weight.item() == pytest.approx(expected)
    assert network.weight.item() == 8.0


def test_validation_sees_the_average(tiny_dataset, tmp_path: Path):
    """The best checkpoint holds the weights that learn and not those that were validated."""
    Bench(tiny_dataset, ema_decay=0.9).run(tmp_path / "run")
    state = checkpoint.load_last(tmp_path / "run")
    assert state.raw.keys() == state.model.keys()
    assert not torch.equal(state.raw["head.2.weight"], state.model["head.2.weight"])


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_vectors_do_not_decay(name):
    """Biases and normalisation are pulled to zero by weight decay."""
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    groups = make_optimiser(network, settings(optimiser=name, weight_decay=0.1)).param_groups
    assert {group["weight_decay"]: len(group["params"]) for group in groups} == {0.1: 1, 0.0: 3}


def test_the_head_of_a_backbone():
    """Freezing leaves nothing, or more than the last layer, to learn."""
    network = make_model("test_efficientnet", num_outputs=3)
    assert [tuple(parameter.shape) for parameter in head_parameters(network)][-1] == (3,)
    assert len(head_parameters(network)) == 2
    with pytest.raises(InputError, match="no head"):
        head_parameters(nn.Linear(2, 2))
