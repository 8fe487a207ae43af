"""Files that say what they hold in unusual ways."""

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, DigitalMammographyXRayImageStorageForProcessing

from study.data.dicom import read_dicom
from study.errors import DicomError
from tests.unit.data.dicom_files import dicom_dataset, write_dicom


@pytest.fixture
def pixels():
    """Values of 12 bits."""
    return np.random.default_rng(0).integers(1, 4096, (40, 30)).astype(np.uint16)


@pytest.mark.parametrize(("kind", "vr", "named"), [("int16", "US", 65536 - 2000), ("uint16", "SS", -1)])
def test_padding_named_with_the_wrong_sign(tmp_path, pixels, kind, vr, named):
    """Padding shines where the header names it as unsigned in a signed file, or the other way round."""
    stored = pixels.astype(kind)
    stored[:, 25:] = -2000 if kind == "int16" else 65535
    dataset = dicom_dataset(stored, bits=16 if kind == "int16" else 12)
    dataset.add_new("PixelPaddingValue", vr, named)
    found = read_dicom(write_dicom(tmp_path / "x.dcm", dataset)).pixels_hw
    assert (found[:, 25:] == 0).all()


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize("intent", ["FOR PROCESSING", "For Processing ", None])
def test_detector_values_are_refused_however_they_are_told(tmp_path, pixels, intent):
    """Raw values pass where only the file's class says so, in small letters, or in a deflated file."""
    dataset = dicom_dataset(pixels, PresentationIntentType=intent)
    if intent is None:
        dataset.SOPClassUID = DigitalMammographyXRayImageStorageForProcessing
    with pytest.raises(DicomError, match="FOR PROCESSING"):
        read_dicom(write_dicom(tmp_path / "x.dcm", dataset))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(DicomError, match="FOR PROCESSING"):
        read_dicom(write_dicom(tmp_path / "x.dcm", dataset))


def test_deflated_file_without_pixels_says_so(tmp_path, pixels):
    """A deflated file that lacks PixelData is called damaged."""
    dataset = dicom_dataset(pixels, PixelData=None)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(DicomError, match="the file has no PixelData"):
        read_dicom(write_dicom(tmp_path / "x.dcm", dataset))
