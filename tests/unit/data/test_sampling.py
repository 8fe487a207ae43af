"""Index plans: shares, determinism, suffix property, rank blocks, warnings."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.data.sampling import SAMPLERS, make_plan, steps_per_epoch
from study.data.sampling_queues import SHUFFLE_BLOCK
from study.data.sampling_table import NAME_CHUNK, _names
from study.errors import InputError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "samplers.json").read_text())

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
        ("bal_labels", [32.9] * 4, [225.8] * 4),
        ("periodic", [122.8, 174.8, 1.7, 1.7], [225.8] * 4),
        ("bal_segments", [33.7, 853.9, 20.6, 23.6], [62, 1102.9, 2812.5, 3082.2]),
    ],
)
def test_visits_per_image_on_table_1(name, benign, malignant):
    """Visits per image in 150,000 steps of 24 on table 1 of paper periodic are those computed from its shares."""
    summary = _plan(name, table=TABLE_1, batch_size=24, num_steps=150_000).summary().set_index(["segment", "label"])
    visits = summary["share"] * 150_000 * 24 / summary["images"]
    tolerance = 0.06 if name != "bal_labels" else 0.3  # inside a class the last pass of the queue is cut anywhere
    np.testing.assert_allclose(visits.xs(0, level="label"), benign, atol=tolerance)
    np.testing.assert_allclose(visits.xs(1, level="label"), malignant, atol=tolerance)


def test_shares_of_table_1():
    """The share of each segment and class on table 1 is the published comparison's, to its four digits."""
    shares = {
        name: _plan(name, table=TABLE_1, batch_size=24, num_steps=150_000).summary().set_index(["label", "segment"])
        for name in ("bal_labels", "bal_segments", "periodic")
    }
    np.testing.assert_allclose(shares["bal_labels"]["share"].loc[0], [0.1218, 0.0048, 0.1996, 0.1738], atol=5e-4)
    np.testing.assert_allclose(shares["bal_labels"]["share"].loc[1], [0.4552, 0.0256, 0.0100, 0.0092], atol=5e-4)
    np.testing.assert_allclose(shares["bal_segments"]["share"], [1 / 8] * 8, atol=1e-6)
    periodic = [0.91044, 0.05118, 0.02007, 0.01831]
    np.testing.assert_allclose(2 * shares["periodic"]["share"].loc[0], periodic, atol=5e-5)
    np.testing.assert_allclose(2 * shares["periodic"]["share"].loc[1], periodic, atol=5e-5)


@pytest.mark.parametrize("key", GOLDEN["sequences"])
def test_a_seed_keeps_its_sequence(key):
    """A plan with a given seed is the recorded one, byte for byte: other versions and machines draw the same."""
    table_name, name, seed = key.split()
    table = GOLDEN["sequence_tables"][table_name]
    labels = np.concatenate([np.repeat(np.arange(3), counts) for counts in table.values()])
    segments = np.concatenate([np.repeat(segment, sum(counts)) for segment, counts in table.items()])
    order = np.random.Generator(np.random.Philox(3)).permutation(len(labels))
    labels = np.where(np.arange(len(labels)) % 37 == 5, -1, labels[order])
    plan = make_plan(name, labels=labels, segments=segments[order], batch_size=24, num_steps=2000, seed=int(seed))
    expected = GOLDEN["sequences"][key]
    assert plan.indices(0, 1)[0].tolist() == expected["first"]
    assert hashlib.sha256(plan.indices().astype("<i8").tobytes()).hexdigest() == expected["sha256"]


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (("bal_labels", "class_stratified"), "label"),
        (("bal_segments",), "source_label"),
        (("segment",), "source"),
    ],
)
def test_names_of_one_rule_draw_the_same(names, same):
    """With balanced queues the names that two papers gave to one rule are one plan."""
    for name in names:
        assert np.array_equal(_plan(name).indices(), _plan(same).indices())


def test_class_stratified_batches_hold_equal_portions_and_the_remainder_rotates():
    """Batches of 50 with three classes hold 17, 17 and 16 images, and each class has its turn to be the 16."""
    labels, _ = _rows()
    batches = labels[_plan("class_stratified", batch_size=50, num_steps=6).indices()]
    counts = np.array([np.bincount(batch, minlength=3) for batch in batches])
    assert np.sort(counts, axis=1).tolist() == [[16, 17, 17]] * 6
    assert counts[:3].sum(axis=0).tolist() == [50, 50, 50]


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


@pytest.mark.parametrize(
    "segments",
    [
        np.array(["b", "a", "b", "10", "nan"]),
        ["b", "a", "b", 10, np.nan],
        pd.Series(["b", "a", "b", "10", None], dtype="str"),
        pd.Categorical(["b", "a", "b", "10", "nan"], categories=["nan", "b", "a", "10"]),
    ],
    ids=["array", "list", "series", "categorical"],
)
def test_segments_come_in_many_forms(segments):
    """Names as an array, list, column or categories make the same plan, in the order of the names as text."""
    plan = make_plan("source", labels=[0, 1, 1, 0, 1], segments=segments, batch_size=4, num_steps=9, seed=0)
    assert plan.summary()["segment"].unique().tolist() == ["10", "a", "b", "nan"]
    same = make_plan("source", labels=[0, 1, 1, 0, 1], segments=[2, 1, 2, 0, 3], batch_size=4, num_steps=9, seed=0)
    assert np.array_equal(plan.indices(), same.indices())


def test_names_are_numbered_alike_in_every_part():
    """A name that comes back after a million rows is the same segment."""
    segments = pd.Categorical.from_codes(np.arange(NAME_CHUNK + 5) // NAME_CHUNK % 2, ["b", "a"])
    codes, names = _names(pd.concat([pd.Series(segments), pd.Series(["b"])]))
    assert names.tolist() == ["a", "b"]
    assert codes[[0, NAME_CHUNK - 1, NAME_CHUNK, NAME_CHUNK + 4, NAME_CHUNK + 5]].tolist() == [1, 1, 0, 0, 1]


def test_a_plan_can_last_longer():
    """A plan cut after another number of steps is the plan that was made for it."""
    assert np.array_equal(_plan("periodic", num_steps=5).lasting(50).indices(), _plan("periodic").indices())
    with pytest.raises(InputError, match="-1 steps"):
        _plan("periodic").lasting(-1)


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
        ({"labels": [0, 1, 20_000]}, "labels reach 20000"),
        ({"segments": ["a", "b"]}, r"segments \(2,\)"),
        ({"patients": ["p"]}, r"patients \(1,\)"),
        ({"patients": ["p", None, "q"]}, "1 of 3 images have no patient"),
        ({"queue": "random"}, "queue is 'random'"),
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
