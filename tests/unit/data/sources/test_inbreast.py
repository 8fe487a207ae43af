"""INbreast."""

import json
from itertools import chain, repeat

import pandas as pd
import pydicom
import pytest
from trees import dicom, digest, inbreast_name, inbreast_row, message_of, write, write_contours, write_inbreast

from study.data.sources import read_source

GRADES = {"1": 67, "2": 220, "3": 23, "4a": 13, "4b": 8, "4c": 22, "5": 49, "6": 8}
BLANKS = " " * 193
TISSUES = {"1": 136, "2": 146, "3": 99, "4": 28, BLANKS: 1}


def spread(counts: dict[str, int]) -> list[str]:
    return list(chain.from_iterable(repeat(word, count) for word, count in counts.items()))


def published() -> list[dict]:
    """410 rows with the published counts: 90 patients with four images and 25 with two."""
    patients = spread({f"four {n}": 4 for n in range(90)} | {f"two {n}": 2 for n in range(25)})
    cells = zip(
        patients,
        ["L", "L", "R", "R"] * 90 + ["L"] * 29 + ["R"] * 21,
        ["CC", "MLO"] * 202 + ["CC", "MLO"] + ["FB", "MLO"] + ["MLO", "MLO"],
        spread(TISSUES),
        spread(GRADES),
        strict=True,
    )
    return [
        inbreast_row(20586908 + 26 * n, patient, side, view, acr=acr, birads=grade)
        for n, (patient, side, view, acr, grade) in enumerate(cells)
    ]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A folder with as many images as the published one."""
    return write_inbreast(tmp_path_factory.mktemp("inbreast"), published())


class TestPublishedCounts:
    """What a user of the whole data set should see."""

    def test_counts(self, release):
        """Images, patients, assessments, densities, sides or views are other than published."""
        manifest = read_source("inbreast", release)
        assert len(manifest) == 410
        assert manifest["patient_id"].nunique() == 115
        assert manifest["raw_birads"].value_counts().to_dict() == GRADES
        assert manifest["birads"].value_counts().to_dict() == {1: 67, 2: 220, 3: 23, 4: 43, 5: 49, 6: 8}
        assert manifest["birads_sub"].value_counts().to_dict() == {"a": 13, "b": 8, "c": 22}
        assert manifest["density"].value_counts(dropna=False).to_list() == [146, 136, 99, 28, 1]
        assert manifest["view"].value_counts().to_dict() == {"MLO": 206, "CC": 203, "other": 1}
        assert manifest["laterality"].value_counts().to_dict() == {"L": 209, "R": 201}
        assert set(manifest["drop_reason"]) == {""}

    def test_counts_of_paper_multitask(self, release):
        """The two options do not give the counts of that paper: density A to D, and CC and MLO."""
        manifest = read_source("inbreast", release, fb_as_cc=True, blank_density="B")
        assert manifest["density"].value_counts().to_dict() == {"A": 136, "B": 147, "C": 99, "D": 28}
        assert manifest["view"].value_counts().to_dict() == {"CC": 204, "MLO": 206}


class TestTable:
    """`INbreast.csv`."""

    def test_a_case_is_taken_for_a_patient(self, tmp_path):
        """Images of one woman from two dates, or the word ``removed``, make her two patients or all women one."""
        rows = [inbreast_row(20586908, "a"), inbreast_row(50994300, "a", date="200801"), inbreast_row(20586934, "b")]
        manifest = read_source("inbreast", write_inbreast(tmp_path, rows))
        assert list(manifest["patient_id"]) == [digest("a")[:16], digest("a")[:16], digest("b")[:16]]
        assert manifest["study_id"].nunique() == 3
        assert manifest["age"].isna().all()

    def test_view_token_ml_stays_another_view(self, tmp_path):
        """ML, the word of the file names for MLO, counts as another view, in the table too."""
        rows = [inbreast_row(20586908, view="MLO"), inbreast_row(20586934, view="ML")]
        folder = write_inbreast(tmp_path, rows)
        assert all("_ML_ANON" in inbreast_name(row) for row in rows)
        manifest = read_source("inbreast", folder)
        assert list(manifest["view"]) == ["MLO", "MLO"]
        assert list(manifest["raw_view"]) == ["MLO", "ML"]
        assert set(manifest["drop_reason"]) == {""}

    @pytest.mark.parametrize("token", ["FB", "CC", "MLO"])
    def test_the_full_breast_view_is_guessed(self, tmp_path, token):
        """FB is silently called CC or MLO, or the image is dropped because its file name says another view."""
        row = inbreast_row(50994300, view="FB")
        folder = write_inbreast(tmp_path, [row])
        write(folder / "AllDICOMs" / inbreast_name(row), dicom())
        (folder / "AllDICOMs" / inbreast_name(row)).rename(folder / "AllDICOMs" / inbreast_name({**row, "view": token}))
        for options, view in (({}, "other"), ({"fb_as_cc": True}, "CC")):
            manifest = read_source("inbreast", folder, **options)
            assert (manifest["view"][0], manifest["raw_view"][0], manifest["drop_reason"][0]) == (view, "FB", "")

    def test_a_cell_of_blanks_is_a_density(self, tmp_path):
        """The blank ACR cell stops the reader, becomes some density, or its image is dropped for all tasks."""
        rows = [inbreast_row(53582540, acr=BLANKS), inbreast_row(20586908, acr="4")]
        manifest = read_source("inbreast", write_inbreast(tmp_path, rows))
        assert list(manifest["density"].fillna("none")) == ["none", "D"]
        assert set(manifest["drop_reason"]) == {""}

    def test_line_ends_stay_in_the_last_cell(self, tmp_path):
        """The carriage return of each line becomes a part of the assessment."""
        folder = write_inbreast(tmp_path, [inbreast_row(20586908, birads="4a")])
        assert b";4a\r\n" in (folder / "INbreast.csv").read_bytes()
        manifest = read_source("inbreast", folder)
        assert (manifest["raw_birads"][0], manifest["birads"][0], manifest["birads_sub"][0]) == ("4a", 4, "a")

    def test_numbers_lose_zeros(self, tmp_path):
        """An image number with leading zeros does not meet its file."""
        manifest = read_source("inbreast", write_inbreast(tmp_path, [inbreast_row(908)]))
        assert manifest["image_id"][0] == "00000908"
        assert manifest["drop_reason"][0] == ""

    def test_a_breast_in_two_classes_is_made_one(self, tmp_path):
        """CC and MLO of one breast that disagree get one label: labels are per image here."""
        rows = [inbreast_row(22670809, "a", birads="4a"), inbreast_row(22670855, "a", view="MLO", birads="5")]
        manifest = read_source("inbreast", write_inbreast(tmp_path, rows))
        assert list(manifest["raw_birads"]) == ["4a", "5"]
        assert manifest["breast_id"].nunique() == 1
        assert manifest["label3"].isna().all()
        assert manifest["biopsy"].isna().all()  # there is none in this data set

    @pytest.mark.parametrize(
        ("cell", "value", "column", "expected"),
        [
            ("birads", "N", "Bi-Rads", "0 to 6"),
            ("birads", "7", "Bi-Rads", "0 to 6"),
            ("acr", "5", "ACR", "A, B, C, D"),
            ("view", "ROLL", "View", "CC, MLO"),
            ("side", "B", "Laterality", "L, R"),
            ("number", "2267080", "File Name", "a number of 8 digits"),
        ],
    )
    def test_unknown_words(self, tmp_path, cell, value, column, expected):
        """A word that is not in the published table becomes some class, density or view."""
        good, wrong = inbreast_row(20586908), {**inbreast_row(20586934, view="MLO"), cell: value}
        folder = write_inbreast(tmp_path, [good, wrong])
        for path in (folder / "AllDICOMs").glob("*_ANON.dcm"):
            path.unlink()
        write(folder / "AllDICOMs" / inbreast_name(good), dicom())
        message = message_of(read_source, "inbreast", folder)
        assert f"INbreast.csv: column {column}, data row 2" in message
        assert expected in message

    def test_ages(self, tmp_path):
        """The ages of a copy that has them are lost, or another word than ``removed`` is swallowed."""
        folder = write_inbreast(tmp_path, [inbreast_row(20586908)], age="61")
        assert read_source("inbreast", folder)["age"][0] == 61
        folder = write_inbreast(tmp_path, [inbreast_row(20586908)], age="old")
        assert "column Patient age, data row 1: 'old'" in message_of(read_source, "inbreast", folder)

    def test_missing_columns(self, tmp_path):
        """A table without assessments is read all the same."""
        folder = write_inbreast(tmp_path, [inbreast_row(20586908)])
        frame = pd.read_csv(folder / "INbreast.csv", sep=";", dtype=str).drop(columns="Bi-Rads")
        frame.to_csv(folder / "INbreast.csv", sep=";", index=False)
        assert "INbreast.csv: column Bi-Rads is missing" in message_of(read_source, "inbreast", folder)


class TestFiles:
    """Table and image folder do not always have the same images, and mirrors nest them differently."""

    @pytest.mark.parametrize("inside", ["", "INbreast Release 1.0", "archive/INbreast/INbreast Release 1.0"])
    def test_mirrors_nest_differently(self, tmp_path, inside):
        """Only one nesting is found, or the leftovers of a mirror count as images."""
        rows = [inbreast_row(20586908), inbreast_row(20586934, view="MLO")]
        folder = write_inbreast(tmp_path, rows, inside=inside)
        manifest = read_source("inbreast", tmp_path)
        assert list(manifest["path"]) == [str(folder / "AllDICOMs" / inbreast_name(row)) for row in rows]
        assert set(manifest["drop_reason"]) == {""}
        assert pydicom.dcmread(manifest["path"][0]).Rows == 64

    def test_images_on_one_side_only_vanish(self, tmp_path):
        """A row without a file or a file without a row is not counted, or is used."""
        rows = [inbreast_row(20586908, "a"), inbreast_row(20586934, "a", view="MLO")]
        folder = write_inbreast(tmp_path, rows)
        (folder / "AllDICOMs" / inbreast_name(rows[0])).unlink()
        extra = inbreast_row(99999999, "b", "R", "MLO")
        write(folder / "AllDICOMs" / inbreast_name(extra), dicom())
        manifest = read_source("inbreast", folder).set_index("image_id")
        assert manifest["drop_reason"].to_dict() == {
            "20586908": "no image file of this row in AllDICOMs",
            "20586934": "",
            "99999999": "no row of this image file in INbreast.csv",
        }
        assert manifest.loc["99999999", "patient_id"] == digest("b")[:16]
        assert manifest.loc["99999999", "view"] == "MLO"
        assert manifest.loc["20586908", "patient_id"] != digest("a")[:16]  # nobody can know

    def test_a_name_that_contradicts_its_row_is_believed(self, tmp_path):
        """An image whose file name tells another breast or view than the table is used as if nothing were wrong."""
        rows = [inbreast_row(20586908), inbreast_row(20586934), inbreast_row(20586960)]
        folder = write_inbreast(tmp_path, rows)
        for row, wrong in ((rows[0], {"side": "R"}), (rows[1], {"view": "MLO"})):
            place = folder / "AllDICOMs" / inbreast_name(row)
            place.rename(folder / "AllDICOMs" / inbreast_name({**row, **wrong}))
        reason = "side or view in the file name differs from the table's"
        assert list(read_source("inbreast", folder)["drop_reason"]) == [reason, reason, ""]

    def test_names_without_the_patient(self, tmp_path):
        """Renamed files, which tell no patient, become one patient each: the split would leak."""
        row = inbreast_row(20586908)
        folder = write_inbreast(tmp_path, [row])
        write(folder / "AllDICOMs" / "20586934.dcm", dicom())
        message = message_of(read_source, "inbreast", folder)
        assert "1 of 2 files in AllDICOMs have names of another form" in message
        assert "20586934" not in message

    def test_two_copies(self, tmp_path):
        """Two copies below one root are mixed."""
        rows = [inbreast_row(20586908)]
        first = write_inbreast(tmp_path, rows, inside="one")
        second = write_inbreast(tmp_path, rows, inside="two")
        assert "2 files INbreast.csv below" in message_of(read_source, "inbreast", tmp_path)
        (second / "INbreast.csv").unlink()
        assert "1 images in AllDICOMs are there twice" in message_of(read_source, "inbreast", tmp_path)
        assert len(read_source("inbreast", first)) == 1

    def test_nothing_there(self, tmp_path):
        """A wrong root gives anything but a sentence."""
        assert "no INbreast.csv below" in message_of(read_source, "inbreast", tmp_path)
        assert "no folder at" in message_of(read_source, "inbreast", tmp_path / "none")
        folder = write_inbreast(tmp_path, [inbreast_row(20586908)])
        for path in (folder / "AllDICOMs").glob("*_ANON.dcm"):
            path.unlink()
        assert "no folder AllDICOMs with .dcm files" in message_of(read_source, "inbreast", tmp_path)


class TestContours:
    """Property lists of `AllXML`."""

    def test_boxes(self, tmp_path):
        """A contour's box is shifted or cut, a single point (a calcification) has no area, or an odd name is new."""
        rows = [inbreast_row(20586908), inbreast_row(20586934, view="MLO")]
        folder = write_inbreast(tmp_path, rows)
        mass, calcification = [(10.2, 20.7), (30.0, 25.0), (12.5, 48.9)], [(5.5, 6.5)]
        write_contours(folder, "20586908", mass, calcification, [], name="Espiculated Region ")
        manifest = read_source("inbreast", folder)
        assert json.loads(manifest["lesions"][0]) == [[10, 20, 31, 49], [5, 6, 6, 7]]
        assert list(manifest["n_findings"].fillna(-1)) == [2, -1]
        assert manifest["lesions"].isna()[1]

    def test_an_annotation_without_an_image(self, tmp_path):
        """An annotation of an image that the table does not list stops the reader."""
        folder = write_inbreast(tmp_path, [inbreast_row(20586908)])
        write_contours(folder, "11111111", [(1, 1)])
        assert read_source("inbreast", folder)["lesions"].isna().all()

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"<plist><dict>",
            b"<plist><array/></plist>",
            b"<plist><dict><key>Images</key><string>x</string></dict></plist>",
            (
                b"<plist><dict><key>Images</key><array><dict><key>ROIs</key><array><dict><key>Point_px</key><array>"
                b"<integer>1</integer></array></dict></array></dict></array></dict></plist>"
            ),
            b'<!DOCTYPE p [<!ENTITY a "x">]><plist><dict><key>Images</key><string>&a;</string></dict></plist>',
        ],
    )
    def test_damaged_annotations(self, tmp_path, content):
        """A half file, another document or one with entities stops the reader with a traceback, or shows the image."""
        folder = write_inbreast(tmp_path, [inbreast_row(20586908), inbreast_row(20586934, view="MLO")])
        write(folder / "AllXML" / "20586934.xml", content)
        message = message_of(read_source, "inbreast", folder)
        assert "AllXML: the annotation of the image in data row 2 of" in message
        assert "20586934" not in message

    @pytest.mark.parametrize("point", ["(1.0)", "(1.0, 2.0, 3.0)", "one, two", "(nan, 1.0)", "(inf, 1.0)"])
    def test_odd_points(self, tmp_path, point):
        """Text that is no point becomes a box."""
        folder = write_inbreast(tmp_path, [inbreast_row(20586908)])
        write_contours(folder, "20586908", [(1.0, 2.0)])
        text = (folder / "AllXML" / "20586908.xml").read_text()
        (folder / "AllXML" / "20586908.xml").write_text(text.replace("(1.000000, 2.000000)", point))
        assert "cannot be read" in message_of(read_source, "inbreast", folder)
