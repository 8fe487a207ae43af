"""What `study prepare` says about a dataset."""

import pandas as pd

from study.console.data_tables import manifest_text
from study.data.summary import describe_manifest

CLASSES = ("normal", "malignant")
ROWS = [
    ("a", "p1", 0, "train", "", "A", "reader"),
    ("a", "p1", 0, "train", "", "B", "reader"),
    ("a", "p2", 1, "val", "", "B", "biopsy"),
    ("b", "p3", 0, "train", "", None, "reader"),
    ("b", "p4", 1, "test", "", None, "biopsy"),
    ("b", "p5", None, "", "BI-RADS 3 is dropped", None, None),
]


def manifest(rows=ROWS):
    names = ["source", "patient_id", "label", "split", "drop_reason", "density", "binary_origin"]
    table = pd.DataFrame(rows, columns=names)
    constants = {"view": "CC", "manufacturer": "Alpha", "image_kind": "FFDM"}
    return table.assign(label=table["label"].astype("Int64"), binary=table["label"].astype("Int64"), **constants)


def test_the_whole_text():
    """A user cannot see how many images of which class a split gets, what the data is like, or what is left out."""
    summary = describe_manifest(manifest(), CLASSES, tasks={"binary": CLASSES}, notes=["a note"])
    assert manifest_text(summary).splitlines() == (
        [
            "source  split  patients  images  normal  malignant",
            "a       train         1       2       2          0",
            "a       val           1       1       0          1",
            "a       test          0       0       0          0",
            "b       train         1       1       1          0",
            "b       val           0       0       0          0",
            "b       test          1       1       0          1",
            "all     train                 3       3          0",
            "all     val                   1       0          1",
            "all     test                  1       0          1",
            "",
            "source  fact     images",
            "a       density  A 1, B 2",
            "a       views    CC 3",
            "a       vendors  Alpha 3",
            "a       kinds    FFDM 3",
            "b       density  unknown 2",
            "b       views    CC 2",
            "b       vendors  Alpha 2",
            "b       kinds    FFDM 2",
            "",
            "task    origin  train  val  test",
            "binary  reader      3    0     0",
            "binary  biopsy      0    1     1",
            "",
            "a: 2 images of normal for one of malignant",
            "b: as many images of each class",
            "all: 1.5 images of normal for one of malignant",
            "",
            "source  images  left out",
            "b            1  BI-RADS 3 is dropped",
            "",
            "warning: a note",
            "warning: class normal has no image in val and test",
            "warning: class malignant has no image in train",
        ]
    )


def test_one_source_of_readers_is_short():
    """Tables that repeat others hide those that matter."""
    rows = [(*row[:6], "reader") for row in ROWS[:3]]
    text = manifest_text(describe_manifest(manifest(rows), CLASSES, tasks={"binary": CLASSES}))
    assert "all " not in text
    assert "origin" not in text
    assert "left out" not in text


def test_eighty_columns_are_enough():
    """Many classes, long vendors' names, reasons or warnings run past the edge of a usual terminal or are cut."""
    classes = [f"birads_{grade}" for grade in (1, 2, 3, "4a", "4b", "4c", 5, 6)]
    rows = [(f"a_hospital_{row[0]}", *row[1:]) for row in ROWS]
    table = manifest(rows).assign(
        acr=pd.array([*range(6)], dtype="Int64"), acr_origin="biopsy", manufacturer=list("xyz") * 2
    )
    table["manufacturer"] = "A Company of Mammography, Inc. " + table["manufacturer"]
    table.loc[5, "drop_reason"] = "a reason that takes many words, such as they are, and goes on for one more line"
    notes = ["splits are by breast, so something is to be said about it that takes more than a line of a terminal"]
    summary = describe_manifest(table, classes, tasks={"acr": classes}, notes=notes)
    text = manifest_text(summary)
    assert max(map(len, text.splitlines())) <= 80
    assert all(text.count(name) >= 1 for name in classes)
    assert "Inc. x 1;" in text
    assert notes[0] in " ".join(text.split())
    assert len(manifest_text(summary, width=400).splitlines()) < len(text.splitlines())
