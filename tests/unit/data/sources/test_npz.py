"""Array files: labels and shapes are read, images are not."""

import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy
from trees import message_of
from trees_b import write_npz

from study.data.dicom import read_image
from study.data.files import whole_file
from study.data.sources import read_source
from study.data.sources.npz import Split, _rows

GREY = np.zeros((3, 8, 6), dtype=np.uint8)
ONE = np.array([[0], [1], [2]], dtype=np.uint8)


@pytest.mark.parametrize("packed", [True, False])
def test_rows(tmp_path, packed):
    """A label belongs to another image, or a split or index is wrong."""
    place = write_npz(tmp_path / "retina.npz", packed=packed)
    manifest = read_source("npz", place)
    assert list(manifest["path"]) == [
        *(f"{place}::train_images::{i}" for i in range(3)),
        *(f"{place}::test_images::{i}" for i in range(2)),
    ]
    assert list(manifest["class_name"]) == ["0", "1", "10", "1", "0"]
    assert list(manifest["split_official"]) == ["train"] * 3 + ["test"] * 2
    assert manifest["patient_id"].is_unique
    assert (manifest["rows"].iloc[0], manifest["cols"].iloc[0], manifest["bits_stored"].iloc[0]) == (8, 8, 8)
    assert {whole_file(path) for path in manifest["path"]} == {str(place)}


def test_colour_and_flat_labels(tmp_path):
    """Colour images, or labels without a second axis, are refused."""
    arrays = {"val_images": np.zeros((2, 8, 6, 3), dtype=np.uint8), "val_labels": np.array([3, 4], dtype=np.int64)}
    manifest = read_source("npz", write_npz(tmp_path / "a.npz", **arrays))
    assert list(manifest["class_name"]) == ["3", "4"]
    assert (manifest["rows"].iloc[0], manifest["cols"].iloc[0]) == (8, 6)


def test_the_reader_of_images_finds_them(tmp_path):
    """The place of an image leads to another image."""
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 6), dtype=np.uint8)
    manifest = read_source("npz", write_npz(tmp_path / "a.npz", train_images=images, train_labels=ONE))
    for path, pixels in zip(manifest["path"], images, strict=True):
        assert (read_image(path).pixels == pixels).all()


def test_deeper_images(tmp_path):
    """16-bit arrays are refused, or said to use all bits."""
    arrays = {"train_images": GREY.astype(np.uint16), "train_labels": ONE}
    assert read_source("npz", write_npz(tmp_path / "a.npz", **arrays))["bits_stored"].isna().all()


def test_a_uri_keeps_its_query_at_the_end():
    """The member stands behind the query of a URI, where no store finds the file."""
    split = Split(name="train", shape=(2, 8, 8), bits=8, labels_n=np.array([0, 1]))
    assert list(_rows(split, "s3://data/a.npz?region=x")["path"]) == [
        "s3://data/a.npz::train_images::0?region=x",
        "s3://data/a.npz::train_images::1?region=x",
    ]


def test_images_are_not_loaded(tmp_path):
    """Reading the table of a large file needs the memory of all its images."""
    place = tmp_path / "big.npz"
    with zipfile.ZipFile(place, "w") as archive:
        with archive.open("train_images.npy", "w") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (3, 10**6, 10**6)}
            npy.write_array_header_1_0(file, header)  # three terabytes that are not there
        with archive.open("train_labels.npy", "w") as file:
            npy.write_array(file, ONE)
    assert len(read_source("npz", place)) == 3


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"train_images": GREY, "train_labels": np.zeros((3, 14), dtype=np.uint8)}, "14 labels for each image"),
        ({"train_images": GREY.astype(np.float32), "train_labels": ONE}, "train_images is float32 [3, 8, 6]"),
        (
            {"train_images": np.zeros((3, 4, 4, 4), np.uint8), "train_labels": ONE},
            "[3, 4, 4, 4]; expected uint8 or uint16",
        ),
        ({"train_images": GREY, "train_labels": ONE[:2]}, "3 images and 2 labels"),
        ({"train_images": GREY, "train_labels": ONE.astype(np.float64)}, "expected whole numbers"),
        ({"train_images": GREY}, "train_labels is missing"),
        ({"images": GREY, "labels": ONE}, "holds images, labels; expected train_images"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, expected):
    """Several labels per image, volumes or fractions are taken for classes."""
    assert expected in message_of(read_source, "npz", write_npz(tmp_path / "a.npz", **arrays))


def test_other_files_are_refused(tmp_path):
    """A missing or broken file ends in a stack trace."""
    assert "no array file at" in message_of(read_source, "npz", tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"<html>sign in</html>")
    assert "is not a whole array file" in message_of(read_source, "npz", tmp_path / "a.npz")
    place = write_npz(tmp_path / "b.npz")
    place.write_bytes(place.read_bytes()[:300])
    assert "is not a whole array file" in message_of(read_source, "npz", place)


def test_objects_are_never_unpickled(tmp_path):
    """Opening a data set runs code that somebody put into it."""
    arrays = {"train_images": GREY, "train_labels": np.array([object()] * 3, dtype=object)}
    assert "expected whole numbers" in message_of(read_source, "npz", write_npz(tmp_path / "a.npz", **arrays))
