"""CMMD: side and view from headers, labels per breast, and the known defects."""

import os
from pathlib import Path

import pandas as pd
import pytest
from trees import message_of, write
from trees_b import breast, cmmd_dicom, cmmd_place, write_cmmd

from study.data.sources import read_source
from study.data.sources.cmmd import WRONG_BREAST, WRONG_SIDE

REAL = os.environ.get("STUDY_REAL_DATA", "")
needs_real = pytest.mark.skipif(not REAL, reason="STUDY_REAL_DATA is not set")

ONE = [("L", "CC"), ("L", "MLO")]
BOTH = [*ONE, ("R", "CC"), ("R", "MLO")]
NO_ROW = "breast without a row in the clinical sheet"


@pytest.fixture
def read(tmp_path):
    """Writes sheet and pictures and reads them."""

    def call(breasts, pictures, *, excel=True, **options):
        write_cmmd(tmp_path, breasts, pictures, excel=excel)
        return read_source("cmmd", tmp_path, **options)

    return call


@pytest.mark.parametrize("excel", [True, False])
def test_rows(read, tmp_path, excel):
    """The sheet's format decides what is read, or an attribute of the header is lost."""
    manifest = read([breast("D2-0001", "R", subtype="Luminal A")], {"D2-0001": BOTH[2:]}, excel=excel)
    assert list(manifest["laterality"] + manifest["view"]) == ["RCC", "RMLO"]
    row = manifest.iloc[0]
    assert row["path"] == str(cmmd_place(tmp_path, "D2-0001", 1))
    assert (row["patient_id"], row["breast_id"], row["age"]) == ("D2-0001", "D2-0001_R", 44)
    assert (row["label3"], row["biopsy"], row["drop_reason"]) == ("malignant", "malignant", "")
    assert (row["rows"], row["cols"], row["bits_stored"], row["photometric"]) == (4, 4, 8, "MONOCHROME2")
    assert row["study_id"] == "07-18-2010-NA-NA-79377"


class TestHeaders:
    """Trap 10: the tags that other data sets fill are empty here."""

    def test_side_and_view_come_from_their_unusual_tags(self, read):
        """All pictures lose side and view because Laterality and ViewPosition are empty."""
        manifest = read([breast(), breast(side="R")], {"D1-0001": BOTH[::-1]})
        assert list(manifest["laterality"] + manifest["view"]) == ["RMLO", "RCC", "LMLO", "LCC"]

    def test_the_pair_of_16_bit_pictures(self, read, tmp_path):
        """Two deeper files among 5,202 are taken for 8-bit ones."""
        write_cmmd(tmp_path, [breast("D1-1343")], {"D1-1343": ONE})
        write(cmmd_place(tmp_path, "D1-1343", 2), cmmd_dicom("L", "MLO", bits=16))
        assert list(read_source("cmmd", tmp_path)["bits_stored"]) == [8, 16]

    def test_a_broken_file_costs_itself_alone(self, read, tmp_path):
        """One broken download ends the reading, or gets a label without a side."""
        write_cmmd(tmp_path, [breast()], {"D1-0001": ONE})
        write(cmmd_place(tmp_path, "D1-0001", 2), b"not a DICOM file")
        write(cmmd_place(tmp_path, "D1-0001", 3), b"")
        assert list(read_source("cmmd", tmp_path)["drop_reason"]) == ["", *["header cannot be read"] * 2]

    def test_a_header_without_a_side_is_dropped(self, read, tmp_path):
        """A picture without a side gets the label of some breast."""
        write_cmmd(tmp_path, [breast()], {"D1-0001": ONE})
        write(cmmd_place(tmp_path, "D1-0001", 2), cmmd_dicom("", "MLO"))
        assert list(read_source("cmmd", tmp_path)["drop_reason"]) == ["", "no side or view in the header"]

    def test_texts_of_a_header_are_not_said(self, read, tmp_path, caplog, recwarn):
        """A name in a header that breaks the rules of DICOM is quoted in a warning or in the log."""
        write_cmmd(tmp_path, [breast()], {"D1-0001": ONE})
        maker = (b"\x08\x00\x70\x00LO\x00\x00", b"\x08\x00\x70\x00LO\x5a\x00" + b"Jane Doe, " * 9)
        broken = cmmd_dicom().replace(*maker)  # 90 characters where 64 are allowed
        assert broken != cmmd_dicom()
        write(cmmd_place(tmp_path, "D1-0001", 1), broken)
        read_source("cmmd", tmp_path)
        assert not caplog.records
        assert not recwarn.list

    def test_the_patient_is_the_folder_not_the_header(self, read):
        """A text of a header becomes an id."""
        assert set(read([breast()], {"D1-0001": ONE})["patient_id"]) == {"D1-0001"}

    def test_leftovers_are_ignored(self, read, tmp_path):
        """Trap 20: index pages, DICOMDIR and hidden files count as pictures."""
        write_cmmd(tmp_path, [breast()], {"D1-0001": ONE})
        folder = cmmd_place(tmp_path, "D1-0001", 1).parent
        for name in ("index.html", "DICOMDIR", "._1-1.dcm", ".DS_Store", "Thumbs.db"):
            write(folder / name, b"left over")
        write(tmp_path / "CMMD" / "notes" / "1-1.dcm", cmmd_dicom())
        assert len(read_source("cmmd", tmp_path)) == 2


class TestLabels:
    """The sheet has one row per examined breast."""

    def test_the_label_belongs_to_the_breast(self, read):
        """Trap 17: a patient with one benign and one malignant breast gets one label for both."""
        manifest = read([breast(side="L", result="Benign"), breast(side="R")], {"D1-0001": BOTH})
        assert list(manifest["biopsy"]) == ["benign", "benign", "malignant", "malignant"]

    def test_a_breast_without_a_row_is_dropped_and_counted(self, read):
        """The other breast of a patient with cancer inherits the cancer, or vanishes without a reason."""
        manifest = read([breast("D2-0001", "R")], {"D2-0001": BOTH})
        assert list(manifest["drop_reason"]) == [NO_ROW, NO_ROW, "", ""]
        assert manifest["label3"].isna().tolist() == [True, True, False, False]
        assert set(manifest["age"]) == {44}

    def test_a_breast_without_a_row_may_count_as_normal(self, read):
        """The option changes labels that are known, or claims a biopsy."""
        manifest = read([breast("D2-0001", "R")], {"D2-0001": BOTH}, unlabelled="normal")
        assert list(manifest["label3"]) == ["normal", "normal", "malignant", "malignant"]
        assert manifest["biopsy"].isna().tolist() == [True, True, False, False]
        assert set(manifest["drop_reason"]) == {""}

    @pytest.mark.parametrize(
        ("cells", "expected"),
        [
            (
                {"classification": "Unclear"},
                "column classification, data row 2: 'Unclear'; expected Benign or Malignant",
            ),
            ({"LeftRight": "B"}, "column LeftRight, data row 2: 'B'; expected L, R"),
            ({"Age": "old"}, "column Age, data row 2: 'old'; expected a number"),
            ({"classification": ""}, "data row 2: ID1, LeftRight or classification is empty"),
        ],
    )
    @pytest.mark.parametrize("excel", [True, False])
    def test_unknown_cells_are_refused(self, read, cells, expected, excel):
        """An unknown word gets a class."""
        message = message_of(read, [breast(), breast("D1-0002", **cells)], {"D1-0001": ONE}, excel=excel)
        assert expected in message
        assert "D1-0002" not in message

    def test_a_breast_that_comes_twice_is_refused(self, read):
        """The later of two rows wins silently."""
        message = message_of(read, [breast(), breast(result="Benign")], {"D1-0001": ONE})
        assert "data row 2: a breast comes twice" in message


class TestDefects:
    """Patients whose sides or labels other readers found wrong."""

    @pytest.mark.parametrize("patient", ["D1-0252", "D2-0112", "D2-0642"])
    def test_wrong_sides_are_dropped_with_a_reason(self, read, patient):
        """A label is given to the wrong breast because the header names the wrong side."""
        manifest = read([breast(patient), breast()], {"D1-0001": ONE, patient: ONE})
        reason = "side of this patient's pictures known to be wrong"
        assert list(manifest["drop_reason"]) == ["", "", reason, reason]
        assert set(manifest["biopsy"]) == {"malignant"}

    @pytest.mark.parametrize("patient", ["D2-0048", "D2-0637"])
    def test_wrong_labels_are_dropped_with_a_reason(self, read, patient):
        """A healthy breast counts as cancer and the diseased one as unlabelled."""
        manifest = read([breast(patient)], {patient: BOTH}, unlabelled="normal")
        assert set(manifest["drop_reason"]) == {"label of this patient known to be on the wrong breast"}

    def test_they_can_be_kept(self, read):
        """The published numbers cannot be reproduced."""
        manifest = read([breast("D2-0048"), breast("D1-0252")], {"D2-0048": ONE, "D1-0252": ONE}, known_defects="keep")
        assert set(manifest["drop_reason"]) == {""}

    def test_sixteen_patients(self):
        """A patient is in both lists, or one was lost."""
        assert len(WRONG_SIDE | WRONG_BREAST) == 16
        assert not WRONG_SIDE & WRONG_BREAST


class TestPlaces:
    """Where sheet and pictures may lie."""

    def test_the_sheet_may_have_another_name_and_place(self, read, tmp_path):
        """The sheet must be copied to where the program looks."""
        write_cmmd(tmp_path, [breast()], {"D1-0001": ONE})
        (tmp_path / "tables").mkdir()
        sheet = tmp_path / "CMMD_clinicaldata_revision.xlsx"
        sheet = sheet.rename(tmp_path / "tables" / sheet.name)
        assert len(read_source("cmmd", tmp_path)) == 2
        sheet.rename(tmp_path / "mine.xlsx")
        assert len(read_source("cmmd", tmp_path, table="mine.xlsx")) == 2
        assert "no clinical sheet" in message_of(read_source, "cmmd", tmp_path)

    def test_the_root_may_be_the_folder_of_the_patients(self, read, tmp_path):
        """A root one folder deeper finds nothing."""
        write_cmmd(tmp_path, [breast()], {"D1-0001": ONE})
        sheet = tmp_path / "CMMD_clinicaldata_revision.xlsx"
        sheet.rename(tmp_path / "CMMD" / sheet.name)
        assert len(read_source("cmmd", tmp_path / "CMMD")) == 2

    def test_no_pictures(self, read, tmp_path):
        """A wrong root is an empty data set."""
        assert "no pictures below" in message_of(read, [breast()], {})

    def test_a_sheet_that_is_none(self, read, tmp_path):
        """A download that is a web page ends in a stack trace."""
        write_cmmd(tmp_path, [breast()], {"D1-0001": ONE})
        (tmp_path / "CMMD_clinicaldata_revision.xlsx").write_bytes(b"<html>sign in</html>")
        assert "is not an Excel sheet" in message_of(read_source, "cmmd", tmp_path)


@pytest.mark.data
@needs_real
def test_the_published_tables_give_their_known_counts(tmp_path):
    """The published counts of pictures, patients and classes do not come out."""
    tables = Path(REAL) / "tables" / "cmmd_ccby4"
    headers = pd.read_csv(tables / "cmmd_dicom_headers_reduced.csv", dtype="str")
    views = {"399162004": "CC", "399368009": "MLO"}
    for row in headers.itertuples():
        place = cmmd_place(tmp_path, row.PatientID, int(row.image_id.rpartition("-")[2]))
        write(place, cmmd_dicom(row.ImageLaterality, views[row.ViewCodeValue], bits=int(row.BitsAllocated)))
    write(tmp_path / "sheet.csv", (tables / "CMMD_clinicaldata_revision.csv").read_bytes())
    manifest = read_source("cmmd", tmp_path, table="sheet.csv")
    assert len(manifest) == 5202
    assert manifest["patient_id"].nunique() == 1775
    assert manifest["biopsy"].value_counts().to_dict() == {"malignant": 2632, "benign": 1112}
    assert manifest["biopsy"].isna().sum() == 1458
    assert manifest["laterality"].value_counts().to_dict() == {"L": 2682, "R": 2520}
    assert manifest["view"].value_counts().to_dict() == {"CC": 2601, "MLO": 2601}
    assert (manifest["bits_stored"] == 16).sum() == 2
    assert manifest["age"].notna().all()
    kept = read_source("cmmd", tmp_path, table="sheet.csv", known_defects="keep")
    assert kept["drop_reason"].value_counts().to_dict() == {"": 3744, NO_ROW: 1458}
    normal = read_source("cmmd", tmp_path, table="sheet.csv", known_defects="keep", unlabelled="normal")
    assert normal["label3"].value_counts().to_dict() == {"malignant": 2632, "normal": 1458, "benign": 1112}
    assert manifest["drop_reason"].value_counts().to_dict() == {
        "": 3744 - 18 - 2 - 14,
        NO_ROW: 1458 - 8 - 2 - 14,
        "side of this patient's pictures known to be wrong": 30,
        "label of this patient known to be on the wrong breast": 28,
    }
