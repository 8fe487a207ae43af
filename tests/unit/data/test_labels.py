import numpy as np
import pandas as pd
import pytest

from study.data.labels import LabelSettings, apply_labels, class_names, label_column, task_columns
from study.data.manifest import finish_manifest
from study.data.tasks import CLASSES
from study.errors import InputError


def manifest_of(**columns):
    rows = len(next(iter(columns.values())))
    ids = [str(number) for number in range(rows)]
    return finish_manifest(pd.DataFrame({"patient_id": ids, "image_id": ids} | columns), source="s")


def labels_of(manifest, **options):
    labelled = apply_labels(manifest, LabelSettings(**options))
    return [None if pd.isna(label) else int(label) for label in labelled["label"]], list(labelled["drop_reason"])


class TestBirads3:
    """The classes of paper ordinal."""

    def test_assessments_become_classes(self):
        """BI-RADS 1, 2, 4 to 6 give another class, or 0, 3 and missing are not dropped with their reason."""
        labels, reasons = labels_of(manifest_of(birads=[0, 1, 2, 3, 4, 5, 6, np.nan]))
        assert labels == [None, 0, 1, None, 2, 2, 2, None]
        assert reasons == ["BI-RADS 0 is dropped", "", "", "BI-RADS 3 is dropped", "", "", "", "no label"]

    @pytest.mark.parametrize(("policy", "label"), [("normal", 0), ("benign", 1), ("malignant", 2), ("drop", None)])
    def test_treatments(self, policy, label):
        """What the file says of BI-RADS 0 or 3 is ignored, or reaches the other."""
        manifest = manifest_of(birads=[0, 3])
        assert labels_of(manifest, birads_0=policy)[0] == [label, None]
        assert labels_of(manifest, birads_3=policy)[0] == [None, label]

    def test_a_row_own_class_wins(self):
        """An assessment overrides the class that the source states."""
        manifest = manifest_of(birads=[4, 0, 3, np.nan], label3=["benign", "malignant", None, "normal"])
        labels, reasons = labels_of(manifest)
        assert labels == [1, 2, None, 0]
        assert reasons == ["", "", "BI-RADS 3 is dropped", ""]

    def test_proven_classes_are_told_from_read_ones(self):
        """A class that pathology gave counts as a reader's, or a reader's as proven."""
        manifest = manifest_of(
            label3=["benign", "malignant", None], biopsy=["benign", None, "benign"], birads=[2, 4, 2]
        )
        assert list(apply_labels(manifest)["birads3_origin"]) == ["biopsy", "reader", "reader"]


class TestGrades:
    """All grades of BI-RADS, and paper multitask's six."""

    def test_birads(self):
        """A grade is merged, shifted by one, or the incomplete 0 becomes the lowest class."""
        labels, reasons = labels_of(manifest_of(birads=[0, 1, 2, 3, 4, 5, 6, np.nan]), task="birads")
        assert labels == [None, 0, 1, 2, 3, 4, 5, None]
        assert (reasons[0], reasons[-1]) == ("BI-RADS 0 is dropped", "no BI-RADS assessment")
        assert class_names("birads")[3] == "birads_4"

    def test_sub_grades(self):
        """4a, 4b and 4c are one class where they were asked for apart, or a plain 4 is guessed to be one of them."""
        manifest = manifest_of(birads=[4, 4, 4, 4, 5], birads_sub=["a", "b", "c", None, None])
        labels, reasons = labels_of(manifest, task="birads", birads_sub=True)
        assert labels == [3, 4, 5, None, 6]
        assert reasons[3] == "BI-RADS 4 without a, b or c is dropped"
        assert class_names("birads", sub_grades=True)[3:7] == ("birads_4a", "birads_4b", "birads_4c", "birads_5")
        assert labels_of(manifest, task="birads")[0] == [3, 3, 3, 3, 4]

    def test_acr(self):
        """The six grades are parted by sub-grade, or a dataset's own column takes the place of the assessment."""
        manifest = manifest_of(birads=[1, 4, 6], birads_sub=[None, "a", None])
        assert labels_of(manifest, task="acr", birads_sub=True)[0] == [0, 3, 5]
        assert class_names("acr") == ("acr_1", "acr_2", "acr_3", "acr_4", "acr_5", "acr_6")


class TestBinary:
    """Malignancy, by pathology alone or from the assessment."""

    manifest = staticmethod(
        lambda: manifest_of(
            birads=[2, 5, 3, 1, 6, 0, np.nan, 4],
            biopsy=["malignant", None, None, None, None, None, "benign", None],
            label3=[None, None, None, None, None, None, None, "normal"],
        )
    )

    def test_biopsy_alone(self):
        """An assessment passes for a biopsy."""
        labels, reasons = labels_of(self.manifest(), task="binary")
        assert labels == [1, None, None, None, None, None, 0, None]
        assert set(reasons) == {"", "no biopsy result"}

    def test_from_the_assessment(self):
        """Grades 1 and 2 are not benign, 4 to 6 not malignant, 3 and 0 not dropped, or a biopsy does not win."""
        labels, reasons = labels_of(self.manifest(), task="binary", binary_truth="acr")
        assert labels == [1, 1, None, 0, 1, None, 0, 0]
        assert (reasons[2], reasons[5]) == ("BI-RADS 3 is dropped", "BI-RADS 0 is dropped")
        origins = apply_labels(self.manifest(), LabelSettings(task="binary", binary_truth="acr"))["binary_origin"]
        assert list(origins) == [
            *("biopsy", "synthetic", "missing", "synthetic", "synthetic", "missing", "biopsy", "reader")
        ]

    def test_papers_differ_over_grade_3(self):
        """A file cannot count BI-RADS 3 as benign, as paper multitask does with INbreast."""
        manifest = manifest_of(birads=[3, 3])
        assert labels_of(manifest, task="binary", binary_truth="acr", birads_3="benign")[0] == [0, 0]
        assert labels_of(manifest, task="binary", binary_truth="acr", birads_3="normal")[0] == [0, 0]

    def test_inbreast_as_printed(self):
        """The counts of paper multitask, table 1, do not come out for INbreast: 310 benign and 100 malignant."""
        grades = np.repeat([1, 2, 3, 4, 5, 6], [67, 220, 23, 43, 49, 8])
        labels, _ = labels_of(manifest_of(birads=grades), task="binary", binary_truth="acr", birads_3="benign")
        assert [labels.count(0), labels.count(1)] == [310, 100]
        acr, _ = labels_of(manifest_of(birads=grades), task="acr")
        assert [acr.count(grade) for grade in range(6)] == [67, 220, 23, 43, 49, 8]


class TestOthers:
    """Density, view and a source's own classes."""

    def test_density(self):
        """A density is shifted, or a missing one counts as a class."""
        labels, reasons = labels_of(manifest_of(density=["A", "B", "C", "D", None]), task="density")
        assert labels == [0, 1, 2, 3, None]
        assert reasons[-1] == "no density"

    def test_view(self):
        """Another view than CC and MLO is guessed, or cannot be counted as CC as paper multitask does."""
        manifest = manifest_of(view=["CC", "MLO", "other", None])
        labels, reasons = labels_of(manifest, task="view")
        assert labels == [0, 1, None, None]
        assert reasons[2:] == ["another view is dropped", "no view"]
        assert labels_of(manifest, task="view", other_views="CC")[0] == [0, 1, 0, None]

    def test_own_classes_keep_the_order_of_the_file(self):
        """Classes are sorted by letter, so that the order of grade is lost."""
        manifest = manifest_of(class_name=["severe", "none", "mild", None])
        labels, reasons = labels_of(manifest, task="classes", classes=("none", "mild", "severe"))
        assert labels == [2, 0, 1, None]
        assert reasons[-1] == "no class name"
        assert class_names("classes", classes=("none", "mild")) == ("none", "mild")

    def test_an_unknown_class_is_refused_with_its_place(self):
        """A misspelt class is dropped in silence, or the message does not lead to it."""
        one = finish_manifest(
            pd.DataFrame({"patient_id": ["a"], "image_id": ["a"], "class_name": ["mild"]}), source="x"
        )
        two = manifest_of(class_name=["none", "Mild"])
        with pytest.raises(InputError, match=r"source 's', data row 2: class 'Mild'.*did you mean 'mild'"):
            apply_labels(
                pd.concat([one, two], ignore_index=True), LabelSettings(task="classes", classes=("none", "mild"))
            )

    def test_a_class_that_its_source_dropped_is_not_judged(self):
        """A row that takes no part stops the preparation."""
        manifest = manifest_of(class_name=["none", "weird"], drop_reason=["", "a duplicate"])
        assert labels_of(manifest, task="classes", classes=("none", "mild"))[0] == [0, None]


class TestSeveralTasks:
    """One task decides; the others may be missing."""

    SETTINGS = LabelSettings(task="birads3", auxiliary=("density", "view", "binary"))

    def test_columns(self):
        """A task lacks a column or has another type, or a source's own column is overwritten."""
        manifest = manifest_of(birads=[1, 2], density=["C", None], view=["CC", "other"])
        labelled = apply_labels(manifest, self.SETTINGS)
        assert set(task_columns(self.SETTINGS.tasks)) <= set(labelled.columns)
        assert [label_column(task) for task in self.SETTINGS.tasks] == [
            *("birads3", "density_label", "view_label", "binary")
        ]
        for task in self.SETTINGS.tasks:
            assert labelled[label_column(task)].dtype == "Int64"
            assert labelled[f"{task}_uncertainty"].dtype == "float64"
        assert list(labelled["density"].fillna("")) == ["C", ""]
        assert labelled["label"].tolist() == labelled["birads3"].tolist() == [0, 1]

    def test_lacking_some_labels_is_no_reason_to_drop(self):
        """An image is dropped because an auxiliary label is missing, or stays without any label at all."""
        manifest = manifest_of(birads=[1, np.nan, np.nan], density=[None, "B", None])
        labelled = apply_labels(manifest, self.SETTINGS)
        assert list(labelled["drop_reason"]) == ["", "", "no label"]
        assert labelled["label"].isna().tolist() == [False, True, True]
        assert list(labelled["density_origin"]) == ["missing", "reader", "missing"]

    def test_what_the_deciding_task_refuses_is_dropped(self):
        """A BI-RADS 3 image comes back because its density is known."""
        labelled = apply_labels(manifest_of(birads=[3], density=["B"]), self.SETTINGS)
        assert list(labelled["drop_reason"]) == ["BI-RADS 3 is dropped"]
        assert labelled["density_label"].isna().all()
        other = apply_labels(
            manifest_of(birads=[3], density=["B"]), LabelSettings(task="density", auxiliary=("birads3",))
        )
        assert list(other["drop_reason"]) == [""]

    def test_uncertainty_by_origin(self):
        """A label counts in full although the file says less, or a missing one counts at all."""
        manifest = manifest_of(birads=[1, 4, np.nan], biopsy=["benign", None, None], density=["A", "B", "C"])
        given = {"reader": 0.25, "biopsy": 0.1, "synthetic": 0.75}
        settings = LabelSettings(task="binary", auxiliary=("density",), binary_truth="acr", uncertainty=given)
        labelled = apply_labels(manifest, settings)
        assert labelled["binary_uncertainty"].tolist() == [0.1, 0.75, 1.0]
        assert labelled["density_uncertainty"].tolist() == [0.25] * 3
        usual = apply_labels(manifest, LabelSettings(task="binary", binary_truth="acr"))
        assert usual["binary_uncertainty"].tolist() == [0.0, 0.5, 1.0]

    @pytest.mark.parametrize("given", [{"reeder": 0.1}, {"reader": 1.5}])
    def test_bad_uncertainty(self, given):
        """An origin that does not exist, or a value outside 0 to 1, is accepted."""
        with pytest.raises(InputError, match=r"labels\.uncertainty"):
            apply_labels(manifest_of(birads=[1]), LabelSettings(uncertainty=given))


def test_a_source_reason_stays():
    """A row that its source dropped comes back, or loses its reason."""
    labels, reasons = labels_of(manifest_of(birads=[1, 3], drop_reason=["wrong side", ""]))
    assert labels == [None, None]
    assert reasons == ["wrong side", "BI-RADS 3 is dropped"]


@pytest.mark.parametrize("task", [task for task in CLASSES if task != "classes"])
def test_types_and_input(task):
    """Labels are not nullable integers, rows vanish, or the given table changes."""
    manifest = manifest_of(birads=[1, 3], density=["A", None], view=["CC", "MLO"])
    before = manifest.copy()
    labelled = apply_labels(manifest, LabelSettings(task=task))
    assert labelled["label"].dtype == "Int64"
    assert len(labelled) == 2
    pd.testing.assert_frame_equal(manifest, before)
    assert labelled["label"].dropna().between(0, len(class_names(task)) - 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"task": "birad3"}, "did you mean 'birads3'"), ({"birads_0": "bening"}, "did you mean 'benign'")],
)
def test_bad_options(options, message):
    """A misspelt task or treatment is accepted."""
    with pytest.raises(InputError, match=message):
        apply_labels(manifest_of(birads=[1]), LabelSettings(**options))


@pytest.mark.parametrize("task", ["birads3", "birads", "acr"])
def test_bad_assessments(task):
    """An assessment outside of the scale becomes a class or is dropped in silence."""
    with pytest.raises(InputError, match=r"2 rows .* such as 7"):
        apply_labels(manifest_of(birads=[1, 7, 8]), LabelSettings(task=task))
