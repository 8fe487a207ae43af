"""RSNA Screening Mammography Breast Cancer Detection."""

import numpy as np
import pandas as pd
import pydicom
import pytest
from trees import message_of, rsna_row, write_rsna

from study.data.sources import read_source

VIEWS = {"MLO": 27903, "CC": 26765, "AT": 19, "LM": 10, "ML": 8, "LMO": 1}
GRADES = {"0": 8249, "": 28420, "1": 15772, "2": 2265}
DENSITIES = {"A": 3105, "B": 12651, "C": 12175, "D": 1539, "": 25236}
IMAGES = 54706


def spread(counts: dict) -> np.ndarray:
    return np.repeat(np.array(list(counts), dtype=object), list(counts.values()))


class TestPublishedCounts:
    """What a user of the whole table should see."""

    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory):
        """The manifest of a table with the published counts; cancers have BI-RADS 0 or none."""
        root = tmp_path_factory.mktemp("rsna")
        numbers = np.arange(IMAGES)
        frame = pd.DataFrame(rsna_row(0, 0), index=numbers).assign(
            site_id=spread({1: 29519, 2: 25187}),
            patient_id=10000 + numbers % 11913,
            image_id=1_000_000_000 + numbers,
            view=spread(VIEWS),
            BIRADS=spread(GRADES),
            cancer=(numbers < 1158).astype(int),
            biopsy=(numbers < 2969).astype(int),
            density=spread(DENSITIES),
            implant=(numbers % 37 == 0).astype(int),
            age=np.where(numbers < 37, "", "61.0"),
            machine_id=spread({49: 23529, 29: IMAGES - 23529}),
        )
        frame.to_csv(root / "train.csv", index=False)
        return read_source("rsna", root)

    def test_three_classes(self, whole):
        """Classes by cancer and BI-RADS are other than 15,772, 2,265 and 1,158 of 19,195, or the rest has a class."""
        assert len(whole) == IMAGES
        assert whole["patient_id"].nunique() == 11913
        classes = whole["label3"].fillna(whole["birads"].map({1: "normal", 2: "benign"}))
        assert classes.value_counts().to_dict() == {"normal": 15772, "benign": 2265, "malignant": 1158}
        assert classes.notna().sum() == 19195

    def test_other_columns(self, whole):
        """Views, densities, missing ages or machines are other than published."""
        assert whole["raw_view"].value_counts().to_dict() == VIEWS
        assert whole["view"].value_counts().to_dict() == {"MLO": 27903, "CC": 26765, "other": 38}
        assert whole["density"].value_counts().to_dict() == {key: count for key, count in DENSITIES.items() if key}
        assert whole["age"].isna().sum() == 37
        assert whole["model"].value_counts().to_dict() == {"machine 49": 23529, "machine 29": IMAGES - 23529}
        assert set(whole["drop_reason"]) == {""}


def test_an_image_is_found_and_read(tmp_path):
    """The path leads nowhere, or ids of digits are numbers."""
    root = write_rsna(tmp_path, [rsna_row(10006, 462822612), rsna_row("00007", "0042", "R")])
    manifest = read_source("rsna", root)
    assert list(manifest["path"]) == [
        str(root / "train_images" / "10006" / "462822612.dcm"),
        str(root / "train_images" / "00007" / "0042.dcm"),
    ]
    assert all(pydicom.dcmread(path).Rows == 64 for path in manifest["path"])
    assert list(manifest["breast_id"]) == ["10006_L", "00007_R"]


def test_cancer_without_an_assessment_is_lost(tmp_path):
    """BI-RADS has no malignant class here, so that a cancer with BI-RADS 0 or none vanishes or becomes benign."""
    rows = [
        rsna_row(1, 11, cancer=1, biopsy=1, invasive=1, BIRADS="0.0"),
        rsna_row(2, 12, cancer=1, biopsy=1, BIRADS=""),
        rsna_row(3, 13, cancer=0, biopsy=1, BIRADS="0.0"),
        rsna_row(4, 14, cancer=0, biopsy=0, BIRADS="0"),
        rsna_row(5, 15, cancer=0, biopsy=1, BIRADS=""),
        rsna_row(6, 16, BIRADS="1.0"),
        rsna_row(7, 17, BIRADS="2"),
    ]
    manifest = read_source("rsna", write_rsna(tmp_path, rows))
    assert list(manifest["label3"].fillna("")) == ["malignant", "malignant", "", "", "", "", ""]
    assert list(manifest["biopsy"].fillna("")) == ["malignant", "malignant", "benign", "", "benign", "", ""]
    assert list(manifest["birads"].fillna(-1)) == [0, -1, 0, 0, -1, 1, 2]
    assert set(manifest["drop_reason"]) == {""}


def test_a_test_table_gives_labels(tmp_path):
    """`test.csv`, which has no labels, is read as images without cancer."""
    root = write_rsna(tmp_path, [rsna_row(1, 11)])
    message = message_of(read_source, "rsna", root, table="test.csv")
    assert "test.csv holds no labels (cancer, biopsy, BIRADS, density)" in message


def test_a_part_of_the_table(tmp_path):
    """A user's own part of the table cannot be read."""
    root = write_rsna(tmp_path, [rsna_row(1, 11), rsna_row(2, 12)])
    lines = (root / "train.csv").read_text().splitlines(keepends=True)
    (root / "fold0.csv").write_text("".join([lines[0], lines[2]]))
    assert list(read_source("rsna", root, table="fold0.csv")["image_id"]) == ["12"]


def test_known_defects_reach_training(tmp_path):
    """The black image or an unusable one is used, or other odd images (frames, stripes) are thrown away with them."""
    unusable = [802890376, 936880795, 1074322983, 1249735234]
    kept = [47305213, 495314563, 1760744211, 83977]
    rows = [rsna_row(822, 1942326353), *(rsna_row(n, n) for n in [*unusable, *kept])]
    root = write_rsna(tmp_path, rows)
    manifest = read_source("rsna", root).set_index("image_id")
    assert manifest.loc["1942326353", "drop_reason"] == "known defect: every pixel is 0"
    assert manifest["drop_reason"].value_counts().to_dict() == {
        "": 4,
        "known defect: cropped too far, or no usable breast": 4,
        "known defect: every pixel is 0": 1,
    }
    assert set(manifest.loc[[str(number) for number in kept], "drop_reason"]) == {""}
    assert set(read_source("rsna", root, known_defects="keep")["drop_reason"]) == {""}


def test_two_machines_of_a_patient_are_made_one(tmp_path):
    """The machine, the only word on the vendor, is per patient; or a vendor is made up; or implants are not flagged."""
    rows = [rsna_row(22637, 1, machine_id=49, implant=1), rsna_row(22637, 2, machine_id=170, implant=0)]
    manifest = read_source("rsna", write_rsna(tmp_path, rows))
    assert list(manifest["model"]) == ["machine 49", "machine 170"]
    assert manifest["manufacturer"].isna().all()
    assert list(manifest["implant"]) == [1, 0]


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("BIRADS", "4", "'4'; expected 0, 1, 2 or empty"),
        ("BIRADS", "N", "'N'; expected 0, 1, 2 or empty"),
        ("cancer", "", "''; expected 0 or 1"),
        ("cancer", "yes", "'yes'; expected 0 or 1"),
        ("biopsy", "2", "'2'; expected 0 or 1"),
        ("density", "E", "'E'; expected A, B, C, D"),
        ("view", "CCX", "'CCX'; expected CC, MLO"),
        ("laterality", "B", "'B'; expected L, R"),
        ("age", "old", "'old'; expected a number"),
        ("implant", "2", "'2'; expected 1, 0"),
    ],
)
def test_unknown_words(tmp_path, column, cell, expected):
    """A word that is not in the published table becomes some label, or nobody says where it stands."""
    root = write_rsna(tmp_path, [rsna_row(1, 11), rsna_row(2, 12), rsna_row(3, 13, **{column: cell})], pictures=False)
    assert f"train.csv: column {column}, data row 3: {expected}" in message_of(read_source, "rsna", root)


def test_cancer_with_a_benign_assessment_is_believed(tmp_path):
    """A row that says cancer and BI-RADS 2 gets one of the two labels by chance."""
    root = write_rsna(tmp_path, [rsna_row(1, 11), rsna_row(2, 12, cancer=1, biopsy=1, BIRADS="2")])
    assert "data row 2: cancer 1 with BIRADS 1 or 2" in message_of(read_source, "rsna", root)


def test_missing_columns(tmp_path):
    """A table without a needed column is read all the same."""
    root = write_rsna(tmp_path, [rsna_row(1, 11)])
    pd.read_csv(root / "train.csv", dtype=str).drop(columns="machine_id").to_csv(root / "train.csv", index=False)
    assert "column machine_id is missing" in message_of(read_source, "rsna", root)
