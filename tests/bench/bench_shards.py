"""Reading random rows of a dataset against `preadv` of the same bytes, and what shards take on disk.

Run with `make bench`. Pictures are like breasts in a prepared frame: texture with noise in a half-ellipse on black,
33 to 48 % of the frame not zero. One core, warm page cache, alternating repetitions, median. Prints ratios of one run.
"""

import json
import os
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from study.data.augment import tune_malloc
from study.data.shards import DATASET_FILE, FORMAT, MANIFEST_FILE, SHARD_FOLDER, open_dataset
from study.data.shards_file import Content, write_shard

PICTURES, SHARD_ROWS, BATCH, REPETITIONS = 256, 64, 32, 9


def breast(rng, *, side, bits):
    """Content [h, w] of one picture and its place in the frame: the box of a breast of random form."""
    height, width = side, int(side * rng.uniform(0.45, 0.62))
    y, x = np.mgrid[0:height, 0:width]
    inside = (x / width) ** 2 + ((y - height / 2) / (height / 2)) ** 2 < 1
    texture = np.zeros((height, width), dtype=np.float32)
    for octave in range(2, 8):  # amplitude falls with frequency, as in tissue
        small = rng.normal(size=(max(2, 2**octave), max(2, 2 ** (octave - 1)))).astype(np.float32)
        texture += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    level = np.clip(0.45 + 0.25 * texture / texture.std(), 0.02, 1.0)
    noisy = level + rng.normal(size=level.shape) * 0.003 * np.sqrt(level)
    top = 2**bits - 1
    pixels = np.clip(noisy * top, 1, top).astype(np.uint8 if bits == 8 else np.uint16)
    pixels[~inside] = 0
    return Content(pixels=pixels, offset=((side - width) // 2, 0))


def write_set(root, contents, *, side, bits, encoding):
    """A prepared dataset of these pictures; returns the bytes of its shards."""
    records, rows = {}, []
    for start in range(0, len(contents), SHARD_ROWS):
        name = f"{start:024x}.arrow"
        part = contents[start : start + SHARD_ROWS]
        record = write_shard(root / SHARD_FOLDER / name, part, encoding=encoding)
        records[name] = [record.rows, record.size_bytes, record.crc32]
        rows += [(name, row) for row in range(len(part))]
    table = pd.DataFrame(rows, columns=["shard", "shard_row"]).assign(label=0, segment="a", source="a", split="train")
    table.to_parquet(root / MANIFEST_FILE)
    about = {"format": FORMAT, "classes": ["a"], "image_hw": [side, side], "channels": 1, "bits": bits}
    about |= {"encoding": encoding, "fingerprint": f"{encoding}{bits}{side}", "shards": records}
    (root / DATASET_FILE).write_text(json.dumps(about))
    return sum(size for _, size, _ in records.values())


def memory(shape, dtype):
    """Memory that is there, on large pages where the kernel has them (numpy asks for them with `empty` alone)."""
    made = np.empty(shape, dtype)
    made.fill(0)
    return made


class Peer:
    """The contents one after the other in a plain file, read by `preadv` into memory that is kept."""

    def __init__(self, path, contents):
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT)
        self.shapes = [content.pixels.shape for content in contents]
        self.starts = np.cumsum([0, *(content.pixels.nbytes for content in contents)]).tolist()
        for content in contents:
            os.write(self.handle, content.pixels.tobytes())
        largest = max(content.pixels.nbytes for content in contents)
        self.memory = memory((BATCH, largest), np.uint8)

    def read(self, rows):
        for place, row in enumerate(rows):
            size = self.starts[row + 1] - self.starts[row]
            os.preadv(self.handle, [self.memory[place, :size]], self.starts[row])


def rates(readers, order):
    """Images a second of processor time of each reader.

    They take turns batch by batch, each at another place of the order, so that none finds what another left in a cache.
    """
    times = {name: [] for name in readers}
    for _ in range(REPETITIONS):
        spent = dict.fromkeys(readers, 0.0)
        for start in range(0, len(order), BATCH):
            for number, (name, read) in enumerate(readers.items()):
                rows = np.roll(order, number * len(order) // len(readers))[start : start + BATCH]
                begun = time.process_time()
                read(rows)
                spent[name] += time.process_time() - begun
        for name, seconds in spent.items():
            times[name].append(seconds)
    return {name: len(order) / statistics.median(values) for name, values in times.items()}


@pytest.mark.parametrize(("side", "bits"), [(512, 8), (512, 16), (1024, 8)])
def test_random_rows(tmp_path, side, bits):
    """Random rows come nearly as fast as the kernel copies their bytes, framed, and take half of the frames' bytes."""
    cv2.setNumThreads(0)
    tune_malloc()
    rng = np.random.default_rng(7)
    contents = [breast(rng, side=side, bits=bits) for _ in range(PICTURES)]
    frame_bytes = side * side * bits // 8
    filled = np.mean([np.count_nonzero(content.pixels) / side**2 for content in contents])
    sizes, sets = {}, {}
    for encoding in ("raw", "zstd"):
        root = Path(tmp_path / encoding)
        (root / SHARD_FOLDER).mkdir(parents=True)
        size = write_set(root, contents, side=side, bits=bits, encoding=encoding)
        sizes[encoding], sets[encoding] = size / (PICTURES * frame_bytes), open_dataset(root)
    order = rng.permutation(PICTURES).repeat(2)
    dtype = np.uint8 if bits == 8 else np.uint16
    out = memory((BATCH, side, side), dtype)
    peer = Peer(tmp_path / "plain.bin", contents)
    frames = [Content(pixels=np.zeros((side, side), dtype)) for _ in range(PICTURES)]
    whole = Peer(tmp_path / "frames.bin", frames)
    found = rates(
        {
            "preadv of the contents": lambda rows: peer.read(rows.tolist()),
            "preadv of whole frames": lambda rows: whole.read(rows.tolist()),
            "raw shards, framed, memory kept": lambda rows: sets["raw"].pixels(rows, out=out),
            "raw shards, framed, new memory": sets["raw"].pixels,
            "zstd shards, framed, memory kept": lambda rows: sets["zstd"].pixels(rows, out=out),
        },
        order,
    )
    limit = found["preadv of the contents"]
    print(f"\n{side} px, {bits} bits, {filled:.0%} of the frame not zero")
    for name, rate in found.items():
        print(f"  {name:34s} {rate:9.0f} images/s   {rate / limit:5.2f} of preadv")
    for encoding, share in sizes.items():
        print(f"  {encoding:34s} {share:9.2f} of the frames' bytes")
    assert np.array_equal(sets["zstd"].pixels(order[:BATCH]), sets["raw"].pixels(order[:BATCH]))
