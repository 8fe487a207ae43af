"""Where the address of the ledger's server ends up: in the driver, and nowhere else."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.processes import descendants, environment, title
from tests.servers import PASSWORD, PostgresServer

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@pytest.fixture
def server():
    """A PostgreSQL server whose password is looked for."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def ray_folder():
    """A folder for all that Ray writes; its sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def scratch_of(folder):
    """The files that Tune and Ray Train keep while a study runs, pickles among them."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it goes with its run
            found[path] = path.read_bytes()
    return found


def test_the_address_of_the_ledger_reaches_no_file_and_no_worker(tmp_path, server, ray_folder, cli, small_file):
    """Of a whole study on a server with a password, nothing that is kept or started holds password or URL."""
    changes = ("study=secret", "search.trials=1", "train.epochs=2", "confirm.seeds=[0]")
    words = [word for change in changes for word in ("--set", change)]
    env = {"STUDY_LEDGER_URL": server.url, "RAY_TMPDIR": str(ray_folder)}
    process, workers, scratch = cli.start("run", str(small_file), *words, env=env), {}, {}
    while process.poll() is None:
        scratch |= scratch_of(cli.folder / "studies" / "secret" / ".scratch")
        workers |= {pid: (title(pid), environment(pid)) for pid in descendants(process.pid)}
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3)
    printed = (cli.folder / "out.txt").read_text()
    assert process.returncode == 0, printed
    assert len(workers) > 5
    assert [name for name, text in workers.values() if PASSWORD in text] == []
    assert scratch
    assert [path for path, content in scratch.items() if PASSWORD.encode() in content] == []

    directory = cli.folder / "studies" / "secret"
    with sqlite3.connect(directory / "mlflow.db") as database:
        database.execute("PRAGMA wal_checkpoint")
    files = [path for folder in (cli.folder, ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.is_relative_to(ray_folder) for path in files) > 5
    assert {"journal.jsonl", "study.log", "mlflow.db", ".lock"} <= {path.name for path in files}
    address = f"127.0.0.1:{server.port}"
    holding = [path for path in files if any(word.encode() in path.read_bytes() for word in (PASSWORD, address))]
    assert holding == []
    assert PASSWORD not in printed
    assert not (directory / "ledger.db").exists()

    broken = {"STUDY_LEDGER_URL": server.url.replace(PASSWORD, f"{PASSWORD}-wrong")}
    for command in (["resume", "secret"], ["status", "secret", "--debug"]):
        done = cli(*command, env=broken)
        assert done.returncode == 3
        assert "password authentication failed" in done.stderr
        assert PASSWORD not in done.stderr + done.stdout + (directory / "study.log").read_text()
    assert os.environ.get("STUDY_LEDGER_URL") is None
