"""Small DICOM files for the tests of the reader."""

import io
from typing import Any

import gdcm
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian, RLELossless

SECRETS = ("SECRET-PATIENT-77", "Secret^Name", "19500615", "1.2.3.4.5.6.77")


def dicom_dataset(pixels: np.ndarray, *, bits: int = 12, **changes: Any) -> FileDataset:
    """A grey mammogram with identifiers; ``changes`` set attributes, None removes them."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = SECRETS[3]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": SECRETS[3],
        "PatientID": SECRETS[0],
        "PatientName": SECRETS[1],
        "PatientBirthDate": SECRETS[2],
        "Modality": "MG",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelData": pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
    }
    for keyword, value in (values | changes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def write_dicom(path, dataset: FileDataset, *, preamble: bool = True):
    """Write a data set, on request without preamble and meta header."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    if not preamble:
        content = content[144 + int.from_bytes(content[140:144], "little") :]
    path.write_bytes(content)
    return path


def write_encoded(path, dataset: FileDataset, syntax: str):
    """Write the data set in another transfer syntax: RLE by pydicom, the others by gdcm."""
    if syntax == "rle":
        dataset.compress(RLELossless, generate_instance_uid=False)
        return write_dicom(path, dataset)
    plain = write_dicom(path.with_suffix(".plain"), dataset)
    kinds = {
        "jpeg_lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        "jpeg_lossless_14": gdcm.TransferSyntax.JPEGLosslessProcess14,
        "jpeg_ls": gdcm.TransferSyntax.JPEGLSLossless,
        "jpeg_2000": gdcm.TransferSyntax.JPEG2000Lossless,
        "implicit": gdcm.TransferSyntax.ImplicitVRLittleEndian,
    }
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kinds[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path
