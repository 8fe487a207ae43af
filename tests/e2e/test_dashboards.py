"""Optuna's dashboard and MLflow's UI on the stores of a study, started as docs/watching.md says."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
pytestmark = [pytest.mark.e2e, pytest.mark.long]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str, process: subprocess.Popen[bytes]) -> bytes:
    """What the server says, once it does."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return bytes(response.read())
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, f"the server ended with exit code {process.returncode}"
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.2)


@pytest.fixture
def served(tmp_path):
    """Starts a server in a folder of its own, and ends it with its children."""
    running = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "server.log").open("ab") as log:
            process = subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        running.append(process)
        return process

    yield start
    for process in running:
        subprocess.run(["kill", "--", f"-{process.pid}"], check=False)
        process.wait(timeout=30)


def test_optuna_dashboard(finished, served):
    """The dashboard does not show the trials by their names and values, or changes the ledger that it only shows."""
    ledger, port = finished.directory / "ledger.db", free_port()
    before = ledger.read_bytes()
    process = served(str(BIN / "optuna-dashboard"), f"sqlite:///file:{ledger}?mode=ro&uri=true", "--port", str(port))
    (summary,) = json.loads(answer(f"http://127.0.0.1:{port}/api/studies", process))["study_summaries"]
    assert summary["study_name"] == "small"
    shown = json.loads(answer(f"http://127.0.0.1:{port}/api/studies/{summary['study_id']}", process))
    assert shown["objective_names"] == ["val/auroc_macro"]
    rows = {row.trial: row for row in finished.cli.ledger("small").rows()}
    assert {str(trial["number"]) for trial in shown["trials"]} == set(rows)
    for trial in shown["trials"]:
        row = rows[str(trial["number"])]
        assert {param["name"] for param in trial["params"]} == set(row.params)
        assert [float(value) for value in trial.get("values", [])] == list(row.values)
        assert len(trial["intermediate_values"]) == row.epochs
    assert ledger.read_bytes() == before


def test_mlflow_ui(finished, served):
    """MLflow's server does not know the study in the database that lies in its directory."""
    port = free_port()
    process = served(
        str(BIN / "mlflow"), "ui", "--backend-store-uri", finished.mlflow_uri, "--port", str(port), "--workers", "1"
    )
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=small"
    assert json.loads(answer(url, process))["experiment"]["name"] == "small"
