import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset

from study.data.dicom import DicomTags, read_dicom, read_image
from study.errors import DicomError
from tests.unit.data.dicom_files import SECRETS, dicom_dataset, write_dicom, write_encoded

REAL = os.environ.get("STUDY_REAL_DATA", "")
needs_real = pytest.mark.skipif(not REAL, reason="STUDY_REAL_DATA is not set")


@pytest.fixture
def pixels():
    """Breast-like values of 12 bits with a background of zero."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 4096, (40, 30)).astype(np.uint16)
    values[:, 20:] = 0
    return values


def reason_of(path, reader=read_dicom):
    with pytest.raises(DicomError) as caught:
        reader(path)
    return caught.value.message


@pytest.mark.parametrize("syntax", ["implicit", "rle", "jpeg_lossless", "jpeg_lossless_14", "jpeg_ls", "jpeg_2000"])
def test_lossless_encodings_agree(tmp_path, pixels, syntax):
    """Some lossless encoding gives other pixels than were stored."""
    path = write_encoded(tmp_path / "x.dcm", dicom_dataset(pixels), syntax)
    np.testing.assert_array_equal(read_dicom(path).pixels_hw, pixels)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_monochrome1_is_turned_by_bit_depth(tmp_path, bits):
    """An inverted file differs from the plain one, or the image's own maximum decides the inversion."""
    top = 2**bits - 1
    plain = np.array([[0, 5, 100], [200, 90, 1]], dtype=np.uint16)  # far from the top: max - x would differ
    inverted = dicom_dataset((top - plain).astype(np.uint16), bits=bits, PhotometricInterpretation="MONOCHROME1")
    image = read_dicom(write_dicom(tmp_path / "x.dcm", inverted))
    np.testing.assert_array_equal(image.pixels_hw, plain)
    assert image.max_value == top
    assert image.pixels_hw.dtype == np.uint16


def test_padding_is_background_after_inversion(tmp_path, pixels):
    """Padding of a MONOCHROME1 file shines, or a padding range is ignored."""
    stored = (4095 - pixels).astype(np.uint16)
    stored[0, :5] = (10, 11, 12, 13, 9)
    dataset = dicom_dataset(stored, PhotometricInterpretation="MONOCHROME1")
    dataset.PixelPaddingValue = 10
    dataset.PixelPaddingRangeLimit = 12
    found = read_dicom(write_dicom(tmp_path / "x.dcm", dataset)).pixels_hw
    np.testing.assert_array_equal(found[0, :5], (0, 0, 0, 4082, 4086))


def test_padding_may_lie_outside_of_the_range(tmp_path, pixels):
    """A file is refused for padding that BitsStored cannot hold."""
    stored = pixels.copy()
    stored[:, 25:] = 65535
    dataset = dicom_dataset(stored)
    dataset.PixelPaddingValue = 65535
    np.testing.assert_array_equal(read_dicom(write_dicom(tmp_path / "x.dcm", dataset)).pixels_hw, pixels)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_signed_values_keep_their_order(tmp_path, photometric):
    """Signed values are wrapped, or not moved to start at zero."""
    stored = np.array([[-2048, -1, 0], [1, 2047, 5]], dtype=np.int16)
    dataset = dicom_dataset(stored, PhotometricInterpretation=photometric)
    found = read_dicom(write_dicom(tmp_path / "x.dcm", dataset)).pixels_hw.astype(int)
    expected = stored.astype(int) + 2048
    np.testing.assert_array_equal(found, expected if photometric == "MONOCHROME2" else 4095 - expected)


def test_signed_values_without_sign_extension(tmp_path):
    """Twelve-bit two's complement, stored without carrying the sign on, is taken for values out of range."""
    values = np.array([[-2048, -1, 0], [1, 2047, 5]], dtype=np.int16)
    path = write_dicom(tmp_path / "x.dcm", dicom_dataset((values & 0x0FFF).astype(np.int16)))
    np.testing.assert_array_equal(read_dicom(path).pixels_hw, values.astype(int) + 2048)


def test_values_above_bits_stored_are_refused(tmp_path, pixels):
    """Values that BitsStored cannot hold pass, masked in silence."""
    pixels[3, 3] = 8190
    assert "BitsStored allows 0 to 4095" in reason_of(write_dicom(tmp_path / "x.dcm", dicom_dataset(pixels)))


def test_values_above_bits_stored_are_refused_in_jpeg(tmp_path, pixels):
    """A compressed file may hold values that its header does not allow."""
    pixels[3, 3] = 8190
    dataset = dicom_dataset(pixels, bits=16)
    path = write_encoded(tmp_path / "x.dcm", dataset, "rle")
    dataset.BitsStored, dataset.HighBit = 12, 11
    assert "BitsStored allows 0 to 4095" in reason_of(write_dicom(path, dataset))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PixelData": None}, "no PixelData"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "FOR PROCESSING"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"PhotometricInterpretation": None}, "lacks PhotometricInterpretation"),
        ({"Rows": None, "BitsStored": None}, "lacks Rows, BitsStored"),
        ({"Rows": 41}, "cut short: 2400 bytes, expected 2460"),
        ({"HighBit": 15}, "HighBit is 15"),
        ({"BitsAllocated": 32}, "BitsAllocated 32"),
        ({"BitsStored": 17, "HighBit": 16}, "BitsStored 17"),
    ],
)
def test_unusable_files_say_why(tmp_path, pixels, changes, reason):
    """A file that cannot be used is read all the same, or refused for another reason."""
    assert reason in reason_of(write_dicom(tmp_path / "x.dcm", dicom_dataset(pixels, **changes)))


def test_other_contents_say_why(tmp_path, pixels):
    """Empty, missing, foreign, blank, cut-off and damaged files share a reason or raise something else."""
    cases = {
        "empty": b"",
        "neither DICOM": b"<html>not an image</html>" * 20,
        "blank": None,
        "truncated": None,
        "cannot be decoded (JPEG Lossless": None,
    }
    files = {reason: tmp_path / f"{number}.dcm" for number, reason in enumerate(cases)}
    for reason, content in cases.items():
        files[reason].write_bytes(content or b"")
    write_dicom(files["blank"], dicom_dataset(np.full((8, 8), 7, dtype=np.uint16)))
    encoded = write_encoded(tmp_path / "ok.dcm", dicom_dataset(pixels), "jpeg_lossless").read_bytes()
    files["truncated"].write_bytes(encoded[:-700])
    start = encoded.index(b"\xff\xd8\xff")
    files["cannot be decoded (JPEG Lossless"].write_bytes(encoded[: start + 40] + b"\0" * 300 + encoded[start + 340 :])
    for reason, path in files.items():
        assert reason in reason_of(path)
    assert "cannot be opened (No such file" in reason_of(tmp_path / "SECRET-PATIENT-77.dcm")
    assert "SECRET" not in reason_of(tmp_path / "SECRET-PATIENT-77.dcm")


def test_files_without_preamble(tmp_path, pixels):
    """A file without preamble and meta header is not read."""
    path = write_dicom(tmp_path / "x", dicom_dataset(pixels), preamble=False)
    assert path.read_bytes()[128:132] != b"DICM"
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels_hw, pixels)
    assert image.tags.transfer_syntax == "1.2.840.10008.1.2.1"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_stored_values_come_back(tmp_path_factory, data):
    """Some size, depth, sign or interpretation does not survive being written and read."""
    bits = data.draw(st.integers(2, 16))
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(2, 9)))
    inverted = data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = rng.integers(0, 2**bits, shape).astype(np.uint8 if bits <= 8 else np.uint16)
    values.flat[:2] = (0, 2**bits - 1)
    stored = (2**bits - 1 - values).astype(values.dtype) if inverted else values
    photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset = dicom_dataset(stored, bits=bits, PhotometricInterpretation=photometric)
    image = read_dicom(write_dicom(tmp_path_factory.mktemp("round") / "x.dcm", dataset))
    np.testing.assert_array_equal(image.pixels_hw, values)
    assert (image.tags.bits_stored, image.tags.rows, image.tags.cols) == (bits, *shape)


def outcome(path):
    """All that a reader lets out besides pixels: the tags, or the error's text."""
    try:
        return repr(read_image(path).tags)
    except DicomError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 4000), flips=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=12))
def test_damage_gives_a_reason_or_an_image(tmp_path_factory, cut, flips):
    """A damaged file raises anything but DicomError, or the reason quotes what the file holds."""
    folder = tmp_path_factory.mktemp("damage")
    values = np.arange(600, dtype=np.uint16).reshape(30, 20)
    content = bytearray(write_dicom(folder / "x.dcm", dicom_dataset(values)).read_bytes())
    for place, value in flips:
        content[place % len(content)] = value
    (folder / "x.dcm").write_bytes(bytes(content[: len(content) - cut % len(content)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = outcome(folder / "x.dcm")
    assert not any(secret in found for secret in (*SECRETS, str(folder)))


def test_reading_is_silent(tmp_path, pixels):
    """Damaged headers make the reader write to standard error, where paths and element text would show."""
    dataset = dicom_dataset(pixels)
    path = write_encoded(tmp_path / "a.dcm", dataset, "jpeg_lossless")
    path.write_bytes(path.read_bytes()[:-700])
    odd = write_dicom(tmp_path / "b.dcm", dicom_dataset(pixels))
    odd.write_bytes(odd.read_bytes().replace(b"1.2.3.4.5.6.77", b"1.2.x.4.5.6.77"))
    code = (
        "import logging, sys\nlogging.basicConfig(level=logging.DEBUG)\nfrom study.data.dicom import read_image\n"
        "from study.errors import DicomError\n"
        "for path in sys.argv[1:]:\n    try:\n        read_image(path)\n    except DicomError:\n        print('no')\n"
        "    else:\n        print('yes')\n"
    )
    command = [sys.executable, "-W", "always", "-c", code, str(path), str(odd)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.split() == ["no", "yes"]
    assert done.stderr == ""


def test_reading_leaves_the_logger_alone(tmp_path, pixels):
    """Reading an image changes the level of pydicom's logger for good."""
    before = logging.getLogger("pydicom").level
    read_dicom(write_dicom(tmp_path / "x.dcm", dicom_dataset(pixels)))
    assert logging.getLogger("pydicom").level == before


class TestTags:
    """The few tags are found where scanners write them, and no others leave the file."""

    def tags(self, tmp_path, **changes) -> DicomTags:
        pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
        return read_dicom(write_dicom(tmp_path / "x.dcm", dicom_dataset(pixels, **changes))).tags

    def code(self, value):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "Secret^Name"
        return [item]

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"ImageLaterality": "L", "ViewPosition": "CC"}, ("L", "CC")),
            ({"Laterality": "R", "ViewPosition": "MLO"}, ("R", "MLO")),
            ({"ImageLaterality": "B", "ViewPosition": "ML"}, (None, "other")),
            ({"SeriesDescription": "R MLO"}, ("R", "MLO")),
            ({"SeriesDescription": "LCC"}, ("L", "CC")),
            ({"SeriesDescription": "L CC and R CC"}, (None, "CC")),
            ({"SeriesDescription": "Screening bilateral"}, (None, None)),
            ({}, (None, None)),
        ],
    )
    def test_side_and_view(self, tmp_path, changes, expected):
        """Side or view is missed in one of the places where it is written, or made up."""
        tags = self.tags(tmp_path, **changes)
        assert (tags.laterality, tags.view) == expected

    @pytest.mark.parametrize(
        ("code", "view"), [("399162004", "CC"), ("R-10226", "MLO"), ("399368009", "MLO"), ("399260004", "other")]
    )
    def test_view_code(self, tmp_path, code, view):
        """The coded view, all that CMMD has, is not understood."""
        assert self.tags(tmp_path, ViewCodeSequence=self.code(code)).view == view

    @pytest.mark.parametrize(
        ("changes", "kind"),
        [
            ({}, "FFDM"),
            ({"Modality": "RG"}, "film"),
            ({"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]}, "cview"),
            ({"SeriesDescription": "L CC C-View"}, "cview"),
        ],
    )
    def test_image_kind(self, tmp_path, changes, kind):
        """Film and synthetic views pass for digital ones."""
        assert self.tags(tmp_path, **changes).image_kind == kind

    def test_device_and_spacing(self, tmp_path):
        """Manufacturer, model or pixel pitch is lost, or the pitch at the detector does not come first."""
        device = {"Manufacturer": " HOLOGIC,  Inc. ", "ManufacturerModelName": "Selenia"}
        tags = self.tags(tmp_path, **device, ImagerPixelSpacing=[0.07, 0.08], PixelSpacing=[1, 1])
        assert (tags.manufacturer, tags.model, tags.spacing_mm) == ("HOLOGIC, Inc.", "Selenia", (0.07, 0.08))
        assert self.tags(tmp_path, PixelSpacing=[0.5, 0.5]).spacing_mm == (0.5, 0.5)
        assert self.tags(tmp_path, PixelSpacing=[0, 0]).spacing_mm is None

    def test_no_identifier_leaves(self, tmp_path):
        """An identifier of the file is among the tags."""
        text = repr(self.tags(tmp_path, ViewCodeSequence=self.code("399162004"), SeriesDescription="Secret^Name"))
        assert not any(secret in text for secret in SECRETS)


class TestPictures:
    """Grey PNG, TIFF and JPEG pictures are read by content; others say why not."""

    def save(self, path, array, form="PNG", **options):
        Image.fromarray(array).save(path, format=form, **options)
        return path

    @pytest.mark.parametrize("form", ["PNG", "TIFF"])
    @pytest.mark.parametrize(("top", "bits"), [(255, 8), (1000, 10), (4095, 12), (16383, 14), (65535, 16)])
    def test_grey_values_come_back(self, tmp_path, form, top, bits):
        """A picture's values change, or its depth is not the smallest that holds them."""
        values = np.linspace(0, top, 60).reshape(6, 10).round().astype(np.uint8 if top == 255 else np.uint16)
        image = read_image(self.save(tmp_path / "wrong-name.dcm", values, form))
        np.testing.assert_array_equal(image.pixels_hw, values)
        assert (image.tags.bits_stored, image.tags.photometric) == (bits, "MONOCHROME2")
        assert (image.tags.laterality, image.tags.transfer_syntax) == (None, "")

    def test_grey_jpeg(self, tmp_path):
        """A JPEG picture is not read."""
        values = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None], 40, axis=0)
        found = read_image(self.save(tmp_path / "x.jpg", values, "JPEG", quality=95)).pixels_hw
        assert np.abs(found.astype(int) - values).max() <= 4

    def test_colour_with_equal_channels(self, tmp_path):
        """A grey picture saved as RGB, with palette or with an opaque alpha channel is refused."""
        values = np.arange(60, dtype=np.uint8).reshape(6, 10)
        rgb = np.repeat(values[..., None], 3, axis=2)
        rgba = np.dstack([rgb, np.full_like(values, 255)])
        Image.fromarray(values).convert("P").save(tmp_path / "p.png")
        for path in (self.save(tmp_path / "a.png", rgb), self.save(tmp_path / "b.png", rgba), tmp_path / "p.png"):
            np.testing.assert_array_equal(read_image(path).pixels_hw, values)

    def test_refusals(self, tmp_path):
        """True colour, transparency, other depths, several pages and damage are read, or share one reason."""
        values = np.arange(600, dtype=np.uint8).reshape(20, 30)
        rgb = np.dstack([values, values, values])
        rgb[0, 0, 0] = 9
        see_through = np.dstack([values, values, values, values])
        pages = [Image.fromarray(values), Image.fromarray(values[::-1].copy())]
        pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
        good = self.save(tmp_path / "good.png", np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
        (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-900])
        reasons = {
            self.save(tmp_path / "rgb.png", rgb): "colour",
            self.save(tmp_path / "rgba.png", see_through): "colour",
            self.save(tmp_path / "one.png", values > 100): "neither 8- nor 16-bit",
            self.save(tmp_path / "float.tif", values.astype(np.float32), "TIFF"): "neither 8- nor 16-bit",
            tmp_path / "pages.tif": "2 pictures",
            tmp_path / "cut.png": "damaged or truncated",
        }
        for path, reason in reasons.items():
            assert reason in reason_of(path, read_image)


@pytest.mark.data
@needs_real
class TestRealFiles:
    """The real files: one image in five encodings, and three bad files."""

    def test_encodings_agree(self):
        """One breast in native, implicit MONOCHROME1, JPEG Lossless, JPEG 2000 and RLE gives different pixels."""
        files = sorted(Path(REAL, "dicom").glob("mg_*.dcm"))
        images = [read_dicom(path) for path in files]
        assert len(images) == 5
        assert len({image.pixels_hw.tobytes() for image in images}) == 1
        assert {image.tags.photometric for image in images} == {"MONOCHROME1", "MONOCHROME2"}
        assert {image.tags.laterality for image in images} == {"L"}

    def test_bad_files(self):
        """A bad file is read, or two of them give the same reason."""
        reasons = {path.stem: reason_of(path) for path in Path(REAL, "dicom").glob("bad_*.dcm")}
        assert reasons == {
            "bad_no_pixeldata": "the file has no PixelData",
            "bad_truncated_j2k": "the file is truncated",
            "bad_values_exceed_bitsstored": "stored values run from 0 to 8190; BitsStored allows 0 to 4095",
        }

    def test_film(self):
        """The digitised film passes for a digital image, or its JPEG 2000 pixels are not decoded."""
        image = read_dicom(Path(REAL, "dicom", "MG1_J2KI.dcm"))
        assert image.pixels_hw.shape == (4664, 3064)
        assert (image.tags.image_kind, image.tags.laterality, image.tags.view) == ("film", "L", "MLO")
