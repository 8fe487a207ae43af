"""Drawn splits: fractions and folds, by patient or breast."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from study.data.drawing import draw
from study.data.splits import SplitSettings, check_no_leak, split_manifest, unit_keys, units_of
from study.errors import InputError
from tests.unit.data.cohorts import SPLITS, cohort, manifest_of, patients_of

SHARES = [(1, 0, 0), (0.9, 0.1, 0), (0.4, 0.3, 0.3), (0.98, 0.01, 0.01)]


def split(manifest, *, val=0.2, test=0.2, **options):
    return split_manifest(manifest, SplitSettings(val_fraction=val, test_fraction=test, **options)).manifest


def fold_of(manifest, fold, *, folds=5, **options):
    return split(manifest, scheme="folds", folds=folds, fold=fold, **options)


class TestFractions:
    """Shares of the patients, alike in class and source."""

    def test_shares_hold_in_each_class_and_source(self):
        """A class or a source is over- or under-represented in a split by more than its rounding."""
        table = patients_of(split(cohort()))
        for _, members in table.groupby("worst"):
            for name in ("val", "test"):
                assert abs((members["split"] == name).sum() - 0.2 * len(members)) <= 1
        for _, members in table.groupby(["worst", "source"]):
            for name in ("val", "test"):
                assert abs((members["split"] == name).sum() - 0.2 * len(members)) <= 2

    @settings(max_examples=60)
    @given(
        patients=st.integers(3, 60),
        val=st.floats(0.01, 0.6),
        test=st.floats(0.01, 0.6),
        seed=st.integers(0, 2**32 - 1),
        shares=st.sampled_from(SHARES),
        unit=st.sampled_from(["patient", "breast"]),
    )
    def test_every_split_is_filled_and_nobody_is_in_two(self, patients, val, test, seed, shares, unit):
        """A split with a share is empty, a patient (or breast) is in two, or a row is left out."""
        assume(val + test < 0.95)
        done = split(cohort(seed % 1000, patients, shares), val=val, test=test, seed=seed, unit=unit)
        check_no_leak(done, unit=unit)
        assert set(done["split"]) == set(SPLITS)
        assert (done.groupby(unit_keys(done, unit))["split"].nunique() == 1).all()

    @settings(max_examples=25)
    @given(seed=st.integers(0, 2**32 - 1), order=st.integers(0, 2**32 - 1))
    def test_row_order_does_not_matter(self, seed, order):
        """Sorting the table differently, or adding columns, moves a patient."""
        manifest = cohort(patients=40)
        shuffled = manifest.sample(frac=1, random_state=order).assign(view="CC")
        done, again = split(manifest, seed=seed), split(shuffled, seed=seed)
        pd.testing.assert_series_equal(done["split"], again["split"].sort_index())

    def test_seeds_differ(self):
        """Another seed gives the same split."""
        manifest = cohort()
        assert (split(manifest, seed=1)["split"] != split(manifest, seed=2)["split"]).any()
        pd.testing.assert_frame_equal(split(manifest, seed=1), split(manifest, seed=1))

    def test_a_rare_class_reaches_every_split(self):
        """Three malignant patients among hundreds all land in training."""
        labels = [0] * 300 + [2] * 3
        done = split(manifest_of([f"p{n}" for n in range(303)], labels=labels), val=0.1, test=0.1)
        assert set(done.loc[done["label"] == 2, "split"]) == set(SPLITS)

    @pytest.mark.parametrize(("rare", "expected"), [(1, {"train"}), (2, {"train", "val"})])
    def test_a_tiny_class_goes_to_training_first(self, rare, expected):
        """The only patient of a class is kept from training."""
        done = split(manifest_of([f"p{n}" for n in range(30 + rare)], labels=[0] * 30 + [2] * rare))
        assert set(done.loc[done["label"] == 2, "split"]) == expected

    def test_a_patient_of_two_sources_is_one(self):
        """Equal patient ids in two sources land in two splits, or nobody is told of them."""
        one = manifest_of([f"p{n}" for n in range(40)], labels=[0, 1] * 20, sources="mass")
        two = manifest_of([f"p{n}" for n in range(20, 60)], labels=[2, 0] * 20, sources="calc")
        result = split_manifest(pd.concat([one, two], ignore_index=True))
        assert (result.manifest.groupby("patient_id")["split"].nunique() == 1).all()
        assert result.notes == ("20 patients have images in several sources; they count as one patient each",)

    def test_dropped_rows(self):
        """A dropped image counts for its patient's class, or a patient without usable images takes a place."""
        patients = ["a", "a", "b", "c", "d", "e"]
        drop = ["", "BI-RADS 3 is dropped", "", "", "", "no label"]
        done = split(manifest_of(patients, labels=[0, None, 0, 1, 0, None], drop=drop), val=0.25, test=0.25)
        assert done["split"].iloc[0] == done["split"].iloc[1]
        assert done["split"].iloc[5] == ""
        assert set(done["split"].iloc[:5]) == set(SPLITS)

    def test_patients_without_a_label_train(self):
        """A patient who has only auxiliary labels takes a place in val or test, where nobody can score it."""
        patients = [f"p{n}" for n in range(40)]
        done = split(manifest_of(patients, labels=[0, 1] * 10 + [None] * 20))
        assert set(done["split"].iloc[20:]) == {"train"}
        assert (done["split"].iloc[:20] == "test").sum() == 4

    def test_too_few_patients(self):
        """Fewer patients than splits are accepted, or just enough are refused."""
        enough = manifest_of(["a", "b", "c"], labels=[0, 1, 2])
        assert set(split(enough)["split"]) == set(SPLITS)
        with pytest.raises(InputError, match="2 patients have a usable image; expected at least 3"):
            split(enough[:2])
        with pytest.raises(InputError, match="no labelled image for train and val and test"):
            split(enough.assign(drop_reason="x"))

    @pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.2, 1.0)])
    def test_bad_fractions(self, val, test):
        """Fractions that leave nothing to train on are accepted."""
        with pytest.raises(InputError, match=r"sum of at most 1|no labelled image for train"):
            split(cohort(patients=10), val=val, test=test)

    @pytest.mark.parametrize(
        ("val", "test", "needed"), [(0.2, 0.2, 3), (0.2, 0, 2), (0, 0, 1), (0.5, 0.5, 2), (0, 1, 1)]
    )
    def test_a_draw_fills_what_has_a_share(self, val, test, needed):
        """A part without a share gets a patient, or one with a share gets none."""
        units = units_of(manifest_of(list("abcdef"), labels=[0, 0, 0, 1, 1, 2]).assign(unit=list("abcdef")), seed=0)
        wanted = {name for name, share in (("val", val), ("test", test)) if share}
        wanted |= {"train"} if val + test < 1 else set()
        assert set(draw(units, val_fraction=val, test_fraction=test, seed=0).values()) == wanted
        if needed > 1:
            with pytest.raises(InputError, match=f"at least {needed}"):
                draw(units[: needed - 1], val_fraction=val, test_fraction=test, seed=0)


class TestFolds:
    """Cross-validation: test apart, everybody else validated once."""

    def test_everybody_is_validated_once(self):
        """Two folds share a patient, one is in none, or the test patients change with the fold."""
        manifest = cohort(patients=83)
        folds = [fold_of(manifest, fold, test=0.25) for fold in range(1, 6)]
        test = {tuple(done.loc[done["split"] == "test", "patient_id"].unique()) for done in folds}
        assert len(test) == 1
        validated = [set(done.loc[done["split"] == "val", "patient_id"]) for done in folds]
        assert sum(map(len, validated)) == len(set().union(*validated)) == 83 - len(test.pop())

    @settings(max_examples=40)
    @given(
        patients=st.integers(12, 90),
        folds=st.integers(2, 6),
        seed=st.integers(0, 2**32 - 1),
        shares=st.sampled_from(SHARES),
        unit=st.sampled_from(["patient", "breast"]),
    )
    def test_folds_are_alike(self, patients, folds, seed, shares, unit):
        """A fold has two more of a class, of a source in it, or in all than another, or a patient is on two sides."""
        manifest = cohort(seed % 1000, patients, shares)
        keys = unit_keys(manifest, unit)
        counts = []
        for fold in range(1, folds + 1):
            done = fold_of(manifest, fold, folds=folds, seed=seed, unit=unit, test=0.2)
            check_no_leak(done, unit=unit)
            units = (
                done.assign(unit=keys)
                .groupby("unit")
                .agg(split=("split", "first"), worst=("label", "max"), source=("source", "min"))
            )
            counts.append(units[units["split"] == "val"].groupby(["worst", "source"]).size())
        table = pd.concat(counts, axis=1).fillna(0)
        assert (table.max(axis=1) - table.min(axis=1)).max() <= 1
        by_class = table.groupby(level="worst").sum()
        assert (by_class.max(axis=1) - by_class.min(axis=1)).max() <= 1
        assert table.sum().max() - table.sum().min() <= 1

    def test_a_class_smaller_than_the_folds_is_tolerated(self):
        """Two malignant patients in five folds are an error, or in two folds at once."""
        manifest = manifest_of([f"p{n}" for n in range(42)], labels=[0] * 40 + [2] * 2)
        seen = [fold_of(manifest, fold)["split"].iloc[40:] for fold in range(1, 6)]
        assert (
            sum((splits == "val").sum() for splits in seen) + sum((splits == "test").sum() for splits in seen) / 5 == 2
        )

    def test_row_order_does_not_matter(self):
        """Sorting the table differently moves a patient to another fold."""
        manifest = cohort(patients=40)
        again = fold_of(manifest.sample(frac=1, random_state=3), 2)
        pd.testing.assert_series_equal(fold_of(manifest, 2)["split"], again["split"].sort_index())

    def test_impossible_folds(self):
        """A fold that does not exist is empty, or folds without patients are accepted."""
        with pytest.raises(InputError, match=r"splits\.fold is 6; expected 1 to 5"):
            fold_of(cohort(patients=40), 6)
        with pytest.raises(InputError, match="2 patients have a usable image outside test; expected at least 5"):
            fold_of(cohort(patients=4), 1)


class TestBreasts:
    """Paper multitask: the breasts of a patient may part, and everybody is told."""

    def test_breasts_part_and_it_is_said_loudly(self):
        """Breasts of a patient never part, an image leaves its breast, or nobody is told."""
        manifest = cohort(patients=60)
        result = split_manifest(manifest, SplitSettings(unit="breast"))
        sides = result.manifest.groupby("patient_id")["split"].nunique()
        assert (sides > 1).sum() > 0
        assert (result.manifest.groupby(["patient_id", "laterality"])["split"].nunique() == 1).all()
        (note,) = result.notes
        assert note.startswith(f"splits are by breast: {(sides > 1).sum()} of 60 patients")
        with pytest.raises(InputError, match="in more than one split"):
            check_no_leak(result.manifest)

    def test_worst_class_of_a_breast(self):
        """A breast counts with the class of the other one."""
        result = split_manifest(cohort(patients=150), SplitSettings(unit="breast"))
        table = result.manifest.groupby(["patient_id", "laterality"]).agg(
            split=("split", "first"), worst=("label", "max")
        )
        for _, members in table.groupby("worst"):
            for name in ("val", "test"):
                assert abs((members["split"] == name).sum() - 0.2 * len(members)) <= 1

    def test_a_breast_id_helps_where_the_side_is_unknown(self):
        """Images without a side are put together or refused although the breast is known."""
        patients = [f"p{n}" for n in range(10) for _ in "ab"]
        manifest = manifest_of(patients, labels=[0, 1] * 10, laterality=pd.Series([None] * 20, dtype="str"))
        manifest["breast_id"] = pd.Series([f"b{n}" for n in range(20)], dtype="str")
        assert len(set(unit_keys(manifest, "breast"))) == 20
        manifest.loc[3, "breast_id"] = None
        with pytest.raises(InputError, match="1 of 20 usable rows have no laterality or breast_id"):
            split(manifest, unit="breast")


def test_leaks_are_found_and_counted():
    """A patient on both sides is not noticed, or is named."""
    done = split(cohort(patients=30))
    done.loc[done.index[0], "split"] = "test" if done["split"].iloc[0] != "test" else "train"
    with pytest.raises(InputError) as caught:
        check_no_leak(done)
    assert "1 of 30 patients" in caught.value.message
    assert done["patient_id"].iloc[0] not in str(caught.value)


@pytest.mark.parametrize("drop", ["", "BI-RADS 3 is dropped"])
def test_a_label_is_needed(drop):
    """A task that no source knows is told as a fault of the split, so that the user changes the wrong thing."""
    with pytest.raises(InputError, match=r"4 images, .* none has a label of the task that decides") as caught:
        split_manifest(manifest_of(list("abcd"), labels=[None] * 4, drop=drop))
    assert "data.labels.task" in caught.value.fix


def test_a_patient_is_needed():
    """A usable image without a patient is split by itself."""
    manifest = manifest_of(["a", None, "c", "d"], labels=np.array([0, 1, 2, 0]))
    with pytest.raises(InputError, match="1 of 4 usable rows have no patient_id"):
        split(manifest)
