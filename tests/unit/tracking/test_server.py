"""A real MLflow server, which comes late."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from study.errors import EnvironmentFault, InputError
from study.tracking import Tracker, best_rows, study_config_text
from study.tracking.server import make_client

METRIC = "val/auroc_macro"


@pytest.fixture
def server(tmp_path, empty_database):
    """An address, and a function that starts a server there, which is shot in the end."""
    home = tmp_path / "server"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database, files = f"sqlite:///{home / 'mlflow.db'}", str(home / "files")
    options = ["--backend-store-uri", database, "--artifacts-destination", files, "--port", str(port), "--workers", "1"]
    processes = []

    def start():
        command = [sys.executable, "-m", "mlflow", "server", *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": home}
        processes.append(subprocess.Popen(command, start_new_session=True, **quiet))

    yield f"http://127.0.0.1:{port}", start
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(uri, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(f"{uri}/health", timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.long
def test_server_that_comes_late(tmp_path, server, tools, capfd):
    """What was told before the server came and while it ran is there once, with its files, and nothing is printed."""
    uri, start = server
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png")
    config = tools.make_config()
    tracker = Tracker(tmp_path / "quick", uri, config)
    tracker.start_run("0", 7, params={"optim.lr": 1e-3}, config=config)
    for number in range(1, 6):
        tracker.log_epoch("0", 7, tools.epoch(number, number / 10))
    with pytest.raises(EnvironmentFault, match="cannot be used"):
        best_rows(uri, "quick")
    start()
    wait_for(uri)
    tracker.log_epoch("0", 7, tools.epoch(6, 0.6))
    tracker.end_run("0", 7, tools.complete(6, 0.6), artifacts=[figure])
    assert tracker.close(60) == 0
    assert capfd.readouterr().out == ""

    (row,) = best_rows(uri, "quick")
    assert (row.value, row.epochs, row.params) == (0.6, 6, {"optim.lr": 1e-3})
    client = make_client(uri)
    history = client.get_metric_history(row.mlflow_run_ids[0], METRIC)
    assert [(point.step, point.value) for point in history] == [(number, number / 10) for number in range(1, 7)]
    assert [one.path for one in client.list_artifacts(row.mlflow_run_ids[0])] == ["config.yaml", "curve.png"]
    assert study_config_text(uri, "quick").startswith("study: quick")
    with pytest.raises(InputError, match="knows no study 'quikc'"):
        best_rows(uri, "quikc")
