"""What earlier preparations left: results of single files, finished or staged, that need not be made again."""

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from study.data.files import file_states, join, list_files, read_bytes
from study.data.shards import MANIFEST_FILE, QUARANTINE_FILE, SHARD_FOLDER, read_about, table_place
from study.distributed.preparing_store import Layout, staged_work
from study.distributed.preparing_tables import MISSING_FILE, RESULT_COLUMNS, SHARD_COLUMNS
from study.errors import InputError, StudyError

THREADS: Final = 16


def known_results(layout: Layout, image: Mapping[str, Any]) -> pd.DataFrame:
    """What earlier preparations with the same image settings left: a row per file, good or bad.

    Columns: those of ``RESULT_COLUMNS``, ``folder`` (where its shard lies) and ``SHARD_COLUMNS`` (its record).
    Rows whose shard is missing or has another size are left out.

    Raises:
        OSError: a store does not answer.
    """
    parts = [_staged_results(layout, image), _finished_results(layout.root, image)]
    known = pd.concat([part for part in parts if not part.empty] or parts, ignore_index=True)
    if known.empty:
        return known
    intact: pd.DataFrame = known[_is_intact(known)]
    return intact.drop_duplicates("file_key").reset_index(drop=True)


def empty_results() -> pd.DataFrame:
    """The table of results without a row."""
    return pd.DataFrame(columns=[*RESULT_COLUMNS, "folder", *SHARD_COLUMNS], dtype=object)


def known_encoding(layout: Layout, image: Mapping[str, Any]) -> str:
    """How the shards that can be reused are stored, ``raw`` or ``zstd``; empty if there are none."""
    staged = staged_work(layout)
    if staged.get("image") == dict(image):
        return str(staged["encoding"])
    try:
        about = read_about(layout.root)
        return str(about["encoding"]) if about["settings"]["image"] == dict(image) else ""
    except (StudyError, KeyError):
        return ""


def _finished_results(root: str, image: Mapping[str, Any]) -> pd.DataFrame:
    try:
        about = read_about(root)
        if about["settings"]["image"] != dict(image):
            return empty_results()
        good, bad = (_read_table(table_place(root, about, name)) for name in (MANIFEST_FILE, QUARANTINE_FILE))
    except (StudyError, OSError, KeyError, ValueError, pa.ArrowException):
        return empty_results()  # nothing that can be reused
    good = good[good["shard"].fillna("") != ""]
    records = good["shard"].map(about["shards"])
    record = {column: records.str[place] for place, column in enumerate(SHARD_COLUMNS)}
    good = good.assign(stage="", reason="", **record)
    both = pd.concat([good, bad[bad["reason"] != MISSING_FILE]], ignore_index=True)
    return both.reindex(columns=empty_results().columns).assign(folder=join(root, SHARD_FOLDER))


def _staged_results(layout: Layout, image: Mapping[str, Any]) -> pd.DataFrame:
    if staged_work(layout).get("image") != dict(image):
        return empty_results()
    try:
        places = list_files(layout.results, suffixes=(".parquet",))
    except InputError:
        return empty_results()  # interrupted before the first block was done
    if not places:
        return empty_results()
    with ThreadPoolExecutor(THREADS) as pool:
        tables = list(pool.map(_arrow_table, places))
    known: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return known.assign(folder=layout.shards)


def _arrow_table(place: str) -> pa.Table:
    return pq.read_table(io.BytesIO(read_bytes(place)), use_threads=False)


def _read_table(place: str) -> pd.DataFrame:
    table: pd.DataFrame = pd.read_parquet(io.BytesIO(read_bytes(place)))
    return table


def _is_intact(known: pd.DataFrame) -> pd.Series:
    """True where the row is a bad file, or its shard exists with the right size."""
    named = known[known["shard"].fillna("") != ""]
    places = named[["folder", "shard"]].drop_duplicates()
    pairs = list(places.itertuples(index=False, name=None))
    states = file_states([join(str(folder), str(shard)) for folder, shard in pairs])
    sizes = {pair: size for pair, (size, _) in zip(pairs, states, strict=True)}
    found = [sizes.get(pair, -1) for pair in zip(known["folder"], known["shard"], strict=True)]
    good = pd.Series(found, index=known.index, dtype="float64") == known["size_bytes"].astype("float64")
    return good | (known["reason"].fillna("") != "")
