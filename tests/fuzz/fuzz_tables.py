"""Damaged source tables, array files, sheets, and prepared datasets.

python -m tests.fuzz.fuzz_tables --inputs 3000 --seed 0
"""

import functools
import json
import random
import shutil
import sys
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "data" / "sources"))

from trees import TREES as TREES_A
from trees_b import ROOTS
from trees_b import TREES as TREES_B

from study.data.shards import CHECKSUM, DATASET_FILE, MANIFEST_FILE, about_checksum, open_dataset
from study.data.sources import read_source
from study.errors import StudyError
from tests.conftest import write_dataset
from tests.fuzz.command import run
from tests.fuzz.folders import damage_files, mend
from tests.fuzz.isolated import Target

TREES = TREES_A | TREES_B
TABLES = (".csv", ".xlsx", ".txt", ".npz", ".parquet", ".xml", ".json", ".arrow")
PREPARED = "prepared"
ABOUT = "about.json"  # beside the source: its kind and options


@functools.cache
def trees() -> dict[str, Path]:
    """A small data set of each kind, made once; a table also as Parquet."""
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-trees-"))
    found = {}
    for kind, build in sorted(TREES.items()):
        if kind == "phantom":
            continue
        root = scratch / kind
        root.mkdir()
        options: dict[str, Any] = build(root)
        found[kind] = root
        (scratch / f"{kind}.json").write_text(json.dumps({"kind": kind, "options": options}))
    again = scratch / "parquet"
    again.mkdir()
    pd.read_csv(found["table"] / "t.csv", dtype="str").assign(lesions="[[1, 2, 3, 4]]").to_parquet(again / "t.parquet")
    (scratch / "parquet.json").write_text(json.dumps({"kind": "table", "options": {"table": "t.parquet"}}))
    (scratch / f"{PREPARED}.json").write_text(json.dumps({"kind": PREPARED}))
    return {**found, "parquet": again, PREPARED: write_dataset(scratch / PREPARED, images=12, size=16)}


def make(rng: random.Random, folder: Path) -> None:
    """One data set with faults in one or two of its tables; checksums of a prepared one fit half the time."""
    kind = rng.choice((*sorted(trees()), PREPARED, PREPARED))
    root = folder / "data"
    shutil.copytree(trees()[kind], root)
    shutil.copy(trees()[kind].parent / f"{kind}.json", folder / ABOUT)
    tables = [path for path in sorted(root.rglob("*")) if path.suffix in TABLES]
    damage_files(rng, tables)
    if kind == PREPARED and rng.random() < 0.5:
        mend(lambda: _mend_dataset(root))


def _mend_dataset(root: Path) -> None:
    about = json.loads((root / DATASET_FILE).read_bytes())
    content = (root / MANIFEST_FILE).read_bytes()
    about["tables"] = {MANIFEST_FILE: [MANIFEST_FILE, len(content), zlib.crc32(content)]}
    try:
        for name, record in about["shards"].items():
            shard = (root / "shards" / name).read_bytes()
            record[1:] = [len(shard), zlib.crc32(shard)]
    finally:
        about.pop(CHECKSUM, None)
        about[CHECKSUM] = about_checksum(about)
        (root / DATASET_FILE).write_text(json.dumps(about))


def judge(rng: random.Random, folder: Path) -> str:
    """Read it: rows and pixels, or a reason."""
    about, root = json.loads((folder / ABOUT).read_text()), folder / "data"
    kind = about["kind"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if kind == PREPARED:
                dataset = open_dataset(root)
                dataset.pixels(np.arange(min(len(dataset), 4)))
            else:
                found = read_source(kind, str(root / ROOTS[kind]) if kind in ROOTS else str(root), **about["options"])
                assert len(found)
        except StudyError as error:
            assert error.message
            assert len(str(error)) < 3000, "more than anybody reads"
            return f"{kind}: {error.message.replace(str(folder), '')[:70]}"
    return "accepted"


def prepare() -> None:
    """Make the data sets once, before processes are forked."""
    trees()


def tidy() -> None:
    """Remove them."""
    shutil.rmtree(trees()[PREPARED].parent, ignore_errors=True)
    trees.cache_clear()


TARGET = Target(name="tables", make=make, judge=judge)

if __name__ == "__main__":
    sys.exit(run(TARGET, inputs=3_000, prepare=prepare, tidy=tidy))
