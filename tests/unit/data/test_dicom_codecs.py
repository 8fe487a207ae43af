"""Every encoding through its fastest decoder: the same pixels as pydicom, and a reason for all that is wrong."""

import contextlib
import io
import os
import struct

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from study.data.dicom import ReadOptions, read_dicom
from study.errors import DicomError
from tests.unit.data.dicom_files import dicom_dataset, write_dicom, write_encoded


def encoders(bits):
    """Streams of one frame by transfer syntax."""
    return {
        JPEGLosslessSV1: lambda px: imagecodecs.jpeg8_encode(px, lossless=True, predictor=1, bitspersample=bits),
        JPEGLSLossless: imagecodecs.jpegls_encode,
        JPEGLSNearLossless: lambda px: imagecodecs.jpegls_encode(px, level=2),
        JPEG2000Lossless: lambda px: jpeg2000(px, bits=bits),
        JPEG2000: lambda px: imagecodecs.jpeg2k_encode(px, level=40, codecformat="j2k", bitspersample=bits),
        HTJ2KLossless: imagecodecs.htj2k_encode,
    }


def jpeg2000(pixels, *, bits=12):
    return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", bitspersample=bits, reversible=True)


def write_stream(path, dataset, stream, *, syntax=JPEGLosslessSV1, fragments=1):
    """A file whose pixel data are the given stream."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([bytes(stream)], fragments_per_frame=fragments)
    dataset["PixelData"].is_undefined_length = True
    return write_dicom(path, dataset)


def breast(rows=96, cols=70, *, top=4095, kind=np.uint16):
    """Smooth values with noise on an empty background."""
    y, x = np.mgrid[:rows, :cols]
    noise = np.random.default_rng(0).integers(0, max(2, top // 40), (rows, cols))
    values = np.clip(top * (0.3 + 0.4 * np.sin(y / 17) * np.cos(x / 13)) + noise, 1, top)
    return np.where(x < 0.7 * cols, values, 0).astype(kind)


def reason_of(path, options=None):
    with pytest.raises(DicomError) as caught:
        read_dicom(path, options=options or ReadOptions())
    return caught.value.message


@pytest.mark.parametrize("syntax", encoders(12))
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_same_pixels_as_pydicom(tmp_path, syntax, bits):
    """Some encoding and depth gives other pixels than pydicom's decoders."""
    pixels = breast(top=2**bits - 1, kind=np.uint8 if bits == 8 else np.uint16)
    path = write_stream(
        tmp_path / "x.dcm", dicom_dataset(pixels, bits=bits), encoders(bits)[syntax](pixels), syntax=syntax
    )
    found = read_dicom(path).pixels
    if syntax not in (JPEGLSNearLossless, JPEG2000):
        np.testing.assert_array_equal(found, pixels)
    if syntax != HTJ2KLossless:  # pydicom has no decoder for it here
        np.testing.assert_array_equal(found, pixel_array(pydicom.dcmread(path)))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("syntax", ["rle", "jpeg_lossless", "jpeg_lossless_14", "jpeg_ls", "jpeg_2000"])
def test_streams_of_another_encoder(tmp_path, syntax, kind):
    """Files that gdcm or pydicom wrote are read otherwise than they read them."""
    pixels = breast(top=255 if kind == np.uint8 else 4095, kind=kind)
    dataset = dicom_dataset(pixels, bits=8 if kind == np.uint8 else 12)
    path = write_encoded(tmp_path / "x.dcm", dataset, syntax)
    np.testing.assert_array_equal(read_dicom(path).pixels, pixels)
    np.testing.assert_array_equal(pixel_array(pydicom.dcmread(path)), pixels)


def test_twelve_bit_jpeg(tmp_path):
    """Lossy JPEG of 12 bits is refused or shifted."""
    pixels = breast()
    stream = imagecodecs.jpeg8_encode(pixels, level=95, bitspersample=12)
    found = read_dicom(write_stream(tmp_path / "x.dcm", dicom_dataset(pixels), stream, syntax=JPEGExtended12Bit)).pixels
    assert np.abs(found.astype(int) - pixels)[:, :45].mean() < 40


def test_fragments_are_joined(tmp_path):
    """A frame that is cut into several items is read in part."""
    pixels = breast()
    path = write_stream(tmp_path / "x.dcm", dicom_dataset(pixels), encoders(12)[JPEGLosslessSV1](pixels), fragments=4)
    np.testing.assert_array_equal(read_dicom(path).pixels, pixels)


@pytest.mark.parametrize("declared", [RLELossless, JPEG2000Lossless, JPEGLSLossless, "1.2.3.4.5"])
def test_a_wrong_transfer_syntax_does_not_matter(tmp_path, declared):
    """A file whose header names another encoding than its stream's is lost, or an unknown name leaves the file."""
    pixels = breast()
    path = write_stream(
        tmp_path / "x.dcm", dicom_dataset(pixels), encoders(12)[JPEGLosslessSV1](pixels), syntax=declared
    )
    image = read_dicom(path)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.tags.transfer_syntax == ("" if declared == "1.2.3.4.5" else declared)


def test_big_endian(tmp_path):
    """Values of a big-endian file have their bytes exchanged."""
    pixels = breast()
    dataset = dicom_dataset(pixels.byteswap())
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True)
    path = tmp_path / "x.dcm"
    path.write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_dicom(path).pixels, pixel_array(pydicom.dcmread(path)))


def test_native_pixels_are_not_copied(tmp_path):
    """Every uncompressed frame of 17 MB is copied once more than needed."""
    image = read_dicom(write_dicom(tmp_path / "x.dcm", dicom_dataset(breast())))
    assert image.pixels.base is not None
    assert not image.pixels.flags.writeable
    (tmp_path / "x.dcm").unlink()
    np.testing.assert_array_equal(image.pixels, breast())


class TestDamage:
    """A stream that cannot be trusted gives a reason, before memory is reserved for it."""

    def test_another_size_than_the_header_says(self, tmp_path):
        """A stream of another size is decoded, or its own size decides how much memory is taken."""
        pixels = breast()
        for syntax in (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless):
            path = write_stream(
                tmp_path / "x.dcm", dicom_dataset(breast(90, 70)), encoders(12)[syntax](pixels), syntax=syntax
            )
            assert "stream holds 96 x 70 px of 1 samples; the header says 90 x 70 of 1" in reason_of(path)

    def test_huge_streams_reserve_nothing(self, tmp_path):
        """A small file that claims a huge frame takes the memory of the machine."""
        pixels = breast()
        stream = bytearray(jpeg2000(pixels))
        stream[8:16] = struct.pack(">II", 200_000, 200_000)
        small = write_stream(tmp_path / "x.dcm", dicom_dataset(pixels), stream, syntax=JPEG2000Lossless)
        assert "200000 x 200000 px" in reason_of(small)
        large = dicom_dataset(pixels, Rows=20_000, Columns=20_000)
        path = write_stream(tmp_path / "y.dcm", large, stream, syntax=JPEG2000Lossless)
        assert "expected 1 to 20000 a side, 100,000,000 at most" in reason_of(path)

    @pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless])
    def test_cut_streams(self, tmp_path, syntax):
        """A stream without its end is filled up in silence, as the decoders of JPEG Lossless and HTJ2K do."""
        pixels = breast()
        stream = encoders(12)[syntax](pixels)
        path = write_stream(tmp_path / "x.dcm", dicom_dataset(pixels), stream[: len(stream) * 2 // 3], syntax=syntax)
        assert "stream is cut short" in reason_of(path)

    @pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless])
    def test_random_damage(self, tmp_path, syntax, capfd):
        """Damage in a stream raises anything but DicomError, kills the process, or prints."""
        pixels = breast()
        good = encoders(12)[syntax](pixels)
        rng = np.random.default_rng(0)
        for _ in range(40):
            stream = bytearray(good)
            start = int(rng.integers(0, len(good) - 60))
            stream[start : start + 40] = rng.integers(0, 256, 40).astype(np.uint8).tobytes()
            path = write_stream(tmp_path / "x.dcm", dicom_dataset(pixels), stream, syntax=syntax)
            with contextlib.suppress(DicomError):
                assert read_dicom(path).pixels.shape == pixels.shape
        printed = capfd.readouterr()
        assert printed.out + printed.err == ""

    def test_unknown_stream(self, tmp_path):
        """Bytes of no known encoding are handed to some decoder."""
        path = write_stream(tmp_path / "x.dcm", dicom_dataset(breast()), b"\x99" * 400)
        assert "no known encoding" in reason_of(path)

    def test_colour_stream_in_a_grey_file(self, tmp_path):
        """A stream of three samples in a file that says one is read as grey."""
        colours = np.dstack([breast(top=255, kind=np.uint8)] * 3)
        stream = imagecodecs.jpeg8_encode(colours, level=90)
        path = write_stream(tmp_path / "x.dcm", dicom_dataset(colours[..., 0].copy(), bits=8), stream)
        assert "96 x 70 px of 3 samples" in reason_of(path)


class TestReduced:
    """JPEG 2000 at half its resolution, on request."""

    @pytest.mark.parametrize("bits", [8, 12, 16])
    def test_half_is_close_to_the_mean_of_blocks(self, tmp_path, bits):
        """The reduced frame is shifted, scaled, or of another size than half."""
        pixels = breast(401, 300, top=2**bits - 1, kind=np.uint8 if bits == 8 else np.uint16)
        dataset = dicom_dataset(pixels, bits=bits)
        path = write_stream(tmp_path / "x.dcm", dataset, jpeg2000(pixels, bits=bits), syntax=JPEG2000Lossless)
        image = read_dicom(path, options=ReadOptions(reduce_to=128))
        assert image.reduced_by == 2
        assert image.pixels.shape == (201, 150)
        assert (image.tags.rows, image.tags.cols) == (401, 300)
        blocks = pixels[:400].reshape(200, 2, 150, 2).mean(axis=(1, 3))
        assert np.abs(image.pixels[:200] - blocks)[:, :100].mean() < 0.02 * 2**bits

    @pytest.mark.parametrize("reduce_to", [None, 150])
    def test_whole_where_half_is_too_small(self, tmp_path, reduce_to):
        """A frame is reduced unasked, or below what the target needs."""
        pixels = breast(400, 300)
        path = write_stream(tmp_path / "x.dcm", dicom_dataset(pixels), jpeg2000(pixels), syntax=JPEG2000Lossless)
        image = read_dicom(path, options=ReadOptions(reduce_to=reduce_to))
        assert image.reduced_by == 1
        np.testing.assert_array_equal(image.pixels, pixels)

    def test_other_encodings_stay_whole(self, tmp_path):
        """Asking for reduction spoils the other encodings."""
        pixels = breast(400, 300)
        path = write_encoded(tmp_path / "x.dcm", dicom_dataset(pixels), "jpeg_lossless")
        image = read_dicom(path, options=ReadOptions(reduce_to=64))
        assert image.reduced_by == 1
        np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("STUDY_REAL_DATA"), reason="STUDY_REAL_DATA is not set")
def test_real_files_as_pydicom_reads_them():
    """A real file is read otherwise than by pydicom."""
    from pathlib import Path

    folder = Path(os.environ["STUDY_REAL_DATA"], "dicom")
    paths = [path for path in sorted(folder.glob("[mM]*.dcm")) if "mono1" not in path.name]
    assert len(paths) > 5
    for path in paths:
        np.testing.assert_array_equal(read_dicom(path).pixels, pixel_array(pydicom.dcmread(path)))


def rle_file(path, table, *, rows=48, cols=40):
    """A file of two RLE segments whose table of segments is another."""
    pixels = breast(rows, cols)
    path = write_encoded(path, dicom_dataset(pixels), "rle")
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<II", 2, 64))
    for place, value in table.items():
        content[at + 4 * place : at + 4 * place + 4] = struct.pack("<I", value)
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize(
    "table",
    [{2: 0}, {2: 64}, {2: 2**31}, {2: 2**32 - 1}, {1: 68}, {0: 1}, {0: 3}, {0: 15}, {2: 66}],
)
def test_an_rle_table_of_segments_that_makes_no_sense(tmp_path, table):
    """The table of segments is believed, and something writes where it says, which ends the process."""
    reason = reason_of(rle_file(tmp_path / "x.dcm", table))
    assert reason in ("PixelData cannot be decoded (RLE)", "PixelData is in no known encoding") or "samples" in reason


def test_unused_entries_of_the_rle_table_are_not_looked_at(tmp_path):
    """Two segments are read to the end of a file whose table has something behind its two entries."""
    path = rle_file(tmp_path / "x.dcm", {3: 16, 9: 2**31})
    np.testing.assert_array_equal(read_dicom(path).pixels, breast(48, 40))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless])
@pytest.mark.parametrize(("place", "value"), [(24, 0), (28, 0), (24, 1), (32, 5000), (36, 2**32 - 1), (32, 2**31)])
def test_tiles_of_an_impossible_size(tmp_path, syntax, place, value):
    """Tiles of no size, or that begin outside of the picture, reach a decoder, which divides by them."""
    pixels = breast(300, 300)
    stream = bytearray(encoders(12)[syntax](pixels))
    at = stream.index(b"\xff\x4f\xff\x51")
    stream[at + place : at + place + 4] = struct.pack(">I", value)
    if (place, value) == (24, 1):  # 90,000 tiles of one pixel
        stream[at + 28 : at + 32] = struct.pack(">I", value)
    reason = reason_of(write_stream(tmp_path / "x.dcm", dicom_dataset(pixels), stream, syntax=syntax))
    assert "tiles" in reason
