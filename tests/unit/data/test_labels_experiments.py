"""Labels that are left out, synthesised and flipped, as in paper multitask."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data.labels import LabelSettings, add_labels, change_training_labels, finish_labels, label_column
from study.data.manifest import finish_manifest
from study.errors import InputError

FRACTIONS = st.floats(0, 1)


def cohort(images=200, seed=0):
    """Images with an assessment, a density and, for half of them, a biopsy; two thirds train."""
    rng = np.random.default_rng(seed)
    ids = [f"i{number}" for number in range(images)]
    frame = pd.DataFrame(
        {
            "patient_id": ids,
            "image_id": ids,
            "birads": rng.choice([1, 2, 3, 4, 5], images),
            "density": rng.choice(list("ABCD"), images),
            "biopsy": rng.choice(["benign", "malignant", None], images, p=[0.25, 0.25, 0.5]),
        }
    )
    split = np.where(np.arange(images) % 3 < 2, "train", np.where(np.arange(images) % 2, "val", "test"))
    return finish_manifest(frame, source="s").assign(split=pd.Series(split, dtype="str"))


def changed(manifest, **options):
    """The labels as the sources state them, and as the experiments leave them."""
    settings = LabelSettings(**{"task": "acr", "auxiliary": ("density", "binary")} | options)
    before = add_labels(manifest, settings)
    return before, change_training_labels(before, settings)


def left_out(manifest, task, fraction, **options):
    _, after = changed(manifest, leave_out={task: fraction}, **options)
    return set(after.index[after[f"{task}_origin"] == "left_out"])


@pytest.mark.long
@settings(max_examples=40)
@given(small=FRACTIONS, large=FRACTIONS, seed=st.integers(0, 2**32 - 1))
def test_leaving_out_is_nested_and_exact(small, large, seed):
    """A larger fraction spares a label that a smaller one left out, or the share is not what the file says."""
    small, large = sorted((small, large))
    manifest = cohort(90, seed % 7)
    fewer, more = (left_out(manifest, "density", fraction, seed=seed) for fraction in (small, large))
    assert fewer <= more
    training = int((manifest["split"] == "train").sum())
    assert len(more) == math.floor(large * training + 0.5)


@settings(max_examples=40)
@given(fraction=FRACTIONS, seed=st.integers(0, 2**32 - 1), task=st.sampled_from(["acr", "density", "binary"]))
def test_flips_never_keep_the_class(fraction, seed, task):
    """A label that counts as flipped is the old one, or one outside of the classes, or another label changes."""
    before, after = changed(cohort(90, seed % 7), flip={task: fraction}, seed=seed)
    column = label_column(task)
    flipped = after[f"{task}_origin"] == "flipped"
    count = {"acr": 6, "density": 4, "binary": 2}[task]
    assert (after.loc[flipped, column] != before.loc[flipped, column]).all()
    assert after.loc[flipped, column].between(0, count - 1).all()
    pd.testing.assert_series_equal(after.loc[~flipped, column], before.loc[~flipped, column])
    labelled = before[column].notna() & (before["split"] == "train")
    assert flipped.sum() == math.floor(fraction * labelled.sum() + 0.5)


@settings(max_examples=25)
@given(order=st.integers(0, 2**32 - 1), seed=st.integers(0, 2**32 - 1))
def test_row_order_does_not_matter(order, seed):
    """Sorting the table differently leaves out or flips other labels."""
    manifest = cohort(60)
    options = {"leave_out": {"all": 0.3}, "flip": {"acr": 0.4, "binary": 0.2}, "synthesise": {"binary": "acr"}}
    _, after = changed(manifest, seed=seed, **options)
    _, again = changed(manifest.sample(frac=1, random_state=order), seed=seed, **options)
    pd.testing.assert_frame_equal(after, again.sort_index())


def test_only_training_images_are_touched():
    """A label of val or test is left out, made or flipped, so that scores are not those of the task."""
    options = {"leave_out": {"all": 0.9}, "flip": {"acr": 0.9, "binary": 0.9}, "synthesise": {"binary": "acr"}}
    before, after = changed(cohort(), **options)
    elsewhere = before["split"] != "train"
    pd.testing.assert_frame_equal(before[elsewhere], after[elsewhere])
    assert not before[~elsewhere].equals(after[~elsewhere])


def test_all_leaves_out_of_every_task_and_a_task_has_its_own():
    """``all`` leaves a task alone, takes the same images from each, or overrides a task's own share."""
    _, after = changed(cohort(), leave_out={"all": 0.5, "binary": 0.0})
    counts = {task: int((after[f"{task}_origin"] == "left_out").sum()) for task in ("acr", "density", "binary")}
    assert counts == {"acr": 67, "density": 67, "binary": 0}
    assert not ((after["acr_origin"] == "left_out") == (after["density_origin"] == "left_out")).all()
    assert after.loc[after["acr_origin"] == "left_out", "label"].isna().all()


def test_an_image_without_its_deciding_label_stays_for_the_others():
    """Leaving out the malignancy of an image loses its density too, or an image without any label is kept."""
    settings = LabelSettings(task="acr", auxiliary=("density",), leave_out={"acr": 0.5})
    _, after = changed(cohort(), auxiliary=("density",), leave_out={"acr": 0.5})
    assert (finish_labels(after, settings)["drop_reason"] == "").all()
    _, alone = changed(cohort(), auxiliary=(), leave_out={"acr": 0.5})
    dropped = finish_labels(alone, LabelSettings(task="acr", leave_out={"acr": 0.5}))
    assert dropped["drop_reason"].value_counts().to_dict() == {"": 133, "the label was left out": 67}
    assert set(dropped.loc[dropped["drop_reason"] != "", "split"]) == {""}


def test_leaving_out_everything_is_refused():
    """A study whose training labels are all left out starts, and fails at its first batch or learns nothing."""
    settings = LabelSettings(task="acr", leave_out={"all": 1.0})
    _, after = changed(cohort(), auxiliary=(), leave_out={"all": 1.0})
    with pytest.raises(InputError, match="every label of all 134 training images") as caught:
        finish_labels(after, settings)
    assert caught.value.fix


class TestSynthesis:
    """Malignancy from an assessment, for training images without a biopsy."""

    def test_from_each_task(self):
        """Grades 1 and 2 are not benign, 4 and up not malignant, or 3 is not left alone."""
        frame = {"birads": [1, 2, 3, 4, 5, 6, 4], "birads_sub": [None, None, None, "a", None, None, None]}
        ids = [str(number) for number in range(7)]
        manifest = finish_manifest(pd.DataFrame({"patient_id": ids, "image_id": ids} | frame), source="s")
        manifest = manifest.assign(split="train")
        for other, fourth in (("acr", 1), ("birads", 1), ("birads3", 1)):
            _, after = changed(manifest, task="binary", auxiliary=("view",), synthesise={"binary": other})
            found = [None if pd.isna(label) else int(label) for label in after["binary"]]
            assert found == [0, 0, None, fourth, 1, 1, 1]
        _, parted = changed(
            manifest, task="binary", auxiliary=("birads",), birads_sub=True, synthesise={"binary": "birads"}
        )
        assert [None if pd.isna(label) else int(label) for label in parted["binary"]] == [0, 0, None, 1, 1, 1, None]

    def test_only_where_there_is_none(self):
        """A biopsy is overwritten, or an origin or an uncertainty is not that of a synthetic label."""
        options = {"synthesise": {"binary": "acr"}, "uncertainty": {"synthetic": 0.75}}
        before, after = changed(cohort(), task="binary", auxiliary=("density",), **options)
        known = before["binary"].notna()
        pd.testing.assert_series_equal(before.loc[known, "binary"], after.loc[known, "binary"])
        made = after["binary_origin"] == "synthetic"
        assert made.sum() == (~known & (before["birads"] != 3) & (before["split"] == "train")).sum() > 0
        assert set(after.loc[made, "binary_uncertainty"]) == {0.75}

    def test_labels_that_were_left_out_are_made_anew_from_what_is_left(self):
        """A left-out biopsy is not replaced, or a left-out assessment still serves."""
        _, after = changed(cohort(), leave_out={"binary": 1.0, "acr": 0.5}, synthesise={"binary": "acr"})
        training = after[after["split"] == "train"]
        has_grade = training["acr"].notna() & (training["acr"] != 2)
        assert (training["binary_origin"] == "synthetic").tolist() == has_grade.tolist()

    def test_unknown_roads(self):
        """A task is made from one that says nothing about it."""
        for synthesise in ({"binary": "density"}, {"density": "acr"}):
            with pytest.raises(InputError, match=r"labels\.synthesise"):
                changed(cohort(), synthesise=synthesise)


class TestUncertaintyOfFlips:
    """A flipped label looks like any other, unless the file says that it is known to be doubtful."""

    def test_kept_by_default(self):
        """A flip betrays itself by its weight."""
        _, after = changed(cohort(), flip={"acr": 0.5}, uncertainty={"reader": 0.25})
        assert set(after.loc[after["acr_origin"] == "flipped", "acr_uncertainty"]) == {0.25}

    def test_as_the_file_says(self):
        """The file's value for flipped labels is ignored or reaches others."""
        _, after = changed(cohort(), flip={"acr": 0.5}, uncertainty={"flipped": 0.9})
        flipped = after["acr_origin"] == "flipped"
        assert set(after.loc[flipped, "acr_uncertainty"]) == {0.9}
        assert set(after.loc[~flipped, "acr_uncertainty"]) == {0.0}


def test_noisy_labels_of_the_paper():
    """Half of the labels out and half of these noisy: 25 % left out and a third of the rest flipped is not that."""
    _, after = changed(cohort(600), auxiliary=(), leave_out={"acr": 0.25}, flip={"acr": 1 / 3})
    counts = after.loc[after["split"] == "train", "acr_origin"].value_counts()
    assert counts.to_dict() == {"reader": 200, "left_out": 100, "flipped": 100}


def test_flips_reach_every_other_class():
    """Flipped labels pile up in one class."""
    _, after = changed(cohort(3000), flip={"density": 1.0})
    before = add_labels(cohort(3000), LabelSettings(task="acr", auxiliary=("density",)))
    flipped = after["density_origin"] == "flipped"
    table = pd.crosstab(before.loc[flipped, "density_label"], after.loc[flipped, "density_label"], normalize="index")
    rest = table.to_numpy()[~np.eye(4, dtype=bool)]
    assert (np.diag(table) == 0).all()
    assert rest.min() > 0.25
    assert rest.max() < 0.42


@pytest.mark.parametrize("options", [{"leave_out": {"acr": 1.5}}, {"flip": {"acr": -0.1}}])
def test_bad_shares(options):
    """A share outside 0 to 1 is accepted."""
    with pytest.raises(InputError, match="expected a share from 0 to 1"):
        changed(cohort(30), **options)
