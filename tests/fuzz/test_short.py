"""A share of what ``make fuzz`` does, and that the fuzzers see what they are there to see."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from study.config import check_study_file
from study.data.dicom import read_dicom
from study.errors import ConfigError, DicomError
from tests.fuzz import isolated
from tests.fuzz.isolated import Target, examine
from tests.unit.data.dicom_files import SECRETS, dicom_dataset, write_dicom

ROOT = Path(__file__).resolve().parents[2]
SHARE = "0.002"
FIRST = str(isolated.generator(0, 1).random())  # what input 1 of seed 0 holds


def test_a_share_of_all_inputs(tmp_path):
    """A damaged file, study, table or checkpoint crashes, hangs, grows, prints, or raises what nobody expects."""
    words = [sys.executable, "-m", "tests.fuzz.every", "--share", SHARE, "--seed", "3", "--keep", str(tmp_path)]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "STUDY_REAL_DATA": ""}
    done = subprocess.run(words, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0  faults") == 4
    assert "read_dicom: 20 inputs" in done.stdout


def bad(kind):
    """A judge that does what it must not, at input 1 of 3."""

    def judge(_rng, folder):
        if (folder / "n").read_text() != FIRST:
            return "accepted"
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "hang":
            while True:
                time.sleep(0)
        if kind == "growth":
            return str(len(np.ones(40 * 2**20 // 8)))
        if kind == "print":
            os.write(2, b"PatientName")
        if kind == "raise":
            raise ZeroDivisionError(kind)
        return "accepted"

    return judge


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("crash", "the process died (exit code -11)"),
        ("hang", "no answer within"),
        ("growth", "memory grew by"),
        ("print", "printed b'PatientName'"),
        ("raise", "ZeroDivisionError in test_short.py"),
    ],
)
def test_faults_are_seen_and_kept(tmp_path, monkeypatch, kind, fault):
    """A fault passes, ends the inputs after it, or cannot be looked at again."""
    monkeypatch.setattr(isolated, "LIMIT_S", 0.3)
    monkeypatch.setattr(isolated, "GROWTH", 32 * 2**20)
    target = Target(name=kind, make=write_number, judge=bad(kind))
    outcome = examine(target, [0, 1, 2], keep=tmp_path)
    assert [answer.number for answer in outcome.answers] == [0, 1, 2]
    assert outcome.faults
    assert outcome.faults[0].number == 1
    assert fault in outcome.faults[0].fault
    assert (tmp_path / f"{kind}-0-1" / "fault.txt").exists()
    assert "1  faults" in outcome.table()


def write_number(rng, folder):
    (folder / "n").write_text(str(rng.random()))


def test_an_input_is_made_again_from_its_number(tmp_path):
    """The same seed and number give another input."""
    from tests.fuzz import fuzz_study_files

    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fuzz_study_files.make(isolated.generator(7, 11), tmp_path / name)
        contents.append((tmp_path / name / fuzz_study_files.NAME).read_bytes())
    assert contents[0] == contents[1]


WHOLE = st.integers(0, 2**16 - 1)
HEADER = st.fixed_dictionaries(
    {},
    optional={
        "Rows": WHOLE,
        "Columns": WHOLE,
        "BitsAllocated": st.sampled_from([0, 1, 8, 12, 16, 32, 64, 65535]),
        "BitsStored": st.integers(0, 40),
        "HighBit": st.integers(0, 40),
        "PixelRepresentation": st.integers(0, 3),
        "SamplesPerPixel": st.integers(0, 5),
        "NumberOfFrames": st.integers(-3, 2**31 - 1),
        "PlanarConfiguration": WHOLE,
        "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "RGB", "YBR_FULL", "", "PALETTE COLOR"]),
        "WindowWidth": st.floats(-1e10, 1e10).map(lambda value: f"{value:.6g}"),
        "ImagerPixelSpacing": st.lists(st.sampled_from(["0", "-1", "0.07", "1e30"]), max_size=3),
    },
)


@settings(max_examples=40)
@given(changes=HEADER, size=st.integers(0, 400))
def test_headers_that_contradict_the_pixels(tmp_path_factory, changes, size):
    """Some header makes the reader fail without a reason, or tell what it read."""
    path = tmp_path_factory.mktemp("header") / "x.dcm"
    pixels = np.arange(200, dtype=np.uint16).reshape(20, 10)
    changes = changes | {"PixelData": (pixels.tobytes() * 2)[: size * 2]}
    try:
        image = read_dicom(write_dicom(path, dicom_dataset(pixels, **changes)))
    except DicomError as error:
        assert error.message
        assert not any(secret in str(error) for secret in SECRETS)
    else:
        assert image.pixels.shape == (image.tags.rows, image.tags.cols)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "float", "when", "a"]), inner),
    max_leaves=8,
)


@settings(max_examples=25)
@given(sections=st.dictionaries(st.sampled_from(["study", "data", "loss", "search", "train", "x"]), PLAIN))
def test_any_content_of_a_study_file(tmp_path_factory, sections):
    """Plain data that is no study ends in anything but faults with a message."""
    path = tmp_path_factory.mktemp("any") / "study.yaml"
    path.write_text(yaml.safe_dump(sections, allow_unicode=True), encoding="utf-8", errors="replace")
    try:
        partial, faults = check_study_file(path, environ={})
    except ConfigError as error:
        assert error.message
    else:
        assert partial.config is None
        assert all(fault.message for fault in faults)
