"""Index plans: shares, determinism, suffix property, rank blocks, warnings."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data.sampling import SAMPLERS, make_plan, steps_per_epoch
from study.data.sampling_queues import SHUFFLE_BLOCK
from study.errors import InputError

# images per segment and class; b and c are small, c has no class 2
TABLE = {"a": (60, 20, 10), "b": (12, 12, 12), "c": (30, 15, 0)}


def _rows(table=TABLE, seed=3):
    labels = np.concatenate([np.repeat(np.arange(len(counts)), counts) for counts in table.values()])
    segments = np.concatenate([np.repeat(name, sum(counts)) for name, counts in table.items()])
    order = np.random.default_rng(seed).permutation(len(labels))
    return labels[order], segments[order]


def _plan(name, *, table=TABLE, batch_size=12, num_steps=50, seed=0):
    labels, segments = _rows(table)
    return make_plan(name, labels=labels, segments=segments, batch_size=batch_size, num_steps=num_steps, seed=seed)


def _shares(plan, labels, segments):
    drawn = plan.indices().reshape(-1)
    return pd.crosstab(segments[drawn], labels[drawn], normalize="all")


def test_none_draws_every_image_once_per_pass():
    """Without balancing, a pass over the data shows each image exactly once."""
    labels, _ = _rows()
    drawn = _plan("none", batch_size=9, num_steps=38).indices().reshape(-1)
    assert len(labels) * 2 == len(drawn)
    for part in (drawn[: len(labels)], drawn[len(labels) :]):
        assert np.array_equal(np.sort(part), np.arange(len(labels)))
    assert not np.array_equal(drawn[: len(labels)], drawn[len(labels) :])


def test_label_makes_classes_equal_and_keeps_segments_raw_inside_a_class():
    """Label balance gives P(i, c) = n_ic / (K n_c) exactly after whole passes."""
    labels, segments = _rows()
    # queues of 102, 47, 22 images; 102 * 47 * 11 draws of each class are whole passes of all three
    plan = make_plan("label", labels=labels, segments=segments, batch_size=3, num_steps=102 * 47 * 11, seed=1)
    found = _shares(plan, labels, segments)
    for segment, counts in TABLE.items():
        for label, count in enumerate(counts):
            total = sum(row[label] for row in TABLE.values())
            assert found.loc[segment, label] == pytest.approx(count / (3 * total), abs=1e-12)


def test_source_makes_segments_equal_and_keeps_classes_raw_inside_a_segment():
    """Source balance gives every segment 1/M and leaves its class mix unchanged."""
    labels, segments = _rows()
    plan = make_plan("source", labels=labels, segments=segments, batch_size=3, num_steps=180, seed=1)  # 180 = lcm
    found = _shares(plan, labels, segments)
    for segment, counts in TABLE.items():
        assert found.loc[segment].sum() == pytest.approx(1 / 3)
        np.testing.assert_allclose(found.loc[segment], np.array(counts) / (3 * sum(counts)), atol=1e-12)


@pytest.mark.parametrize("num_steps", [6, 600])
def test_source_label_makes_all_cells_of_a_segment_equal(num_steps):
    """Source and label balance gives P(i, c) = 1 / (M K_i) over the classes that the segment has."""
    labels, segments = _rows()
    plan = make_plan("source_label", labels=labels, segments=segments, batch_size=3, num_steps=num_steps, seed=1)
    found = _shares(plan, labels, segments)
    np.testing.assert_allclose(found.loc["a"], [1 / 9] * 3)
    np.testing.assert_allclose(found.loc["b"], [1 / 9] * 3)
    np.testing.assert_allclose(found.loc["c"], [1 / 6, 1 / 6, 0])


def test_periodic_share_of_a_segment_follows_its_rarest_class():
    """Periodic sampling gives P(i, c) = n_i / (L K_i): here n = 10, 12, 15 and L = 37."""
    labels, segments = _rows()
    plan = make_plan("periodic", labels=labels, segments=segments, batch_size=37, num_steps=6, seed=1)
    found = _shares(plan, labels, segments)
    np.testing.assert_allclose(found.loc["a"], [10 / 111] * 3)
    np.testing.assert_allclose(found.loc["b"], [12 / 111] * 3)
    np.testing.assert_allclose(found.loc["c"], [15 / 74, 15 / 74, 0])


TABLE_1 = {"S1Ma": (13341, 7258), "S1Mb": (527, 408), "S2Ma": (21871, 160), "S2Mb": (19040, 146)}  # benign, malignant


@pytest.mark.parametrize(
    ("name", "benign", "malignant"),
    [
        ("label", [32.9] * 4, [225.8] * 4),
        ("periodic", [122.8, 174.8, 1.7, 1.7], [225.8] * 4),
        ("source_label", [33.7, 853.9, 20.6, 23.6], [62, 1102.9, 2812.5, 3082.2]),
    ],
)
def test_visits_per_image_on_table_1(name, benign, malignant):
    """Visits per image in 150,000 steps of 24 on table 1 of paper periodic are those computed from its shares."""
    summary = _plan(name, table=TABLE_1, batch_size=24, num_steps=150_000).summary().set_index(["segment", "label"])
    visits = summary["share"] * 150_000 * 24 / summary["images"]
    tolerance = 0.06 if name != "label" else 0.3  # inside a class the last pass of the queue is cut anywhere
    np.testing.assert_allclose(visits.xs(0, level="label"), benign, atol=tolerance)
    np.testing.assert_allclose(visits.xs(1, level="label"), malignant, atol=tolerance)


def test_labels_inside_a_segment_differ_by_one_in_any_window():
    """Alternation holds in every window: counts of two classes of a segment differ by at most 1."""
    labels, segments = _rows()
    drawn = _plan("periodic", batch_size=24, num_steps=40).indices().reshape(-1)
    for segment, counts in TABLE.items():
        seen = labels[drawn][segments[drawn] == segment]
        present = np.flatnonzero(counts)
        for start in range(len(seen) - 7):
            window = np.bincount(seen[start : start + 7], minlength=3)[present]
            assert window.max() - window.min() <= 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_repeats_are_even(name):
    """Inside one queue no image is drawn twice more often than another, whatever the size of the plan."""
    plan = _plan(name, num_steps=77)
    summary = plan.summary()
    assert ((summary["repeats_max"] - summary["repeats_min"]) <= 1).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_summary_counts_what_the_plan_draws(name):
    """The summary, made without listing the draws, agrees with the list of draws."""
    labels, segments = _rows()
    plan = _plan(name, num_steps=13)
    drawn = plan.indices().reshape(-1)
    repeats = np.bincount(drawn, minlength=len(labels))
    for line in plan.summary().itertuples():
        cell = repeats[(segments == line.segment) & (labels == line.label)]
        assert line.images == len(cell)
        assert line.share == pytest.approx(cell.sum() / len(drawn))
        assert (line.repeats_min, line.repeats_median, line.repeats_max) == (cell.min(), np.median(cell), cell.max())
        assert line.never_seen == (cell == 0).sum()
    assert np.array_equal(plan.class_counts(), np.bincount(labels[drawn], minlength=3))


def test_tiny_queue_is_shuffled_again_in_every_pass():
    """A queue of three images shows all three in each pass, and not always in the same order."""
    plan = _plan("source_label", table={"a": (3, 500)}, batch_size=2, num_steps=3 * SHUFFLE_BLOCK)
    labels, _ = _rows({"a": (3, 500)})
    drawn = plan.indices().reshape(-1)
    passes = drawn[labels[drawn] == 0].reshape(-1, 3)
    assert np.array_equal(np.sort(passes, axis=1), np.tile(np.flatnonzero(labels == 0), (len(passes), 1)))
    orders, counts = np.unique(passes, axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > len(passes) / 6 * 0.85


def test_same_plan_in_another_process():
    """Equal arguments give an equal plan in a fresh interpreter."""
    code = (
        "import numpy as np; from study.data.sampling import make_plan;"
        "p = make_plan('periodic', labels=np.arange(60) % 3, segments=np.repeat(['x', 'y'], 30), batch_size=6,"
        " num_steps=9, seed=5); print(p.indices().tolist())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    plan = make_plan(
        "periodic", labels=np.arange(60) % 3, segments=np.repeat(["x", "y"], 30), batch_size=6, num_steps=9, seed=5
    )
    assert shown.strip() == str(plan.indices().tolist())


def test_plan_survives_pickling():
    """A pickled plan gives the same rows."""
    plan = _plan("periodic")
    assert np.array_equal(pickle.loads(pickle.dumps(plan)).indices(), plan.indices())


def test_import_needs_no_torch():
    """Samplers are imported without torch and without Ray."""
    code = "import sys, study.data.sampling; assert not {'torch', 'ray'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_epoch_is_one_pass_over_the_images():
    """An epoch has as many draws as labelled images, rounded up to whole batches, and at least one batch."""
    labels, segments = _rows()
    labels = np.where(np.arange(len(labels)) < 11, -1, labels)
    given_rows = {"labels": labels, "segments": segments}
    assert steps_per_epoch("none", **given_rows, batch_size=32, epoch_draws=None) == 5  # 160 images
    assert steps_per_epoch("label", **given_rows, batch_size=1000, epoch_draws=None) == 1
    assert steps_per_epoch("none", **given_rows, batch_size=32, epoch_draws=33) == 2


def test_periodic_epoch_is_k_passes_over_the_pattern():
    """A periodic epoch shows every image of a segment's rarest class once: 3 passes over 37 slots."""
    labels, segments = _rows()
    given_rows = {"labels": labels, "segments": segments}
    steps = steps_per_epoch("periodic", **given_rows, batch_size=1, epoch_draws=None)
    assert steps == 111
    rare = make_plan("periodic", **given_rows, batch_size=1, num_steps=steps, seed=0).summary()
    assert rare[(rare["segment"] == "a") & (rare["label"] == 2)]["repeats_min"].item() == 1


def test_rows_without_label_are_never_drawn():
    """Rows with a missing label (negative, NaN, NA) are left out and counted in a warning."""
    for missing in (-1, np.nan, pd.NA):
        labels = pd.Series([0, 1, missing, 1, 0], dtype="object")
        plan = make_plan("label", labels=labels, segments=["a"] * 5, batch_size=2, num_steps=20, seed=0)
        assert 2 not in plan.indices()
        assert plan.warnings[0] == "1 of 5 images have no label and are never drawn"


def test_empty_cell_is_announced_with_the_shares_that_follow():
    """An empty cell is named, with the class shares that the plan really has."""
    plan = _plan("source_label")
    assert plan.warnings == (
        "segment 'c' has no image of class 2",
        "sampler source_label keeps the share of each segment, so the classes get 0.389, 0.389, 0.222 of the draws",
    )


def test_tiny_queue_is_announced():
    """A class with fewer than ten images is named where it takes a whole share; without balancing it is not."""
    table = {"a": (50, 4)}
    assert _plan("label", table=table).warnings == (
        "class 1 has only 4 images, which take its whole share of the draws",
    )
    assert _plan("none", table=table).warnings == ()


def test_class_that_nobody_has_is_announced():
    """A class number without any image is named."""
    plan = make_plan("label", labels=[0, 2] * 20, segments=["a"] * 40, batch_size=2, num_steps=1, seed=0)
    assert "no image at all has class 1" in plan.warnings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "source_lable"}, "did you mean 'source_label'"),
        ({"batch_size": 0}, "batch size 0"),
        ({"num_steps": -1}, "-1 steps"),
        ({"seed": -1}, "seed -1"),
        ({"labels": [-1, -1, -1]}, "none of 3 images has a label"),
        ({"labels": [0, 1]}, r"shape \(2,\)"),
        ({"labels": ["x", "y", "z"]}, "no whole numbers"),
        ({"labels": [0.5, 1, 1]}, "no whole numbers"),
    ],
)
def test_wrong_arguments_are_refused(change, words):
    """What makes no plan is refused in words that name what was found."""
    arguments = {"labels": [0, 1, 1], "segments": ["a", "a", "b"], "batch_size": 2, "num_steps": 1, "seed": 0} | change
    with pytest.raises(InputError, match=words):
        make_plan(arguments.pop("name", "label"), **arguments)


def test_world_size_must_divide_the_batch():
    """A batch that the workers cannot share equally is refused, with the two settings to change."""
    with pytest.raises(InputError, match="batch of 12 images for rank 0 of 5 workers") as caught:
        _plan("none").for_rank(0, 5)
    assert "train.batch_size" in caught.value.fix


def test_steps_outside_the_plan_are_refused():
    """A start beyond the end of the plan is an error, the end itself an empty answer."""
    plan = _plan("none", num_steps=5)
    assert plan.indices(5).shape == (0, 12)
    with pytest.raises(InputError, match="steps 6 to 5"):
        plan.indices(6)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=3), min_size=1, max_size=4),
    name=st.sampled_from(sorted(SAMPLERS)),
    start=st.integers(0, 9),
    seed=st.integers(0, 2**40),
)
def test_any_table_makes_a_plan_with_the_suffix_property(counts, name, start, seed):
    """Whatever the table, a plan that starts at step k equals the end of the plan that starts at 0."""
    table = {f"s{number}": tuple(row) for number, row in enumerate(counts)}
    labels, segments = _rows(table)
    if len(labels) == 0:
        return
    plan = make_plan(name, labels=labels, segments=segments, batch_size=6, num_steps=9, seed=seed)
    assert np.array_equal(plan.indices(start), plan.indices()[start:])
    assert np.array_equal(np.concatenate([plan.for_rank(rank, 3, start) for rank in range(3)], 1), plan.indices(start))
    assert np.isin(plan.indices(), np.arange(len(labels))).all()
