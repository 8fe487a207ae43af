"""The same ledger on a PostgreSQL server, which the test starts and stops."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from study.errors import EnvironmentFault
from study.ledger import Ledger
from study.types import RunOutcome

pytest.importorskip("psycopg", reason="PostgreSQL's driver is an optional extra")
if not (shutil.which("postgres") and shutil.which("psql")):
    pytest.skip("no PostgreSQL on this machine", allow_module_level=True)


@pytest.fixture(scope="module")
def server():
    """URL of a fresh server in a temporary directory; the server refuses to run as root, so it runs as nobody."""
    programs = Path(shutil.which("postgres")).resolve().parent
    home = Path(tempfile.mkdtemp(prefix="ledger-pg-"))
    as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(home, "nobody", "nogroup")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"cwd": home, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*as_user, programs / "initdb", "-D", home / "data", "-U", "me", "-N"], check=True, **options)
    arguments = ["-D", home / "data", "-p", str(port), "-k", home, "-h", "127.0.0.1", "-F"]
    process = subprocess.Popen([*as_user, programs / "postgres", *arguments], **options)
    url = f"postgresql://me@127.0.0.1:{port}/postgres"
    for _ in range(200):
        if subprocess.run(["psql", url, "-c", "select 1"], check=False, **options).returncode == 0:
            break
        time.sleep(0.05)
    yield url, process
    process.send_signal(signal.SIGINT)  # a "fast" shutdown; SIGTERM would wait for the clients
    process.wait()
    shutil.rmtree(home, ignore_errors=True)


def test_postgresql_holds_what_sqlite_holds(tmp_path, server, tools):
    """A search on a PostgreSQL server has the same table as on sqlite, and is adopted, noted and read alike."""
    url, process = server
    config = tools.make_config(trials=6, epochs=3)
    whole = tools.table(tools.run_search(tools.make_url(tmp_path), config))
    first = Ledger.open(url, config=config)
    trial = first.next_trial()
    first.report(0, tools.epoch_result(trial.params, 1))
    second = Ledger.open(url, config=config)
    second.record_run("0", 3, RunOutcome(state="complete", metrics={"test/mcc": float("nan"), "test/qwk": 0.1 + 0.2}))
    assert [row.state for row in Ledger.open(url, config=config, read_only=True).rows()] == ["running"]
    ledger = tools.run_search(url, config)
    assert tools.table(ledger) == whole
    (record,) = Ledger.open(url, config=config, read_only=True).run_records()
    assert record.outcome.metrics["test/qwk"] == 0.1 + 0.2

    process.send_signal(signal.SIGINT)  # a "fast" shutdown; SIGTERM would wait for the clients
    process.wait()
    with pytest.raises(EnvironmentFault, match="did not answer"):
        ledger.rows()
    with pytest.raises(EnvironmentFault, match="cannot be opened"):
        Ledger.open(url, config=config)
