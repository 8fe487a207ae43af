"""Class folders: classes, published splits, patients in file names, and what lies about in such folders."""

import numpy as np
import pytest
from PIL import Image
from trees import message_of
from trees_b import write_pictures

from study.config.sources import ImageFolderSource
from study.data.dicom import read_image
from study.data.sources import read_source


@pytest.fixture
def read(tmp_path):
    """Writes files by their names and reads the folder."""

    def call(*names, **options):
        write_pictures(tmp_path, *names)
        return read_source("image_folder", tmp_path, **options)

    return call


class TestLayout:
    """Which folder is the class, and which the split."""

    def test_the_class_is_the_folder(self, read, tmp_path):
        """A picture has another class than its folder, or a deeper folder makes a class of its own."""
        manifest = read(
            "0_normal/a.png", "0_normal/left/b.jpg", "1_mild/a.tif", "1_mild/c.TIFF", "1_mild/d.JPEG", "1_mild/e.bmp"
        )
        assert manifest["class_name"].tolist() == ["0_normal", "0_normal", *["1_mild"] * 4]
        assert manifest["image_id"].tolist()[:2] == ["0_normal/a.png", "0_normal/left/b.jpg"]
        assert manifest["path"].tolist()[0] == str(tmp_path / "0_normal" / "a.png")
        assert manifest["split_official"].isna().all()
        assert set(manifest["drop_reason"]) == {""}

    @pytest.mark.parametrize("words", [("train", "test"), ("training", "validation"), ("Train", "VALID", "Testing")])
    def test_outer_folders_may_be_splits(self, read, words):
        """Training and test become classes."""
        manifest = read(*(f"{word}/cat/{i}.png" for i, word in enumerate(words)))
        assert set(manifest["class_name"]) == {"cat"}
        assert sorted(manifest["split_official"]) == sorted(words)

    def test_splits_beside_other_folders_are_refused(self, read):
        """A folder of unlabelled pictures beside train and test becomes a class, or train becomes one."""
        message = message_of(read, "train/cat/a.png", "test/cat/b.png", "extra/c.png")
        assert "2 folders are splits (test, train) and 1 are not" in message

    def test_classes_with_the_name_of_a_split_inside_a_split(self, read):
        """A class called test inside train is a split."""
        assert list(read("train/test/a.png", "train/train/b.png")["class_name"]) == ["test", "train"]

    def test_a_picture_outside_a_class_is_dropped_and_counted(self, read):
        """An overview picture beside the folders is a class of its own, or is lost without a count."""
        manifest = read("cat/a.png", "overview.png")
        assert list(manifest["drop_reason"]) == ["", "outside a class folder"]

    def test_a_picture_outside_a_class_of_a_split(self, tmp_path):
        """The split's own name becomes a class."""
        manifest = read_source("image_folder", write_pictures(tmp_path, "train/b.png", "test/cat/c.png"))
        assert dict(zip(manifest["image_id"], manifest["drop_reason"], strict=True)) == {
            "test/cat/c.png": "",
            "train/b.png": "outside a class folder",
        }

    def test_leftovers_are_ignored_and_unread_formats_counted(self, read):
        """Trap 20: a thumbnail database counts as a picture, or pictures of another format vanish unseen."""
        left = ("cat/Thumbs.db", "cat/.DS_Store", "cat/._a.png", "cat/index.html", "DICOMDIR", ".cache/x/a.png")
        manifest = read("cat/a.png", "cat/b.webp", "labels.csv", *left)
        assert list(manifest["image_id"]) == ["cat/a.png", "cat/b.webp"]
        assert list(manifest["drop_reason"]) == ["", "picture of a format that is not read"]

    def test_no_pictures(self, read):
        """An empty or wrong folder is an empty data set."""
        assert "no pictures below" in message_of(read, "cat/a.txt")
        assert "no folder" in message_of(read_source, "image_folder", "/nowhere")

    @pytest.mark.parametrize(("top", "depth"), [(4095, 12), (65535, 16)])
    def test_sixteen_bit_pictures_of_either_depth(self, tmp_path, top, depth):
        """Trap 22: a 12-bit picture in a 16-bit file is taken for an almost black one."""
        (tmp_path / "cat").mkdir()
        pixels = np.tile(np.array([0, top], dtype=np.uint16), (64, 32))
        Image.fromarray(pixels).save(tmp_path / "cat" / "a.png")
        place = read_source("image_folder", tmp_path)["path"].iloc[0]
        assert read_image(place).tags.bits_stored == depth


class TestPatients:
    """Without a pattern every picture is a patient, which the study's owner must know."""

    def test_each_picture_is_its_own_patient(self, read):
        """Two pictures of the same name in different folders are one patient."""
        manifest = read("a/1.png", "b/1.png")
        assert manifest["patient_id"].nunique() == 2

    def test_a_pattern_finds_the_patient_in_the_file_name(self, read):
        """Both eyes of a patient fall into different splits."""
        names = ("train/0/12_left.png", "train/3/12_right.png", "test/0/7_left.png")
        manifest = read(*names, patient_pattern=r"^(\d+)_(?:left|right)\.")
        assert dict(zip(manifest["image_id"], manifest["patient_id"], strict=True)) == {
            "test/0/7_left.png": "7",
            "train/0/12_left.png": "12",
            "train/3/12_right.png": "12",
        }

    def test_names_that_do_not_match_are_counted_but_not_shown(self, read):
        """A file name, which may be a person's, stands in a message, or such files share a patient."""
        message = message_of(read, "0/12_left.png", "0/jane_doe.png", "1/john.png", patient_pattern=r"^(\d+)_")
        assert "2 of 3 file names do not match patient_pattern" in message
        assert "the first is number 2 of the sorted list" in message
        assert "jane" not in message
        assert "john" not in message

    def test_an_empty_group_is_no_match(self, read):
        """All pictures without a number become one patient."""
        assert "1 of 1 file names" in message_of(read, "0/left.png", patient_pattern=r"(\d*)left")

    @pytest.mark.parametrize(
        ("pattern", "fault"),
        [("(", "no regular expression"), (r"\d+", "0 groups"), (r"(\d+)_(left|right)", "2 groups")],
    )
    def test_patterns_are_checked(self, read, pattern, fault):
        """A pattern that cannot find one patient is found out after hours, or never."""
        assert fault in message_of(read, "0/1.png", patient_pattern=pattern)
        record = {"kind": "image_folder", "root": "x", "patient_pattern": pattern}
        with pytest.raises(ValueError, match=r"group|regular expression"):
            ImageFolderSource.model_validate(record)

    def test_a_good_pattern_is_accepted_by_the_study_file(self):
        """A pattern with one group is refused before it is tried."""
        record = ImageFolderSource.model_validate(
            {"kind": "image_folder", "root": "x", "patient_pattern": r"^(\d+)_(?:left|right)"}
        )
        assert record.name == "image_folder"
