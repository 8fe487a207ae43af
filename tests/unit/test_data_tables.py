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
