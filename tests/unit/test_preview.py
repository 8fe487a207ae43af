"""Contact sheets of a dataset's own pictures."""

import numpy as np
from PIL import Image

from study.data.augment import POLICIES
from study.report.preview import example_rows, write_previews


def test_every_policy_gets_its_sheet(tiny_dataset, tmp_path):
    """A policy cannot be looked at before it is trained with, or a sheet is empty."""
    files = write_previews(str(tiny_dataset.root), tmp_path / "sheets")
    assert [file.stem for file in files] == list(POLICIES)
    for file in files:
        assert np.asarray(Image.open(file)).std() > 5
    assert sorted(tmp_path.rglob("*.partial")) == []
    sheets = [np.asarray(Image.open(file)) for file in files]
    others = write_previews(str(tiny_dataset.root), tmp_path / "others", mode="compatible")
    alike = [np.array_equal(sheet, np.asarray(Image.open(file))) for sheet, file in zip(sheets, others, strict=True)]
    assert alike == [policy == "none" for policy in POLICIES]


def test_examples_are_of_all_classes_and_sources(tiny_dataset):
    """The sheet shows eight images of the commonest class, and rare ones are never looked at."""
    rows = example_rows(tiny_dataset)
    chosen = tiny_dataset.manifest.iloc[rows]
    whole = tiny_dataset.manifest.iloc[tiny_dataset.rows("train")]
    assert len(rows) == len(set(rows.tolist())) <= 8
    assert set(chosen["split"]) == {"train"}
    pairs = {(source, label) for source, label in zip(chosen["source"], chosen["label"], strict=True)}
    assert len(pairs) == min(8, len(whole.groupby(["source", "label"])))
