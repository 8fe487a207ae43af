"""What holds for every table of images, every sampler and every seed."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data.sampling import SAMPLERS, make_plan
from study.data.sampling_queues import SHUFFLE_BLOCK

SEEDS = st.integers(0, 2**40)
NAMES = st.sampled_from(sorted(SAMPLERS))
BY_CELL = st.sampled_from(["source_label", "bal_segments", "periodic"])
QUEUES = st.sampled_from(["balanced", "iid"])
SIZES = {"batch_size": 8, "num_steps": SHUFFLE_BLOCK, "seed": 0}


def tables(*, num_classes=3, smallest=0):
    """Images per segment and class of one to four segments, at least one image in all."""
    row = st.lists(st.integers(smallest, 7), min_size=num_classes, max_size=num_classes)
    return st.lists(row, min_size=1, max_size=4).filter(lambda table: sum(map(sum, table)) > 0)


def rows_of(table):
    """Labels and segments of a table, in mixed order."""
    labels = np.concatenate([np.repeat(np.arange(len(row)), row) for row in table])
    segments = np.concatenate([np.repeat(number, sum(row)) for number, row in enumerate(table)])
    order = np.random.default_rng(len(labels)).permutation(len(labels))
    return labels[order], segments[order]


def plan_of(name, table, *, seed=0, batch_size=6, num_steps=9, queue="balanced"):
    labels, segments = rows_of(table)
    return make_plan(
        name, labels=labels, segments=segments, batch_size=batch_size, num_steps=num_steps, seed=seed, queue=queue
    )


@settings(max_examples=100, deadline=None)
@given(tables(), NAMES, QUEUES, st.integers(0, 9), SEEDS)
def test_suffix(table, name, queue, start, seed):
    """Whatever the table, a plan that starts at step k equals the end of the plan that starts at 0."""
    plan = plan_of(name, table, seed=seed, queue=queue)
    assert np.array_equal(plan.indices(start), plan.indices()[start:])


@settings(max_examples=60, deadline=None)
@given(tables(), NAMES, QUEUES, st.integers(0, 2), SEEDS)
def test_ranks_share_the_same_batches_for_world_sizes_1_to_8(table, name, queue, start, seed):
    """Ranks' blocks are disjoint and contiguous, and make the same global batches with 1 to 8 ranks."""
    plan = plan_of(name, table, seed=seed, batch_size=840, num_steps=2, queue=queue)
    batches = plan.indices(start)
    for world_size in range(1, 9):
        width = 840 // world_size
        for rank in range(world_size):
            block = plan.for_rank(rank, world_size, start)
            assert np.array_equal(block, batches[:, rank * width : (rank + 1) * width])


@settings(max_examples=100, deadline=None)
@given(tables(), BY_CELL, SEEDS, st.integers(0, 50), st.integers(1, 40))
def test_any_window_is_balanced_inside_a_segment(table, name, seed, start, length):
    """In any stretch of draws, two classes that a segment has differ by at most one among the segment's draws."""
    labels, segments = rows_of(table)
    drawn = plan_of(name, table, seed=seed, batch_size=10).indices().reshape(-1)[start : start + length]
    for segment, row in enumerate(table):
        seen = np.bincount(labels[drawn][segments[drawn] == segment], minlength=3)[np.flatnonzero(row)]
        assert seen.size == 0 or seen.max() - seen.min() <= 1


@settings(max_examples=100, deadline=None)
@given(tables(num_classes=2, smallest=1), BY_CELL, SEEDS, st.integers(1, 30))
def test_batches_are_balanced_within_the_number_of_segments(table, name, seed, batch_size):
    """Where all M segments have both classes, the two differ by at most M in every batch."""
    labels, _ = rows_of(table)
    for batch in labels[plan_of(name, table, seed=seed, batch_size=batch_size).indices()]:
        assert abs(int((batch == 0).sum()) - int((batch == 1).sum())) <= len(table)


@settings(max_examples=100, deadline=None)
@given(tables(), st.sampled_from(["label", "bal_labels", "class_stratified"]), SEEDS, st.integers(1, 30))
def test_batches_of_one_lane_are_balanced_within_one(table, name, seed, batch_size):
    """Label balance holds in every batch to within one image, whatever the segments."""
    labels, _ = rows_of(table)
    present = np.unique(labels)
    for batch in labels[plan_of(name, table, seed=seed, batch_size=batch_size).indices()]:
        counts = np.bincount(batch, minlength=3)[present]
        assert counts.max() - counts.min() <= 1


@settings(max_examples=100, deadline=None)
@given(tables(), st.sampled_from(["source_label", "bal_segments", "source", "segment"]), SEEDS, st.integers(1, 30))
def test_segments_in_turn_are_balanced_within_one(table, name, seed, batch_size):
    """Where segments take turns, every batch holds equal numbers of each to within one image."""
    _, segments = rows_of(table)
    present = np.unique(segments)
    for batch in segments[plan_of(name, table, seed=seed, batch_size=batch_size).indices()]:
        counts = np.bincount(batch, minlength=len(table))[present]
        assert counts.max() - counts.min() <= 1


@settings(max_examples=60, deadline=None)
@given(tables(), SEEDS)
def test_periodic_epoch_shows_every_rarest_class_evenly(table, seed):
    """K passes over the pattern give each segment K times the number of its rarest class, and miss none of that."""
    plan = plan_of("periodic", table, seed=seed)
    richest = max(sum(count > 0 for count in row) for row in table)
    rarest = {str(number): min((n for n in row if n), default=0) for number, row in enumerate(table)}
    assert plan.natural_draws == richest * sum(rarest.values())
    epoch = plan_of("periodic", table, seed=seed, batch_size=1, num_steps=plan.natural_draws)
    drawn = epoch.summary().assign(draws=lambda frame: frame["share"] * plan.natural_draws)
    assert drawn.groupby("segment")["draws"].sum().round().to_dict() == {
        name: richest * count for name, count in rarest.items() if count
    }
    is_rarest = drawn["images"] == drawn["segment"].map(rarest)
    assert (drawn[is_rarest]["never_seen"] == 0).all()


@settings(max_examples=60, deadline=None)
@given(tables(), NAMES, QUEUES, SEEDS)
def test_only_labelled_rows_are_drawn_and_counted(table, name, queue, seed):
    """Rows without a label are never drawn, and the repeats are those of the draws."""
    labels, segments = rows_of(table)
    hidden = np.where(np.arange(len(labels)) % 3 == 1, -1, labels)
    if (hidden < 0).all():
        return
    plan = make_plan(name, labels=hidden, segments=segments, batch_size=6, num_steps=9, seed=seed, queue=queue)
    drawn = plan.indices().reshape(-1)
    assert (hidden[drawn] >= 0).all()
    assert np.array_equal(plan.repeats(), np.bincount(drawn, minlength=len(labels)))


def test_equal_in_two_processes():
    """Equal seeds give equal plans in two fresh interpreters with different hash seeds."""
    code = (
        "import numpy as np; from study.data.sampling import SAMPLERS, make_plan\n"
        "for queue in ('balanced', 'iid'):\n"
        "    for name in SAMPLERS:\n"
        "        plan = make_plan(name, labels=np.arange(60) % 3, segments=np.repeat(['x', 'y'], 30), batch_size=6,"
        " num_steps=9, seed=5, queue=queue, patients=[f'p{n // 4}' for n in range(60)])\n"
        "        print(plan.indices().tolist())\n"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert shown[0] == shown[1]
    assert len(shown[0].splitlines()) == 2 * len(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("queue", ["balanced", "iid"])
def test_any_batch_of_a_billion_draws_is_computed_alone(name, queue):
    """Steps far into a plan of a billion draws, asked for alone and in any order, are those of a reading in a row."""
    labels = np.arange(20_000) % 3
    segments = np.arange(20_000) // 3 % 5
    num_steps = 10**9 // 50
    given_rows = {"labels": labels, "segments": segments, "batch_size": 50, "num_steps": num_steps, "seed": 1}
    plan = make_plan(name, **given_rows, queue=queue)
    last = num_steps - 400
    row = make_plan(name, **given_rows, queue=queue).indices(last)
    for step in (399, 0, 200, 17):
        assert np.array_equal(plan.indices(last + step, last + step + 1)[0], row[step])
    assert np.array_equal(plan.indices(3, 4), make_plan(name, **given_rows, queue=queue).indices(0, 9)[3:4])


def test_a_long_queue_is_shuffled_once_per_pass():
    """Reading on inside a pass of a long queue costs no second shuffle, and jumping back gives the same rows."""
    plan = make_plan("none", labels=np.zeros(SHUFFLE_BLOCK), segments=np.zeros(SHUFFLE_BLOCK), **SIZES)
    first = plan.indices(0, 1)
    kept = plan._draws.last_passes._kept[0]
    plan.indices(1, 2)
    assert plan._draws.last_passes._kept[0] is kept
    other = plan.indices(SHUFFLE_BLOCK // 8, SHUFFLE_BLOCK // 8 + 1)
    assert plan._draws.last_passes._kept[0] is not kept
    assert np.array_equal(plan.indices(0, 1), first)
    assert not np.array_equal(other, first)
