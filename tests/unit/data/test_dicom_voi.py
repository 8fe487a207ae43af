"""The display transform of DICOM files, on request."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut

from study.data.dicom import ReadOptions, read_dicom
from study.errors import DicomError
from tests.unit.data.dicom_files import dicom_dataset, write_dicom

VOI = ReadOptions(lut="voi")
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def read(tmp_path, pixels=RAMP, *, bits=12, options=VOI, **changes):
    return read_dicom(write_dicom(tmp_path / "x.dcm", dicom_dataset(pixels, bits=bits, **changes)), options=options)


def expected(tmp_path, *, bits=12):
    """pydicom's own transform of the file that was written last, rescaled to the depth."""
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    shown = apply_voi_lut(dataset.pixel_array, dataset, prefer_lut=True).astype(float)
    low = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    return shown - low


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2048, 4096), (1500, 700), (300.5, 1000.5), (100, 2)])
def test_windows_are_pydicoms(tmp_path, function, centre, width):
    """A window maps otherwise than the standard's formulas, as pydicom has them."""
    changes = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    found = read(tmp_path, **changes).pixels
    np.testing.assert_allclose(found, expected(tmp_path), atol=0.51)


def test_windows_of_signed_values(tmp_path):
    """The window of a signed file is laid over shifted values."""
    stored = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    found = read(tmp_path, stored, WindowCenter=-200, WindowWidth=900).pixels
    np.testing.assert_allclose(found, expected(tmp_path), atol=0.51)


def test_off_by_default(tmp_path):
    """The window is applied unasked."""
    np.testing.assert_array_equal(read(tmp_path, options=ReadOptions(), WindowCenter=100, WindowWidth=50).pixels, RAMP)


def test_without_a_transform_values_stay(tmp_path):
    """A file without window changes when one is asked for."""
    np.testing.assert_array_equal(read(tmp_path).pixels, RAMP)


def test_the_first_of_several_windows_counts(tmp_path):
    """A file with several windows is refused, or takes the second."""
    several = read(tmp_path, WindowCenter=[1500, 300], WindowWidth=[700, 100]).pixels
    np.testing.assert_array_equal(several, read(tmp_path, WindowCenter=1500, WindowWidth=700).pixels)


def test_inversion_comes_after_the_window(tmp_path):
    """A MONOCHROME1 file is windowed after it was inverted, which shows other values."""
    plain = read(tmp_path, WindowCenter=1500, WindowWidth=700).pixels
    inverted = read(tmp_path, WindowCenter=1500, WindowWidth=700, PhotometricInterpretation="MONOCHROME1").pixels
    np.testing.assert_array_equal(inverted, 4095 - plain)


def test_padding_stays_background(tmp_path):
    """Padding takes part in the window and shines."""
    found = read(tmp_path, WindowCenter=1000, WindowWidth=10, PixelPaddingValue=4000).pixels
    assert found[RAMP == 4000] == 0
    assert found[RAMP == 4001] == 4095


def test_rescale_comes_before_the_window(tmp_path):
    """A window in rescaled units is laid over stored values."""
    rescaled = read(tmp_path, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=2000, WindowWidth=1400).pixels
    plain = read(tmp_path, WindowCenter=1500, WindowWidth=700).pixels
    assert np.abs(rescaled.astype(int) - plain).max() <= 4


def lut_item(entries, *, first=0, depth=12):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, depth])
    item.add_new("LUTData", "OW", np.asarray(entries, dtype="<u2").tobytes())
    return [item]


def test_a_table_goes_before_a_window(tmp_path):
    """A VOI LUT is passed over, or read with another depth than its own."""
    table = np.round(np.linspace(0, 1, 2000) ** 2 * 4095).astype(int)
    found = read(tmp_path, VOILUTSequence=lut_item(table, first=100), WindowCenter=1, WindowWidth=2).pixels
    np.testing.assert_array_equal(found, table[np.clip(RAMP.astype(int) - 100, 0, 1999)])
    coarse = read(tmp_path, VOILUTSequence=lut_item(table // 16, first=100, depth=8)).pixels
    assert np.abs(coarse.astype(int) - found).max() <= 17


def test_a_modality_table_comes_first(tmp_path):
    """A modality LUT is passed over, or a window is laid over values from before it."""
    turned = lut_item(np.arange(4096)[::-1])
    np.testing.assert_array_equal(read(tmp_path, ModalityLUTSequence=turned).pixels, 4095 - RAMP)
    shown = read(tmp_path, ModalityLUTSequence=turned, WindowCenter=1500, WindowWidth=700).pixels
    plain = read(tmp_path, WindowCenter=1500, WindowWidth=700).pixels
    np.testing.assert_array_equal(shown.ravel()[::-1], plain.ravel())
    np.testing.assert_array_equal(read(tmp_path, options=ReadOptions(), ModalityLUTSequence=turned).pixels, RAMP)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"WindowCenter": 5, "WindowWidth": 0}, "WindowWidth is 0"),
        ({"WindowCenter": 5, "WindowWidth": -3, "VOILUTFunction": "SIGMOID"}, "WindowWidth is -3"),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "VOILUTFunction is none of LINEAR"),
        ({"WindowCenter": 90000, "WindowWidth": 9}, "blank"),
        ({"VOILUTSequence": lut_item([1, 2, 3], depth=40)}, "3 entries of 40 bits"),
    ],
)
def test_senseless_transforms_say_why(tmp_path, changes, reason):
    """A window that makes no sense gives a picture, or a reason without a number."""
    with pytest.raises(DicomError, match=reason):
        read(tmp_path, **changes)
