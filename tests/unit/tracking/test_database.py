"""MLflow's database appears whole or not at all."""

import signal
import subprocess
import sys
import time

import pytest

from study.tracking.server import default_uri, make_client


@pytest.mark.long
def test_a_kill_while_the_tables_are_made_leaves_no_broken_database(tmp_path):
    """MLflow never accepts a half-made database again, so a killed creation is simply begun anew."""
    code = f"from study.tracking.server import *; make_client({default_uri(tmp_path)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob("mlflow.db.partial")):
        assert process.poll() is None, "the database was made before the kill"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    client = make_client(default_uri(tmp_path))
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
    assert not list(tmp_path.glob("*.partial*"))
