"""Both servers of a study are shot while it runs, and come back: it goes on, and nothing is lost or doubled."""

import json
import signal
import time

import pytest

from study.config import load_config
from study.ledger import Ledger
from tests.chaos.verdict import check_against_checkpoints, check_against_mlflow, num_epochs, table_of
from tests.servers import PASSWORD, MlflowServer, PostgresServer

pytestmark = [pytest.mark.e2e, pytest.mark.long]
AWAY_S = 12.0  # the ledger's server; MLflow's takes longer to start, and the study goes on without it


@pytest.fixture
def servers(tmp_path):
    """A PostgreSQL and an MLflow server, which run."""
    postgres, mlflow = PostgresServer(), MlflowServer(tmp_path / "mlflow")
    try:
        postgres.start()
        mlflow.start()
        mlflow.wait()
        yield postgres, mlflow
    finally:
        mlflow.kill()
        postgres.remove()


def told(directory, kind):
    """The records of a kind in a study's journal."""
    path = directory / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if record["kind"] == kind]


def wait_for(condition, process, cli, timeout=300):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, (cli.folder / "out.txt").read_text()[-4000:]
        assert time.monotonic() < deadline, (cli.folder / "out.txt").read_text()[-4000:]
        time.sleep(0.05)


def test_both_servers_are_shot_and_come_back(cli, small_file, servers, finished):
    """A study dies with its servers, says nothing of it, or ends with another table than one that was left alone."""
    postgres, mlflow = servers
    directory = cli.folder / "studies" / "outage"
    secret = mlflow.uri.replace("http://", f"http://me:{PASSWORD}@")
    env = {"STUDY_LEDGER_URL": postgres.url, "MLFLOW_TRACKING_URI": secret}
    process = cli.start("run", str(small_file), "--set", "study=outage", env=env)
    wait_for(lambda: len(told(directory, "epoch")) >= 3, process, cli)
    mlflow.kill()
    postgres.stop(signal.SIGKILL)
    before = len(told(directory, "epoch"))
    time.sleep(AWAY_S)
    assert len(told(directory, "epoch")) <= before + 1, "the study went on without its ledger"
    mlflow.start()
    postgres.start()
    wait_for(lambda: len(told(directory, "epoch")) >= before + 2, process, cli)
    assert process.wait(timeout=300) == 0, (cli.folder / "out.txt").read_text()[-4000:]

    printed = (cli.folder / "out.txt").read_text()
    lines = [line for line in printed.splitlines() if line.startswith("warning: ")]
    assert [line for line in lines if "the ledger's server does not answer" in line and "for up to 60 s" in line]
    assert [line for line in lines if "the ledger's server answers again after" in line]
    assert [line for line in lines if "MLflow does not answer" in line and "wait in the journal" in line]
    assert [line for line in lines if "MLflow answers again after" in line]
    assert "MLflow did not take" not in printed

    config = load_config(directory / "study.yaml")
    ledger = Ledger.open(postgres.url, config=config, read_only=True)
    assert table_of(ledger) == table_of(finished.cli.ledger("small"))
    assert [row.retries for row in ledger.rows()] == [()] * len(ledger.rows())
    assert num_epochs(directory) == num_epochs(finished.directory)
    check_against_checkpoints(ledger, directory)
    check_against_mlflow(ledger, mlflow.home)
    check_files(directory, mlflow)
    ledger.close()

    done = cli("sync", "outage", env=env)
    assert done.returncode == 0, done.stderr
    rows = {line.rsplit(maxsplit=3)[0]: line.split()[-3:] for line in done.stderr.splitlines() if len(line.split()) > 3}
    for what in ("runs", "epochs", "ends of runs", "test results"):
        count, there, sent = rows[what]
        assert (there, sent) == (count, "0"), done.stderr
    holding = [path for path in directory.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert holding == []
    assert PASSWORD not in printed + done.stdout + done.stderr


def check_files(directory, mlflow):
    """Every file that the journal tells of lies with its run, also those that were made while the server was away."""
    kept = {(path.parents[0].name, path.name) for path in (mlflow.home / "files").rglob("*") if path.is_file()}
    names = {name for _, name in kept}
    files = [record["payload"]["path"].rpartition("/")[2] for record in told(directory, "artifact")]
    assert files
    assert set(files) <= names
    counts = [sum(path.name == name for path in (mlflow.home / "files").rglob(name)) for name in set(files)]
    runs = {(record["payload"]["path"]) for record in told(directory, "artifact")}
    assert sum(counts) == len(runs)
