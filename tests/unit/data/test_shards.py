"""Prepared datasets: rows in any order, frames, damage, pickling, and what is no dataset."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.data import shards
from study.data.shards import open_dataset
from study.data.shards_file import Content, write_shard
from study.errors import InputError

SIZE = 24


def _images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)


def _contents(images):
    return [Content(pixels=image) for image in images]


def _manifest(counts):
    rows = []
    for shard, count in counts.items():
        for place in range(count):
            number = len(rows)
            rows.append(
                {
                    "source": "ab"[number % 2],
                    "segment": f"seg_{number % 3}",
                    "label": number % 3,
                    "split": ("train", "train", "val", "test")[number % 4],
                    "shard": shard,
                    "shard_row": place,
                    "drop_reason": "",
                }
            )
    dropped = dict.fromkeys(rows[0]) | {"source": "a", "drop_reason": "birads 3", "split": "train"}
    frame = pd.DataFrame([dropped, *rows])
    return frame.astype({"label": "Int64", "shard_row": "Int64"})


@pytest.fixture
def dataset(tmp_path):
    """A folder with two shards of 5 and 3 images and one dropped row."""
    folder = tmp_path / "prepared"
    (folder / "shards").mkdir(parents=True)
    records = {}
    for seed, (name, count) in enumerate({"one.arrow": 5, "two.arrow": 3}.items()):
        record = write_shard(folder / "shards" / name, _contents(_images(count, seed)))
        records[name] = [record.rows, record.size_bytes, record.crc32]
    _manifest({"one.arrow": 5, "two.arrow": 3}).to_parquet(folder / "manifest.parquet")
    about = {
        "format": shards.FORMAT,
        "classes": ["x", "y", "z"],
        "image_hw": [SIZE, SIZE],
        "channels": 1,
        "bits": 8,
        "encoding": "raw",
        "settings": {},
        "counts": {},
        "fingerprint": "f0",
        "shards": records,
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def test_rows_in_any_order_over_shards(dataset):
    """Pixels come in the order that was asked for, repeated rows too, as a copy."""
    opened = open_dataset(dataset)
    every = np.concatenate([_images(5, 0), _images(3, 1)])
    rows = np.array([7, 0, 5, 0, 4])
    found = opened.pixels(rows)
    assert np.array_equal(found, every[rows])
    found[:] = 0
    assert np.array_equal(opened.pixels(rows), every[rows])
    assert opened.pixels(np.array([], dtype=np.int64)).shape == (0, SIZE, SIZE)


def test_columns_leave_out_dropped_rows(dataset):
    """Only labelled rows with pixels are numbered; the dropped one stays in the file."""
    opened = open_dataset(str(dataset))
    assert len(opened) == 8
    assert opened.labels_n.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert opened.labels_n.dtype == np.int64
    assert opened.sources_n.tolist() == list("abababab")
    assert opened.segments_n[:3].tolist() == ["seg_0", "seg_1", "seg_2"]
    assert opened.rows("train").tolist() == [0, 1, 4, 5]
    assert opened.rows("val").tolist() == [2, 6]
    assert opened.classes == ("x", "y", "z")
    assert len(shards.read_manifest(dataset)) == 9


def test_pickle_is_small_and_opens_once(dataset):
    """A pickled dataset is a few hundred bytes, and unpickling it twice gives one opened dataset."""
    opened = open_dataset(dataset)
    opened.pixels(np.array([1]))
    sent = pickle.dumps(opened)
    assert len(sent) < 400
    first, second = pickle.loads(sent), pickle.loads(sent)
    assert first is second
    assert np.array_equal(first.pixels(np.array([6])), opened.pixels(np.array([6])))


def test_dataset_replaced_while_in_use_is_noticed(dataset):
    """A dataset that was prepared again meanwhile is refused by whoever still holds the old one."""
    opened = open_dataset(dataset)
    sent = pickle.dumps(opened)
    about = json.loads((dataset / "dataset.json").read_text()) | {"fingerprint": "f1"}
    (dataset / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="prepared again"):
        pickle.loads(sent)
    with pytest.raises(InputError, match="prepared again"):
        len(opened)


def _cut(path: Path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "bytes, expected"),
        (_flip, "checksum"),
        (Path.unlink, "is missing"),
        (lambda p: p.write_bytes(b""), "(has 0 bytes|cannot be read)"),
    ],
)
def test_damaged_shard_is_named(dataset, damage, words):
    """A shard that was cut, changed in one bit, emptied or lost is named on first use; the others still work."""
    damage(dataset / "shards" / "two.arrow")
    opened = open_dataset(dataset)
    assert np.array_equal(opened.pixels(np.array([0])), _images(5)[:1])
    with pytest.raises(InputError, match=rf"shard two\.arrow .*{words}") as caught:
        opened.pixels(np.array([0, 6]))
    assert "study prepare" in caught.value.fix


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (_images(3)[:, :8].repeat(4, axis=1), r"images of up to \(32, 24\) px"),
        (_images(3).astype(np.uint16), "16 bits"),
        (np.stack([_images(3)] * 3, axis=-1), "3 channels"),
        (_images(2), "holds 2 images, expected 3"),
    ],
)
def test_shard_of_another_kind_is_refused(dataset, images, words):
    """A listed shard with larger, deeper, coloured or fewer images is refused instead of being cut or misread."""
    record = write_shard(dataset / "shards" / "two.arrow", _contents(images))
    about = json.loads((dataset / "dataset.json").read_text())
    about["shards"]["two.arrow"] = [3, record.size_bytes, record.crc32]
    (dataset / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=rf"two\.arrow .*{words}"):
        open_dataset(dataset).pixels(np.array([7]))


def test_given_memory_is_filled(dataset):
    """``out`` is filled and given back, so that a loop can keep its memory; an array that does not fit is refused."""
    opened = open_dataset(dataset)
    out = np.full((2, SIZE, SIZE), 9, dtype=np.uint8)
    assert opened.pixels(np.array([6, 1]), out=out) is out
    assert np.array_equal(out, opened.pixels(np.array([6, 1])))
    for bad in (out[:1], out.astype(np.uint16), np.broadcast_to(out[0], out.shape), out[:, :, ::-1]):
        with pytest.raises(InputError, match="expected a writable, contiguous uint8"):
            opened.pixels(np.array([6, 1]), out=bad)


def test_rows_that_do_not_exist_are_refused(dataset):
    """A row number beyond the data, or below 0, is refused."""
    for row in (8, -1):
        with pytest.raises(InputError, match="asked of 8 images"):
            open_dataset(dataset).pixels(np.array([row]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is no prepared dataset"),
        ("{", "is damaged"),
        ('{"format": 1}', "has format 1; expected 2"),
        ("[]", "is damaged"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path, content, words):
    """A folder without, or with a strange, dataset.json is refused with what to do."""
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        open_dataset(tmp_path)
    assert "study prepare" in caught.value.fix


@pytest.mark.parametrize(
    ("key", "value"),
    [("shards", None), ("shards", {"a.arrow": [1, 2]}), ("classes", None), ("image_hw", [4]), ("settings", 1)],
)
def test_a_dataset_file_without_what_it_must_say_is_refused(dataset, key, value):
    """A dataset whose file lacks an entry, or has one of another form, is opened, and ends in an error of Python."""
    path = dataset / "dataset.json"
    about = {name: entry for name, entry in json.loads(path.read_bytes()).items() if name not in (key, "crc32")}
    path.write_text(json.dumps(about if value is None else about | {key: value}))
    with pytest.raises(InputError, match=r"dataset\.json is damaged") as caught:
        open_dataset(dataset)
    assert "study prepare" in caught.value.fix


def test_damaged_manifest_is_refused(dataset):
    """A manifest that is no Parquet file is an input error, not a traceback of the reader."""
    (dataset / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        len(open_dataset(dataset))


def test_a_shard_that_is_overwritten_while_in_use_is_named(tmp_path, make_dataset):
    """Compressed rows that change under a running process are refused, with the shard's name."""
    images = _images(4)
    record = write_shard(tmp_path / "one.arrow", _contents(images), encoding="zstd")
    root = make_dataset(tmp_path / "made")
    about = json.loads((root / "dataset.json").read_text())
    about |= {"image_hw": [SIZE, SIZE], "encoding": "zstd"}
    about["shards"]["a.arrow"] = [record.rows, record.size_bytes, record.crc32]
    (root / "dataset.json").write_text(json.dumps(about))
    shard = root / "shards" / "a.arrow"
    shard.write_bytes((tmp_path / "one.arrow").read_bytes())
    opened = open_dataset(root)
    np.testing.assert_array_equal(opened.pixels(np.array([2]))[0], images[2])
    with shard.open("r+b") as file:
        file.seek(0)
        file.write(bytes(shard.stat().st_size))
    with pytest.raises(InputError, match=r"shard a\.arrow changed while it was in use"):
        opened.pixels(np.array([2]))
