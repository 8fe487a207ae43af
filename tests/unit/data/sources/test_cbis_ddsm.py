"""CBIS-DDSM: lesions become views, four tables become one list of patients, and files are found in real downloads."""

import os
from pathlib import Path

import pytest
from trees import message_of
from trees_b import case, write_cbis, write_film

from study.data.dicom import read_dicom
from study.data.sources import read_source

REAL = os.environ.get("STUDY_REAL_DATA", "")
needs_real = pytest.mark.skipif(not REAL, reason="STUDY_REAL_DATA is not set")


@pytest.fixture
def read(tmp_path):
    """Writes the four tables and reads them; a table that is not given holds one view of P_09999."""

    def call(*, folder="tables", **tables):
        write_cbis(tmp_path, folder=folder, **tables)
        manifest = read_source("cbis_ddsm", tmp_path)
        return manifest[manifest["patient_id"] != "P_09999"].reset_index(drop=True)

    return call


class TestViews:
    """A row per full view, with the worst of its lesions."""

    def test_a_view_with_two_lesions_is_one_image(self, read, tmp_path):
        """A picture is used once per lesion."""
        manifest = read(mass_train=[case(), case(**{"abnormality id": 2}), case(view="MLO")])
        assert list(manifest["image_id"]) == ["P_00001_L_CC", "P_00001_L_MLO"]
        assert list(manifest["n_findings"]) == [2, 1]
        row = manifest.iloc[0]
        assert (row["patient_id"], row["laterality"], row["view"], row["density"]) == ("P_00001", "L", "CC", "C")
        assert (row["split_official"], row["image_kind"], row["breast_id"]) == ("training", "film", "P_00001_L")
        assert row["path"].startswith(str(tmp_path / "CBIS-DDSM" / "Mass-Training_P_00001_LEFT_CC"))
        assert row["path"].endswith("/1-1.dcm")

    @pytest.mark.parametrize(
        ("words", "result"),
        [
            (["BENIGN", "MALIGNANT"], "malignant"),
            (["MALIGNANT", "BENIGN_WITHOUT_CALLBACK"], "malignant"),
            (["BENIGN", "BENIGN_WITHOUT_CALLBACK"], "benign"),
            (["BENIGN_WITHOUT_CALLBACK"], "benign"),
        ],
    )
    def test_one_malignant_lesion_makes_the_view_malignant(self, read, words, result):
        """A cancer is hidden by a benign lesion of the same view, or a lesion without callback counts as a class."""
        manifest = read(mass_train=[case(pathology=word) for word in words])
        assert list(manifest["biopsy"]) == [result]
        assert list(manifest["label3"]) == [result]

    @pytest.mark.parametrize(("grades", "worst"), [("45", 5), ("34", 4), ("04", 4), ("03", 0), ("23", 3), ("0", 0)])
    def test_the_worst_assessment_of_a_view_counts(self, read, grades, worst):
        """The first row's assessment decides, or an incomplete one counts as the mildest."""
        manifest = read(mass_train=[case(assessment=grade) for grade in grades])
        assert list(manifest["birads"]) == [worst]
        assert list(manifest["raw_birads"]) == [str(worst)]

    @pytest.mark.parametrize(("cell", "density"), [("1", "A"), ("4", "D"), ("0", None)])
    @pytest.mark.parametrize("table", ["mass_train", "calc_test"])
    def test_density_under_both_spellings(self, read, table, cell, density):
        """Calcification tables lose their density, or density 0 becomes a class."""
        found = read(**{table: [case(density=cell)]})["density"]
        assert list(found.astype(object).where(found.notna(), None)) == [density]

    @pytest.mark.parametrize(
        ("column", "cell", "named", "expected"),
        [
            ("assessment", "6", "assessment", "0 to 5"),
            ("pathology", "UNKNOWN", "pathology", "MALIGNANT, BENIGN"),
            ("left or right breast", "BOTH", "left or right breast", "L, R"),
            ("image view", "XYZ", "image view", "CC, MLO"),
            ("density", "5", "breast density", "A, B, C, D, or 1 to 4"),
        ],
    )
    def test_unknown_values_are_refused(self, read, column, cell, named, expected):
        """Trap 4: an unknown word gets a class."""
        message = message_of(read, calc_train=[case(), case(**{column: cell})])
        for part in ("calc_case_description_train_set.csv", f"column {named}, data row 2", repr(cell), expected):
            assert part in message

    def test_an_empty_pathology_is_refused(self, read):
        """A lesion without a result is taken for benign."""
        message = message_of(read, mass_test=[case(), case(pathology="")])
        assert "mass_case_description_test_set.csv: column pathology, data row 2: empty" in message

    def test_a_path_that_leads_to_another_view_is_refused(self, read):
        """A row is given the picture of another patient."""
        other = {"image file path": "Mass-Training_P_00007_LEFT_CC/1.2/1.3/000000.dcm"}
        message = message_of(read, mass_train=[case(), case(**other)])
        assert "column image file path, data row 2" in message
        assert "P_00007" not in message


class TestLeak:
    """Traps 8 and 21: the mass and calcification tables share patients and pictures."""

    def test_a_patient_of_both_tables_is_one_patient(self, read):
        """A patient trains the model as a mass case and tests it as a calcification case."""
        manifest = read(mass_train=[case(view="CC")], calc_test=[case(view="MLO")])
        assert manifest["patient_id"].nunique() == 1
        assert dict(zip(manifest["view"], manifest["split_official"], strict=True)) == {"CC": "training", "MLO": "test"}

    @pytest.mark.parametrize(
        ("first", "second"), [("mass_train", "calc_test"), ("mass_test", "calc_train"), ("mass_train", "calc_train")]
    )
    def test_a_view_of_both_tables_is_one_image_with_the_worst_label(self, read, first, second):
        """The same picture lies in training and test, once benign and once malignant."""
        manifest = read(**{first: [case(pathology="BENIGN")], second: [case(pathology="MALIGNANT", assessment="5")]})
        assert len(manifest) == 1
        row = manifest.iloc[0]
        assert (row["biopsy"], row["birads"], row["n_findings"]) == ("malignant", 5, 2)
        assert row["split_official"] == "training"
        assert "/Mass-" in row["path"]

    def test_all_four_tables_are_needed(self, tmp_path):
        """Reading the mass tables alone hides the shared patients."""
        write_cbis(tmp_path)
        (tmp_path / "tables" / "calc_case_description_test_set.csv").unlink()
        assert "no table calc_case_description_test_set.csv" in message_of(read_source, "cbis_ddsm", tmp_path)

    @pytest.mark.parametrize("folder", [".", "tables", "case tables"])
    def test_tables_may_lie_elsewhere(self, tmp_path, folder):
        """The tables must be copied between the pictures."""
        write_cbis(tmp_path, folder=folder)
        assert len(read_source("cbis_ddsm", tmp_path, tables=folder)) == 1


class TestFiles:
    """Tables name files and folders that downloads do not have."""

    def test_a_download_with_other_names_is_found_by_its_view(self, tmp_path):
        """The tables say 000000.dcm below two UIDs; the download says 1-1.dcm below a date, and nothing is found."""
        write_film(tmp_path / "manifest-1600709154662", "Mass-Training_P_09999_LEFT_CC")
        write_cbis(tmp_path)
        path = read_source("cbis_ddsm", tmp_path)["path"].iloc[0]
        assert path.endswith("/1.000000-full mammogram images-24515/1-1.dcm")
        assert read_dicom(Path(path)).pixels.shape == (64, 64)

    def test_crops_and_masks_are_not_taken_for_the_view(self, tmp_path):
        """The folder of a lesion, which begins with the view's name, gives a patch instead of a mammogram."""
        write_film(tmp_path, "Mass-Training_P_09999_LEFT_CC_1", "1-1.dcm", "1-2.dcm")
        write_cbis(tmp_path)
        path = Path(read_source("cbis_ddsm", tmp_path)["path"].iloc[0])
        assert path.parents[2].name == "Mass-Training_P_09999_LEFT_CC"
        assert not path.exists()

    def test_two_files_in_the_folder_of_a_view_are_refused(self, tmp_path):
        """One of two files is picked by chance."""
        write_film(tmp_path, "Mass-Training_P_09999_LEFT_CC", "1-1.dcm", "1-2.dcm")
        write_cbis(tmp_path)
        message = message_of(read_source, "cbis_ddsm", tmp_path)
        assert "holds 2 DICOM files; expected one" in message
        assert "P_09999" not in message

    def test_leftovers_are_ignored(self, tmp_path):
        """Trap 20: a mirror's index page or a DICOMDIR counts as a picture."""
        folder = "Mass-Training_P_09999_LEFT_CC"
        write_film(tmp_path, folder)
        for name in ("index.html", "DICOMDIR", "._1-1.dcm", "LICENSE"):
            (tmp_path / "CBIS-DDSM" / folder / name).write_bytes(b"left over")
        write_cbis(tmp_path)
        assert read_source("cbis_ddsm", tmp_path)["path"].iloc[0].endswith("/1-1.dcm")


@pytest.mark.data
@needs_real
def test_the_published_tables_give_their_known_counts():
    """The published counts of views, patients, classes or shared patients do not come out."""
    manifest = read_source("cbis_ddsm", Path(REAL) / "tables" / "cbis_ddsm_ccby3")
    assert len(manifest) == 3032
    assert manifest["patient_id"].nunique() == 1566
    assert manifest["biopsy"].value_counts().to_dict() == {"benign": 1685, "malignant": 1347}
    assert manifest["n_findings"].sum() == 1318 + 378 + 1546 + 326
    assert manifest["raw_birads"].value_counts()["1"] == 3
    assert manifest["density"].isna().sum() == 2
    assert set(manifest["drop_reason"]) == {""}
    # 29 views stand in both splits and are counted as training; of their patients 12 still have views in both.
    assert manifest["split_official"].value_counts().to_dict() == {"training": 2420, "test": 612}
    assert (manifest.groupby("patient_id")["split_official"].nunique() == 2).sum() == 12
