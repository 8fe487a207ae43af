"""Preparing through Ray against a pool of processes that runs the same function on the same blocks of files.

Run with `make bench`. Full-size JPEG Lossless files (3328 x 2560 px, 12 of 16 bits), page-cached, on all cores. Each
side works for about a minute, in turns. The steady rate counts from the first finished block of each process to the
last block; the whole rate has the start of Ray or of the pool in it. Ratios are printed, not asserted.
"""

import functools
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

import imagecodecs
import pandas as pd
import pyarrow as pa
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

from study.config import DataConfig
from study.data.phantom_file import phantom_file
from study.distributed.cluster import connected
from study.distributed.preparing_blocks import BLOCK_FIELDS, prepare_block
from study.distributed.preparing_run import read_missing
from study.distributed.preparing_tables import image_settings

HW = (3328, 2560)
DISTINCT, SECONDS, TURNS = 12, 60.0, 2
CORES = len(os.sched_getaffinity(0))
SCHEMA = pa.schema([(name, pa.string()) for name in BLOCK_FIELDS])


@pytest.fixture(scope="module")
def distinct(tmp_path_factory):
    """A dozen breasts, encoded as scanners send them to archives."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(DISTINCT):
        row = {"manufacturer": "Alpha", "label3": "benign", "density": "B", "age": 50, "rows": HW[0], "cols": HW[1]}
        row |= {"patient_id": "p", "study_id": "2.25.1", "series_id": "2.25.2", "laterality": "L", "view": "MLO"}
        path = folder / f"{number}.dcm"
        path.write_bytes(phantom_file(row, image_seed=number, breast_seed=number, site="bench"))
        dataset = pydicom.dcmread(path)
        frame = imagecodecs.jpeg8_encode(dataset.pixel_array, lossless=True, predictor=1, bitspersample=12)
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.save_as(path)
    return sorted(folder.iterdir())


def file_table(distinct, count):
    paths = [str(distinct[number % DISTINCT]) for number in range(count)]
    keys = [f"{number:032x}" for number in range(count)]
    return pd.DataFrame({"file_key": keys, "path": paths, "laterality": "L", "mask": ""})


def places(folder):
    config = DataConfig.model_validate(
        {"prepared": str(folder), "sources": [{"kind": "table", "name": "a", "table": "b"}], "image_size": 512}
    )
    (folder / "results").mkdir(parents=True, exist_ok=True)
    made = {"shards": str(folder / "shards"), "results": str(folder / "results")}
    return made | {"image": image_settings(config), "encoding": "raw"}


def through_ray(table, folder):
    """Times at which blocks were finished, with their files."""
    done = []
    read_missing(table, places(folder), progress=lambda p: done.append((time.perf_counter(), p.done)), workers=None)
    return done


def in_pool(table, folder, *, size):
    """The same from a pool of processes."""
    blocks = [
        pa.Table.from_pandas(table.iloc[start : start + size], schema=SCHEMA, preserve_index=False)
        for start in range(0, len(table), size)
    ]
    done, files = [], 0
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        for answer in pool.imap_unordered(functools.partial(prepare_block, work=places(folder)), blocks):
            files += answer.column("files")[0].as_py()
            done.append((time.perf_counter(), files))
    return done


def rates(begun, done):
    """Files a second: steady, and with the start."""
    first_at, first_files = done[CORES - 1]
    last_at, last_files = done[-1]
    return (last_files - first_files) / (last_at - first_at), last_files / (last_at - begun)


def test_ray_against_a_pool(distinct, tmp_path):
    """Ray Data keeps all cores as busy as a pool does."""
    from study.distributed import preparing_run

    begun = time.perf_counter()
    prepare_block(pa.Table.from_pandas(file_table(distinct, 24), schema=SCHEMA), work=places(tmp_path / "warm"))
    count = int(SECONDS * CORES * 24 / (time.perf_counter() - begun))
    table, found = file_table(distinct, count), {"pool": [], "ray": []}
    size = preparing_run._block_size(count, cores=CORES, image_bytes=512 * 512)
    with connected():
        through_ray(table.iloc[: 8 * CORES], tmp_path / "first")  # Ray Data's own processes import once
        for turn in range(TURNS):
            begun = time.perf_counter()
            found["pool"].append(rates(begun, in_pool(table, tmp_path / f"pool{turn}", size=size)))
            begun = time.perf_counter()
            found["ray"].append(rates(begun, through_ray(table, tmp_path / f"ray{turn}")))
    print(f"\n{count} files in blocks of {size} on {CORES} cores, {TURNS} turns")
    for name, pairs in found.items():
        steady, whole = (statistics.mean(values) for values in zip(*pairs, strict=True))
        each = ", ".join(f"{pair[0]:.1f}" for pair in pairs)
        print(f"  {name:5s} steady {steady:6.1f} files/s ({each})   with the start {whole:6.1f}")
    ratios = [
        statistics.mean(pair[kind] for pair in found["ray"]) / statistics.mean(pair[kind] for pair in found["pool"])
        for kind in (0, 1)
    ]
    print(f"  ratio Ray : pool   steady {ratios[0]:.2f}   with the start {ratios[1]:.2f}")


def test_memory_of_the_driver(tmp_path):
    """The process that runs `study prepare` holds the manifest, and neither pixels nor results of all blocks."""
    code = (
        "import sys, resource; from study.config import DataConfig; from study.distributed.preparing import *;"
        "from study.distributed.cluster import connected\n"
        "with connected():\n"
        "    prepare_dataset(DataConfig.model_validate_json(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    for patients in (50, 500):
        source = {"kind": "phantom", "name": "site", "patients": patients, "root": str(tmp_path / f"dicom{patients}")}
        data = {"prepared": str(tmp_path / f"set{patients}"), "sources": [source], "image_size": 512}
        config = DataConfig.model_validate(data).model_dump_json()
        done = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, check=True)
        print(f"\n{4 * patients} files: the driver held at most {done.stdout.split()[-1]} MiB")
