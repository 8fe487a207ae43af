import numpy as np
import pandas as pd
import pytest

from study.data.labels import TASKS, add_segments, apply_labels, class_names
from study.data.manifest import finish_manifest
from study.errors import InputError


def manifest_of(**columns):
    rows = len(next(iter(columns.values())))
    ids = [str(number) for number in range(rows)]
    return finish_manifest(pd.DataFrame({"patient_id": ids, "image_id": ids} | columns), source="s")


def labels_of(manifest, **options):
    labelled = apply_labels(manifest, **options)
    return [None if pd.isna(label) else int(label) for label in labelled["label"]], list(labelled["drop_reason"])


def test_assessments_become_classes():
    """BI-RADS 1, 2, 4 to 6 give another class, or 0, 3 and missing are not dropped with their reason."""
    labels, reasons = labels_of(manifest_of(birads=[0, 1, 2, 3, 4, 5, 6, np.nan]))
    assert labels == [None, 0, 1, None, 2, 2, 2, None]
    assert reasons == ["BI-RADS 0 is dropped", "", "", "BI-RADS 3 is dropped", "", "", "", "no label"]


@pytest.mark.parametrize(("policy", "label"), [("normal", 0), ("benign", 1), ("malignant", 2), ("drop", None)])
def test_policies(policy, label):
    """A policy for BI-RADS 0 or 3 is ignored, or reaches the other."""
    manifest = manifest_of(birads=[0, 3])
    assert labels_of(manifest, birads_0=policy)[0] == [label, None]
    assert labels_of(manifest, birads_3=policy)[0] == [None, label]


def test_a_row_own_class_wins():
    """An assessment overrides the class that the source states."""
    manifest = manifest_of(birads=[4, 0, 3, np.nan], label3=["benign", "malignant", None, "normal"])
    labels, reasons = labels_of(manifest)
    assert labels == [1, 2, None, 0]
    assert reasons == ["", "", "BI-RADS 3 is dropped", ""]


def test_a_source_reason_stays():
    """A row that its source dropped comes back, or loses its reason."""
    labels, reasons = labels_of(manifest_of(birads=[1, 3], drop_reason=["wrong side", ""]))
    assert labels == [None, None]
    assert reasons == ["wrong side", "BI-RADS 3 is dropped"]


def test_types_and_input():
    """Labels are not nullable integers, or the given table changes."""
    manifest = manifest_of(birads=[1, 3])
    before = manifest.copy()
    labelled = apply_labels(manifest)
    assert labelled["label"].dtype == "Int64"
    pd.testing.assert_frame_equal(manifest, before)
    assert len(labelled) == 2
    assert apply_labels(manifest_of(label3=["benign"]))["label"].dtype == "Int64"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"task": "birads"}, "did you mean 'birads3'"), ({"birads_0": "bening"}, "did you mean 'benign'")],
)
def test_bad_options(options, message):
    """A misspelt task or policy is accepted."""
    with pytest.raises(InputError, match=message):
        apply_labels(manifest_of(birads=[1]), **options)


def test_bad_assessments():
    """An assessment outside of the scale becomes a class or is dropped in silence."""
    with pytest.raises(InputError, match=r"2 rows .* such as 7"):
        apply_labels(manifest_of(birads=[1, 7, 8]))


def test_class_names():
    """A task's names are not in order of grade."""
    assert class_names() == ("normal", "benign", "malignant")
    for policy in TASKS.values():
        assert set(policy.meanings) == set(range(7))
        assert set(policy.meanings.values()) <= {"drop", *policy.classes}


class TestSegments:
    """Segments are names that are safe in metrics, files and URLs."""

    def test_joined(self):
        """Values are not joined by a dot, or unsafe characters stay."""
        manifest = manifest_of(manufacturer=["HOLOGIC, Inc.", "GE", None], view=["CC", "MLO", "CC"])
        assert list(add_segments(manifest, ["source", "manufacturer"])["segment"]) == [
            "s.HOLOGIC__Inc_",
            "s.GE",
            "s.unknown",
        ]
        assert list(add_segments(manifest, ["view"])["segment"]) == ["CC", "MLO", "CC"]

    def test_numbers_and_blanks(self):
        """A number is written with a fraction that is not there, or a blank is not unknown."""
        manifest = manifest_of(bits_stored=[12.0, np.nan], model=["x/y", "  "])
        assert list(add_segments(manifest, ["bits_stored", "model"])["segment"]) == ["12.x_y", "unknown.unknown"]

    def test_none(self):
        """Without columns there is not one segment."""
        assert set(add_segments(manifest_of(birads=[1, 2]), [])["segment"]) == {"all"}

    def test_unknown_column(self):
        """A column that is not there is ignored."""
        with pytest.raises(InputError, match="did you mean 'manufacturer'"):
            add_segments(manifest_of(birads=[1]), ["manufacturers"])
