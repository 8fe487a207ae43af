"""Where secrets end up: with those who need them, and in nothing that is kept, printed or shown."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.nodes import two_nodes
from tests.processes import descendants, environment, title
from tests.servers import PASSWORD, PostgresServer

pytestmark = [pytest.mark.e2e, pytest.mark.long]

FOR_DRIVER = {
    "MLFLOW_TRACKING_URI": "http://lena:word-of-the-uri@127.0.0.1:9",
    "MLFLOW_TRACKING_USERNAME": "lena-of-mlflow",
    "MLFLOW_TRACKING_PASSWORD": "word-of-mlflow",
    "MLFLOW_TRACKING_TOKEN": "token-of-mlflow",
    "PGPASSWORD": "word-of-postgres",
}
FOR_WORKERS = {
    "AWS_ACCESS_KEY_ID": "AKIDOFATEST0001",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-secret-of-s3",
    "AWS_SESSION_TOKEN": "session-of-s3",
    "AWS_SECURITY_TOKEN": "older-session-of-s3",
    "HF_TOKEN": "hf_token-of-the-hub",
}
ONLY_DRIVERS = ("word-of-the-uri", *list(FOR_DRIVER.values())[1:])
# All that the tables of a cluster say of its actors, jobs, workers and processes, and their keys and values.
TABLES = """
import sys, ray
from ray._private.state import state
ray.init(logging_level="ERROR")
tables = state._connect_and_get_accessor()
parts = [*tables.get_actor_table(None, None), *tables.get_worker_table(), *tables.get_job_table()]
keys = ray._raylet.GcsClient(ray.get_runtime_context().gcs_address)
for space in (None, b"fun", b"session", b"cluster", b"job", b"dashboard"):
    parts += [keys.internal_kv_get(key, space) or b"" for key in keys.internal_kv_keys(b"", space)]
sys.stdout.buffer.write(b"\\n".join(parts))
"""


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


SHORT = ("search.trials=1", "train.epochs=2", "confirm.seeds=[0]")


def started(cli, small_file, name, env):
    """A short study that runs."""
    words = [word for change in (f"study={name}", *SHORT) for word in ("--set", change)]
    return cli.start("run", str(small_file), *words, env=env)


def look(seen, pids):
    """Add to what processes show: the words that they were started with or their titles, and their environments.

    A process between its fork and its own program still shows the words and the environment of the driver.
    """
    for pid in pids:
        shown, known = seen.setdefault(pid, (set(), set()))
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            shown.add(words)
            if "\0run\0" not in words:
                known.add(environment(pid))


def of_workers(seen):
    """The environments of all that have trained; a title takes the place of the environment's beginning."""
    return [
        "\n".join(known) for shown, known in seen.values() if any(text.startswith("ray::RayTrainW") for text in shown)
    ]


def files_holding(words, folders):
    """Each file below the folders that holds a word, with the word."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert {"journal.jsonl", "study.log", "ledger.db", "runtime_env_agent.log"} <= {path.name for path in files}
    return [(path, word) for path in files for word in words if word.encode() in path.read_bytes()]


def test_no_secret_is_kept_printed_or_shown(tmp_path, ray_folder, cli, small_file):
    """Some secret stands in a file of the study or of Ray, in MLflow's journal, in what is printed, or in a title."""
    secret = tmp_path / "uri"
    secret.write_text(FOR_DRIVER["MLFLOW_TRACKING_URI"] + "\n")
    secret.chmod(0o600)
    token = {"RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    env = {**FOR_DRIVER, **FOR_WORKERS, **token, "MLFLOW_TRACKING_URI_FILE": str(secret), "RAY_TMPDIR": str(ray_folder)}
    del env["MLFLOW_TRACKING_URI"]
    words = (*ONLY_DRIVERS, *FOR_WORKERS.values(), *token.values())
    process, seen = started(cli, small_file, "hushed", env), {}
    while process.poll() is None:
        look(seen, descendants(process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3)
    printed = (cli.folder / "out.txt").read_text()
    assert process.returncode == 0, printed
    told = [printed, *(text for shown, _ in seen.values() for text in shown)]
    for command in (["sync", "hushed", "--debug"], ["status", "hushed", "--debug"], ["best", "hushed", "--debug"]):
        done = cli(*command, env=env)
        told += [done.stdout, done.stderr]
    assert any("127.0.0.1:9" in text for text in told)
    assert [word for word in words if any(word in text for text in told)] == []
    known = [text for _, each in seen.values() for text in each]
    assert [word for word in ONLY_DRIVERS if any(word in text for text in known)] == []
    assert all(any(word in text for text in of_workers(seen)) for word in FOR_WORKERS.values())
    assert files_holding(words, (cli.folder, ray_folder)) == []


def test_a_cluster_of_others_learns_no_secret(cli, small_file):
    """A secret of the driver stands in the tables or logs of a cluster that it joins, or reaches a process of it."""
    own = {name: f"of-the-nodes-{name.lower()}" for name in FOR_WORKERS}
    words = (*ONLY_DRIVERS, *FOR_WORKERS.values())
    with two_nodes([], own) as nodes:
        env = {**FOR_DRIVER, **FOR_WORKERS, **nodes.joining}
        process, seen, tables = started(cli, small_file, "guest", env), {}, b""
        while process.poll() is None:
            look(seen, [pid for node in nodes.processes for pid in descendants(node.pid)])
            if not tables and of_workers(seen):
                tables = subprocess.run(
                    [sys.executable, "-c", TABLES], env={**nodes.env, **nodes.joining}, capture_output=True, check=True
                ).stdout
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.3)
        assert process.returncode == 0, (cli.folder / "out.txt").read_text()
        assert b"RunTrainable" in tables
        assert b"PL_DISABLE_FORK" in tables, "the tables hold no runtime environments, where secrets would be"
        assert [word for word in words if word.encode() in tables] == []
        texts = [text for each in seen.values() for part in each for text in part]
        assert [word for word in words if any(word in text for text in texts)] == []
        assert all(any(word in text for text in of_workers(seen)) for word in own.values())
        assert files_holding(words, (cli.folder, nodes.folder)) == []
