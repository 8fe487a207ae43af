"""Data that a sampler cannot balance: what the plan is then, and what it says."""

import numpy as np
import pandas as pd
import pytest

from study.data.sampling import SAMPLERS, make_plan
from study.data.sampling_warnings import BY_CELL, BY_LABEL, BY_SEGMENT

# images per segment and class; c has no class 2
TABLE = {"a": (60, 20, 10), "b": (12, 12, 12), "c": (30, 15, 0)}


def plan_of(name, table, *, batch_size=12, num_steps=50, **options):
    labels = np.concatenate([np.repeat(np.arange(len(counts)), counts) for counts in table.values()])
    segments = np.concatenate([np.repeat(segment, sum(counts)) for segment, counts in table.items()])
    return make_plan(
        name, labels=labels, segments=segments, batch_size=batch_size, num_steps=num_steps, seed=0, **options
    )


def test_every_sampler_belongs_to_one_kind():
    """A sampler that balances is known to the warnings as one by cell, by label or by segment."""
    kinds = [*BY_CELL, *BY_LABEL, *BY_SEGMENT]
    assert sorted(kinds) == sorted(set(SAMPLERS) - {"none"})


@pytest.mark.parametrize(
    ("name", "share", "shares"),
    [
        ("source_label", 0.333, "0.389, 0.389, 0.222"),
        ("bal_segments", 0.333, "0.389, 0.389, 0.222"),
        ("periodic", 0.405, "0.401, 0.401, 0.198"),
    ],
)
def test_empty_cell_is_announced_with_the_shares_that_follow(name, share, shares):
    """An empty cell is named, with the shares of its segment and of the classes that the plan really has."""
    plan = plan_of(name, TABLE, batch_size=37, num_steps=54)
    assert plan.warnings == (
        f"segment 'c' has no image of class 2 and keeps {share} of the draws",
        f"sampler {name} keeps the share of each segment, so the classes get {shares} of the draws",
    )
    drawn = plan.summary()
    realised = drawn.groupby("label")["share"].sum()
    np.testing.assert_allclose(realised, [float(text) for text in shares.split(", ")], atol=1e-3)
    assert drawn[drawn["segment"] == "c"]["share"].sum() == pytest.approx(share, abs=1e-3)


def test_a_segment_with_one_class_takes_what_its_images_claim():
    """A source of benign images alone has all of them as its rarest class: the warning says how much that takes."""
    plan = plan_of("periodic", {"clinic": (40, 20), "screening": (980, 0)})
    assert plan.warnings == (
        "segment 'screening' has no image of class 1 and keeps 0.980 of the draws",
        "sampler periodic keeps the share of each segment, so the classes get 0.990, 0.010 of the draws",
    )


def test_many_empty_cells_are_counted():
    """Of many segments without a class the first five are named, and the rest are counted."""
    table = {f"s{number:02}": (20, 0) for number in range(30)} | {"t": (20, 20)}
    warnings = plan_of("periodic", table).warnings
    assert [text.split("'")[1] for text in warnings[:5]] == ["s00", "s01", "s02", "s03", "s04"]
    assert warnings[5] == "in all 30 segments lack a class"
    assert len(warnings) == 7


def test_many_tiny_groups_are_counted():
    """Of many groups with few images the first five are named, and the rest are counted."""
    warnings = plan_of("source_label", {f"s{number}": (3, 30) for number in range(8)}).warnings
    assert warnings[0] == "segment 's0', class 0 has only 3 images and gets 0.062 of the draws"
    assert warnings[5:] == ("in all 8 groups have fewer than 10 images",)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("label", "class 1 has only 4 images and gets 0.500 of the draws"),
        ("class_stratified", "class 1 has only 4 images and gets 0.500 of the draws"),
        ("periodic", "segment 'a', class 1 has only 4 images and gets 0.286 of the draws"),
        ("source_label", "segment 'a', class 1 has only 4 images and gets 0.250 of the draws"),
        ("source", "segment 'b' has only 6 images and gets 0.500 of the draws"),
    ],
)
def test_tiny_group_is_announced_with_its_share(name, words):
    """Fewer than ten images behind one turn are named with the share of the draws that they get."""
    table = {"a": (50, 4), "b": (6, 0)} if name == "source" else {"a": (50, 4), "b": (12, 3)}
    if name in BY_LABEL:
        table = {"a": (50, 4)}
    assert words in plan_of(name, table).warnings


def test_without_balancing_nothing_is_announced():
    """Raw draws make no promise that few images could break."""
    assert plan_of("none", {"a": (50, 4)}).warnings == ()


def test_class_that_nobody_has_is_announced():
    """A class number without any image is named, and the other classes share the draws."""
    plan = make_plan("label", labels=[0, 2] * 20, segments=["a"] * 40, batch_size=2, num_steps=10, seed=0)
    assert "no image at all has class 1" in plan.warnings
    assert plan.class_counts().tolist() == [10, 0, 10]


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_image_in_all(name):
    """One image fills every batch of every sampler, and the plan says so."""
    plan = make_plan(name, labels=[1], segments=["a"], batch_size=4, num_steps=3, seed=0)
    assert np.array_equal(plan.indices(), np.zeros((3, 4)))
    assert "there is one image with a label, and it fills every batch" in plan.warnings
    assert "no image at all has class 0" in plan.warnings
    assert plan.summary()["repeats_max"].tolist() == [12]


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_class_in_all(name):
    """Where all images have one class every sampler still draws, and the plan says that there is no contrast."""
    plan = plan_of(name, {"a": (20, 0), "b": (30, 0)})
    assert np.unique(plan.indices()).size == 50
    assert any(text.startswith("all images have class 0, so no batch") for text in plan.warnings)


@pytest.mark.parametrize("name", sorted(BY_SEGMENT | BY_CELL))
def test_one_segment_in_all(name):
    """With one segment there is nothing to balance between segments, and the plan says so."""
    assert (
        f"there is one segment, 'a', so sampler {name} balances no segments" in plan_of(name, {"a": (20, 30)}).warnings
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_class_with_one_image(name):
    """A class with one image is drawn as the sampler says, that image every time."""
    table = {"a": (30, 1), "b": (30, 15)}
    plan = plan_of(name, table, batch_size=10, num_steps=30)
    line = plan.summary().set_index(["segment", "label"]).loc[("a", 1)]
    # turns of the cell in 300 draws: as often as others, as label 1 / 16, its segment's half, or 1 / 16 of the pattern
    expected = {"none": 300 / 76, "source": 150 / 31, "segment": 150 / 31, "periodic": 300 / 32} | dict.fromkeys(
        BY_LABEL, 150 / 16
    )
    assert line["images"] == 1
    assert line["repeats_max"] == pytest.approx(expected.get(name, 75), abs=1)


def test_rows_of_an_unlabelled_segment_are_left_out():
    """A segment without any labelled image has no turn."""
    labels = pd.Series([0, 1, None, None], dtype="Int64")
    plan = make_plan("periodic", labels=labels, segments=["a", "a", "b", "b"], batch_size=2, num_steps=4, seed=0)
    assert set(plan.indices().reshape(-1)) == {0, 1}
    assert plan.summary()["segment"].unique().tolist() == ["a"]
    assert plan.warnings[0] == "2 of 4 images have no label and are never drawn"


def test_five_classes_some_of_them_missing_in_a_segment():
    """With K classes each segment cycles through those that it has."""
    plan = plan_of("bal_segments", {"a": (20, 30, 40, 50, 60), "b": (20, 0, 20, 0, 20)}, batch_size=30, num_steps=5)
    shares = plan.summary().set_index(["segment", "label"])["share"]
    np.testing.assert_allclose(shares.loc["a"], [1 / 10] * 5)
    np.testing.assert_allclose(shares.loc["b"], [1 / 6] * 3, atol=1e-12)


def test_a_batch_smaller_than_the_number_of_classes():
    """A stratified batch that cannot hold all classes is announced, and the classes rotate through the batches."""
    plan = plan_of("class_stratified", {"a": (20, 30, 40)}, batch_size=2, num_steps=3)
    assert plan.warnings == ("a batch of 2 images cannot hold all 3 classes; they rotate",)
    assert plan.class_counts().tolist() == [2, 2, 2]
