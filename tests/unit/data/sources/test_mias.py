"""The mini-MIAS films, in both layouts."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from trees import message_of, write_mias

from study.data.sources import read_source

REAL = os.environ.get("STUDY_REAL_DATA", "")
needs_real = pytest.mark.skipif(not REAL, reason="STUDY_REAL_DATA is not set")

TWICE = (5, 132, 144, 223, 239, 249)
MALIGNANT_FILMS = 52
LESION_FILMS = 115

LABELS = (
    "image_id,patient_id,laterality,density,abnormality,severity,label,lesion_x,lesion_y,lesion_r,n_lesions,path\n"
    "mdb001,mias001,R,G,CIRC,B,benign,267.5,299.5,98.5,1,images/mdb001.png\n"
    "mdb002,mias001,L,D,NORM,,normal,,,,0,images/mdb002.png\n"
    "mdb003,mias002,R,F,SPIC,M,malignant,1,2,3,2,images/mdb003.png\n"
)
LESIONS = (
    "image_id,lesion_index,abnormality,severity,x,y,r,raw_x,raw_y_bottom_left,raw_r\n"
    "mdb003,0,SPIC,M,10,2,3,20,1020,6\n"
    "mdb003,1,CIRC,B,,,,,,\n"
    "mdb001,0,CIRC,B,267.5,299.5,98.5,535,425,197\n"
)


def published() -> list[str]:
    """330 rows for 322 films: 207 normal, 63 benign and 52 malignant films, 123 lesions, 119 of them with a circle."""
    special = {*TWICE, 226, 59, 216, 233, 245}
    others = [number for number in range(1, 323) if number not in special]
    with_lesion = sorted(special | set(others[: LESION_FILMS - len(special)]))
    malignant = {144, *[number for number in with_lesion if number != 144][: MALIGNANT_FILMS - 1]}
    lines = []
    for number in range(1, 323):
        film = f"mdb{number:03d}"
        severity = "M" if number in malignant else "B"
        if number not in with_lesion:
            lines.append(f"{film} D NORM ")
        elif number == 59:
            lines.append(f"{film} F CIRC {severity}")
        elif number in (216, 233, 245):
            lines.append(f"{film} D CALC {severity} *NOTE 3*")
        elif number == 144:
            lines += [f"{film} F MISC B 233 994 29", f"{film} F MISC M 313 540 27"]
        else:
            count = 3 if number == 226 else 2 if number in TWICE else 1
            lines += [f"{film} G CIRC {severity} {500 + k} 425 100" for k in range(count)]
    return lines


class TestPublishedLayout:
    """`Info.txt` and PGM pictures."""

    def test_counts(self, tmp_path):
        """Films, labels or lesions of the whole list are other than published: 322 films from 330 rows."""
        lines = published()
        assert len(lines) == 330
        manifest = read_source("mias", write_mias(tmp_path, *lines))
        assert len(manifest) == 322
        assert manifest["patient_id"].nunique() == 161
        assert manifest["label3"].value_counts().to_dict() == {"normal": 207, "benign": 63, "malignant": 52}
        assert manifest["n_findings"].sum() == 123
        assert manifest["lesions"].dropna().map(lambda text: len(json.loads(text))).sum() == 119
        assert set(manifest["view"]) == {"MLO"}
        assert set(manifest["image_kind"]) == {"film"}
        assert set(manifest["drop_reason"]) == {""}
        assert manifest["density"].isna().all()

    @pytest.mark.parametrize("inside", ["", "all-mias"])
    def test_pictures_are_found(self, tmp_path, inside):
        """Only one of the two nestings of the pictures is found."""
        write_mias(tmp_path, "mdb001 G CIRC B 535 425 197", "mdb002 D NORM", inside=inside)
        manifest = read_source("mias", tmp_path)
        assert list(manifest["path"]) == [str(tmp_path / inside / f"mdb00{number}.pgm") for number in (1, 2)]

    def test_breasts_change_sides(self, tmp_path):
        """The odd film of a pair is not the right breast, or the pair is not one patient."""
        manifest = read_source("mias", write_mias(tmp_path, "mdb321 D NORM", "mdb322 D NORM", "mdb001 D NORM"))
        assert list(manifest["laterality"]) == ["R", "L", "R"]
        assert list(manifest["patient_id"]) == ["mias161", "mias161", "mias001"]

    def test_circles_are_upside_down(self, tmp_path):
        """The origin of y, which is at the bottom, is taken for the top; or a circle at the edge leaves the film."""
        write_mias(tmp_path, "mdb001 G CIRC B 535 425 197", "mdb002 G CIRC M 20 1010 40")
        boxes = [json.loads(text) for text in read_source("mias", tmp_path)["lesions"]]
        assert boxes == [[[338, 402, 732, 796]], [[0, 0, 60, 54]]]

    def test_lesions_double_a_film(self, tmp_path):
        """A film with several rows appears several times, or a benign lesion hides the malignant one."""
        lines = ("mdb144 F MISC B 233 994 29", "mdb143 F NORM", "mdb144 F MISC M 313 540 27")
        manifest = read_source("mias", write_mias(tmp_path, *lines)).set_index("image_id")
        assert len(manifest) == 2
        assert manifest.loc["mdb144", "label3"] == "malignant"
        assert manifest.loc["mdb144", "n_findings"] == 2
        assert len(json.loads(manifest.loc["mdb144", "lesions"])) == 2

    @pytest.mark.parametrize("line", ["mdb059 F CIRC B", "mdb216 D CALC M *NOTE 3*", "mdb233 G CALC M   *NOTE 3* "])
    def test_a_lesion_without_a_circle(self, tmp_path, line):
        """A lesion whose place was left out makes its film normal, or stops the reader."""
        manifest = read_source("mias", write_mias(tmp_path, line))
        assert manifest["label3"][0] == ("benign" if " B" in line else "malignant")
        assert manifest["n_findings"][0] == 1
        assert manifest["lesions"].isna()[0]

    def test_a_film_without_a_picture(self, tmp_path):
        """A film of the list whose picture was not copied fails the whole job later on."""
        write_mias(tmp_path, "mdb001 D NORM", "mdb002 D NORM")
        (tmp_path / "all-mias" / "mdb002.pgm").unlink()
        manifest = read_source("mias", tmp_path)
        assert list(manifest["drop_reason"]) == ["", "no picture of this film below the root"]

    @pytest.mark.parametrize(
        "line",
        [
            "mdb002 X NORM",
            "mdb002 G BLOB B 1 2 3",
            "mdb002 G CIRC X 1 2 3",
            "mdb002 G CIRC B 1 2",
            "mdb002 G CIRC B 1 2 3 4",
            "mdb002 G CIRC",
            "mdb002",
            "mdb0021 G NORM",
        ],
    )
    def test_unknown_rows(self, tmp_path, line):
        """A row of another form becomes some label."""
        write_mias(tmp_path, "mdb001 G NORM", line)
        message = message_of(read_source, "mias", tmp_path)
        assert "Info.txt: data row 2" in message
        assert "expected a row such as 'mdb001 G CIRC B 535 425 197'" in message

    def test_other_faults(self, tmp_path):
        """A list without films, or a film that is normal and has a lesion, is read all the same."""
        write_mias(tmp_path)
        assert "lists no films" in message_of(read_source, "mias", tmp_path)
        write_mias(tmp_path, "mdb001 G NORM", "mdb001 G CIRC B 1 2 3")
        assert "a row NORM and a row with a lesion" in message_of(read_source, "mias", tmp_path)


class TestTableLayout:
    """`labels.csv` and `lesions.csv` beside an image folder."""

    def test_rows(self, tmp_path):
        """Labels, views or findings of the films are read wrongly, or tissue letters pass for ACR density."""
        (tmp_path / "labels.csv").write_text(LABELS)
        manifest = read_source("mias", tmp_path)
        assert list(manifest["label3"]) == ["benign", "normal", "malignant"]
        assert list(manifest["n_findings"]) == [1, 0, 2]
        assert list(manifest["laterality"]) == ["R", "L", "R"]
        assert set(manifest["view"]) == {"MLO"}
        assert set(manifest["image_kind"]) == {"film"}
        assert manifest["density"].isna().all()
        assert manifest["lesions"].isna().all()
        assert manifest["path"].iloc[0] == str(tmp_path / "images" / "mdb001.png")

    def test_lesions(self, tmp_path):
        """Circles do not reach their films, leave the picture, or one without coordinates stops the reader."""
        (tmp_path / "labels.csv").write_text(LABELS)
        (tmp_path / "lesions.csv").write_text(LESIONS)
        lesions = read_source("mias", tmp_path)["lesions"]
        assert [json.loads(text) for text in lesions.fillna("null")] == [
            [[169, 201, 366, 398]],
            None,
            [[7, 0, 13, 5]],
        ]

    def test_lesions_of_nobody(self, tmp_path):
        """A lesion of a film that is not there, or with half a circle, is swallowed."""
        (tmp_path / "labels.csv").write_text(LABELS)
        (tmp_path / "lesions.csv").write_text("image_id,x,y,r\nmdb001,1,2,3\nmdb999,1,2,3\n")
        message = message_of(read_source, "mias", tmp_path)
        assert "lesions.csv: column image_id, data row 2: no such film in labels.csv" in message
        (tmp_path / "lesions.csv").write_text("image_id,x,y,r\nmdb001,1,,3\n")
        assert "data row 1: a circle in part; expected numbers in x, y and r" in message_of(
            read_source, "mias", tmp_path
        )

    def test_faults(self, tmp_path):
        """A missing table or column is not named."""
        assert "no table at" in message_of(read_source, "mias", tmp_path)
        assert "expected labels.csv or Info.txt" in message_of(read_source, "mias", tmp_path)
        (tmp_path / "labels.csv").write_text("image_id,patient_id\n1,2\n")
        assert "laterality, label, path is missing" in message_of(read_source, "mias", tmp_path)
        (tmp_path / "labels.csv").write_text(LABELS.replace("malignant", "M"))
        message = message_of(read_source, "mias", tmp_path)
        assert "labels.csv: column label, data row 3: 'M'; expected normal, benign, malignant" in message

    @pytest.mark.data
    @needs_real
    def test_real_films(self):
        """The real table gives other counts than its own documentation, or circles outside of the 512 px pictures."""
        manifest = read_source("mias", Path(REAL, "mias"))
        assert manifest["label3"].value_counts().to_dict() == {"normal": 130, "benign": 48, "malignant": 36}
        assert manifest["patient_id"].nunique() == 107
        assert all(Path(path).is_file() for path in manifest["path"])
        assert manifest["n_findings"].sum() == 87
        boxes = [box for text in manifest["lesions"].dropna() for box in json.loads(text)]
        assert len(boxes) == 86  # the one of mdb059 has no coordinates
        assert all(0 <= left < right <= 512 and 0 <= top < bottom <= 512 for left, top, right, bottom in boxes)
        assert len(json.loads(manifest.set_index("image_id").loc["mdb144", "lesions"])) == 2
        assert manifest.set_index("image_id").loc["mdb144", "label3"] == "malignant"

    @pytest.mark.data
    @needs_real
    def test_both_layouts_agree(self, tmp_path):
        """The circles of the published list, in 1024 px from the bottom, are not those of the 512 px pictures."""
        lesions = pd.read_csv(Path(REAL, "mias", "lesions.csv"), dtype=str, keep_default_na=False)
        raw = lesions[["raw_x", "raw_y_bottom_left", "raw_r"]].agg(" ".join, axis=1)
        lines = [f"{row.image_id} G {row.abnormality} {row.severity} {raw[row.Index]}" for row in lesions.itertuples()]
        published = read_source("mias", write_mias(tmp_path, *lines)).set_index("image_id")["lesions"].dropna()
        small = read_source("mias", Path(REAL, "mias")).set_index("image_id")["lesions"].dropna()
        assert sorted(published.index) == sorted(small.index)
        for film, text in small.items():
            doubled = [[2 * edge for edge in box] for box in json.loads(text)]
            assert json.loads(published[film]) == [pytest.approx(box) for box in doubled]
