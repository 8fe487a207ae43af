"""Notes about the study as a whole, and the lock of its driver."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from study.errors import EnvironmentFault, InputError
from study.ledger import Ledger, lock_holder, lock_study
from study.ledger.locking import taken_over
from study.types import RunOutcome

METRIC = "val/auroc_macro"


def test_notes_survive(tmp_path, tools):
    """Runs of the confirmation, attempts, test readings and stages are there after opening again."""
    config = tools.make_config(trials=1)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    outcome = RunOutcome(
        state="complete", best_epoch=3, metrics={METRIC: 0.1 + 0.2, "val/mcc": math.nan}, checkpoint="c"
    )
    test = RunOutcome(state="complete", metrics={"test/auroc_macro": 0.75})
    assert [ledger.claim_run("4", 1), ledger.claim_run("4", 1), ledger.claim_run("4", 2)] == [1, 2, 1]
    ledger.record_run("4", 1, outcome)
    ledger.record_run("4", 1, test, kind="evaluate")
    ledger.record_run("baseline", 0, RunOutcome(state="failed", reason="no: memory"))
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ledger.record_test_reading("4", 1, time=moment)
    ledger.record_test_reading("4", 1)
    ledger.record_stage("dataset", {"fingerprint": "abc"})

    again = Ledger.open(tools.make_url(tmp_path), config=config)
    records = {(one.trial, one.seed, one.kind): one.outcome for one in again.run_records()}
    assert records["4", 1, "train"].metrics[METRIC] == 0.1 + 0.2
    assert math.isnan(records["4", 1, "train"].metrics["val/mcc"])
    assert records["4", 1, "evaluate"] == test
    assert records["baseline", 0, "train"].reason == "no: memory"
    readings = again.test_readings()
    assert [(one.trial, one.seed) for one in readings] == [("4", 1), ("4", 1)]
    assert datetime.fromisoformat(readings[0].time) == moment
    assert again.stage("dataset") == {"fingerprint": "abc"}
    assert again.stage("confirm") is None
    assert again.claim_run("4", 1) == 3


def test_second_driver_is_refused_by_name(tmp_path):
    """While one process holds the study, another one is refused with its number and time; afterwards it is free."""
    assert lock_holder(tmp_path / "quick") is None
    with Ledger.lock(tmp_path / "quick"):
        message = f"study quick is running as process {os.getpid()} on .* since 20"
        with pytest.raises(InputError, match=message), lock_study(tmp_path / "quick"):
            pass
        assert lock_holder(tmp_path / "quick").pid == os.getpid()
    assert lock_holder(tmp_path / "quick") is None
    with lock_study(tmp_path / "quick"):
        pass


def test_lock_falls_with_its_process(tmp_path):
    """A driver that is shot leaves no lock behind, and one that lives is seen from outside."""
    code = "import sys, time; from pathlib import Path; from study.ledger.lock import lock_study\n"
    code += "with lock_study(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout.readline() == b"held\n"
    assert lock_holder(tmp_path).pid == process.pid
    with pytest.raises(InputError, match=f"process {process.pid}"), lock_study(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lock_holder(tmp_path) is None
    with lock_study(tmp_path):
        assert lock_holder(tmp_path).pid == os.getpid()


def test_taking_over_from_a_dead_process_is_told(tmp_path):
    """The line names who had the study; a study that ended in peace has none."""
    told = []
    with lock_study(tmp_path, tell=told.append):
        holder = lock_holder(tmp_path)
    assert told == []
    (tmp_path / ".lock").write_text(json.dumps(asdict(replace(holder, pid=2**22 + 1))))
    with lock_study(tmp_path, tell=told.append):
        pass
    assert told == [taken_over(tmp_path.name, replace(holder, pid=2**22 + 1))]


def test_holder_on_another_machine_counts_by_its_signs_of_life(tmp_path):
    """Where the kernel's locks end at one machine, a touched file stops a second driver; an old one does not."""
    path, told = tmp_path / ".lock", []
    path.write_text(json.dumps({"pid": 17, "host": "far-away", "since": "2026-01-02", "place": "there", "owner": "x"}))
    assert lock_holder(tmp_path).host == "far-away"
    with (
        pytest.raises(InputError, match="17 on far-away since 2026-01-02, last sign of life 0 s ago"),
        lock_study(tmp_path),
    ):
        pass
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert lock_holder(tmp_path) is None
    with lock_study(tmp_path, tell=told.append, beat_s=0.02) as held:
        assert "far-away" in told[0]
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        path.write_text(json.dumps(asdict(replace(held.holder, owner="y", pid=18))))
        while not held.is_lost:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert json.loads(path.read_text())["pid"] == 18


def test_file_system_without_locks_relies_on_signs_of_life(tmp_path, monkeypatch, caplog):
    """Where the file system knows no locks the study runs with a warning, and a second driver is refused."""

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("study.ledger.lock.fcntl.flock", refuse)
    with caplog.at_level(logging.WARNING), lock_study(tmp_path):
        assert "knows no locks" in caplog.text
        assert lock_holder(tmp_path).pid == os.getpid()
        with pytest.raises(InputError, match=f"process {os.getpid()}"), lock_study(tmp_path):
            pass
    assert lock_holder(tmp_path) is None
    with lock_study(tmp_path):
        pass


def test_a_ledger_file_elsewhere_has_one_driver_per_study(tmp_path):
    """Two directories that share a ledger in a file do not run one study together; other studies there are free."""
    url = f"sqlite:///{tmp_path / 'shared' / 'ledger.db'}"
    with lock_study(tmp_path / "a" / "quick", url=url):
        assert lock_holder(tmp_path / "b" / "quick", url=url).pid == os.getpid()
        with pytest.raises(InputError, match="quick is running as"), lock_study(tmp_path / "b" / "quick", url=url):
            pass
        with lock_study(tmp_path / "b" / "other", url=url):
            pass
    assert lock_holder(tmp_path / "b" / "quick", url=url) is None


def test_a_directory_that_cannot_be_written(tmp_path):
    """A storage that is not there for this machine is told as such, not as a fault of the program."""
    (tmp_path / "file").write_text("")
    refused = pytest.raises(EnvironmentFault, match=r"cannot be written on .*: Not a directory")
    with refused, lock_study(tmp_path / "file" / "quick"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": "x"'])
def test_damaged_lock_file_holds_nobody(tmp_path, content):
    """What a kill in the middle of a write leaves does not keep a study from its next driver."""
    (tmp_path / ".lock").write_text(content)
    assert lock_holder(tmp_path) is None
    with lock_study(tmp_path):
        assert lock_holder(tmp_path).pid == os.getpid()
