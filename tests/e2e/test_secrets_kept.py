"""No secret is kept, printed or shown, whoever may have it."""

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.processes import descendants, environment

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@pytest.fixture
def ray_folder():
    """A folder for all that Ray writes; its sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


DRIVER_ONLY = {
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
    "HF_TOKEN": "hf_token-of-the-hub",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
}
WORDS = ("word-of-the-uri", *list(DRIVER_ONLY.values())[1:], *FOR_WORKERS.values())


def arguments(pid):
    """All words that a process was started with, and its title."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def test_no_secret_is_kept_printed_or_shown(tmp_path, ray_folder, cli, small_file):
    """Some secret stands in a file of the study or of Ray, in MLflow's journal, in what is printed, or in a title."""
    secret = tmp_path / "uri"
    secret.write_text(DRIVER_ONLY["MLFLOW_TRACKING_URI"] + "\n")
    secret.chmod(0o600)
    given = {name: value for name, value in (DRIVER_ONLY | FOR_WORKERS).items() if name != "MLFLOW_TRACKING_URI"}
    env = given | {"MLFLOW_TRACKING_URI_FILE": str(secret), "RAY_TMPDIR": str(ray_folder)}
    changes = ("study=hushed", "search.trials=1", "train.epochs=1", "confirm.seeds=[0]")
    words = [word for change in changes for word in ("--set", change)]
    process, shown, known = cli.start("run", str(small_file), *words, env=env), {}, {}
    while process.poll() is None:
        for pid in descendants(process.pid):
            shown[pid], known[pid] = arguments(pid), environment(pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3)
    printed = (cli.folder / "out.txt").read_text()
    assert process.returncode == 0, printed
    assert len(shown) > 5
    told = [printed, *shown.values()]
    for command in (["sync", "hushed", "--debug"], ["status", "hushed", "--debug"], ["best", "hushed", "--debug"]):
        done = cli(*command, env=env)
        told += [done.stdout, done.stderr]
    assert any("127.0.0.1:9" in text for text in told)
    assert [word for word in WORDS if any(word in text for text in told)] == []
    driver_only = [word for word in WORDS if word not in FOR_WORKERS.values()]
    assert [word for word in driver_only if any(word in text for text in known.values())] == []

    files = [path for folder in (cli.folder, ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert {"journal.jsonl", "study.log", "ledger.db"} <= {path.name for path in files}
    assert sum(path.is_relative_to(ray_folder) for path in files) > 5
    holding = [(path, word) for path in files for word in WORDS if word.encode() in path.read_bytes()]
    assert holding == []
