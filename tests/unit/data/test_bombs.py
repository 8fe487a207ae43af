"""Small files that would grow without bounds, tables that would tell of a patient, and nests without end."""

import io
import json
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from study.data import dicom_file
from study.data.arrays import array_picture
from study.data.dicom import read_dicom
from study.data.shards import DATASET_FILE, open_dataset
from study.data.sources import read_source
from study.data.sources.boxes import parse_lesions
from study.errors import DicomError, InputError
from tests.unit.data.dicom_files import dicom_dataset, write_dicom

sys.path.append(str(Path(__file__).parent / "sources"))
MIB = 2**20


@pytest.fixture
def deflated(tmp_path):
    """A file that is deflated as a whole, and its pixels."""
    pixels = np.arange(600, dtype=np.uint16).reshape(30, 20)
    dataset = dicom_dataset(pixels)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return write_dicom(tmp_path / "x.dcm", dataset), pixels


def with_body(path, body):
    """The file's header with another deflated body."""
    content = path.read_bytes()
    head = content[: 144 + int.from_bytes(content[140:144], "little")]
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(head + packer.compress(body) + packer.flush())
    return path


def reason_of(path):
    with pytest.raises(DicomError) as caught:
        read_dicom(path)
    return caught.value.message


def test_a_deflated_file_is_read(deflated):
    """The limit costs pixels, or the name of the encoding."""
    path, pixels = deflated
    image = read_dicom(path)
    np.testing.assert_array_equal(image.pixels_hw, pixels)
    assert image.tags.transfer_syntax == DeflatedExplicitVRLittleEndian


def test_a_deflated_bomb_is_not_unpacked(deflated, monkeypatch):
    """A file of kilobytes takes the memory of what it would unpack to."""
    monkeypatch.setattr(dicom_file, "INFLATED_MOST", 4 * MIB)
    path = with_body(deflated[0], b"\0" * (64 * MIB))
    assert path.stat().st_size < MIB
    tracemalloc.start()
    assert reason_of(path) == "the deflated file is larger than 4 MiB"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * MIB


def test_a_deflated_file_in_a_deflated_file(deflated):
    """The limit holds for the outer file alone."""
    path, _ = deflated
    whole = path.read_bytes()
    assert reason_of(with_body(path, whole[132:])) == "the DICOM structure is damaged"
    assert reason_of(with_body(path, whole)) == "the DICOM structure is damaged"


def npz_of_zeros(place, size):
    """An array file of one large member that packs a thousandfold, and labels."""
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in (("train_images", f"({size // 100}, 10, 10)"), ("train_labels", f"({size},)")):
            header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
            with archive.open(f"{name}.npy", "w") as member:
                member.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
                for _ in range(size // (16 * MIB)):
                    member.write(b"\0" * (16 * MIB))
    return place


def test_an_array_file_that_unpacks_too_far(tmp_path, monkeypatch):
    """Pictures or labels are unpacked before anybody asks how large they are."""
    monkeypatch.setattr("study.data.archives.SMALL", 8 * MIB)
    place = npz_of_zeros(tmp_path / "a.npz", 32 * MIB)
    assert place.stat().st_size < MIB
    with pytest.raises(DicomError, match="unpacks to more than pictures could be"):
        array_picture(f"{place}::train_images::0", colour="grey")
    with pytest.raises(InputError, match="unpacks to more than labels could be"):
        read_source("npz", place)


def test_a_sheet_that_unpacks_too_far(tmp_path, monkeypatch):
    """A sheet of kilobytes is unpacked whatever it holds."""
    from trees_b import breast, write_cmmd

    monkeypatch.setattr("study.data.archives.SMALL", 4 * MIB)
    write_cmmd(tmp_path, [breast()], {"D1-0001": [("L", "CC")]})
    (sheet,) = tmp_path.rglob("*.xlsx")
    with zipfile.ZipFile(sheet, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/more.xml", b" " * (16 * MIB))
    with pytest.raises(InputError, match="unpacks to more than a sheet could hold"):
        read_source("cmmd", tmp_path)


def test_nests_without_end(tmp_path, make_dataset):
    """JSON in thousands of brackets ends in a RecursionError, a number of 400 digits in an OverflowError."""
    assert parse_lesions("[" * 100_000) is None
    assert parse_lesions(f"[[1, 2, 3, {'9' * 400}]]") is None
    root = make_dataset(tmp_path / "data", images=12, size=16)
    (root / DATASET_FILE).write_text("[" * 100_000)
    with pytest.raises(InputError, match="is damaged"):
        open_dataset(root)


def test_parquet_notes_are_not_trusted(tmp_path):
    """A table whose notes for pandas are broken ends in their fault."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = pd.DataFrame({"path": ["a.png"], "patient_id": ["7"], "label": ["0"]})
    table = pa.Table.from_pandas(frame).replace_schema_metadata({b"pandas": b"{"})
    pq.write_table(table, tmp_path / "t.parquet")
    assert len(read_source("table", tmp_path, table="t.parquet")) == 1


@pytest.mark.parametrize("line", ["SECRET-77,19500615,Jane", "SECRET-77;19500615;Jane"])
def test_a_table_without_a_header_tells_nothing(tmp_path, line):
    """The first patient of a table without a header line stands in the error as the name of a column."""
    (tmp_path / "t.csv").write_text(f"{line}\n{line}\n")
    with pytest.raises(InputError, match="is there a header line") as caught:
        read_source("table", tmp_path, table="t.csv")
    assert "SECRET" not in str(caught.value)
    assert "Jane" not in str(caught.value)
    (tmp_path / "breast-level_annotations.csv").write_text(f"{line}\n{line}\n".replace(";", ","))
    with pytest.raises(InputError) as other:
        read_source("vindr", tmp_path)
    assert "SECRET" not in str(other.value)


def test_many_columns_are_not_all_named(tmp_path):
    """The error about a wide table is longer than anybody reads."""
    names = ["path", "patient_id", *(f"feature{number}" for number in range(500))]
    (tmp_path / "t.csv").write_text(",".join(names) + "\n" + ",".join("x" for _ in names) + "\n")
    with pytest.raises(InputError) as caught:
        read_source("table", tmp_path, table="t.csv")
    assert "more unknown columns" in caught.value.message
    assert len(str(caught.value)) < 3000


def test_damaged_parts_of_a_sheet(tmp_path):
    """A damaged part of a sheet ends in the fault of the library that reads it."""
    from trees_b import breast, write_cmmd

    write_cmmd(tmp_path, [breast()], {"D1-0001": [("L", "CC")]})
    (sheet,) = tmp_path.rglob("*.xlsx")
    content = bytearray(sheet.read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
        starts = [member.header_offset + 30 + len(member.filename) for member in archive.infolist()]
    for start in starts:
        broken = bytearray(content)
        broken[start + 8 : start + 24] = b"\xff" * 16
        sheet.write_bytes(bytes(broken))
        try:
            read_source("cmmd", tmp_path)
        except InputError as error:
            assert "is not an Excel sheet" in json.dumps(error.message)  # noqa: PT017 - some parts are not needed
