"""Any table with manifest columns."""

import pandas as pd
import pytest
from trees import message_of

from study.data.manifest import MANIFEST_COLUMNS
from study.data.sources import read_source


@pytest.fixture
def table(tmp_path):
    """Writes lines as t.csv and reads them as a source."""

    def read(*lines: str, name: str = "t.csv", encoding: str = "utf-8", **options: bool):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding=encoding)
        return read_source("table", tmp_path, table=name, name="clinic", **options)

    return read


class TestTable:
    """Any table with manifest columns."""

    def test_smallest(self, table):
        """Path, patient and label are not enough, or the image id is not the file's stem."""
        manifest = table("path,patient_id,label", "x/one.dcm,0012,normal", "two.png,13,2")
        assert list(manifest["image_id"]) == ["one", "two"]
        assert list(manifest["patient_id"]) == ["0012", "13"]
        assert list(manifest["label3"]) == ["normal", "malignant"]

    def test_long_ids_survive(self, table):
        """An id beyond 2**53 or with leading zeros loses digits."""
        manifest = table("path,patient_id,image_id,birads", "a.png,9568336662008395,007,4a", "b.png,1,8,")
        assert manifest["patient_id"].iloc[0] == "9568336662008395"
        assert manifest["image_id"].iloc[0] == "007"

    @pytest.mark.parametrize("cell", ["17.0", "9007199254740993.0", "9.00719925474099E+15"])
    def test_ids_as_fractions(self, table, cell):
        """A number that lost its digits passes for an id, or one patient is `17` here and `17.0` there: a leak."""
        message = message_of(table, "path,patient_id,label", "a.png,17,1", f"b.png,{cell},1")
        assert "column patient_id, data row 2: an id stored as a fraction" in message
        assert cell not in message.replace("17.0 or", "")
        kept = table("path,patient_id,label", "a.png,1.2.840.10008,1", "b.png,17.5,0", "c.png,12e4,0")
        assert list(kept["patient_id"]) == ["1.2.840.10008", "17.5", "12e4"]

    def test_assessments(self, table):
        """A form in which BI-RADS is written is not understood, or its text is lost."""
        texts = ["4", "4a", "BI-RADS 4", "4.0", "bi-rads  5", "0", "", "6", "4C"]
        manifest = table("path,patient_id,birads", *(f"{n}.png,{n},{text}" for n, text in enumerate(texts)))
        assert list(manifest["birads"].fillna(-1)) == [4, 4, 4, 4, 5, 0, -1, 6, 4]
        assert list(manifest["birads_sub"].fillna("")) == ["", "a", "", "", "", "", "", "", "c"]
        assert list(manifest["raw_birads"].fillna("")) == [
            "4",
            "4a",
            "BI-RADS 4",
            "4.0",
            "bi-rads  5",
            "0",
            "",
            "6",
            "4C",
        ]

    def test_words_of_columns(self, table):
        """Sides, views, density, kinds or flags in another common spelling are not understood."""
        manifest = table(
            "path,patient_id,label,laterality,view,density,image_kind,spot_mag,age",
            "a.png,1,benign,LEFT,mlo,DENSITY C,2D,1,50",
            "b.png,2,Benign,r,ML,4,film,no,61.5",
            "c.png,3,BENIGN,,,,,,",
        )
        assert list(manifest["laterality"].fillna("")) == ["L", "R", ""]
        assert list(manifest["view"].fillna("")) == ["MLO", "other", ""]
        assert list(manifest["raw_view"].fillna("")) == ["mlo", "ML", ""]
        assert list(manifest["density"].fillna("")) == ["C", "D", ""]
        assert list(manifest["image_kind"].fillna("")) == ["FFDM", "film", ""]
        assert list(manifest["spot_mag"].fillna(-1)) == [1, 0, -1]
        assert list(manifest["age"].fillna(-1)) == [50, 61.5, -1]

    @pytest.mark.parametrize(
        ("column", "cell", "expected"),
        [
            ("label", "malign", "normal, benign, malignant"),
            ("birads", "7", "0 to 6"),
            ("birads", "N", "0 to 6"),
            ("view", "CCX", "CC, MLO"),
            ("laterality", "B", "L, R"),
            ("density", "E", "A, B, C, D"),
            ("age", "old", "a number"),
            ("age", "-3", "a number"),
            ("spot_mag", "2", "1, 0"),
        ],
    )
    def test_unknown_values(self, table, column, cell, expected):
        """An unknown cell is accepted, or the message lacks file, column, row, what was found or what was expected."""
        label = "" if column in ("label", "birads") else ",label"
        row = "" if column in ("label", "birads") else ",normal"
        lines = (f"path,patient_id{label},{column}", f"a.png,1{row},", f"b.png,2{row},{cell}", f"c.png,3{row},{cell}")
        message = message_of(table, *lines)
        for part in (
            "t.csv",
            f"column {column}",
            "data row 2",
            repr(cell),
            expected,
        ):
            assert part in message

    def test_rows_are_counted_as_rows(self, table):
        """A line break inside of a quoted cell shifts the row number."""
        message = message_of(table, "path,patient_id,label,model", 'a.png,1,0,"two\nlines"', "b.png,2,x,")
        assert "data row 2" in message

    def test_columns(self, table):
        """An unknown, missing or doubled column is accepted, or the nearest name is not said."""
        assert "did you mean 'laterality'" in message_of(table, "path,patient_id,label,lateralty", "a.png,1,0,L")
        assert "column 'patient_id' is missing" in message_of(table, "path,label", "a.png,0")
        assert "column 'path' is missing" in message_of(table, "patient_id,label", "1,0")
        assert "no label" in message_of(table, "path,patient_id,view", "a.png,1,CC")
        assert "mean the same" in message_of(table, "path,patient_id,label,label3", "a.png,1,0,0")
        assert "unknown column 'source'" in message_of(table, "path,patient_id,label,source", "a.png,1,0,x")

    def test_empty_cells(self, table):
        """A row without a path or patient is accepted."""
        assert "column patient_id, data row 2" in message_of(table, "path,patient_id,label", "a.png,1,0", "b.png,,0")
        assert "column path, data row 1" in message_of(table, "path,patient_id,label", ",1,0")

    def test_repeated_images(self, table):
        """Two rows of one image are accepted, or the message does not say which, or quotes the id."""
        message = message_of(table, "path,patient_id,label", "x/secret.png,1,0", "b.png,1,0", "y/secret.png,1,0")
        assert "data rows 1 and 3" in message
        assert "secret" not in message

    def test_forms_of_csv(self, table):
        """A semicolon table, a byte order mark or Windows line ends are not read."""
        assert len(table("path;patient_id;label\r", "a.png;1;0\r", "b,c.png;2;1\r", encoding="utf-8-sig")) == 2
        assert table("path , patient_id,label", " a.png , 1 , 0 ")["patient_id"].iloc[0] == "1"

    def test_not_a_table(self, tmp_path, table):
        """A missing, empty, headers-only, binary or ragged file raises anything but InputError."""
        assert "no table at" in message_of(read_source, "table", tmp_path, table="none.csv")
        assert "has no rows" in message_of(table, "path,patient_id,label")
        (tmp_path / "zero.csv").write_bytes(b"")
        assert "is empty" in message_of(read_source, "table", tmp_path, table="zero.csv")
        (tmp_path / "bin.csv").write_bytes(b"\xff\xfe\x00\x01path")
        assert "not a UTF-8 CSV" in message_of(read_source, "table", tmp_path, table="bin.csv")
        assert "not a UTF-8 CSV" in message_of(table, "path,patient_id,label", "a,1,0", "b,1,0,4,5")
        (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
        assert "not a Parquet" in message_of(read_source, "table", tmp_path, table="bad.parquet")

    def test_parquet(self, tmp_path):
        """A Parquet table gives another manifest than the same CSV, or ids that lost digits pass."""
        frame = pd.DataFrame(
            {
                "path": ["a.png", "b.png"],
                "patient_id": [9568336662008395, 2],
                "birads": [4.0, None],
                "implant": [True, False],
            }
        )
        frame.to_parquet(tmp_path / "t.parquet")
        frame.astype({"patient_id": "str"}).to_csv(tmp_path / "t.csv", index=False)
        found = read_source("table", tmp_path, table="t.parquet")
        assert found["patient_id"].iloc[0] == "9568336662008395"
        columns = [column for column in MANIFEST_COLUMNS if column != "raw_birads"]
        pd.testing.assert_frame_equal(found[columns], read_source("table", tmp_path, table="t.csv")[columns])
        frame.astype({"patient_id": float}).to_parquet(tmp_path / "f.parquet")
        assert "column patient_id holds fractions" in message_of(read_source, "table", tmp_path, table="f.parquet")

    def test_paths(self, tmp_path, table):
        """An absolute path or a URI is moved under the root, or read although it lies elsewhere."""
        lines = ("path,patient_id,label", "/data/a.png,1,0", "b.png,2,0", "s3://store/c.png,3,0")
        assert "2 of 3 files lie outside of its root" in message_of(table, *lines)
        manifest = table(*lines, allow_outside=True)
        assert list(manifest["path"]) == ["/data/a.png", str(tmp_path / "b.png"), "s3://store/c.png"]

    def test_other_truths(self, table):
        """A table with biopsies, densities or class names alone is refused, or an unknown biopsy is accepted."""
        manifest = table("path,patient_id,biopsy,density", "a.png,1,Benign,", "b.png,2,malignant,B", "c.png,3,,A")
        assert list(manifest["biopsy"].fillna("")) == ["benign", "malignant", ""]
        assert table("path,patient_id,class_name", "a.png,1,melanoma")["class_name"].iloc[0] == "melanoma"
        message = message_of(table, "path,patient_id,biopsy", "a.png,1,benign", "b.png,2,negative")
        assert "column biopsy, data row 2: 'negative'; expected benign or malignant" in message

    def test_lesions(self, table):
        """Boxes are lost, lie outside of the picture, or text that holds no boxes is accepted."""
        manifest = table("path;patient_id;label;lesions", "a.png;1;1;[[-4, 2, 30, 40.5]]", "b.png;2;0;", "c.png;3;0;[]")
        assert list(manifest["lesions"].fillna("")) == ["[[0.0, 2.0, 30.0, 40.5]]", "", ""]
        for wrong in ("[1, 2, 3, 4]", "[[1, 2, 3]]", "[[1, 2, 3, NaN]]", "box", "{}", "[[true, 1, 2, 3]]"):
            message = message_of(table, "path;patient_id;label;lesions", f"a.png;1;1;{wrong}")
            assert f"column lesions, data row 1: {wrong!r}; expected [[left, top, right, bottom], ...]" in message

    def test_more_cells_than_names(self, table):
        """A first cell without a name passes for a row's number, so that every cell stands one column further left."""
        message = message_of(table, "path,patient_id,label", "a.png,1,0,normal", "b.png,2,1,benign")
        assert "rows have more cells than the header" in message


def test_a_table_may_stand_beside_the_study_file(tmp_path, monkeypatch):
    """Images often lie where nobody may write: a table that is not below the root is found in the working folder."""
    images, here = tmp_path / "images", tmp_path / "here"
    images.mkdir()
    here.mkdir()
    (here / "ours.csv").write_text("path,patient_id,birads\na.dcm,p1,1\n")
    monkeypatch.chdir(here)
    manifest = read_source("table", images, name="ours", table="ours.csv")
    assert manifest["path"].tolist() == [str(images / "a.dcm")]
