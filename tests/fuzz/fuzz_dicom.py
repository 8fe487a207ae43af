"""Damaged image files: real ones of ``STUDY_REAL_DATA``/dicom where they are, and small ones in every encoding.

python -m tests.fuzz.fuzz_dicom --inputs 10000 --seed 0
"""

import functools
import io
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from study.data.dicom import DicomImage, ReadOptions, read_dicom, read_image
from study.data.dicom_file import WANTED
from study.errors import DicomError
from tests.fuzz.command import run
from tests.fuzz.isolated import Target
from tests.fuzz.mutations import mutated, mutated_dicom
from tests.unit.data.dicom_files import SECRETS, dicom_dataset, write_dicom, write_encoded

NAME = "image"
OPTIONS = (
    *([ReadOptions()] * 6),
    ReadOptions(lut="voi"),
    ReadOptions(colour="rgb"),
    ReadOptions(reduce_to=32),
    ReadOptions(lut="voi", reduce_to=256),
)
PERSONAL = ("PN", "LO", "SH", "DA", "UI", "TM", "DT", "LT", "ST", "AS", "UT")
SHORTEST_SECRET = 5


@functools.cache
def real_files() -> tuple[bytes, ...]:
    """Files of scanners; none where they are not on this machine."""
    folder = Path(os.environ.get("STUDY_REAL_DATA", "/nowhere"), "dicom")
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.dcm")))


@functools.cache
def small_files() -> tuple[bytes, ...]:
    """One small file for each encoding, with identifiers in it."""
    y, x = np.mgrid[:48, :40]
    grey = ((y * 60 + x * 31) % 4096).astype(np.uint16)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = Path(scratch, "x.dcm")
        found = [
            write_dicom(place, dicom_dataset(grey)).read_bytes(),
            write_dicom(place, dicom_dataset(grey), preamble=False).read_bytes(),
            write_dicom(place, dicom_dataset(grey, PhotometricInterpretation="MONOCHROME1")).read_bytes(),
            write_dicom(place, dicom_dataset(grey.astype(np.int16) - 2048, **_display())).read_bytes(),
            write_encoded(place, dicom_dataset(grey), "rle").read_bytes(),
            write_encoded(place, dicom_dataset(grey), "implicit").read_bytes(),
            _plain(place, dicom_dataset(grey), DeflatedExplicitVRLittleEndian),
        ]
        streams = {
            JPEGLosslessSV1: imagecodecs.jpeg8_encode(grey, lossless=True, predictor=1, bitspersample=12),
            JPEGLSLossless: imagecodecs.jpegls_encode(grey),
            JPEG2000Lossless: imagecodecs.jpeg2k_encode(
                grey, level=0, codecformat="j2k", bitspersample=12, reversible=True
            ),
            HTJ2KLossless: imagecodecs.htj2k_encode(grey),
        }
        for syntax, stream in streams.items():
            found.append(_stream(place, dicom_dataset(grey), (syntax, stream)))
        small = (grey >> 4).astype(np.uint8)
        found.append(_stream(place, dicom_dataset(small, bits=8), (JPEGBaseline8Bit, imagecodecs.jpeg8_encode(small))))
        colour = np.stack([small, small.T.reshape(48, 40), small], axis=-1)
        rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
        rgb |= {"Rows": 48, "Columns": 40}
        found.append(write_dicom(place, dicom_dataset(colour, bits=8, **rgb)).read_bytes())
    return tuple(found)


@functools.cache
def pictures() -> tuple[bytes, ...]:
    """One small picture in each format that is no DICOM."""
    y, x = np.mgrid[:40, :30]
    grey = ((y * 5 + x * 3) % 256).astype(np.uint8)
    found = []
    for kind, image in (
        *(("PNG", Image.fromarray(grey)), ("TIFF", Image.fromarray(grey)), ("JPEG", Image.fromarray(grey))),
        *(("BMP", Image.fromarray(grey)), ("PPM", Image.fromarray(grey))),
        *(("PNG", Image.fromarray(grey.astype(np.uint16) * 200)), ("PPM", Image.fromarray(np.stack([grey] * 3, -1)))),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format=kind)
        found.append(buffer.getvalue())
    rows = "\n".join(" ".join(map(str, row)) for row in grey[:4])
    return (*found, f"P2\n# a note\n30 4\n255\n{rows}\n".encode())


@functools.cache
def secrets() -> frozenset[str]:
    """Texts of the files that must not leave them: all that could name a person, a day or an examination."""
    found = set(SECRETS)
    for content in (*real_files(), *small_files()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(content), force=True)
            for element in dataset.iterall():
                if element.VR in PERSONAL and element.keyword not in WANTED:
                    found |= {part.strip() for part in str(element.value).split("\\")}
    return frozenset(text for text in found if len(text) >= SHORTEST_SECRET and not text.startswith("1.2.840.10008"))


def make(rng: random.Random, folder: Path) -> None:
    """One damaged file: of real ones every second time, of pictures every tenth."""
    draw = rng.random()
    if draw < 0.1:
        content = mutated(rng, rng.choice(pictures()), pictures())
    elif draw < 0.55 and real_files():
        content = mutated_dicom(rng, rng.choice(real_files()), real_files())
    else:
        content = mutated_dicom(rng, rng.choice(small_files()), small_files())
    (folder / NAME).write_bytes(content)


def judge(rng: random.Random, folder: Path) -> str:
    """Read the file in some way: an image of its own size, or a reason that tells nothing of a patient."""
    options = rng.choice(OPTIONS)
    reader = read_image if rng.random() < 0.4 else read_dicom
    try:
        image = reader(folder / NAME, options=options)
    except DicomError as error:
        return _harmless(error)
    _check(image, options)
    return "accepted"


def _harmless(error: DicomError) -> str:
    text = str(error)
    told = [secret for secret in secrets() if secret in text]
    assert not told, f"the reason holds what the file says: {text[:80]}"
    assert error.message
    assert len(text) < 400
    assert error.__cause__ is None, "the cause quotes the file"
    return error.message


def _check(image: DicomImage, options: ReadOptions) -> None:
    expected = tuple(-(-side // image.reduced_by) for side in (image.tags.rows, image.tags.cols))
    assert image.pixels.shape == (*expected, *((3,) if options.colour == "rgb" else ())), "another size than the tags"
    assert image.pixels.dtype == np.uint16
    assert int(image.pixels.max()) <= image.max_value, "a value above the bit depth"


def _display() -> dict[str, object]:
    return {"WindowCenter": 40, "WindowWidth": 400, "RescaleSlope": 1, "RescaleIntercept": 0}


def _plain(place: Path, dataset: pydicom.Dataset, syntax: str) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    return write_dicom(place, dataset).read_bytes()


def _stream(place: Path, dataset: pydicom.Dataset, coded: Sequence[object]) -> bytes:
    syntax, stream = coded
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([bytes(stream)])
    dataset["PixelData"].is_undefined_length = True
    return write_dicom(place, dataset).read_bytes()


def prepare() -> None:
    """Make the files once, before processes are forked."""
    small_files(), pictures(), secrets()


def tidy() -> None:
    """Nothing is left behind."""


TARGET = Target(name="read_dicom", make=make, judge=judge)

if __name__ == "__main__":
    sys.exit(run(TARGET, inputs=10_000, prepare=prepare, tidy=tidy))
