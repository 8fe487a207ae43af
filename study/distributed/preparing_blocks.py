"""One block of image files to one shard and one table of results; runs in a Ray Data task, and imports no Ray.

The shard and then the table appear whole, under names made of the files' keys, so a preparation that was killed goes on
with the blocks that are missing.

A file that kills the process (decoders are C libraries) costs that file only: the task notes the number of the file
that it works on, so when Ray starts the task again, it reads the suspects in a process of their own each, and
quarantines those that kill it too.
"""

import functools
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from study.data.augment import tune_malloc
from study.data.dicom import read_image
from study.data.prepare import PreparedImage, prepare_image
from study.data.shards import SHARD_FOLDER, write_shard
from study.distributed.preparing_results import RESULT_FOLDER, SHARD_COLUMNS
from study.distributed.preparing_tables import HEADER_COLUMNS, HEADER_TEXT, RESULT_COLUMNS, prepare_settings
from study.errors import DicomError, InputError, StudyError

BLOCK_FILES: Final = 64
CHILD_SECONDS: Final = 180.0  # for one suspect, with the start of its process
SPARE_ATTEMPTS: Final = 8  # Ray Data starts a killed task again without end
CRASHED: Final = "the decoder crashed"
_CHILD: Final = "from study.distributed.preparing_blocks import run_child; run_child()"
_NUMBER: Final = struct.Struct("<q")

Pixels = NDArray[np.uint8]
Result = dict[str, Any]


def prepare_block(block: pa.Table, *, staging: str, image: Mapping[str, Any]) -> pa.Table:
    """Decode and prepare the files of a block; write their shard and their results.

    Args:
        block: columns file_key, path, laterality.
        staging: folder with ``shards/`` and ``results/``, seen by all nodes.
        image: the image settings as plain values.

    Returns:
        One row: ``files`` that have a result now, and why the others have none (``fault`` and ``fix``, empty if all
        is well). Faults are returned because Ray Data loses the type and the fields of what a task raises.
    """
    _quiet_process()
    fault, fix = "", ""
    try:
        _complete_block(block, Path(staging), image)
    except StudyError as error:
        fault, fix = error.message, error.fix
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        fault, fix = (
            f"a shard cannot be written ({why})",
            "make room or mend the rights, then run `study prepare` again",
        )
    return pa.table({"files": [0 if fault else block.num_rows], "fault": [fault], "fix": [fix]})


def _complete_block(block: pa.Table, staging: Path, image: Mapping[str, Any]) -> None:
    """Write shard and results, unless an earlier attempt has done so.

    Raises:
        StudyError: the process was killed again and again, and not by a file.
        OSError: the folder cannot be written.
    """
    name = block_name(block.column("file_key").to_pylist())
    table = staging / RESULT_FOLDER / f"{name}.parquet"
    if table.is_file():
        return
    note = table.with_suffix(".now")
    pictures, results = _read_all(block, image, note=note)
    _write_results(table, _stored(results, pictures, shard=staging / SHARD_FOLDER / f"{name}.arrow"))
    note.unlink(missing_ok=True)


def block_name(keys: list[str]) -> str:
    """Name of the block that holds exactly these files, in this order."""
    return hashlib.blake2b("\n".join(keys).encode(), digest_size=12).hexdigest()


@functools.cache
def _quiet_process() -> None:
    import cv2

    cv2.setNumThreads(0)  # Ray gives the task one core
    tune_malloc()


def _read_all(block: pa.Table, image: Mapping[str, Any], *, note: Path) -> tuple[list[Pixels], list[Result]]:
    """Pixels of the good files, and a result for each file."""
    suspects, attempt = _earlier_attempts(note)
    if attempt > block.num_rows + SPARE_ATTEMPTS:
        raise StudyError(
            f"a block of {block.num_rows} image files was killed {attempt} times, although each file was read apart",
            "look at the memory of the machine (`study doctor`), then run `study prepare` again",
        )
    pictures: list[Pixels] = []
    results: list[Result] = []
    handle = os.open(note, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for number, row in enumerate(block.to_pylist()):
            os.pwrite(handle, _NUMBER.pack(number), attempt * _NUMBER.size)
            read = _read_isolated if number in suspects else read_file
            pixels, result = read(row["path"], laterality=row["laterality"], image=image)
            result["file_key"] = row["file_key"]
            if pixels is not None:
                result["shard_row"] = len(pictures)
                pictures.append(pixels)
            results.append(result)
    finally:
        os.close(handle)
    return pictures, results


def _earlier_attempts(note: Path) -> tuple[set[int], int]:
    """Numbers of the files at which earlier attempts ended, and how many attempts there were."""
    if not note.is_file():
        return set(), 0
    content = note.read_bytes()
    attempts = len(content) // _NUMBER.size
    return {number for (number,) in _NUMBER.iter_unpack(content[: attempts * _NUMBER.size])}, attempts


def read_file(path: str, *, laterality: str | None, image: Mapping[str, Any]) -> tuple[Pixels | None, Result]:
    """Read and prepare one file.

    Returns:
        The pixels, or ``None`` for a file that cannot be used, and its result: header facts, or stage and reason.
    """
    stage = "read"
    try:
        picture = read_image(path)
        stage = "prepare"
        side = cast("Literal['L', 'R'] | None", laterality or picture.tags.laterality)
        made = prepare_image(picture, laterality=side, settings=prepare_settings(image))
    except (DicomError, InputError) as error:
        return None, {"stage": stage, "reason": error.message}
    except Exception as error:  # noqa: BLE001 - a strange file must not stop the others; its text may name a patient
        return None, {"stage": stage, "reason": f"unexpected {type(error).__name__}"}
    tags = asdict(picture.tags)
    return made.pixels, {name: tags[name] for name in HEADER_COLUMNS} | _box(made)


def _box(made: PreparedImage) -> Result:
    """How the picture was cut out, as plain numbers."""
    left, top, right, bottom = made.box
    return {
        "box_left": left,
        "box_top": top,
        "box_right": right,
        "box_bottom": bottom,
        "scale_x": made.scale[0],
        "scale_y": made.scale[1],
        "pad_left": made.pad[0],
        "pad_top": made.pad[1],
        "flipped": made.flipped,
        "is_cropped": made.is_cropped,
    }


def _read_isolated(path: str, *, laterality: str | None, image: Mapping[str, Any]) -> tuple[Pixels | None, Result]:
    """:func:`read_file` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        task = {"path": path, "laterality": laterality, "image": dict(image), "folder": folder}
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        try:
            done = subprocess.run(
                [sys.executable, "-c", _CHILD],
                input=json.dumps(task).encode(),
                env=environment,
                timeout=CHILD_SECONDS,
                capture_output=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, {"stage": "read", "reason": f"the decoder took longer than {CHILD_SECONDS:.0f} s"}
        if done.returncode != 0:
            return None, {"stage": "read", "reason": CRASHED}
        result = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
        pixels = Path(folder) / "pixels.npy"
        return (np.load(pixels, allow_pickle=False) if pixels.is_file() else None), result


def run_child() -> None:
    """The other end of :func:`_read_isolated`: the task comes on standard input, so that no path shows in ``ps``."""
    task = json.loads(sys.stdin.read())
    pixels, result = read_file(task["path"], laterality=task["laterality"], image=task["image"])
    folder = Path(task["folder"])
    if pixels is not None:
        np.save(folder / "pixels.npy", pixels, allow_pickle=False)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _stored(results: list[Result], pictures: list[Pixels], *, shard: Path) -> pd.DataFrame:
    """Write the shard of the good files, and complete the table of results with where they lie."""
    frame = pd.DataFrame(results).reindex(columns=[*RESULT_COLUMNS, *SHARD_COLUMNS]).astype(object)
    frame[["stage", "reason"]] = frame[["stage", "reason"]].fillna("")
    if pictures:
        record = write_shard(shard, np.stack(pictures))
        good = (frame["reason"] == "").to_numpy()
        frame.loc[good, "pixel_crc32"] = [zlib.crc32(pixels.tobytes()) for pixels in pictures]
        facts: Result = {
            "shard": shard.name,
            "shard_rows": record.rows,
            "size_bytes": record.size_bytes,
            "crc32": record.crc32,
        }
        for column, value in facts.items():
            frame.loc[good, column] = value
    return frame


def _write_results(path: Path, frame: pd.DataFrame) -> None:
    """Write a table whole or not at all; text columns as text, all others as numbers."""
    text = {"file_key", "shard", "stage", "reason", *HEADER_TEXT}
    typed = {name: "str" if name in text else "float64" for name in frame.columns}
    exact = dict.fromkeys(("shard_row", "pixel_crc32", *SHARD_COLUMNS), "Int64")
    clean = frame.map(lambda value: math.nan if value is None else value)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    clean.astype(typed | exact).to_parquet(temporary, index=False)
    temporary.replace(path)
