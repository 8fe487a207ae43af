"""What earlier preparations left: results of single files, finished or staged, that need not be made again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from study.data.files import file_state
from study.data.shards import MANIFEST_FILE, QUARANTINE_FILE, SHARD_FOLDER, read_about
from study.distributed.preparing_tables import MISSING_FILE, RESULT_COLUMNS, Layout
from study.errors import StudyError

RESULT_FOLDER: Final = "results"
IMAGE_FILE: Final = "image.json"
SHARD_COLUMNS: Final = ("shard_rows", "size_bytes", "crc32")


def known_results(layout: Layout, image: Mapping[str, Any]) -> pd.DataFrame:
    """What earlier preparations with the same image settings left: a row per file, good or bad.

    Columns: those of ``RESULT_COLUMNS``, ``folder`` (where its shard lies) and ``SHARD_COLUMNS`` (its record).
    Rows whose shard is missing or has another size are left out.
    """
    parts = [_staged_results(layout.staging, image), _finished_results(layout.root, image)]
    known = pd.concat([part for part in parts if not part.empty] or parts, ignore_index=True)
    if known.empty:
        return known
    return known[_is_intact(known)].drop_duplicates("file_key").reset_index(drop=True)


def empty_results() -> pd.DataFrame:
    """The table of results without a row."""
    return pd.DataFrame(columns=[*RESULT_COLUMNS, "folder", *SHARD_COLUMNS], dtype=object)


def _finished_results(root: Path, image: Mapping[str, Any]) -> pd.DataFrame:
    try:
        about = read_about(root)
        if about["settings"]["image"] != image:
            return empty_results()
        good = pd.read_parquet(root / MANIFEST_FILE)
        bad = pd.read_parquet(root / QUARANTINE_FILE)
    except (StudyError, OSError, KeyError, ValueError, pa.ArrowException):
        return empty_results()  # nothing that can be reused
    good = good[good["shard"].fillna("") != ""]
    records = good["shard"].map(about["shards"])
    record = {column: records.str[place] for place, column in enumerate(SHARD_COLUMNS)}
    good = good.assign(stage="", reason="", **record)
    both = pd.concat([good, bad[bad["reason"] != MISSING_FILE]], ignore_index=True)
    return both.reindex(columns=empty_results().columns).assign(folder=str(root / SHARD_FOLDER))


def _staged_results(staging: Path, image: Mapping[str, Any]) -> pd.DataFrame:
    if not is_staging_for(staging, image):
        return empty_results()
    parts = [pd.read_parquet(path) for path in sorted((staging / RESULT_FOLDER).glob("*.parquet"))]
    if not parts:
        return empty_results()
    return pd.concat(parts, ignore_index=True).assign(folder=str(staging / SHARD_FOLDER))


def is_staging_for(staging: Path, image: Mapping[str, Any]) -> bool:
    """Whether an unfinished preparation lies there that was made with these image settings."""
    try:
        return bool(json.loads((staging / IMAGE_FILE).read_text(encoding="utf-8")) == dict(image))
    except (OSError, ValueError):
        return False


def _is_intact(known: pd.DataFrame) -> pd.Series:
    """True where the row is a bad file, or its shard exists with the right size."""
    sizes = {}
    for folder, shard in known[["folder", "shard"]].drop_duplicates().itertuples(index=False):
        if isinstance(shard, str) and shard:
            sizes[folder, shard] = file_state(f"{folder}/{shard}")[0]
    found = [sizes.get(place) for place in zip(known["folder"], known["shard"], strict=True)]
    good = pd.Series(found, index=known.index, dtype="float64") == known["size_bytes"].astype("float64")
    return good | (known["reason"].fillna("") != "")
