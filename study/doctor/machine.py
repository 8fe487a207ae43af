"""Checks of this machine: Python, packages, image decoders, cores, memory, disk."""

import base64
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from study.doctor.finding import Finding

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

GIB: Final = 2**30
SHM_WANTED: Final = 2 * GIB  # Ray's object store; below it Ray falls back to slow files in /tmp
DISK_NEEDED: Final = 1 * GIB
DISK_WANTED: Final = 10 * GIB

# One 8 x 8 image of 12 bits per encoding: pixel i is 64 * i.
_FRAMES: Final = {
    "JPEG Lossless": """
        /9j/wwALEAAIAAgBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAABwoQ/9oACAEBAAEAAMgICAgICAgUAICAgICAgIFACAgICAgICBQAgICAgICAgUAICAgI
        CAgIFACAgICAgICBQAgICAgICAgUAICAgICAgIH/2Q==""",
    "JPEG-LS": """
        /9j/6AAgU1BJRkYAAgAAAQAAAAgAAAAIChAGAQAAASwAAAEs/+gACAAAAAH/2P/3AAsQAAgACAEBEQD/+AANAf//ABIAQwEUAED/2gAIAQEAAAAAo/x/
        j/H2e4/x9QAkBH6fJ6vF2kAgBdLlcLdbLVH7/y0c3JxcG9Pn/Nza2NbU0p6/1oZ2ZlZGNeP8YmFgX15dXb+1xbW1pZWV0P/Z""",
    "JPEG 2000": """
        /0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1IADAAAAAEAAgQEAAH/XAAKQICIiJCIiJD/ZAAqAAFDcmVhdGVkIGJ5
        IEdEQ00vT3BlbkpQRUcgdmVyc2lvbiAyLjMuMP+QAAoAAAAAADkAAf+T3/iQUAeBV1pCDCOQHi/AD8AOA/kEAA0CCQs9h3/AB9oHAP2AwCIaFQN/7P/Z""",
    "RLE": """
        AgAAAEAAAABgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP0A/QH9Av0D/QT9Bf0G/Qf9CP0J/Qr9
        C/0M/Q39Dv0PBwBAgMAAQIDABwBAgMAAQIDABwBAgMAAQIDABwBAgMAAQIDABwBAgMAAQIDABwBAgMAAQIDABwBAgMAAQIDABwBAgMAAQIDA""",
}
DECODERS: Final = "imagecodecs"  # the package that decodes them all


def check_python() -> Finding:
    """The interpreter is one that study was written for."""
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding(area="Python", state="ok", text=version)
    return Finding(
        area="Python", state="missing", text=f"{version}; 3.11 or 3.12 is expected", fix="make PYTHON=python3.11 setup"
    )


def check_packages() -> Finding:
    """Every package that study requires is installed, in a version within its range."""
    try:
        requirements = importlib.metadata.requires("study") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding(area="packages", state="warning", text="study itself is not installed", fix="make setup")
    absent, outside, count = [], [], 0
    for name, wanted in _needed(requirements):
        count += 1
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
            continue
        if not wanted.contains(version, prereleases=True):
            outside.append(f"{name} {version} ({wanted} is expected)")
    fix = "pip install -r requirements.lock, or make setup"
    if absent:
        return Finding(area="packages", state="missing", text=f"not installed: {', '.join(absent)}", fix=fix)
    if outside:
        return Finding(area="packages", state="warning", text="; ".join(outside), fix=fix)
    return Finding(area="packages", state="ok", text=f"{count} packages within their ranges")


def check_decoders() -> list[Finding]:
    """Each compressed form of DICOM that archives send is decoded, pixel by pixel right."""
    return [_check_decoder(name) for name in _FRAMES]


def check_cores() -> Finding:
    """How many CPU cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(area="CPU", state="ok", text=f"{cores} {'core' if cores == 1 else 'cores'}")


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:  # noqa: S108 - looked at, not written to
    """Shared memory is large enough for Ray's object store."""
    if not folder.is_dir():
        return Finding(area="memory", state="warning", text=f"no {folder}; Ray will use slow files instead")
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free in {folder}"
    if free >= SHM_WANTED:
        return Finding(area="memory", state="ok", text=text)
    return Finding(
        area="memory",
        state="warning",
        text=f"{text}; {SHM_WANTED / GIB:.0f} GiB are expected, else Ray uses slow files",
        fix="in a container, start it with --shm-size=8g",
    )


def check_disk(storage: Path) -> Finding:
    """The disk that holds the studies can be written to and has room."""
    folder = next((each for each in (storage.resolve(), *storage.resolve().parents) if each.exists()), Path("/"))
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        fix = "choose another folder with --storage"
        return Finding(area="disk", state="missing", text=f"{folder} cannot be written to", fix=fix)
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free for {storage}"
    if free >= DISK_WANTED:
        return Finding(area="disk", state="ok", text=text)
    state, limit = ("missing", DISK_NEEDED) if free < DISK_NEEDED else ("warning", DISK_WANTED)
    return Finding(
        area="disk",
        state="missing" if state == "missing" else "warning",
        text=f"{text}; {limit / GIB:.0f} GiB are expected",
        fix="make room, or choose another folder with --storage",
    )


def _needed(requirements: list[str]) -> Iterator[tuple[str, "SpecifierSet"]]:
    from packaging.requirements import Requirement

    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name, requirement.specifier


def _check_decoder(name: str) -> Finding:
    area = "decoder"
    try:
        is_right = _decoded(base64.b64decode(_FRAMES[name])) == [64 * i for i in range(64)]
    except Exception as error:  # noqa: BLE001 - a decoder may fail in any way; that is the finding
        reason = f"{name} cannot be decoded ({type(error).__name__})"
        return Finding(area=area, state="missing", text=reason, fix=f"pip install {DECODERS}")
    if not is_right:
        return Finding(area=area, state="missing", text=f"{name} gives wrong pixels", fix=f"pip install -U {DECODERS}")
    return Finding(area=area, state="ok", text=f"{name} ({DECODERS})")


def _decoded(frame: bytes) -> list[int]:
    from study.data.dicom_codecs import decode_grey

    return [int(value) for value in decode_grey(memoryview(frame), rows=8, cols=8, bits_allocated=16).ravel()]
