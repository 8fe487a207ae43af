"""Folds of a prepared dataset: who trains and who validates, and what nobody may touch."""

import numpy as np
import pandas as pd
import pytest

from study.data.folds import fold_manifest, fold_problem, with_fold
from study.data.shards import open_dataset
from study.errors import InputError


@pytest.fixture(scope="module")
def dataset(make_dataset, tmp_path_factory):
    return open_dataset(make_dataset(tmp_path_factory.mktemp("folds") / "tiny"))


def patients(dataset, split):
    return set(dataset.manifest["patient_id"].iloc[dataset.rows(split)])


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_patient_outside_of_test_validates_once(dataset, folds):
    """A patient is on both sides of a fold, in no fold's val or in two, or the test split is touched."""
    every = [with_fold(dataset, folds=folds, fold=fold, seed=0) for fold in range(1, folds + 1)]
    dealt = patients(dataset, "train") | patients(dataset, "val")
    for one in every:
        assert not patients(one, "train") & patients(one, "val")
        assert patients(one, "train") | patients(one, "val") == dealt
        assert one.rows("test").tolist() == dataset.rows("test").tolist()
        assert (one.fingerprint, len(one)) == (dataset.fingerprint, len(dataset))
        assert np.array_equal(one.pixels(np.arange(3)), dataset.pixels(np.arange(3)))
    validating = [patient for one in every for patient in patients(one, "val")]
    assert sorted(validating) == sorted(dealt)


def test_folds_are_alike_in_class_and_source_for_every_order_of_rows(dataset):
    """A fold has two patients of a class more than another, or depends on the order of rows."""
    table = dataset.manifest
    worst = table.groupby("patient_id")["label"].max()
    counts = []
    for fold in (1, 2, 3):
        mine = fold_manifest(table, folds=3, fold=fold, seed=4)
        mixed = fold_manifest(table.sample(frac=1, random_state=1), folds=3, fold=fold, seed=4)
        assert mine["split"].equals(mixed["split"].sort_index())
        chosen = mine.loc[mine["split"] == "val", "patient_id"].unique()
        counts.append(worst.loc[chosen].value_counts().reindex([0, 1, 2], fill_value=0))
    spread = pd.concat(counts, axis=1).agg(["min", "max"], axis=1)
    assert ((spread["max"] - spread["min"]) <= 1).all()
    other = fold_manifest(table, folds=3, fold=1, seed=5)
    assert not other["split"].equals(fold_manifest(table, folds=3, fold=1, seed=4)["split"])


def test_patients_without_a_label_train_in_every_fold(dataset):
    """An image without the deciding label scores a fold, or is lost."""
    table = dataset.manifest.copy()
    table.loc[table["patient_id"] == table["patient_id"].iloc[0], "label"] = pd.NA
    for fold in (1, 2):
        folded = fold_manifest(table, folds=2, fold=fold, seed=0)
        assert folded["split"].iloc[0] == "train"


def test_too_many_folds_are_told_with_their_class(dataset):
    """A fold has no image of a class, and its metric is NaN after hours."""
    table, classes = dataset.manifest, dataset.classes
    assert fold_problem(table, folds=5, seed=0, classes=classes) == ""
    found = fold_problem(table, folds=90, seed=0, classes=classes)
    assert found.startswith("90: there are too few patients outside of test")
    rare = table.copy()
    is_kept = rare["label"] != 2
    first = rare.index[~is_kept & rare["split"].isin(["train", "val"])][:2]
    rare = rare[is_kept | rare.index.isin(first)]
    found = fold_problem(rare, folds=3, seed=0, classes=classes)
    assert "2 of class malignant" in found
    assert "1 normal" not in found
    with pytest.raises(InputError, match="fold is 4; expected 1 to 3"):
        fold_manifest(table, folds=3, fold=4, seed=0)
