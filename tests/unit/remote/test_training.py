"""Training in a store: the loop is the same, and a run that moves to another machine ends as one that never moved."""

import itertools

import pytest
import torch

from study import checkpoint, remote
from study.remote import outgoing
from tests.unit.test_training import Bench, curve, same


class Killed(Exception):
    """As a machine that is gone."""


def killed_after(bench, steps):
    """A stream that ends its process after so many steps."""

    def stream(start_step):
        yield from itertools.islice(bench.stream(start_step), steps)
        raise Killed

    return stream


def test_a_run_that_moves_ends_as_one_that_never_moved(machine, tiny_dataset, tmp_path):
    """Inside an epoch and after one, with all that the first machine had gone: same curve, same weights, same best."""
    calm = Bench(tiny_dataset)
    calm.run(tmp_path / "calm")
    moving = Bench(tiny_dataset, checkpoint_steps=1)
    for attempt, (name, steps) in enumerate([("a", 3), ("b", 7)], start=1):
        outgoing._RUNS.clear()
        folder = machine(name)
        with pytest.raises(Killed):
            moving.run(folder, attempt=attempt, stream=killed_after(moving, steps))
        remote.settle(folder)
    last = machine("c")
    outgoing._RUNS.clear()
    outcome = moving.run(last, attempt=3)
    remote.settle(last)
    outgoing._RUNS.clear()
    assert outcome.state == "complete"
    reader = machine("d", "look")
    assert same(curve(reader), curve(tmp_path / "calm"))
    for load in (checkpoint.load_last, checkpoint.load_best):
        found, expected = load(reader).model, load(tmp_path / "calm").model
        assert all(torch.equal(found[name], expected[name]) for name in expected)
