"""One block of image files to one shard and one table of results; runs in a Ray Data task, and imports no Ray.

The shard and then the table appear whole, under names made of the files' keys, so a preparation that was killed goes on
with the blocks that are missing. Before it reads, a task leaves a note; one that finds the note of an earlier attempt,
which was killed then, reads the files of the block in a process apart, and quarantines those that kill it.
"""

import functools
import hashlib
import io
import math
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from study.data.augment import tune_malloc
from study.data.files import delete, is_file, is_remote, join, local_path, read_bytes, why, write_bytes
from study.data.shards_file import Content, write_shard
from study.distributed.preparing_reading import Read, Result, read_apart, read_file
from study.distributed.preparing_tables import HEADER_TEXT, RESULT_COLUMNS, SHARD_COLUMNS
from study.errors import StudyError

ATTEMPTS: Final = 20  # Ray Data starts a killed task again without end
BLOCK_FIELDS: Final = ("file_key", "path", "laterality", "mask")


def prepare_block(block: pa.Table, *, work: Mapping[str, Any]) -> pa.Table:
    """Decode and prepare the files of a block; write their shard and their results.

    Args:
        block: columns ``BLOCK_FIELDS``.
        work: ``shards`` and ``results``, places that all nodes see; ``image``, the image settings as plain values;
            ``encoding`` of the shards.

    Returns:
        One row: ``files`` that have a result now, how many of them are ``bad``, and why the others have none (``fault``
        and ``fix``, empty if all is well). Faults are returned because Ray Data loses the type and the fields of what a
        task raises.
    """
    _quiet_process()
    files, bad, fault, fix = 0, 0, "", ""
    try:
        bad = _complete_block(block, work)
        files = block.num_rows
    except StudyError as error:
        fault, fix = error.message, error.fix
    except OSError as error:
        fault = f"a shard cannot be written ({why(error)})"
        fix = "make room or mend the rights, then run `study prepare` again"
    return pa.table({"files": [files], "bad": [bad], "fault": [fault], "fix": [fix]})


def _complete_block(block: pa.Table, work: Mapping[str, Any]) -> int:
    """Write shard and results, unless an earlier attempt has done so; returns the number of bad files.

    Raises:
        StudyError: this node does not share the folder, or the task was killed again and again, and not by a file.
        OSError: the place cannot be written.
    """
    _check_shared(work["results"])
    name = block_name(block.column("file_key").to_pylist())
    table, note = (join(work["results"], f"{name}.{ending}") for ending in ("parquet", "now"))
    if is_file(table):
        done = pd.read_parquet(io.BytesIO(read_bytes(table)), columns=["reason"])
        return int((done["reason"] != "").sum())
    tasks = block.to_pylist()
    attempt = _attempt(note)
    image = work["image"]
    reads = read_apart(tasks, image) if attempt else [read_file(task, image) for task in tasks]
    frame = _stored(reads, tasks, shard=join(work["shards"], f"{name}.arrow"), encoding=work["encoding"])
    write_bytes(table, _parquet(frame))
    delete(note)
    return int((frame["reason"] != "").sum())


def _check_shared(results: str) -> None:
    """A node that joined later may lack the folder that the driver has made; one of its own would hide what it does."""
    if is_remote(results) or local_path(results).is_dir():
        return
    raise StudyError(
        f"a node of the cluster does not see {local_path(results).parent}, which this preparation writes",
        "name a folder that all nodes mount, or a store such as s3://bucket/folder, as data.prepared",
    )


def block_name(keys: list[str]) -> str:
    """Name of the block that holds exactly these files, in this order."""
    return hashlib.blake2b("\n".join(keys).encode(), digest_size=12).hexdigest()


@functools.cache
def _quiet_process() -> None:
    import cv2

    cv2.setNumThreads(0)  # Ray gives the task one core
    tune_malloc()


def _attempt(note: str) -> int:
    """How many attempts at this block were killed; notes that another one begins.

    Raises:
        StudyError: too many.
        OSError: the note cannot be written.
    """
    earlier = int(read_bytes(note)) if is_file(note) else 0
    if earlier >= ATTEMPTS:
        raise StudyError(
            f"a block of image files was killed {earlier} times, although each file was read apart",
            "look at the memory of the machine (`study doctor`), then run `study prepare` again",
        )
    write_bytes(note, str(earlier + 1).encode())
    return earlier


def _stored(reads: list[Read], tasks: list[dict[str, Any]], *, shard: str, encoding: Any) -> pd.DataFrame:
    """Write the shard of the good files; the table of results, with where they lie."""
    contents = [content for content, _ in reads if content is not None]
    facts: Result = {}
    if contents:
        record = write_shard(shard, contents, encoding=encoding)
        facts = {
            "shard": shard.partition("?")[0].rpartition("/")[2],
            "shard_rows": record.rows,
            "size_bytes": record.size_bytes,
            "crc32": record.crc32,
        }
    rows, results = 0, []
    for task, (content, result) in zip(tasks, reads, strict=True):
        line = {"stage": "", "reason": "", **result, "file_key": task["file_key"]}
        if content is not None:
            line |= facts | {"shard_row": rows, "pixel_crc32": _checksum(content)}
            rows += 1
        results.append(line)
    return pd.DataFrame(results).reindex(columns=[*RESULT_COLUMNS, *SHARD_COLUMNS]).astype(object)


def _checksum(content: Content) -> int:
    """Over all that decides what the framed image looks like."""
    about = np.array([*content.pixels.shape, *content.offset, content.background], dtype="<i4")
    return zlib.crc32(content.pixels.tobytes(), zlib.crc32(about.tobytes()))


def _parquet(frame: pd.DataFrame) -> bytes:
    """A table of results as a file: text columns as text, all others as numbers."""
    text = {"file_key", "shard", "stage", "reason", *HEADER_TEXT}
    typed = {name: "str" if name in text else "float64" for name in frame.columns}
    exact = dict.fromkeys(("shard_row", "pixel_crc32", *SHARD_COLUMNS), "Int64")
    clean = frame.map(lambda value: math.nan if value is None else value)
    sink = io.BytesIO()
    clean.astype(typed | exact).to_parquet(sink, index=False)
    return sink.getvalue()
