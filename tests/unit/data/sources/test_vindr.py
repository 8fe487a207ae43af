"""VinDr-Mammo 1.0.0."""

import itertools
import json

import numpy as np
import pandas as pd
import pydicom
import pytest
from trees import digest, message_of, vindr_exam, vindr_finding, vindr_row, write_vindr, write_vindr_metadata

from study.data.sources import read_source

GRADES = {"training": {1: 10724, 2: 3742, 3: 744, 4: 610, 5: 180}, "test": {1: 2682, 2: 934, 3: 186, 4: 152, 5: 46}}
DENSITIES = {
    "training": {"A": 80, "B": 1528, "C": 12232, "D": 2160},
    "test": {"A": 20, "B": 380, "C": 3060, "D": 540},
}
FRAMES = ((3518, 2800),) * 3811 + ((2812, 2012),) * 949 + ((3580, 2700),) * 240
BOXES = {"training": (1414, 388), "test": (354, 98)}  # images with boxes, and how many of them have a second one


def published() -> tuple[list[dict], list[dict]]:
    """Rows of both tables with the published counts: 5,000 exams, 20,000 images, 2,254 boxes, 42 outside the frame."""
    rng = np.random.default_rng(0)
    frames = iter(rng.permutation(FRAMES).tolist())
    rows, findings = [], []
    for split in ("training", "test"):
        grades = iter(rng.permutation(np.repeat(list(GRADES[split]), [n // 2 for n in GRADES[split].values()])))
        densities = rng.permutation(np.repeat(list(DENSITIES[split]), [n // 4 for n in DENSITIES[split].values()]))
        first = len(rows)
        for number, density in enumerate(densities):
            height, width = next(frames)
            for side, grade in zip("LR", (next(grades), next(grades)), strict=True):
                has_two_ccs = (split, number, side) == ("training", 7, "L")
                cells = {"height": height, "width": width, "split": split}
                cells |= {"breast_birads": f"BI-RADS {grade}", "breast_density": f"DENSITY {density}"}
                second = {"view": "CC", "image": "second"} if has_two_ccs else {"view": "MLO"}
                exam = (split, number)
                rows += [vindr_row(exam, side, "CC", **cells), vindr_row(exam, side, **second, **cells)]
        with_boxes, twice = BOXES[split]
        for index, row in enumerate(rows[first : first + with_boxes]):
            left, right = (-26.8, row["width"] + 18.5) if split == "training" and index < 42 else (10.5, 200.25)
            findings += [vindr_finding(row, "['Mass']", left, 300.0, right, 420.0)] * (1 + (index < twice))
    return rows, findings


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The manifest of tables as large as the published ones."""
    rows, findings = published()
    return read_source("vindr", write_vindr(tmp_path_factory.mktemp("vindr"), rows, findings=findings, pictures=False))


class TestPublishedCounts:
    """What a user of the whole data set should see."""

    @pytest.mark.parametrize("split", ["training", "test"])
    def test_counts_of_a_split(self, whole, split):
        """Assessments or densities of a split are other than published, or a row is dropped."""
        part = whole[whole["split_official"] == split]
        assert part["birads"].value_counts().to_dict() == GRADES[split]
        assert part["density"].value_counts().to_dict() == DENSITIES[split]
        assert set(part["drop_reason"]) == {""}

    def test_exams_views_and_frames(self, whole):
        """An exam is split up, a view is lost, or the size of an image, which tells vendor and class, is not kept."""
        assert whole["patient_id"].nunique() == whole["study_id"].nunique() == 5000
        assert whole["view"].value_counts().to_dict() == {"CC": 10001, "MLO": 9999}
        frames = whole.groupby(["rows", "cols"]).size().to_dict()
        assert frames == {(3518, 2800): 15244, (2812, 2012): 3796, (3580, 2700): 960}

    def test_boxes(self, whole):
        """Boxes are lost or doubled, or the 42 that leave the frame still do."""
        assert whole["n_findings"].sum() == 2254
        with_boxes = whole[whole["lesions"].notna()]
        assert len(with_boxes) == 1768
        boxes = [(json.loads(row.lesions), row.cols) for row in with_boxes.itertuples()]
        assert sum(len(found) for found, _ in boxes) == 2254
        edges = [(left, right, cols) for found, cols in boxes for left, _, right, _ in found]
        assert all(0 <= left < right <= cols for left, right, cols in edges)


def test_an_image_is_found_and_read(tmp_path):
    """The path leads nowhere: `.dcm` for `.dicom`, another folder, or a leftover of a mirror is taken for an image."""
    manifest = read_source("vindr", write_vindr(tmp_path, vindr_exam("a")))
    assert len(manifest) == 4
    for row in manifest.itertuples():
        assert row.path == str(tmp_path / "images" / row.study_id / f"{row.image_id}.dicom")
        assert pydicom.dcmread(row.path).ViewPosition in ("", row.view)


def test_hexadecimal_ids_become_numbers(tmp_path):
    """An id of digits and one ``e``, or with leading zeros, turns into a number and meets another one."""
    ids = ["1" * 15 + "e" + "2" * 16, "0" * 31 + "7", "7".zfill(32)[:-1] + "8", "9" * 32]
    rows = [vindr_row("a", image_id=text, study_id=text, series_id=text) for text in ids]
    manifest = read_source("vindr", write_vindr(tmp_path, rows, pictures=False))
    for column in ("image_id", "study_id", "series_id", "patient_id"):
        assert list(manifest[column]) == ids


def test_the_second_cc_of_a_breast_is_lost(tmp_path):
    """Two CC images of one breast become one, or one of them is called MLO, or they become two breasts."""
    rows = [vindr_row("a", "L", "CC"), vindr_row("a", "L", "CC", image="second"), *vindr_exam("a")[2:]]
    manifest = read_source("vindr", write_vindr(tmp_path, rows))
    assert list(manifest["view"]) == ["CC", "CC", "CC", "MLO"]
    assert manifest["image_id"].is_unique
    assert list(manifest["breast_id"]) == [f"{digest('a')}_{side}" for side in "LLRR"]


def test_labels_of_one_breast_reach_the_other(tmp_path):
    """The assessment of one breast stands on all images of its exam: 40 % of the exams differ left and right."""
    rows = [*vindr_exam("a", breast_birads="BI-RADS 5")[:2], *vindr_exam("a", breast_birads="BI-RADS 1")[2:]]
    manifest = read_source("vindr", write_vindr(tmp_path, rows))
    assert list(manifest["birads"]) == [5, 5, 1, 1]
    assert list(manifest["raw_birads"]) == ["BI-RADS 5", "BI-RADS 5", "BI-RADS 1", "BI-RADS 1"]
    assert manifest["label3"].isna().all()  # an assessment is not the truth


def test_the_official_test_split_is_renamed(tmp_path):
    """The word of the table is changed, so that its test part cannot be told from the study's own."""
    rows = [*vindr_exam("a"), *vindr_exam("b", split="test")]
    manifest = read_source("vindr", write_vindr(tmp_path, rows))
    assert list(manifest["split_official"]) == ["training"] * 4 + ["test"] * 4


def test_three_and_zero_vanish_uncounted(tmp_path):
    """BI-RADS 3 is dropped by the reader already, so that no reason is counted and no policy can keep it."""
    manifest = read_source("vindr", write_vindr(tmp_path, vindr_exam("a", breast_birads="BI-RADS 3")))
    assert list(manifest["birads"]) == [3] * 4
    assert set(manifest["drop_reason"]) == {""}


class TestFindings:
    """Boxes of the finding table."""

    def test_two_findings_of_one_image(self, tmp_path):
        """Two rows of an image double it, or a list with two names is not understood."""
        rows = vindr_exam("a")
        findings = [
            vindr_finding(rows[0], "['Suspicious Calcification', 'Mass']", 10.0, 20.5, 300.0, 400.0),
            vindr_finding(rows[0], "['Mass']", 2700.0, -3.5, 2830.0, 90.0),
        ]
        manifest = read_source("vindr", write_vindr(tmp_path, rows, findings=findings))
        assert len(manifest) == 4
        assert json.loads(manifest["lesions"][0]) == [[10, 20.5, 300, 400], [2700, 0, 2800, 90]]
        assert list(manifest["n_findings"]) == [2, 0, 0, 0]
        assert manifest["lesions"][1:].isna().all()

    def test_images_without_a_row(self, tmp_path):
        """An image that the finding table does not name counts as one without findings."""
        rows = vindr_exam("a")
        write_vindr(tmp_path, rows)
        lines = (tmp_path / "finding_annotations.csv").read_text().splitlines(keepends=True)
        (tmp_path / "finding_annotations.csv").write_text("".join(lines[:-1]))
        assert list(read_source("vindr", tmp_path)["n_findings"].fillna(-1)) == [0, 0, 0, -1]

    @pytest.mark.parametrize(
        ("categories", "edges", "expected"),
        [
            ("__import__('os').abort()", (1.0, 2.0, 3.0, 4.0), "expected a list such as ['Mass']"),
            ("Mass", (1.0, 2.0, 3.0, 4.0), "expected a list"),
            ("[]", (), "expected a list"),
            ("[" * 4000, (), "expected a list"),
            ("['Mass']", (), "expected a box with a finding"),
            ("['No Finding']", (1.0, 2.0, 3.0, 4.0), "expected a box with a finding"),
            ("['Mass']", (1.0, "x", 3.0, 4.0), "expected four numbers or four empty cells"),
            ("['Mass']", (1.0, "", 3.0, 4.0), "expected four numbers or four empty cells"),
        ],
    )
    def test_unknown_cells(self, tmp_path, categories, edges, expected):
        """Text of the table is run as a program, or a finding without a place (or the reverse) is accepted."""
        rows = vindr_exam("a")
        findings = [vindr_finding(rows[1], "['Mass']", 1.0, 2.0, 3.0, 4.0), vindr_finding(rows[0], categories, *edges)]
        message = message_of(read_source, "vindr", write_vindr(tmp_path, rows, findings=findings))
        assert expected in message
        assert "finding_annotations.csv: data row 2" in message


class TestMetadata:
    """Vendor and photometric interpretation."""

    @pytest.mark.parametrize("blanks", [True, False])
    def test_headers_without_blanks(self, tmp_path, blanks):
        """A user's copy with stripped headers gives no vendors, so that all of them become one segment."""
        rows = vindr_exam("a")
        write_vindr_metadata(write_vindr(tmp_path, rows), [*reversed(rows), vindr_row("not ours")], blanks=blanks)
        manifest = read_source("vindr", tmp_path)
        assert list(manifest["image_id"]) == [row["image_id"] for row in rows]
        assert set(manifest["manufacturer"]) == {"SIEMENS"}
        assert set(manifest["model"]) == {"Mammomat Inspiration"}
        assert set(manifest["photometric"]) == {"MONOCHROME1"}
        assert manifest["age"].isna().all()

    def test_a_part_of_the_rows(self, tmp_path):
        """Images without a metadata row are lost, or get the vendor of another image."""
        rows = vindr_exam("a")
        write_vindr_metadata(write_vindr(tmp_path, rows), rows[1:2])
        assert list(read_source("vindr", tmp_path)["manufacturer"].fillna("")) == ["", "SIEMENS", "", ""]

    def test_faults(self, tmp_path):
        """A metadata table without ids, or with two vendors for one image, is guessed at."""
        rows = vindr_exam("a")
        write_vindr_metadata(write_vindr(tmp_path, rows), rows)
        lines = (tmp_path / "metadata.csv").read_text()
        (tmp_path / "metadata.csv").write_text(lines + lines.splitlines()[1].replace("SIEMENS", "Planmed") + "\n")
        assert "1 images have two rows that differ" in message_of(read_source, "vindr", tmp_path)
        (tmp_path / "metadata.csv").write_text("Manufacturer\nx\n")
        assert "column SOP Instance UID is missing" in message_of(read_source, "vindr", tmp_path)


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("breast_birads", "BI-RADS 4X", "0 to 6"),
        ("breast_birads", "Negative", "0 to 6"),
        ("breast_density", "DENSITY E", "A, B, C, D"),
        ("laterality", "B", "L, R"),
        ("view_position", "CCX", "CC, MLO"),
        ("split", "validation", "training or test"),
        ("split", "", "training or test"),
        ("height", "tall", "a number"),
    ],
)
def test_unknown_words(tmp_path, column, cell, expected):
    """A word that is not in the published table becomes some class, view or split, or nobody says where it stands."""
    rows = [*vindr_exam("a"), *vindr_exam("b")]
    rows[4][column] = cell
    message = message_of(read_source, "vindr", write_vindr(tmp_path, rows, pictures=False))
    assert f"breast-level_annotations.csv: column {column}, data row 5: {cell!r}; expected" in message
    assert expected in message


@pytest.mark.parametrize("table", ["breast-level_annotations.csv", "finding_annotations.csv"])
def test_missing_tables_and_columns(tmp_path, table):
    """A folder without a table, or a table without a needed column, is read all the same."""
    write_vindr(tmp_path, vindr_exam("a"))
    frame = pd.read_csv(tmp_path / table, dtype=str)
    frame.drop(columns="image_id").to_csv(tmp_path / table, index=False)
    assert f"{table}: column image_id is missing" in message_of(read_source, "vindr", tmp_path)
    (tmp_path / table).unlink()
    assert "no table at" in message_of(read_source, "vindr", tmp_path)


def test_more_columns_than_published(tmp_path):
    """A column that a later release adds stops the reader."""
    write_vindr(tmp_path, vindr_exam("a"))
    for table in ("breast-level_annotations.csv", "finding_annotations.csv"):
        frame = pd.read_csv(tmp_path / table, dtype=str).assign(note=list(itertools.repeat("new", 4)))
        frame.to_csv(tmp_path / table, index=False)
    assert len(read_source("vindr", tmp_path)) == 4
