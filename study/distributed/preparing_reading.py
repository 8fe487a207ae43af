"""From one image file to its content and its facts, with as much care as the file needs; no Ray.

Decoders are C libraries: a file may kill its reader, hang it, or make it ask for all memory. What a process may take
while it reads one file is limited, and files under suspicion are read in a process of their own.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from study.data.dicom import read_image
from study.data.pictures import read_mask
from study.data.prepare import PreparedImage, prepare_image
from study.data.shards_file import Content
from study.distributed.preparing_tables import HEADER_COLUMNS, MISSING_MASK, prepare_settings
from study.errors import DicomError, InputError

Result = dict[str, Any]
Read = tuple[Content | None, Result]

READ_BYTES: Final = 2 * 2**30  # a 3328 x 4096 film with 16 bits takes 27 MB; decoders need a few times that
CHILD_SECONDS: Final = 180.0  # for one file, with the start of the process
POLL_SECONDS: Final = 0.05
CRASHED: Final = "the decoder crashed"
HUNGRY: Final = f"reading it takes more than {READ_BYTES >> 30} GiB of memory"
SLOW: Final = f"the decoder took longer than {CHILD_SECONDS:.0f} s"
_CHILD: Final = "from study.distributed.preparing_reading import run_child; run_child()"


def read_file(task: Mapping[str, Any], image: Mapping[str, Any]) -> Read:
    """Read and prepare one file; never raises for what is wrong with the file.

    Args:
        task: ``path``, ``laterality`` (may be missing) and ``mask`` (place of the breast's mask; empty without one).
        image: the image settings as plain values.

    Returns:
        The content, or ``None`` for a file that cannot be used, and its result: header facts, or stage and reason.
    """
    stage = "read"
    settings = prepare_settings(image)
    try:
        with limited_memory(READ_BYTES):
            picture = read_image(task["path"], options=settings.read_options)
            stage = "mask"
            mask = _mask(task.get("mask") or "") if image["masks"] else None
            stage = "prepare"
            side = cast("Literal['L', 'R'] | None", task.get("laterality") or picture.tags.laterality)
            made = prepare_image(picture, laterality=side, settings=settings, mask_hw=mask)
    except (DicomError, InputError) as error:
        return None, {"stage": stage, "reason": error.message}
    except MemoryError:
        return None, {"stage": stage, "reason": HUNGRY}
    except Exception as error:  # noqa: BLE001 - a strange file must not stop the others; its text may name a patient
        return None, {"stage": stage, "reason": f"unexpected {type(error).__name__}"}
    tags = asdict(picture.tags)
    content = Content(pixels=made.pixels, offset=made.offset, background=made.background)
    return content.trimmed(), {name: tags[name] for name in HEADER_COLUMNS} | _box(made)


def _mask(place: str) -> NDArray[np.bool_]:
    """The breast mask at a place.

    Raises:
        DicomError: there is none, or it cannot be used.
    """
    if not place:
        raise DicomError(MISSING_MASK, "add it to the folder of masks")
    return read_mask(place)


def _box(made: PreparedImage) -> Result:
    """How the picture was cut out and framed, as plain numbers."""
    left, top, right, bottom = made.box
    return {
        "box_left": left,
        "box_top": top,
        "box_right": right,
        "box_bottom": bottom,
        "scale_x": made.scale[0],
        "scale_y": made.scale[1],
        "pad_left": made.offset[0],
        "pad_top": made.offset[1],
        "flipped": made.flipped,
        "is_cropped": made.is_cropped,
        "frame_height": made.frame_hw[0],
        "frame_width": made.frame_hw[1],
    }


@contextmanager
def limited_memory(extra_bytes: int) -> Iterator[None]:
    """Let this process take so much more memory of its own at most; beyond it, whoever asks is refused.

    Memory shared with Ray's object store does not count. Without ``/proc`` (not Linux) nothing is limited.
    """
    table = Path("/proc/self/statm")
    if not table.is_file():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    taken = int(table.read_text().split()[5]) * resource.getpagesize()
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([taken + extra_bytes, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def read_apart(tasks: Sequence[Mapping[str, Any]], image: Mapping[str, Any]) -> list[Read]:
    """:func:`read_file` of many files in another process, which is started again whenever a file kills it."""
    reads: list[Read] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while len(reads) < len(tasks):
            fate = _run_child(tasks[len(reads) :], image, folder=folder)
            answers = _collect(folder)
            reads += answers
            if len(reads) < len(tasks):
                reads.append((None, {"stage": "read", "reason": fate or CRASHED}))
    return reads


def _run_child(tasks: Sequence[Mapping[str, Any]], image: Mapping[str, Any], *, folder: Path) -> str:
    """Let a child read what it can; returns why it did not come to the end, empty if it did."""
    request = {"tasks": [dict(task) for task in tasks], "image": dict(image), "folder": str(folder)}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as child:
        try:
            return _watch(child, json.dumps(request).encode(), folder=folder)
        finally:
            child.kill()


def _watch(child: subprocess.Popen[bytes], request: bytes, *, folder: Path) -> str:
    """Send the request and wait, as long as one file after the other is done in time."""
    if child.stdin is None:
        raise RuntimeError("the child was started without a pipe")
    try:
        child.stdin.write(request)
        child.stdin.close()
    except BrokenPipeError:
        return CRASHED
    done, since = 0, time.monotonic()
    while child.poll() is None:
        time.sleep(POLL_SECONDS)
        now = sum(1 for _ in folder.glob("*.json"))
        if now > done:
            done, since = now, time.monotonic()
        if time.monotonic() - since > CHILD_SECONDS:
            return SLOW
    return "" if child.returncode == 0 else CRASHED


def _collect(folder: Path) -> list[Read]:
    """What a child left, in order; its files are removed."""
    reads: list[Read] = []
    for path in sorted(folder.glob("*.json")):
        answer, pixels = json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".npy")
        content = None
        if answer["content"] is not None:
            left, top, background = answer["content"]
            content = Content(pixels=np.load(pixels, allow_pickle=False), offset=(left, top), background=background)
        reads.append((content, answer["result"]))
        path.unlink()
        pixels.unlink(missing_ok=True)
    return reads


def run_child() -> None:
    """The other end of :func:`_run_child`: the request comes on standard input, so that no path shows in ``ps``."""
    request = json.loads(sys.stdin.read())
    folder = Path(request["folder"])
    for number, task in enumerate(request["tasks"]):
        content, result = read_file(task, request["image"])
        place = None
        if content is not None:
            np.save(folder / f"{number:06d}.npy", content.pixels, allow_pickle=False)
            place = [*content.offset, content.background]
        temporary = folder / f"{number:06d}.tmp"
        temporary.write_text(json.dumps({"content": place, "result": result}), encoding="utf-8")
        temporary.rename(folder / f"{number:06d}.json")  # counts as done, whole or not at all
