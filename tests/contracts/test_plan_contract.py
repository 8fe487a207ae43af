"""What every sampler of the table promises about its plans."""

import numpy as np
import pytest

from study.data.sampling import SAMPLERS, make_plan

LABELS = np.arange(97) % 3
SEGMENTS = np.array(["one", "two", "three", "two", "two"])[np.arange(97) % 5]


def _plan(name, *, seed=0, num_steps=40, batch_size=12):
    return make_plan(name, labels=LABELS, segments=SEGMENTS, batch_size=batch_size, num_steps=num_steps, seed=seed)


def test_table_holds_the_promised_names():
    """The sampler table holds exactly the promised names."""
    assert set(SAMPLERS) == {"none", "label", "source", "source_label", "periodic"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_shape_type_and_range(name):
    """A plan is int64 [steps, batch] of rows that exist."""
    indices = _plan(name).indices()
    assert indices.shape == (40, 12)
    assert indices.dtype == np.int64
    assert indices.min() >= 0
    assert indices.max() < len(LABELS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_equal_seeds_equal_plans(name):
    """Equal seeds give equal plans and other seeds others; global generators play no part."""
    first = _plan(name, seed=4).indices()
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(_plan(name, seed=4).indices(), first)
    assert not np.array_equal(_plan(name, seed=5).indices(), first)


@pytest.mark.parametrize("name", SAMPLERS)
def test_epochs_differ(name):
    """Two epochs of one plan show the images in different order."""
    indices = _plan(name).indices()
    assert not np.array_equal(indices[:20], indices[20:])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("start", [0, 1, 17, 40])
def test_suffix(name, start):
    """A plan from step k on equals the rest of the plan from step 0 on."""
    plan = _plan(name)
    assert np.array_equal(plan.indices(start), plan.indices()[start:])
    assert np.array_equal(plan.indices(0, 7), plan.indices()[:7])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
def test_rank_blocks_are_contiguous_and_complete(name, world_size):
    """The ranks' blocks, side by side, are the global batch."""
    plan = _plan(name)
    blocks = [plan.for_rank(rank, world_size, start_step=3) for rank in range(world_size)]
    assert all(block.shape == (37, 12 // world_size) for block in blocks)
    assert np.array_equal(np.concatenate(blocks, axis=1), plan.indices(3))


@pytest.mark.parametrize("name", SAMPLERS)
def test_longer_plan_begins_with_the_shorter(name):
    """The number of steps changes where a plan ends, not what it draws."""
    assert np.array_equal(_plan(name, num_steps=60).indices()[:40], _plan(name).indices())


@pytest.mark.parametrize("name", ["label", "source_label", "periodic"])
def test_two_ranks_both_see_both_labels(name):
    """With one segment and two ranks, each rank gets both labels in equal numbers (a stride would give it one)."""
    labels = np.arange(64) % 2
    plan = make_plan(name, labels=labels, segments=["s"] * 64, batch_size=8, num_steps=30, seed=0)
    for rank in range(2):
        assert np.array_equal(np.bincount(labels[plan.for_rank(rank, 2).reshape(-1)]), [60, 60])
