"""Pictures of other formats, in grey and in colour, and array files."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from study.data.dicom import ReadOptions, read_image
from study.data.pictures import read_mask
from study.errors import DicomError
from tests.unit.data.dicom_files import dicom_dataset, write_dicom

RGB = ReadOptions(colour="rgb")
GREY = np.arange(60, dtype=np.uint8).reshape(6, 10)
COLOURS = np.dstack([GREY, GREY[::-1], 255 - GREY])


def save(path, array, form="PNG", **options):
    Image.fromarray(array).save(path, format=form, **options)
    return path


def reason_of(path, options=None):
    with pytest.raises(DicomError) as caught:
        read_image(path, options=options or ReadOptions())
    return caught.value.message


class TestNetpbm:
    """PGM and PPM files, the format of mini-MIAS."""

    @pytest.mark.parametrize("text", [False, True])
    @pytest.mark.parametrize(("top", "bits"), [(255, 8), (1023, 10), (4095, 12), (65535, 16)])
    def test_grey(self, tmp_path, text, top, bits):
        """Values of a PGM are stretched to the full depth, or its bytes are exchanged."""
        values = np.linspace(0, top, 60).round().astype(int).reshape(6, 10)
        body = (
            " ".join(map(str, values.ravel())).encode()
            if text
            else values.astype(">u2" if top > 255 else "u1").tobytes()
        )
        (tmp_path / "x.pgm").write_bytes(f"P{2 if text else 5}\n# a comment\n10 6\n{top}\n".encode() + body)
        image = read_image(tmp_path / "x.pgm")
        np.testing.assert_array_equal(image.pixels, values)
        assert image.tags.bits_stored == bits

    def test_colour(self, tmp_path):
        """A PPM is read as grey, or with its channels exchanged."""
        (tmp_path / "x.ppm").write_bytes(b"P6 10 6 255\n" + COLOURS.tobytes())
        np.testing.assert_array_equal(read_image(tmp_path / "x.ppm", options=RGB).pixels, COLOURS)
        assert "colour" in reason_of(tmp_path / "x.ppm")

    @pytest.mark.parametrize(
        "content", [b"P5 10 6 255\n" + b"\0" * 59, b"P5 10", b"P2 2 2 255\n1 2 3", b"P2 2 1 255\n1 x", b"P5 0 6 255\n"]
    )
    def test_damage(self, tmp_path, content):
        """A PGM that is cut short or empty gives a picture."""
        (tmp_path / "x.pgm").write_bytes(content)
        assert "damaged" in reason_of(tmp_path / "x.pgm") or "neither" in reason_of(tmp_path / "x.pgm")


class TestColour:
    """Colour pictures of fundus and skin."""

    @pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
    def test_values_come_back(self, tmp_path, form):
        """A colour picture changes, or its channels are exchanged."""
        image = read_image(save(tmp_path / "x", COLOURS, form), options=RGB)
        np.testing.assert_array_equal(image.pixels, COLOURS)
        assert (image.pixels.dtype, image.tags.photometric, image.max_value) == (np.uint16, "RGB", 255)

    def test_jpeg(self, tmp_path):
        """A JPEG photograph is read in YCbCr, or in BGR."""
        plain = np.zeros((32, 32, 3), dtype=np.uint8)
        plain[:16] = (200, 60, 30)
        found = read_image(save(tmp_path / "x.jpg", plain, "JPEG", quality=95), options=RGB).pixels
        np.testing.assert_allclose(found[4, 4], (200, 60, 30), atol=4)

    def test_deep_colours(self, tmp_path):
        """Colours of 16 bits are cut to 8."""
        deep = COLOURS.astype(np.uint16) * 257
        cv2.imwrite(str(tmp_path / "x.png"), deep[..., ::-1])
        image = read_image(tmp_path / "x.png", options=RGB)
        np.testing.assert_array_equal(image.pixels, deep)
        assert image.tags.bits_stored == 16

    def test_grey_pictures_get_three_channels(self, tmp_path):
        """A grey picture in a folder of colour pictures is refused, or keeps one channel."""
        found = read_image(save(tmp_path / "x.png", GREY), options=RGB).pixels
        np.testing.assert_array_equal(found, np.dstack([GREY] * 3))

    def test_grey_bmp(self, tmp_path):
        """A BMP with a grey palette is refused as a grey picture."""
        np.testing.assert_array_equal(read_image(save(tmp_path / "x.bmp", GREY, "BMP")).pixels, GREY)

    def test_transparency_is_refused(self, tmp_path):
        """Transparent parts are given some colour."""
        assert "transparent" in reason_of(save(tmp_path / "x.png", np.dstack([COLOURS, GREY])), RGB)

    def test_colour_dicom(self, tmp_path):
        """A colour DICOM file cannot be read as colour, or is read as grey."""
        dataset = dicom_dataset(
            GREY,
            bits=8,
            SamplesPerPixel=3,
            PhotometricInterpretation="RGB",
            PlanarConfiguration=0,
            PixelData=COLOURS.tobytes(),
        )
        path = write_dicom(tmp_path / "x.dcm", dataset)
        np.testing.assert_array_equal(read_image(path, options=RGB).pixels, COLOURS)
        assert "colour" in reason_of(path)

    def test_grey_dicom_as_colour(self, tmp_path):
        """A grey DICOM file among colour pictures keeps one channel."""
        path = write_dicom(tmp_path / "x.dcm", dicom_dataset(GREY.astype(np.uint16)))
        np.testing.assert_array_equal(read_image(path, options=RGB).pixels, np.dstack([GREY] * 3))


class TestArrays:
    """One image of an array file, as MedMNIST has them."""

    @pytest.fixture
    def place(self, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (5, 8, 9), dtype=np.uint8)
        colours = np.random.default_rng(1).integers(0, 256, (4, 8, 9, 3), dtype=np.uint8)
        deep = images.astype(np.uint16) * 16
        np.savez_compressed(tmp_path / "set.npz", train=images, colour=colours, deep=deep, odd=images.astype(float))
        self.arrays = {"train": images, "colour": colours, "deep": deep}
        return f"{tmp_path}/set.npz"

    @pytest.mark.parametrize("member", ["train", "deep"])
    def test_grey(self, place, member):
        """Another image than the one asked for is read, or its values change."""
        for index in (0, 4, 2):
            image = read_image(f"{place}::{member}::{index}")
            np.testing.assert_array_equal(image.pixels, self.arrays[member][index])
        assert image.tags.bits_stored == (8 if member == "train" else 12)

    def test_colour(self, place):
        """A colour image of an array is read as grey, or a grey one keeps one channel."""
        np.testing.assert_array_equal(read_image(f"{place}::colour::3", options=RGB).pixels, self.arrays["colour"][3])
        assert read_image(f"{place}::train::3", options=RGB).pixels.shape == (8, 9, 3)
        assert "colour" in reason_of(f"{place}::colour::3")

    def test_a_new_file_is_read_anew(self, place):
        """A file that was written again gives the images of the old one."""
        read_image(f"{place}::train::0")
        np.savez(place, train=255 - self.arrays["train"])
        np.testing.assert_array_equal(read_image(f"{place}::train::0").pixels, 255 - self.arrays["train"][0])

    @pytest.mark.parametrize(
        ("rest", "reason"),
        [
            ("::train::5", "holds 5 images"),
            ("::val::0", "no such member"),
            ("::train::x", "is not <file>.npz::<member>::<index>"),
            ("::odd::0", "the array is float64"),
        ],
    )
    def test_refusals(self, place, rest, reason):
        """A wrong member, index or type gives an image, or a reason that names the file."""
        found = reason_of(f"{place}{rest}")
        assert reason in found
        assert "set.npz" not in found

    def test_missing_and_damaged_files(self, place, tmp_path):
        """A missing or damaged array file raises something else than a reason."""
        assert "missing or damaged" in reason_of(f"{tmp_path}/none.npz::train::0")
        (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04" + b"\0" * 50)
        assert "missing or damaged" in reason_of(f"{tmp_path}/bad.npz::train::0")


def test_uris(tmp_path):
    """A file below a URI is not read."""
    path = save(tmp_path / "x.png", GREY)
    np.testing.assert_array_equal(read_image(f"file://{path}").pixels, GREY)


def test_masks(tmp_path):
    """A mask's grey values count, or a missing one raises something else."""
    mask = np.zeros((6, 10), dtype=np.uint8)
    mask[2:4, 3:7] = 255
    mask[2, 3] = 1
    found = read_mask(save(tmp_path / "m.png", mask))
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, mask > 0)
    with pytest.raises(DicomError, match="the mask cannot be opened"):
        read_mask(tmp_path / "none.png")


def test_content_decides_not_the_name(tmp_path):
    """A picture with another ending is refused."""
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, format="BMP")
    (tmp_path / "x.dicom").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_image(tmp_path / "x.dicom").pixels, GREY)
