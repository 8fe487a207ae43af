"""What every sampler of the table promises about its plans."""

import pickle

import numpy as np
import pytest

from study.data.sampling import SAMPLERS, make_plan

LABELS = np.arange(97) % 3
SEGMENTS = np.array(["one", "two", "three", "two", "two"])[np.arange(97) % 5]
PATIENTS = [f"p{number // 9}" for number in range(97)]
VARIANTS = [
    (name, queue, patients) for name in SAMPLERS for queue in ("balanced", "iid") for patients in (None, PATIENTS)
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: f"{variant[0]}-{variant[1]}{'-patients' * bool(variant[2])}")
def make(request):
    """A maker of plans with one sampler, one kind of queue and one unit."""
    name, queue, patients = request.param

    def _make(*, seed=0, num_steps=40, batch_size=12):
        return make_plan(
            name,
            labels=LABELS,
            segments=SEGMENTS,
            batch_size=batch_size,
            num_steps=num_steps,
            seed=seed,
            queue=queue,
            patients=patients,
        )

    return _make


def test_table_holds_the_promised_names():
    """The sampler table holds exactly the promised names."""
    paper_ordinal = {"none", "label", "source", "source_label"}
    paper_periodic = {"bal_labels", "bal_segments", "periodic"}
    assert set(SAMPLERS) == paper_ordinal | paper_periodic | {"class_stratified", "segment"}


def test_shape_type_and_range(make):
    """A plan is int64 [steps, batch] of rows that exist."""
    indices = make().indices()
    assert indices.shape == (40, 12)
    assert indices.dtype == np.int64
    assert indices.min() >= 0
    assert indices.max() < len(LABELS)


def test_equal_seeds_equal_plans(make):
    """Equal seeds give equal plans and other seeds others; global generators play no part."""
    first = make(seed=4).indices()
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(make(seed=4).indices(), first)
    assert not np.array_equal(make(seed=5).indices(), first)


def test_epochs_differ(make):
    """Two epochs of one plan show the images in different order."""
    indices = make().indices()
    assert not np.array_equal(indices[:20], indices[20:])


@pytest.mark.parametrize("start", [0, 1, 17, 40])
def test_suffix(make, start):
    """A plan from step k on equals the rest of the plan from step 0 on."""
    plan = make()
    assert np.array_equal(plan.indices(start), plan.indices()[start:])
    assert np.array_equal(plan.indices(0, 7), plan.indices()[:7])


@pytest.mark.parametrize("world_size", range(1, 9))
def test_rank_blocks_are_contiguous_and_complete(make, world_size):
    """The ranks' blocks, side by side, are the global batch, whatever the number of ranks."""
    plan = make(batch_size=840, num_steps=5)
    blocks = [plan.for_rank(rank, world_size, start_step=3) for rank in range(world_size)]
    assert all(block.shape == (2, 840 // world_size) for block in blocks)
    assert np.array_equal(np.concatenate(blocks, axis=1), plan.indices(3))


def test_longer_plan_begins_with_the_shorter(make):
    """The number of steps changes where a plan ends, not what it draws."""
    assert np.array_equal(make(num_steps=60).indices()[:40], make().indices())


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"none", "source", "segment"}))
def test_two_ranks_both_see_both_labels(name):
    """With one segment and two ranks, each rank gets both labels in equal numbers (a stride would give it one)."""
    labels = np.arange(64) % 2
    plan = make_plan(name, labels=labels, segments=["s"] * 64, batch_size=8, num_steps=30, seed=0)
    for rank in range(2):
        assert np.array_equal(np.bincount(labels[plan.for_rank(rank, 2).reshape(-1)]), [60, 60])


def test_repeats_are_those_of_the_draws(make):
    """Repeats of each row, made without listing the draws where that can be, are those of the list of draws."""
    plan = make(num_steps=27)
    assert np.array_equal(plan.repeats(), np.bincount(plan.indices().reshape(-1), minlength=len(LABELS)))


def test_pickled_plan_gives_the_same_rows(make):
    """A plan that travels to another process draws the same."""
    plan = make()
    assert np.array_equal(pickle.loads(pickle.dumps(plan)).indices(), plan.indices())
