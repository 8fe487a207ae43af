"""Independent draws with replacement: the shares of the balanced queues, with the fluctuations of chance."""

import numpy as np
import pytest

from study.data.sampling import SAMPLERS, make_plan
from study.data.sampling_iid import IID_BLOCK

# images per segment and class; n_i = 10, 12 and 15
TABLE = {"a": (60, 20, 10), "b": (12, 12, 12), "c": (30, 15, 0)}
LABELS = np.concatenate([np.repeat(np.arange(3), counts) for counts in TABLE.values()])
SEGMENTS = np.concatenate([np.repeat(segment, sum(counts)) for segment, counts in TABLE.items()])


def plan_of(name, *, queue="iid", batch_size=12, num_steps=2000, **options):
    return make_plan(
        name,
        labels=LABELS,
        segments=SEGMENTS,
        batch_size=batch_size,
        num_steps=num_steps,
        seed=1,
        queue=queue,
        **options,
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_shares_are_those_of_the_balanced_queues(name):
    """Each segment and class gets the same expected share as with balanced queues: within 5 standard deviations."""
    draws = 12 * 10_000
    found = plan_of(name, num_steps=10_000).summary()["share"].to_numpy()
    expected = plan_of(name, queue="balanced", num_steps=100_000).summary()["share"].to_numpy()
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(found - expected) < 5 * spread + 1e-4).all()


def test_batches_fluctuate_as_independent_draws_do():
    """The number of images of a class in a batch has the variance of independent draws; balanced queues have none."""
    counts = (LABELS[plan_of("label", batch_size=30).indices()] == 0).sum(axis=1)
    assert counts.mean() == pytest.approx(10, abs=0.3)
    assert counts.var() == pytest.approx(30 * (1 / 3) * (2 / 3), rel=0.15)
    balanced = (LABELS[plan_of("label", queue="balanced", batch_size=30).indices()] == 0).sum(axis=1)
    assert (balanced == 10).all()


def test_class_stratified_keeps_equal_portions():
    """Equal portions inside a batch are what class_stratified is: with independent draws too they are equal."""
    plan = plan_of("class_stratified", batch_size=30)
    assert all(np.bincount(LABELS[batch]).tolist() == [10, 10, 10] for batch in plan.indices())
    assert plan.repeats().max() > plan_of("class_stratified", queue="balanced", batch_size=30).repeats().max()


def test_repeats_follow_chance():
    """An image's repeats have the variance of independent draws, where balanced queues differ by one at most."""
    repeats = plan_of("none", batch_size=171, num_steps=100).repeats()
    assert repeats.mean() == 100
    assert repeats.var() == pytest.approx(100, rel=0.4)


def test_neighbouring_blocks_differ():
    """Draws do not come back after one block of draws of the generator."""
    drawn = plan_of("none", batch_size=IID_BLOCK, num_steps=3).indices()
    assert not np.array_equal(drawn[0], drawn[1])


def test_plan_says_that_it_is_iid():
    """The plan tells its kind of queue, so that a report can."""
    assert plan_of("label").queue == "iid"
    assert plan_of("label", queue="balanced").queue == "balanced"
