"""EMBED: findings per breast, files per exam, and everything that goes wrong between the two."""

import json

import pytest
from trees import message_of
from trees_b import EMBED_CLINICAL, exam_files, file_row, finding, write_embed

from study.data.sources import read_source


@pytest.fixture
def read(tmp_path):
    """Writes the two tables and reads them; keywords that begin with ``write_`` are for the writer."""

    def call(findings, files=None, **options):
        written = {key.removeprefix("write_"): options.pop(key) for key in list(options) if key.startswith("write_")}
        write_embed(tmp_path, findings, files if files is not None else exam_files(), **written)
        return read_source("embed", tmp_path, **options)

    return call


def by_side(manifest, column="raw_birads"):
    """The distinct values of each breast, missing as an empty text."""
    values = manifest[column].fillna("").groupby(manifest["laterality"])
    return {side: "".join(sorted(map(str, set(cells)))) for side, cells in values}


def test_one_row_per_file_in_the_order_of_the_metadata(read, tmp_path):
    """A file is lost or doubled when its exam has several findings."""
    manifest = read([finding(numfind=n, side="L", asses="A") for n in (1, 2, 3)])
    assert len(manifest) == 4
    assert list(manifest["laterality"] + manifest["view"]) == ["LCC", "LMLO", "RCC", "RMLO"]
    first = manifest.iloc[0]
    assert first["path"] == str(tmp_path / "images" / "cohort_1" / first["path"].split("cohort_1/")[1])
    assert (first["patient_id"], first["study_id"]) == ("10000001", "9568336662008395")
    assert (first["density"], first["age"], first["image_kind"]) == ("B", 57, "FFDM")
    assert (first["manufacturer"], first["model"]) == ("HOLOGIC, Inc.", "Selenia Dimensions")
    assert (first["rows"], first["cols"], first["bits_stored"]) == (3328, 2560, 12)
    assert first["label3"] != first["label3"]  # the assessment is no truth of the class


class TestSides:
    """Trap 9: which breast a finding belongs to."""

    def test_a_finding_marks_its_own_breast_alone(self, read):
        """Joining by exam alone gives the suspicious grade of one breast to the other."""
        manifest = read([finding(side="L", asses="S"), finding(side="R", asses="B")])
        assert by_side(manifest) == {"L": "S", "R": "B"}
        assert list(manifest["birads"]) == [4, 4, 2, 2]

    @pytest.mark.parametrize("side", ["B", ""])
    def test_both_or_no_side_means_both(self, read, side):
        """A finding of both breasts is lost for one."""
        assert by_side(read([finding(side=side, asses="B")])) == {"L": "B", "R": "B"}

    @pytest.mark.parametrize(("side", "other"), [("L", "R"), ("R", "L")])
    @pytest.mark.parametrize("letter", ["A", "S", "K"])
    def test_the_healthy_breast_without_a_row_is_negative(self, read, side, other, letter):
        """A bilateral exam loses its healthy breast, or gives it the grade of the other one."""
        manifest = read([finding(side=side, asses=letter)])
        assert by_side(manifest) == {side: letter, other: "N"}
        assert set(manifest["drop_reason"]) == {""}

    def test_no_row_is_made_up_for_an_exam_of_one_breast(self, read):
        """A one-sided exam calls a breast negative that nobody looked at."""
        manifest = read([finding(side="L", asses="S", desc="MG Diagnostic Mammo Left")])
        reasons = by_side(manifest, "drop_reason")
        assert reasons == {"L": "", "R": "no finding for this breast in its exam"}

    def test_no_row_is_made_up_where_nothing_was_assessed(self, read):
        """An exam without assessment calls the other breast negative."""
        manifest = read([finding(side="L", asses="X")])
        assert by_side(manifest) == {"L": "", "R": ""}
        assert "" not in set(manifest["drop_reason"])

    def test_exams_are_joined_by_patient_and_exam(self, read):
        """An exam's number that two patients share mixes their labels."""
        findings = [finding(10000001, 77, asses="B"), finding(10000002, 77, asses="A")]
        manifest = read(findings, exam_files(10000001, 77) + exam_files(10000002, 77, start=5))
        assert dict(zip(manifest["patient_id"], manifest["raw_birads"], strict=True)) == {
            "10000001": "B",
            "10000002": "A",
        }


class TestWorst:
    """Several findings of one breast: the worst counts, by the orders of the data set's own code."""

    @pytest.mark.parametrize(
        ("letters", "worst"),
        [
            ("NBA", "A"),
            ("BN", "B"),
            ("NBPSMK", "K"),
            ("NBPSM", "M"),
            ("BPS", "S"),
            ("NP", "P"),
            ("XN", "N"),
            ("XA", "A"),
        ],
    )
    def test_the_worst_finding_counts(self, read, letters, worst):
        """A milder finding hides a worse one, or a missing assessment hides a known one."""
        manifest = read([finding(side="L", asses=letter, numfind=i) for i, letter in enumerate(letters)])
        assert by_side(manifest)["L"] == worst

    def test_letters_become_grades(self, read):
        """A letter means another BI-RADS category."""
        letters = dict(zip("ANBPSMK", range(7), strict=True))
        findings = [finding(exam=100 + i, asses=letter) for i, letter in enumerate(letters)]
        files = [file_row(i, exam=100 + i) for i in range(len(letters))]
        manifest = read(findings, files)
        assert dict(zip(manifest["raw_birads"], manifest["birads"], strict=True)) == letters

    @pytest.mark.parametrize("letter", ["X", ""])
    def test_no_assessment_is_dropped_and_counted(self, read, letter):
        """Trap 5: an exam without assessment is used, or vanishes without a reason."""
        manifest = read([finding(asses=letter)])
        assert set(manifest["drop_reason"]) == {"no assessment (X or empty)"}
        assert manifest["birads"].isna().all()

    def test_an_unknown_letter_is_refused(self, read):
        """Trap 4: a new letter is guessed to be something."""
        message = message_of(read, [finding(), finding(asses="Z", side="L")])
        for part in (
            "EMBED_OpenData_clinical.csv",
            "column asses",
            "data row 2",
            "'Z'",
            "expected K, M, S, A, P, B, N, X",
        ):
            assert part in message

    @pytest.mark.parametrize(
        ("column", "cell", "expected"),
        [("side", "U", "L, R, B or empty"), ("tissueden", "7", "1 to 5"), ("path_severity", "9.0", "0 to 6")],
    )
    def test_unknown_codes_are_refused(self, read, column, cell, expected):
        """A code that the code book does not hold is taken for something."""
        message = message_of(read, [finding(), finding(), finding(**{column: cell})])
        assert f"column {column}, data row 3: {cell!r}; expected {expected}" in message


class TestFiles:
    """Which pictures count as full 2D views."""

    @pytest.mark.parametrize(
        ("cells", "option", "reason"),
        [
            ({"FinalImageType": "cview"}, "include_cview", "synthetic 2D picture (C-view)"),
            ({"spot_mag": "1.0"}, "include_spot_mag", "spot or magnified picture"),
            ({"ViewPosition": "XCCL"}, "include_other_views", "view other than CC and MLO"),
            ({"ViewPosition": "RL"}, "include_other_views", "view other than CC and MLO"),
        ],
    )
    def test_special_pictures_are_dropped_unless_asked_for(self, read, cells, option, reason):
        """Synthetic, magnified or partial pictures are used as if they were plain ones, or lost without a count."""
        files = [file_row(1), file_row(2, **cells)]
        assert list(read([finding()], files)["drop_reason"]) == ["", reason]
        manifest = read([finding()], files, **{option: True})
        assert list(manifest["drop_reason"]) == ["", ""]
        assert manifest["birads"].iloc[1] == 1
        assert manifest["raw_view"].iloc[1] == cells.get("ViewPosition", "CC")

    @pytest.mark.parametrize("cell", ["", "0", "0.0"])
    def test_an_empty_spot_mark_means_a_full_picture(self, read, cell):
        """All full pictures are lost because the column says nothing rather than 0."""
        manifest = read([finding()], [file_row(1, spot_mag=cell)])
        assert list(manifest["drop_reason"]) == [""]
        assert list(manifest["spot_mag"]) == [0]

    @pytest.mark.parametrize(
        ("cells", "reason"),
        [
            ({"FinalImageType": "3D"}, "neither a 2D picture nor a C-view"),
            ({"FinalImageType": "ROI_SSC"}, "neither a 2D picture nor a C-view"),
            ({"ImageLateralityFinal": ""}, "side unknown"),
            ({"ViewPosition": ""}, "view unknown"),
            ({"exam": 5}, "exam without a row in the clinical table"),
            ({"acc_anon": ""}, "exam without a row in the clinical table"),
        ],
    )
    def test_files_that_cannot_be_used_say_why(self, read, cells, reason):
        """A file without side, view or exam gets a label."""
        manifest = read([finding()], [file_row(1), file_row(2, **cells)])
        assert list(manifest["drop_reason"]) == ["", reason]

    @pytest.mark.parametrize(
        ("column", "cell", "expected"),
        [
            ("FinalImageType", "4D", "2D, cview, 3D, ROI_SSC or empty"),
            ("ViewPosition", "ZZZ", "CC, MLO"),
            ("ImageLateralityFinal", "M", "L, R"),
            ("spot_mag", "2", "1, 0 or empty"),
        ],
    )
    def test_unknown_words_are_refused(self, read, column, cell, expected):
        """A view, side or kind that nobody knows is guessed, or the message expects words of another table."""
        message = message_of(read, [finding()], [file_row(1), file_row(2, **{column: cell})])
        assert f"column {column}, data row 2: {cell!r}; expected {expected}" in message
        assert "metadata" in message

    def test_a_file_listed_twice_is_one_image(self, read):
        """A repeated row counts a picture twice."""
        assert len(read([finding()], [file_row(1), file_row(2), file_row(1)])) == 2


class TestPaths:
    """The released table names the folders of the machine that wrote it."""

    @pytest.mark.parametrize("before", ["/mnt/NAS2/mammo/anon_dicom/", "./images/", "images/", ""])
    def test_everything_before_the_cohort_is_replaced(self, read, tmp_path, before):
        """Trap 9: files are looked for on a server of the authors."""
        rest = "cohort_2/10000001/1.2.3/1.2.4/1.2.5.dcm"
        row = read([finding()], [file_row(1, anon_dicom_path=before + rest)]).iloc[0]
        assert row["path"] == str(tmp_path / "images" / rest)
        assert row["image_id"] == rest.removesuffix(".dcm")
        assert row["series_id"] == "1.2.4"

    def test_a_path_without_a_series_is_read_as_well(self, read):
        """The layout of the data set's description, without the series level, is refused or misread."""
        row = read([finding()], [file_row(1, anon_dicom_path="x/cohort_1/10000001/1.2.3/1.2.5.dcm")]).iloc[0]
        assert row["path"].endswith("/images/cohort_1/10000001/1.2.3/1.2.5.dcm")
        assert row["series_id"] != row["series_id"]

    def test_the_folder_of_the_images_can_be_told(self, read, tmp_path):
        """Images that lie beside the tables' folder cannot be used."""
        row = read([finding()], [file_row(1)], images=".").iloc[0]
        assert row["path"].startswith(str(tmp_path / "cohort_1"))

    def test_a_root_in_another_store(self, read, tmp_path, monkeypatch):
        """Half a million places are joined one by one, or lose the query of a URI."""
        from study.data.sources.places import places

        names = read([finding()])["image_id"]
        assert list(places(names, root="s3://data/embed?region=x", folder="images")) == [
            f"s3://data/embed/images/{name}?region=x" for name in names
        ]

    def test_a_path_without_a_cohort_is_refused_without_showing_it(self, read):
        """A patient's number is printed in an error."""
        message = message_of(read, [finding()], [file_row(1), file_row(2, anon_dicom_path="/x/10000001/a.dcm")])
        assert "column anon_dicom_path, data row 2: no folder cohort_1" in message
        assert "10000001" not in message


class TestIds:
    """Trap 1: ids with sixteen digits."""

    ODD = 9568336662008395  # beyond 2**53, where floats hold even numbers alone

    def test_long_ids_stay_exact_when_others_are_missing(self, read):
        """An odd id above 2**53 changes because one cell of its column is empty, and the exam loses its label."""
        findings = [finding(exam=self.ODD, asses="B"), finding(10000002, "", asses="N")]
        manifest = read(findings, [file_row(1, exam=self.ODD), file_row(2, 10000002, 1, acc_anon="")])
        assert manifest["study_id"].iloc[0] == str(self.ODD)
        assert manifest["raw_birads"].iloc[0] == "B"

    def test_ids_that_lost_digits_are_refused(self, read):
        """A table that went through floats joins exams to the wrong patients."""
        files = [file_row(1), file_row(2, acc_anon=f"{self.ODD}.0")]
        message = message_of(read, [finding()], files)
        assert "column acc_anon, data row 2: an id stored as a fraction has lost digits" in message
        assert str(self.ODD) not in message
        assert "lost digits" in message_of(read, [finding(acc_anon="9.568336662e+15")])

    def test_short_ids_that_went_through_floats_are_repaired(self, read):
        """A patient of the metadata table is another than the same one of the clinical table."""
        manifest = read([finding(empi_anon="10000001.0")])
        assert set(manifest["patient_id"]) == {"10000001"}
        assert set(manifest["drop_reason"]) == {""}

    def test_a_file_without_a_patient_is_refused(self, read):
        """A picture without a patient lands in any split."""
        assert "column empi_anon, data row 2: empty" in message_of(
            read, [finding()], [file_row(1), file_row(2, empi_anon="")]
        )


class TestLesions:
    """Boxes as (ymin, xmin, ymax, xmax)."""

    def boxes(self, manifest):
        text = manifest["lesions"].iloc[0]
        return json.loads(text) if isinstance(text, str) else None

    @pytest.mark.parametrize(
        ("cell", "boxes"),
        [
            ("()", None),
            ("[]", None),
            ("", None),
            ("((1165, 822, 1294, 1000),)", [[822, 1165, 1000, 1294]]),
            ("((1, 2, 3, 4), (10, 20, 30, 40))", [[2, 1, 4, 3], [20, 10, 40, 30]]),
            ("[[[1165, 822, 1294, 1000]]]", [[822, 1165, 1000, 1294]]),
            ("((-5, 2500, 30, 2600),)", [[2500, 0, 2560, 30]]),
        ],
    )
    def test_boxes(self, read, cell, boxes):
        """Rows and columns of a box are swapped, or a box leaves the picture."""
        manifest = read([finding()], [file_row(1, ROI_coords=cell)])
        assert self.boxes(manifest) == boxes

    def test_boxes_of_the_dicom_files_win(self, read):
        """ROI flipped: the boxes of mirrored PNG files are drawn into DICOM files."""
        both = {"PNG_ROI_coords": "[[[1165, 822, 1294, 1000]]]", "DCM_ROI_coords": "[[[1165, 1560, 1294, 1738]]]"}
        manifest = read([finding()], [file_row(1, ROI_coords="((1165, 822, 1294, 1000),)", **both)])
        assert self.boxes(manifest) == [[1560, 1165, 1738, 1294]]
        assert manifest["n_findings"].iloc[0] == 1

    def test_a_broken_box_is_refused(self, read):
        """A box of three numbers is taken for something."""
        message = message_of(read, [finding()], [file_row(1), file_row(2, ROI_coords="((1, 2, 3),)")])
        assert "column ROI_coords, data row 2: 3 numbers; expected four" in message

    def test_without_sizes_boxes_are_clipped_at_the_origin_alone(self, read):
        """A reduced table without sizes cannot be read."""
        rows = [file_row(1, ROI_coords="((-5, 2500, 30, 2600),)")]
        manifest = read([finding()], rows, write_without=("Rows", "Columns", "BitsStored"))
        assert self.boxes(manifest) == [[2500, 0, 2600, 30]]


class TestTruth:
    """Pathology and density."""

    @pytest.mark.parametrize(
        ("severity", "result"),
        [("0.0", "malignant"), ("1.0", "malignant"), ("2.0", "benign"), ("3", "benign"), ("4.0", "benign")],
    )
    def test_pathology_of_the_finding(self, read, severity, result):
        """The severity's scale is read the wrong way round."""
        manifest = read([finding(side="L", asses="S", path_severity=severity)])
        assert by_side(manifest, "biopsy") == {"L": result, "R": ""}

    @pytest.mark.parametrize("severity", ["5.0", "6.0", ""])
    def test_severities_that_mean_two_things_are_unknown(self, read, severity):
        """A cancer that is no breast cancer counts as benign, or normal tissue as cancer."""
        assert by_side(read([finding(side="L", asses="S", path_severity=severity)]), "biopsy") == {"L": "", "R": ""}

    def test_the_worst_result_counts(self, read):
        """A benign second biopsy hides a cancer."""
        findings = [finding(side="L", asses="S", path_severity=severity) for severity in ("4.0", "0.0", "3.0")]
        assert by_side(read(findings), "biopsy")["L"] == "malignant"

    def test_the_biopsied_breast_counts_not_the_side_of_the_finding(self, read):
        """A cancer of one breast marks both because the finding was written down for both."""
        manifest = read([finding(side="B", asses="S", path_severity="0.0", bside="R")])
        assert by_side(manifest, "biopsy") == {"L": "", "R": "malignant"}

    def test_a_result_without_a_breast_is_left_out(self, read):
        """A cancer whose breast is unknown marks the healthy one."""
        manifest = read([finding(side="", asses="S", path_severity="0.0")])
        assert by_side(manifest, "biopsy") == {"L": "", "R": ""}

    @pytest.mark.parametrize(
        ("cells", "density"),
        [(["1.0"], "A"), (["4"], "D"), (["5.0"], ""), ([""], ""), (["", "3.0"], "C"), (["2", "3"], "")],
    )
    def test_density(self, read, cells, density):
        """A man's breast has a density, or two densities of an exam become one."""
        manifest = read([finding(tissueden=cell, numfind=i) for i, cell in enumerate(cells)])
        assert set(manifest["density"].fillna("")) == {density}


class TestTables:
    """Names, places and columns of the two tables."""

    @pytest.mark.parametrize("ending", [".csv", ".csv.gz", "_reduced.csv", "_reduced.csv.gz"])
    @pytest.mark.parametrize("folder", ["tables", "."])
    def test_names(self, read, ending, folder):
        """A table under one of its published names is not found."""
        assert len(read([finding()], write_ending=ending, write_folder=folder)) == 4

    def test_optional_columns_may_be_missing(self, read):
        """The reduced tables cannot be read."""
        manifest = read([finding()], write_without=("bside", "age_at_study", "ROI_coords", "Rows", "BitsStored"))
        assert manifest["age"].isna().all()

    def test_needed_columns(self, read):
        """A table without labels is read as if nobody had one."""
        message = message_of(read, [finding()], write_without=("asses", "side"))
        assert "EMBED_OpenData_clinical.csv: column side, asses is missing" in message
        assert str(len(EMBED_CLINICAL) - 2) in message

    def test_missing_tables(self, tmp_path):
        """It is not said which table was looked for, and where."""
        message = message_of(read_source, "embed", tmp_path)
        assert "no clinical table" in message
        assert "EMBED_OpenData_clinical_reduced.csv.gz" in message

    def test_a_broken_table_shows_no_row(self, tmp_path):
        """The parser's own message quotes a row with a patient's number."""
        write_embed(tmp_path, [finding()], exam_files())
        place = tmp_path / "tables" / "EMBED_OpenData_metadata.csv"
        place.write_bytes(place.read_bytes() + b"9,10000001,too few cells\n")
        message = message_of(read_source, "embed", tmp_path)
        assert "is not a whole CSV table" in message
        assert "10000001" not in message

    def test_a_cut_gzip_file(self, tmp_path):
        """A download that broke off ends in a stack trace."""
        write_embed(tmp_path, [finding()], exam_files(), ending=".csv.gz")
        place = tmp_path / "tables" / "EMBED_OpenData_metadata.csv.gz"
        place.write_bytes(place.read_bytes()[:-40])
        assert "is not a whole CSV table" in message_of(read_source, "embed", tmp_path)
