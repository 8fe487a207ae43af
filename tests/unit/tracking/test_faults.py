"""MLflow's own server code behind a door that fails: away, slow, answers lost, requests heard twice."""

import io
import random
import shutil
import socket
import statistics
import threading
import time

import pytest
from werkzeug.serving import make_server

from study.tracking import Tracker
from study.tracking import delivery as delivery_module
from study.tracking.server import make_client
from tests.servers import free_port

pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi")
METRIC = "val/auroc_macro"
SETTINGS = {
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Door:
    """The server in this process, on a port of its own; each fault is a number that tests set.

    ``delay_s``: each answer comes so late. ``lose``: the share of requests that are heard and whose answer is lost.
    ``refuse``: the share that is answered with 503. ``twice``: every request that writes is heard twice.
    """

    def __init__(self, app):
        self._app, self.port = app, free_port()
        self.delay_s, self.lose, self.refuse, self.twice = 0.0, 0.0, 0.0, False
        self._server, self._random = None, random.Random(1)

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"

    def open(self):
        self._server = make_server("127.0.0.1", self.port, self, threaded=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __call__(self, environ, start_response):
        is_writing = environ["REQUEST_METHOD"] == "POST" and not environ["PATH_INFO"].endswith("/search")
        time.sleep(self.delay_s)
        if self._random.random() < self.refuse:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        if self.twice and is_writing:
            environ = self._heard_once(environ)
        if self._random.random() < self.lose:
            b"".join(self._app(environ, lambda *_, **__: lambda _: None))
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        return self._app(environ, start_response)

    def _heard_once(self, environ):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        b"".join(self._app({**environ, "wsgi.input": io.BytesIO(body)}, lambda *_, **__: lambda _: None))
        return {**environ, "wsgi.input": io.BytesIO(body)}


@pytest.fixture(scope="module")
def app(tmp_path_factory, empty_database):
    """MLflow's application on an empty database."""
    home = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{home / 'mlflow.db'}")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(home / "files"))
        from mlflow.server import app as flask

        yield flask


@pytest.fixture
def door(app, monkeypatch, caplog):
    """A way to the server; the mirror does not wait long between its tries."""
    caplog.set_level("CRITICAL", logger="werkzeug")
    monkeypatch.setattr(delivery_module, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(delivery_module, "MAX_DELAY_S", 0.05)
    door = Door(app)
    yield door
    door.close()


def tell(tracker, tools, *, first=1, last=12, trial="0"):
    """A run with its epochs; the longest that one of the calls took, in seconds."""
    tracker.start_run(trial, 7, params={"optim.lr": 1e-3}, config=tools.make_config())
    times = []
    for number in range(first, last + 1):
        started = time.perf_counter()
        tracker.log_epoch(trial, 7, tools.epoch(number, number / 100))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def check_once(door, name, *, trials=("0",), last=12):
    """The study has one parent, each run once, and each epoch of it once."""
    client = make_client(door.uri)
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted([name, *(f"{trial}-s7" for trial in trials)])
    (parent,) = [run for run in runs if run.info.run_name == name]
    for run in runs:
        if run is parent:
            continue
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        history = client.get_metric_history(run.info.run_id, METRIC)
        assert sorted((point.step, point.value) for point in history) == [(n, n / 100) for n in range(1, last + 1)]
        assert [point.step for point in client.get_metric_history(run.info.run_id, f"best/{METRIC}")] == [last]
        assert (run.info.status, run.data.tags["study.state"]) == ("FINISHED", "complete")


def test_an_outage_delays_nobody_and_loses_nothing(tmp_path, tools, door):
    """Epochs told before, during and after an outage are there once; telling one takes no longer while it lasts."""
    door.open()
    tracker = Tracker(tmp_path / "outage", door.uri, tools.make_config("outage"))
    tell(tracker, tools, last=4)
    assert tracker.wait(30) == 0
    door.close()
    median_s = tell(tracker, tools, first=5, last=9)
    assert median_s < 0.02
    door.open()
    tell(tracker, tools, first=10)
    tracker.end_run("0", 7, tools.complete(12, 0.12))
    assert tracker.close() == 0
    check_once(door, "outage")


def test_a_file_waits_for_a_server_that_is_away(tmp_path, tools, door, monkeypatch):
    """A file that would go to MLflow while it is away is given up after some tries, or nobody learns of the outage."""
    monkeypatch.setattr(delivery_module, "MAX_DELAY_S", 0.01)
    figure, told, tried = tmp_path / "curve.png", [], []
    figure.write_bytes(b"png")
    door.open()
    tracker = Tracker(tmp_path / "file", door.uri, tools.make_config("file"), tell=told.append)
    tell(tracker, tools)
    assert tracker.wait(30) == 0
    door.close()
    make = delivery_module.Delivery._is_given_up
    monkeypatch.setattr(
        delivery_module.Delivery, "_is_given_up", lambda *args, **named: tried.append(args) or make(*args, **named)
    )
    tracker.log_artifacts("0", 7, [figure])
    deadline = time.monotonic() + 30
    while len(tried) <= 2 * delivery_module.ARTIFACT_TRIES:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(told) == 1
    assert told[0].startswith("MLflow does not answer (")
    door.open()
    tracker.end_run("0", 7, tools.complete(12, 0.12))
    assert tracker.close() == 0
    assert len(told) == 2
    assert told[1].startswith("MLflow answers again after ")
    check_once(door, "file")
    client = make_client(door.uri)
    runs = client.search_runs([client.get_experiment_by_name("file").experiment_id])
    (run,) = [run for run in runs if run.info.run_name == "0-s7"]
    assert "curve.png" in [one.path for one in client.list_artifacts(run.info.run_id)]


def test_a_slow_server_does_not_slow_training(tmp_path, tools, door):
    """While every answer takes half a second, telling an epoch takes milliseconds."""
    door.open()
    tracker = Tracker(tmp_path / "slow", door.uri, tools.make_config("slow"))
    door.delay_s = 0.5
    assert tell(tracker, tools) < 0.02
    tracker.end_run("0", 7, tools.complete(12, 0.12))
    door.delay_s = 0.0
    assert tracker.close() == 0
    check_once(door, "slow")


@pytest.mark.parametrize("fault", ["lost answers", "refusals"])
def test_what_fails_is_delivered_once(tmp_path, tools, door, fault):
    """Whatever share of the answers is lost or refused, all records arrive, and none twice."""
    door.open()
    name = fault.replace(" ", "-")
    tracker = Tracker(tmp_path / name, door.uri, tools.make_config(name))
    door.lose, door.refuse = (0.1, 0.0) if fault == "lost answers" else (0.0, 0.1)
    for trial in ("0", "1"):
        tell(tracker, tools, trial=trial)
        tracker.end_run(trial, 7, tools.complete(12, 0.12))
    assert tracker.wait(60) == 0
    door.lose = door.refuse = 0.0
    assert tracker.close() == 0
    check_once(door, name, trials=("0", "1"))


@pytest.mark.long
def test_requests_that_are_heard_twice_double_nothing(tmp_path, tools, door):
    """A proxy that repeats what it forwards leaves runs twice; the next connection deletes the empty ones."""
    door.open()
    tracker = Tracker(tmp_path / "twice", door.uri, tools.make_config("twice"))
    door.twice = True
    tell(tracker, tools)
    tracker.end_run("0", 7, tools.complete(12, 0.12))
    assert tracker.wait(60) == 0
    door.twice = False
    assert tracker.close() == 0
    assert Tracker(tmp_path / "twice", door.uri, tools.make_config("twice")).close() == 0
    check_once(door, "twice")


@pytest.mark.long
def test_a_run_that_a_slow_server_makes_after_all_is_not_there_twice(tmp_path, tools, door, monkeypatch):
    """A caller that gave up on a slow answer asks again; of the two runs that come of it, one is left, whole."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    door.open()
    real, late = door._app, []

    def slow_app(environ, start_response):
        if environ["PATH_INFO"].endswith("runs/create") and len(late) < 2:
            late.append(environ)
            time.sleep(1.6)
        return real(environ, start_response)

    door._app = slow_app
    tracker = Tracker(tmp_path / "late", door.uri, tools.make_config("late"))
    tell(tracker, tools)
    tracker.end_run("0", 7, tools.complete(12, 0.12))
    assert tracker.close() == 0
    assert len(late) == 2
    check_once(door, "late")


def test_restart_of_the_driver_during_an_outage(tmp_path, tools, door):
    """What a driver could not deliver before it was closed, the next one delivers, in order."""
    tracker = Tracker(tmp_path / "again", door.uri, tools.make_config("again"))
    tell(tracker, tools, last=6)
    assert tracker.close(0.2) > 0
    tracker._delivery._thread.join(10)  # it ends with its process otherwise
    door.open()
    tracker = Tracker(tmp_path / "again", door.uri, tools.make_config("again"))
    tell(tracker, tools, first=1)
    tracker.end_run("0", 7, tools.complete(12, 0.12))
    assert tracker.close() == 0
    check_once(door, "again")


def test_a_password_in_the_address_is_kept_nowhere(tmp_path, tools, caplog):
    """Neither the study's files nor the log hold the password of MLflow's address, nor anything made from it."""
    uri = f"http://me:geheim@127.0.0.1:{free_port()}"
    tracker = Tracker(tmp_path / "quick", uri, tools.make_config())
    tell(tracker, tools, last=2)
    assert tracker.close(0.2) > 0
    for path in (tmp_path / "quick").iterdir():
        assert b"geheim" not in path.read_bytes()
    assert "does not answer" in caplog.text
    assert "geheim" not in caplog.text
    assert delivery_module.target_of(uri) == delivery_module.target_of(uri.replace("geheim", "other"))
