"""Shard files: round trip in every kind, frames, zero copy, damage."""

import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc

from study.data import files
from study.data.shards_file import Content, ShardRecord, read_shard, write_shard
from study.errors import InputError

KINDS = [(np.uint8, ()), (np.uint16, ()), (np.uint8, (3,)), (np.uint16, (3,))]


def _content(rng, *, dtype=np.uint8, shape=(), offset=(0, 0), background=0):
    size = rng.integers(1, 20, 2)
    pixels = rng.integers(0, np.iinfo(dtype).max + 1, (*size, *shape), dtype=dtype)
    return Content(pixels=pixels, offset=offset, background=background)


def _contents(count, **kind):
    rng = np.random.default_rng(count)
    return [_content(rng, **kind) for _ in range(count)]


@pytest.mark.parametrize("encoding", ["raw", "zstd"])
@pytest.mark.parametrize(("dtype", "shape"), KINDS)
def test_round_trip(tmp_path, encoding, dtype, shape):
    """Every kind of picture comes back exactly as it was written, whatever its own size."""
    path, written = tmp_path / "a.arrow", _contents(7, dtype=dtype, shape=shape, offset=(3, 5), background=7)
    record = write_shard(path, written, encoding=encoding)
    assert record == ShardRecord(rows=7, size_bytes=path.stat().st_size, crc32=zlib.crc32(path.read_bytes()))
    shard = read_shard(path, expected=record)
    assert (len(shard), shard.channels, shard.bits) == (7, 3 if shape else 1, 8 * np.dtype(dtype).itemsize)
    for row, content in enumerate(written):
        found = shard.content(row)
        assert np.array_equal(found.pixels, content.pixels)
        assert (found.pixels.dtype, found.offset, found.background) == (dtype, (3, 5), 7)


def test_layout_of_the_file(tmp_path):
    """The file is one Arrow record batch that other programs can read, and says what it holds."""
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    write_shard(tmp_path / "a.arrow", [Content(pixels=pixels, offset=(2, 1))])
    with ipc.open_file(str(tmp_path / "a.arrow")) as reader:
        assert reader.num_record_batches == 1
        batch = reader.get_batch(0)
    assert batch.schema.names == ["pixels", "height", "width", "left", "top", "background"]
    assert batch.schema.metadata == {b"channels": b"1", b"bits": b"16", b"encoding": b"raw"}
    row = batch.to_pylist()[0]
    assert row.pop("pixels") == pixels.tobytes()
    assert row == {"height": 3, "width": 4, "left": 2, "top": 1, "background": 0}


@pytest.mark.parametrize("encoding", ["raw", "zstd"])
@given(data=st.data())
def test_frame_is_content_on_background(tmp_path_factory, encoding, data):
    """A framed row is the content at its offset, and the background everywhere else: no line of an older picture."""
    dtype, shape = data.draw(st.sampled_from(KINDS))
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    left, top = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    frame_hw = (top + height + data.draw(st.integers(0, 4)), left + width + data.draw(st.integers(0, 4)))
    background = data.draw(st.integers(0, np.iinfo(dtype).max))
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, *shape), dtype=dtype)
    path = tmp_path_factory.mktemp("shard") / "a.arrow"
    write_shard(path, [Content(pixels=pixels, offset=(left, top), background=background)], encoding=encoding)
    expected = np.full((*frame_hw, *shape), background, dtype=dtype)
    expected[top : top + height, left : left + width] = pixels
    frames = np.full((2, *frame_hw, *shape), 99, dtype=dtype)
    read_shard(path).frame_into(0, frames[1])
    assert np.array_equal(frames[1], expected)
    assert (frames[0] == 99).all()


@pytest.mark.parametrize(("dtype", "shape"), KINDS)
@pytest.mark.parametrize("background", [0, 9])
def test_trimmed_content_is_the_same_picture(tmp_path, dtype, shape, background):
    """Empty margins are not stored, and no pixel of any channel that differs from the background is lost with them."""
    pixels = np.full((20, 30, *shape), background, dtype=dtype)
    corners = [(3, 7), (15, 21)]
    for row, col in corners:
        pixels[(row, col, 0) if shape else (row, col)] = 200
    whole = Content(pixels=pixels, offset=(4, 2), background=background)
    found = whole.trimmed()
    assert (found.pixels.shape[:2], found.offset) == ((13, 15), (11, 5))
    write_shard(tmp_path / "a.arrow", [whole, found])
    frames = np.full((2, 30, 40, *shape), 99, dtype=dtype)
    shard = read_shard(tmp_path / "a.arrow")
    for row in range(2):
        shard.frame_into(row, frames[row])
    assert np.array_equal(frames[0], frames[1])
    assert Content(pixels=pixels[:3], background=background).trimmed().pixels.shape[:2] == (1, 1)


def test_compressed_rows_are_smaller(tmp_path):
    """Encoding zstd makes a smaller file of pictures with structure."""
    smooth = np.add.outer(np.arange(200), np.arange(200)).astype(np.uint8)
    raw = write_shard(tmp_path / "raw.arrow", [Content(pixels=smooth)])
    small = write_shard(tmp_path / "zstd.arrow", [Content(pixels=smooth)], encoding="zstd")
    assert small.size_bytes < 0.5 * raw.size_bytes


def test_written_from_a_view_that_is_not_contiguous(tmp_path):
    """Pixels with strides, such as a flipped picture, are stored in row-major order."""
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)[:, ::-2]
    write_shard(tmp_path / "a.arrow", [Content(pixels=pixels)])
    assert np.array_equal(read_shard(tmp_path / "a.arrow").content(0).pixels, pixels)


def test_pixels_are_mapped_and_hold_no_file_handle(tmp_path):
    """Opened shards lie outside the heap, are read-only, and need no open file handle."""
    before, allocated = len(list(Path("/proc/self/fd").iterdir())), pa.total_allocated_bytes()
    opened = []
    for number in range(20):
        write_shard(tmp_path / f"{number}.arrow", _contents(number + 1))
        opened.append(read_shard(tmp_path / f"{number}.arrow"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert pa.total_allocated_bytes() - allocated < 10_000
    assert not opened[0].content(0).pixels.flags.writeable
    assert np.array_equal(opened[19].content(3).pixels, _contents(20)[3].pixels)


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    """A write that dies leaves neither the shard nor a temporary file."""

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(files.Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_shard(tmp_path / "a.arrow", _contents(2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pixels",
    [
        [],
        [np.zeros(4, np.uint8)],
        [np.zeros((4, 4), np.float32)],
        [np.zeros((4, 4, 2), np.uint8)],
        [np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint16)],
        [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)],
    ],
)
def test_other_arrays_are_refused(tmp_path, pixels):
    """Anything but pictures of one kind is refused before a file is made."""
    with pytest.raises(InputError, match="expected uint8 or uint16"):
        write_shard(tmp_path / "a.arrow", [Content(pixels=each) for each in pixels])
    assert list(tmp_path.iterdir()) == []


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [_cut, lambda p: p.write_bytes(b"no arrow file"), lambda p: p.write_bytes(b"")])
def test_damage_is_noticed_without_a_record_too(tmp_path, damage):
    """A file that is no complete shard is refused even when nothing is known of it."""
    write_shard(tmp_path / "a.arrow", _contents(2))
    damage(tmp_path / "a.arrow")
    with pytest.raises(InputError, match=r"shard a\.arrow cannot be read"):
        read_shard(tmp_path / "a.arrow")


@pytest.mark.parametrize(
    ("column", "value"), [("height", 400), ("width", -1), ("left", -1), ("top", -2), ("pixels", b"")]
)
def test_numbers_that_point_outside_are_refused(tmp_path, column, value):
    """A shard whose numbers do not fit its bytes is refused when it is opened: OpenCV would read past the end."""
    write_shard(tmp_path / "a.arrow", _contents(3))
    with ipc.open_file(str(tmp_path / "a.arrow")) as reader:
        batch = reader.get_batch(0)
    rows = batch.to_pylist()
    rows[1][column] = value
    with ipc.new_file(str(tmp_path / "a.arrow"), batch.schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=batch.schema))
    with pytest.raises(InputError, match="cannot be read"):
        read_shard(tmp_path / "a.arrow")
