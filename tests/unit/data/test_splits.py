import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from study.data.splits import check_no_leak, minimum_patients, split_patients
from study.errors import InputError

SPLITS = ("train", "val", "test")


def manifest_of(patients, *, labels, sources="a", drop=None):
    return pd.DataFrame(
        {
            "patient_id": pd.Series(patients, dtype="str"),
            "label": pd.array(labels, dtype="Int64"),
            "source": sources,
            "drop_reason": drop if drop is not None else "",
        }
    )


def cohort(seed=0, patients=200, shares=(0.7, 0.25, 0.05), sources=("a", "b")):
    """Patients of four images each, classes drawn by breast."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        source = sources[patient % len(sources)]
        for label in rng.choice(3, 2, p=shares):
            rows += [(f"{source}{patient}", int(label), source)] * 2
    frame = pd.DataFrame(rows, columns=["patient_id", "label", "source"])
    return manifest_of(frame["patient_id"], labels=frame["label"], sources=frame["source"])


def split(manifest, *, val=0.2, test=0.2, seed=0):
    return split_patients(manifest, val_fraction=val, test_fraction=test, seed=seed)


def patients_of(done):
    """Split, worst class and source of each patient."""
    return done.groupby("patient_id").agg(split=("split", "first"), worst=("label", "max"), source=("source", "first"))


def test_shares_hold_in_each_class_and_source():
    """A class or a source is over- or under-represented in a split by more than its rounding."""
    table = patients_of(split(cohort()))
    for _, members in table.groupby("worst"):
        for name in ("val", "test"):
            assert abs((members["split"] == name).sum() - 0.2 * len(members)) <= 1
    for _, members in table.groupby(["worst", "source"]):
        for name in ("val", "test"):
            assert abs((members["split"] == name).sum() - 0.2 * len(members)) <= 2


@settings(max_examples=60, deadline=None)
@given(
    patients=st.integers(3, 60),
    val=st.floats(0, 0.6),
    test=st.floats(0, 0.6),
    seed=st.integers(0, 2**40),
    shares=st.sampled_from([(1, 0, 0), (0.9, 0.1, 0), (0.4, 0.3, 0.3), (0.98, 0.01, 0.01)]),
)
def test_every_split_is_filled_and_nobody_is_in_two(patients, val, test, seed, shares):
    """A split with a share is empty, a patient is in two, or a row is left out."""
    assume(val + test < 0.95)
    done = split(cohort(seed % 1000, patients, shares), val=val, test=test, seed=seed)
    check_no_leak(done)
    wanted = {"train"} | ({"val"} if val else set()) | ({"test"} if test else set())
    assert set(done["split"]) == wanted
    assert (done.groupby("patient_id")["split"].nunique() == 1).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), order=st.integers(0, 2**32 - 1))
def test_row_order_does_not_matter(seed, order):
    """Sorting the table differently, or adding columns, moves a patient."""
    manifest = cohort(patients=40)
    shuffled = manifest.sample(frac=1, random_state=order).assign(view="CC")
    done, again = split(manifest, seed=seed), split(shuffled, seed=seed)
    pd.testing.assert_series_equal(done["split"], again["split"].sort_index())


def test_seeds_differ():
    """Another seed gives the same split."""
    manifest = cohort()
    assert (split(manifest, seed=1)["split"] != split(manifest, seed=2)["split"]).any()
    pd.testing.assert_frame_equal(split(manifest, seed=1), split(manifest, seed=1))


def test_a_rare_class_reaches_every_split():
    """Three malignant patients among hundreds all land in training."""
    labels = [0] * 300 + [2] * 3
    done = split(manifest_of([f"p{n}" for n in range(303)], labels=labels), val=0.1, test=0.1)
    assert set(done.loc[done["label"] == 2, "split"]) == set(SPLITS)


@pytest.mark.parametrize(("rare", "expected"), [(1, {"train"}), (2, {"train", "val"})])
def test_a_tiny_class_goes_to_training_first(rare, expected):
    """The only patient of a class is kept from training."""
    done = split(manifest_of([f"p{n}" for n in range(30 + rare)], labels=[0] * 30 + [2] * rare))
    assert set(done.loc[done["label"] == 2, "split"]) == expected


def test_a_patient_of_two_sources_is_one():
    """Equal patient ids in two sources land in two splits."""
    one = manifest_of([f"p{n}" for n in range(40)], labels=[0, 1] * 20, sources="mass")
    two = manifest_of([f"p{n}" for n in range(20, 60)], labels=[2, 0] * 20, sources="calc")
    done = split(pd.concat([one, two], ignore_index=True))
    assert (done.groupby("patient_id")["split"].nunique() == 1).all()


def test_dropped_rows():
    """A dropped image counts for its patient's class, or a patient without usable images takes a place."""
    patients = ["a", "a", "b", "c", "d", "e"]
    drop = ["", "BI-RADS 3 is dropped", "", "", "", "no label"]
    done = split(manifest_of(patients, labels=[0, None, 0, 1, 0, None], drop=drop), val=0.25, test=0.25)
    assert done["split"].iloc[0] == done["split"].iloc[1]
    assert done["split"].iloc[5] == ""
    assert set(done["split"].iloc[:5]) == set(SPLITS)


@pytest.mark.parametrize(("val", "test", "needed"), [(0.2, 0.2, 3), (0.2, 0, 2), (0, 0, 1)])
def test_too_few_patients(val, test, needed):
    """Fewer patients than splits are accepted, or just enough are refused."""
    assert minimum_patients(val_fraction=val, test_fraction=test) == needed
    enough = manifest_of([f"p{n}" for n in range(needed)], labels=list(range(needed)))
    assert len(set(split(enough, val=val, test=test)["split"])) == needed
    with pytest.raises(InputError, match=f"at least {needed}"):
        split(enough[: needed - 1], val=val, test=test)


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.2, 1.0)])
def test_bad_fractions(val, test):
    """Fractions that leave nothing to train on are accepted."""
    with pytest.raises(InputError, match="expected a sum under 1"):
        split(cohort(patients=10), val=val, test=test)


def test_leaks_are_found_and_counted():
    """A patient on both sides is not noticed, or is named."""
    done = split(cohort(patients=30))
    done.loc[done.index[0], "split"] = "test" if done["split"].iloc[0] != "test" else "train"
    with pytest.raises(InputError) as caught:
        check_no_leak(done)
    assert "1 of 30 patients" in caught.value.message
    assert done["patient_id"].iloc[0] not in str(caught.value)
