"""Cross-validation within a prepared dataset: which of its rows train and which validate in one fold.

All trials and folds share one dataset; a fold is a choice of rows when a run begins. The patients of its train and val
splits are dealt to the folds; the test split stays as it was prepared.
"""

from collections.abc import Sequence

import pandas as pd

from study.data.drawing import draw_folds
from study.data.shards import PreparedDataset
from study.data.splits import check_no_leak, units_of
from study.errors import InputError

DEALT = ("train", "val")


def with_fold(dataset: PreparedDataset, *, folds: int, fold: int, seed: int) -> PreparedDataset:
    """The same dataset with the patients of one fold in val and those of the others in train; row numbers stay.

    Args:
        dataset: a prepared one.
        folds, fold: how many, and which one validates, from 1.
        seed: of the deal; every fold of a cross-validation takes the same.

    Raises:
        InputError: no such fold, fewer patients than folds, or a patient on both sides.
    """
    manifest = fold_manifest(dataset.manifest, folds=folds, fold=fold, seed=seed)
    folded = PreparedDataset(dataset.root, dataset.about)
    folded.__dict__["manifest"] = manifest  # in the place of what the property would read
    return folded


def fold_manifest(manifest: pd.DataFrame, *, folds: int, fold: int, seed: int) -> pd.DataFrame:
    """The table with the ``split`` of one fold; dealt by patient, alike in worst class and source.

    Patients without a label of the deciding task train in every fold.

    Raises:
        InputError: as `with_fold`.
    """
    is_dealt = manifest["split"].isin(DEALT)
    rows = manifest[is_dealt]
    units = units_of(rows.assign(unit=rows["patient_id"]), seed=seed)
    sides = draw_folds(units, folds=folds, fold=fold, test_fraction=0.0, seed=seed)
    split = manifest["split"].mask(is_dealt, manifest["patient_id"].map(sides).fillna("train"))
    folded = manifest.assign(split=split.astype("str"))
    check_no_leak(folded[is_dealt])
    return folded


def fold_problem(manifest: pd.DataFrame, *, folds: int, seed: int, classes: Sequence[str]) -> str:
    """Why the patients outside of test cannot be dealt to so many folds; empty when they can.

    Every class has to be on both sides of every fold, or its metrics would be undefined there.
    """
    rows = manifest[manifest["split"].isin(DEALT) & manifest["label"].notna()]
    patients = {
        name: int(rows.loc[rows["label"] == label, "patient_id"].nunique()) for label, name in enumerate(classes)
    }
    few = [f"{count} of class {name}" for name, count in patients.items() if 0 < count < folds]
    if few:
        return f"{folds}: there are too few patients outside of test, {' and '.join(few)}; {_most(patients)}"
    try:
        tables = [fold_manifest(rows, folds=folds, fold=fold, seed=seed) for fold in range(1, folds + 1)]
    except InputError as error:
        return f"{folds}: {error.message}"
    lacking = [
        f"{split} of fold {number} has no image of class {name}"
        for number, table in enumerate(tables, start=1)
        for label, name in enumerate(classes)
        for split in DEALT
        if patients[name] and not ((table["split"] == split) & (table["label"] == label)).any()
    ]
    return f"{folds}: {lacking[0]}; {_most(patients)}" if lacking else ""


def _most(patients: dict[str, int]) -> str:
    return f"expected fewer folds, or more patients (now {', '.join(f'{n} {name}' for name, n in patients.items())})"
