"""Augmentation on the device that trains, in the loop: the draws of the stream, and no more than a seed decides."""

import numpy as np
import pytest
import torch

from study import checkpoint
from study.config import StudyConfig
from study.data.augment import make_augment
from study.data.augment_device import DeviceAugment
from study.distributed.runs import build_run
from study.distributed.worker import _stream_settings
from study.training import Hooks, step
from tests.unit.test_training import BATCH, Bench, curve, same


class Spy(DeviceAugment):
    """Keeps what it was asked for and what it gave."""

    seen: list[tuple[np.ndarray, torch.Tensor, torch.Tensor]]

    def __call__(self, images_nchw, *, draws_n):
        made = super().__call__(images_nchw, draws_n=draws_n)
        self.seen.append((draws_n, images_nchw, made))
        return made


def bench_of(dataset):
    bench = Bench(dataset)
    bench.augment = Spy("mammogram", seed=0)
    bench.augment.seen = []
    return bench


def test_each_batch_gets_the_draws_of_the_stream(tiny_dataset, tmp_path):
    """A picture that is augmented on the device gets another recipe than the stream would have given it."""
    bench = bench_of(tiny_dataset)
    bench.run(tmp_path / "run")
    seen = bench.augment.seen
    assert len(seen) == 4 * bench.settings.steps_per_epoch
    assert np.concatenate([draws for draws, _, _ in seen]).tolist() == list(range(len(seen) * BATCH))
    fast = make_augment("mammogram", image_hw=(32, 32))
    for draws, given, made in seen[:6]:
        expected = fast.block(given[:, 0].numpy(), seed=0, draws_n=draws)
        assert np.abs(made[:, 0].numpy().astype(int) - expected).mean() < 0.1


@pytest.mark.parametrize("world_size", [1, 3])
def test_ranks_share_the_draws_of_a_step(monkeypatch, world_size):
    """Two ranks draw the same recipes, or other ones than the stream gives to their places."""
    monkeypatch.setattr(step, "world_size", lambda: world_size)
    draws = []
    for number in range(3):
        for rank in range(world_size):
            monkeypatch.setattr(step, "rank", lambda rank=rank: rank)
            draws += step.draws_of(number, 4).tolist()
    assert draws == list(range(3 * 4 * world_size))


@pytest.mark.parametrize("device", ["cpu", "train"])
def test_the_study_file_decides_where(tiny_dataset, device):
    """A run augments twice, or nowhere."""
    plain = {
        "study": "where",
        "data": {
            "prepared": str(tiny_dataset.root),
            "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}],
        },
        "model": {"name": "test_efficientnet"},
        "augment": {"policy": "fundus", "device": device},
        "train": {"epochs": 1, "batch_size": 8},
    }
    config = StudyConfig.model_validate(plain)
    parts, _ = build_run(config, seed=6)
    assert _stream_settings(config, parts, seed=6).policy == ("none" if device == "train" else "fundus")
    found = parts.augment and (parts.augment.policy, parts.augment.seed)
    assert found == (("fundus", 6) if device == "train" else None)


def test_a_run_that_was_cut_goes_on_bit_by_bit(tiny_dataset, tmp_path):
    """The device's augmentation keeps a state that a checkpoint lacks."""
    bench_of(tiny_dataset).run(tmp_path / "whole")
    steps = iter(range(100))
    bench_of(tiny_dataset).run(tmp_path / "cut", hooks=Hooks(should_stop=lambda: next(steps) == 4))
    assert checkpoint.load_last(tmp_path / "cut").step == 5
    bench_of(tiny_dataset).run(tmp_path / "cut", attempt=2)
    assert same(curve(tmp_path / "whole"), curve(tmp_path / "cut"))
    assert not same(curve(tmp_path / "whole"), curve_without(tiny_dataset, tmp_path))


def curve_without(dataset, tmp_path):
    Bench(dataset).run(tmp_path / "plain")
    return curve(tmp_path / "plain")
