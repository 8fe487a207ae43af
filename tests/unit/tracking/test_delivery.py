"""Delivery: nothing lost, nothing doubled, nobody delayed, whatever dies or does not answer."""

import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from study.errors import StudyError
from study.tracking import Tracker, default_uri
from study.tracking import delivery as delivery_module
from study.tracking import mirror as mirror_module
from study.tracking.server import CONFIG_DIGEST, DIGEST, make_client
from study.types import RunOutcome

METRIC = "val/auroc_macro"


def test_delivered_twice_is_there_once(study_dir, tools):
    """When the cursor is lost, the whole journal is delivered again, and every run and every point is there once."""
    tracker = Tracker(study_dir, "", tools.make_config())
    tracker.start_run("0", 7, params={"optim.lr": 1e-3}, config=tools.make_config())
    for number in (1, 2, 3):
        tracker.log_epoch("0", 7, tools.epoch(number, number / 10))
    tracker.end_run("0", 7, tools.complete(3, 0.3))
    assert tracker.close() == 0
    before = {key: (run.info.run_id, run.data.metrics) for key, run in tools.runs_of(study_dir).items()}
    (study_dir / "journal.cursor").unlink()
    assert Tracker(study_dir, "", tools.make_config()).close() == 0
    runs = tools.runs_of(study_dir)
    assert {key: (run.info.run_id, run.data.metrics) for key, run in runs.items()} == before
    assert tools.points(study_dir, runs["0", 7]) == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert tools.points(study_dir, runs["0", 7], f"best/{METRIC}") == [(3, 0.3)]
    assert runs["0", 7].info.status == "FINISHED"


class Killed(BaseException):
    """Stands for the process's death inside a call of MLflow."""


WRITING = ("create_experiment", "create_run", "log_batch", "update_run", "log_text", "set_terminated", "log_artifact")


class DyingClient:
    """A client that counts its writing calls and dies right after the chosen one."""

    def __init__(self, client):
        self._client = client
        self.count, self.die_at = 0, None

    def __getattr__(self, name):
        function = getattr(self._client, name)
        return function if name not in WRITING else lambda *args, **kwargs: self._call(function, *args, **kwargs)

    def _call(self, function, *args, **kwargs):
        result = function(*args, **kwargs)
        self.count += 1
        if self.count == self.die_at:
            raise Killed
        return result


def snapshot(client, name):
    """Everything about a study's runs but their ids and times; a doubled run is an error."""
    found = {}
    for run in client.search_runs([client.get_experiment_by_name(name).experiment_id]):
        key = run.info.run_name.replace(name, "study")
        assert key not in found
        histories = {one: client.get_metric_history(run.info.run_id, one) for one in run.data.metrics}
        kept = {one: [(point.step, point.value) for point in history] for one, history in histories.items()}
        tags = {one: text for one, text in run.data.tags.items() if not one.startswith(("mlflow.", "study.id"))}
        files = sorted(one.path for one in client.list_artifacts(run.info.run_id))
        tags |= {"study.config": "", CONFIG_DIGEST: ""}  # they hold the study's name
        found[key] = (run.info.status, kept, tags, files)
    return found


@pytest.mark.long
def test_kill_after_any_call_of_mlflow_doubles_nothing(study_dir, tools, monkeypatch, tmp_path):
    """A process that dies right after any one call of MLflow, before its cursor moves, doubles no run and no point."""
    client = DyingClient(make_client(default_uri(study_dir)))
    monkeypatch.setattr(mirror_module, "make_client", lambda _: client)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"png")

    def tell(name):
        config = tools.make_config(name)
        tracker = Tracker(tmp_path / name, default_uri(study_dir), config)
        tracker.start_run("0", 7, params={"optim.lr": 1e-3}, config=config)
        for number in (1, 2):
            tracker.log_epoch("0", 7, tools.epoch(number, number / 10))
        tracker.end_run("0", 7, tools.complete(2, 0.2), artifacts=[figure])
        return tracker.close(5)

    assert tell("whole") == 0
    whole, num_calls = snapshot(client, "whole"), client.count
    assert num_calls > 10
    for at in range(1, num_calls + 1):
        client.count, client.die_at = 0, at
        assert tell(f"killed-{at}") > 0
        client.die_at = None
        assert tell(f"killed-{at}") == 0
        assert snapshot(client, f"killed-{at}") == whole, at


def test_server_that_is_down_delays_nothing_and_loses_nothing(study_dir, tools, monkeypatch, caplog):
    """While MLflow does not answer, calls return at once; when it is back, everything arrives in order."""
    is_up = threading.Event()
    real = mirror_module.make_client

    def make(uri):
        if not is_up.is_set():
            raise ConnectionError("connection refused")
        return real(uri)

    monkeypatch.setattr(mirror_module, "make_client", make)
    monkeypatch.setattr(delivery_module, "FIRST_DELAY_S", 0.05)
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(study_dir, "", tools.make_config())
        started = time.monotonic()
        tracker.start_run("0", 7, params={"optim.lr": 1e-3})
        for number in range(1, 51):
            tracker.log_epoch("0", 7, tools.epoch(number, number / 100))
        assert time.monotonic() - started < 1
        time.sleep(0.5)
        assert sum("MLflow does not answer" in one.message for one in caplog.records) == 1
    is_up.set()
    tracker.end_run("0", 7, tools.complete(50, 0.5))
    assert tracker.close() == 0
    assert tools.points(study_dir, tools.runs_of(study_dir)["0", 7]) == [
        (number, number / 100) for number in range(1, 51)
    ]


def test_undelivered_records_wait_for_the_next_time(study_dir, tools, monkeypatch):
    """Closing while MLflow is down says how many records are left; the next process delivers them."""
    real = mirror_module.make_client

    def refuse(_):
        raise ConnectionError("connection refused")

    monkeypatch.setattr(mirror_module, "make_client", refuse)
    tracker = Tracker(study_dir, "", tools.make_config())
    tracker.start_run("0", 7, params={"optim.lr": 1e-3})
    tracker.log_epoch("0", 7, tools.epoch(1, 0.5))
    tracker.end_run("0", 7, tools.complete(1, 0.5))
    started = time.monotonic()
    assert tracker.close(0.3) == 5
    assert time.monotonic() - started < 2
    assert tracker.close() == 0
    with pytest.raises(StudyError, match="closed"):
        tracker.log_epoch("0", 7, tools.epoch(2, 0.5))
    monkeypatch.setattr(mirror_module, "make_client", real)
    assert Tracker(study_dir, "", tools.make_config()).close() == 0
    assert tools.points(study_dir, tools.runs_of(study_dir)["0", 7]) == [(1, 0.5)]


@pytest.mark.parametrize(("state", "has_all"), [("done", True), ("interrupted", False)])
def test_a_slow_server_gets_all_when_there_is_no_haste(study_dir, tools, monkeypatch, state, has_all):
    """A study that is done waits while MLflow takes records, and one that has to leave for so long and no longer."""
    apply = mirror_module.Mirror.apply

    def slowly(mirror, records):
        time.sleep(0.3)
        apply(mirror, records)

    tracker = Tracker(study_dir, "", tools.make_config())
    assert tracker.wait(30) == 0
    monkeypatch.setattr(mirror_module.Mirror, "apply", slowly)
    for trial in range(3):
        tracker.start_run(str(trial), 7, params={"optim.lr": 1e-3})
    assert (tracker.close(1, state=state) == 0) == has_all


def test_lost_database_is_written_anew(study_dir, tools, empty_database):
    """When MLflow has lost the study, or the study moves to another server, all of the journal is delivered there."""
    tracker = Tracker(study_dir, "", tools.make_config())
    tracker.start_run("0", 7, params={"optim.lr": 1e-3})
    tracker.log_epoch("0", 7, tools.epoch(1, 0.1))
    tracker.end_run("0", 7, tools.complete(1, 0.1))
    assert tracker.close() == 0
    other = study_dir / "other" / "mlflow.db"
    other.parent.mkdir()
    other.write_bytes(empty_database.read_bytes())
    assert Tracker(study_dir, f"sqlite:///{other}", tools.make_config()).close() == 0
    assert tools.points(other.parent, tools.runs_of(other.parent)["0", 7]) == [(1, 0.1)]


def test_record_that_mlflow_refuses_does_not_block_the_rest(study_dir, tools, tmp_path, caplog):
    """A parameter that changed and a file that is gone are warned about; what comes after them arrives."""
    config = tools.make_config()
    tracker = Tracker(study_dir, "", config)
    tracker.start_run("0", 7, params={"optim.lr": 1e-3})
    tracker.start_run("0", 7, params={"optim.lr": 2e-3}, attempt=2)
    kept = [tmp_path / name for name in ("first.png", "last.png")]
    for path in kept:
        path.write_bytes(b"png")
    with caplog.at_level(logging.WARNING):
        tracker.end_run("0", 7, tools.complete(1, 0.1), artifacts=[kept[0], tmp_path / "gone.png", kept[1]])
        tracker.log_test("0", 7, RunOutcome(state="complete", metrics={"test/qwk": 0.5}))
        assert tracker.close() == 0
    refused = [one.message for one in caplog.records if "does not take" in one.message]
    assert len(refused) == 2
    assert "gone.png" in refused[1]
    run = tools.runs_of(study_dir)["0", 7]
    assert run.data.metrics["test/qwk"] == 0.5
    files = {one.path for one in make_client(default_uri(study_dir)).list_artifacts(run.info.run_id)}
    assert {path.name for path in kept} <= files
    assert {f"{DIGEST}{path.name}" for path in kept} <= run.data.tags.keys()


def test_what_waits_together_goes_together(study_dir, tools, monkeypatch, tmp_path):
    """Each epoch and each file of a short trial is a transaction of its own, on a processor that others train on."""
    client = DyingClient(make_client(default_uri(study_dir)))
    monkeypatch.setattr(mirror_module, "make_client", lambda _: client)
    tracker = Tracker(study_dir, "", tools.make_config())
    assert tracker.wait(10) == 0
    before, files = client.count, [tmp_path / f"{number}.png" for number in range(6)]
    tracker.start_run("0", 7, params={"optim.lr": 1e-3})
    for number in (1, 2, 3):
        tracker.log_epoch("0", 7, tools.epoch(number, number / 10))
    for path in files:
        path.write_bytes(b"png")
    tracker.end_run("0", 7, tools.complete(3, 0.3), artifacts=files)
    assert tracker.wait(10) == 0
    # The run, its parameters and tags, its epochs, its end and status, six files and their tags.
    assert client.count - before == 1 + 1 + 1 + 2 + 6 + 1
    assert tracker.close() == 0


SHOT = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("cases", sys.argv[2])
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
from study.tracking import Tracker
tracker = Tracker(Path(sys.argv[1]), "", cases.make_config())
print("told", flush=True)
number = 0
tracker.start_run("0", 7, params={"optim.lr": 1e-3}, config=cases.make_config())
while True:
    number += 1
    tracker.log_epoch("0", 7, cases.epoch(number, number / 1000))
    import time; time.sleep(0.002)
"""


def test_sigkill_doubles_and_loses_nothing(study_dir, tools):
    """After the writer is shot in the middle of its delivery, every epoch of the journal is in MLflow once."""
    process = subprocess.Popen(
        [sys.executable, "-c", SHOT, str(study_dir), str(Path(__file__).with_name("conftest.py"))],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout.readline() == b"told\n"
    deadline = time.monotonic() + 30
    while not (study_dir / "journal.cursor").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (study_dir / "journal.jsonl").open("ab") as file:
        file.write(b'{"sequence": 99999, "kind": "ep')
    tracker = Tracker(study_dir, "", tools.make_config())
    assert tracker.open_runs() == [("0", 7, 0)]
    told = tracker._journal.num_epochs(("0", 7, 0))
    assert told > 3
    tracker.log_epoch("0", 7, tools.epoch(told + 1, 0.5))
    assert tracker.close(60) == 0
    steps = [step for step, _ in tools.points(study_dir, tools.runs_of(study_dir)["0", 7])]
    assert steps == list(range(1, told + 2))
