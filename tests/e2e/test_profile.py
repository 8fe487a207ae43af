"""`study profile` on a finished study, which it leaves as it is."""

import hashlib
import json

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def digests(folder):
    """A digest of every file of a study outside of its report; a database's log beside it is none of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "report" not in path.parts and not path.name.endswith(("-wal", "-shm"))
    }


def test_a_run_and_a_file(finished):
    """The best trial by default; JSON on standard output, the table beside it; trace, figure and numbers as files."""
    before = digests(finished.directory)
    done = finished.cli("profile", "small", "--steps", "4", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(row["seconds"] for row in found["rows"]) == pytest.approx(found["wall_s"], rel=0.02, abs=0.002)
    assert (found["steps"], found["workers"], found["device"]) == (4, 1, "cpu")
    assert "hint: " in done.stderr
    folder = finished.directory / "report" / f"profile-{found['run'].removeprefix('small/')}"
    assert json.loads((folder / "profile.json").read_text()) == found
    trace = json.loads((folder / "trace.json").read_text())
    assert {"X", "M"} <= {event["ph"] for event in trace["traceEvents"]}
    assert (folder / "profile.png").read_bytes().startswith(b"\x89PNG")
    assert digests(finished.directory) == before
    again = finished.cli("profile", "small.yaml", "--set", "train.batch_size=8", "--steps", "3", "--out", "here")
    assert again.returncode == 0, again.stderr
    assert "batch 8" in again.stderr
    assert (finished.cli.folder / "here" / "trace.json").exists()
    assert digests(finished.directory) == before
    assert finished.cli("profile", "small/99").returncode == 2
