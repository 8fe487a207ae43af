"""The servers of compose.yaml as processes: its scripts and its secrets, on a real PostgreSQL and an S3 server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import pg8000.native
import pytest
import yaml

from tests.processes import descendants
from tests.servers import PASSWORD, PostgresServer, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CLUSTER = Path(__file__).parents[2] / "cluster"
SERVICES = yaml.safe_load((CLUSTER / "compose.yaml").read_text())["services"]


class Services:
    """What the scripts find in a container: secrets as files, addresses in the environment."""

    def __init__(self, folder, s3):
        if not shutil.which("psql"):
            pytest.skip("psql is not installed on this machine")
        self.folder, self.running = folder, []
        shutil.copytree(CLUSTER / "compose", folder / "compose", ignore=shutil.ignore_patterns("secrets"))
        subprocess.run([folder / "compose" / "secrets.sh"], check=True, capture_output=True)
        self.secrets = {path.name: path.read_text() for path in (folder / "compose" / "secrets").iterdir()}
        self.postgres = PostgresServer()
        self.postgres.start()
        ask = {"user": "me", "host": "127.0.0.1", "port": self.postgres.port, "password": PASSWORD}
        with pg8000.native.Connection(database="postgres", **ask) as client:
            client.run(f"CREATE ROLE study LOGIN CREATEDB PASSWORD '{self.secrets['postgres_password']}'")
            client.run("CREATE DATABASE study OWNER study")  # so far the image does it
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.postgres.port), "PATH": os.environ["PATH"]}
        where |= {"PGPASSWORD": self.secrets["postgres_password"], "POSTGRES_USER": "study", "POSTGRES_DB": "study"}
        subprocess.run([folder / "compose" / "databases.sh"], env=where, check=True, capture_output=True)
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "SECRETS_DIR": str(folder / "compose" / "secrets"),
            "POSTGRES_ADDRESS": f"127.0.0.1:{self.postgres.port}",
            "MLFLOW_S3_ENDPOINT_URL": f"http://{s3}",
        }

    def start(self, service, port, **extra):
        """Start the script of a service, and wait until it answers as its health check asks."""
        each = SERVICES[service]
        script = self.folder / "compose" / Path(each["command"][0]).name
        given = {
            key: value for key, value in each["environment"].items() if key not in {"HOME", "MLFLOW_S3_ENDPOINT_URL"}
        }
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                [script], env={**self.env, **given, **extra}, cwd=self.folder, stdout=log, stderr=log
            )
        self.running.append(process)
        health = each["healthcheck"]["test"][-1].rsplit("/", 1)[1]
        for _ in range(900):
            assert process.poll() is None, self.log(service)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{health}", timeout=5) as answer:
                    assert answer.status == 200
                    return process
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise AssertionError(self.log(service))

    def stop(self, process):
        own = descendants(process.pid)
        process.terminate()
        process.wait(60)
        for pid in own:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def log(self, service):
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def close(self):
        for process in self.running:
            if process.poll() is None:
                self.stop(process)
        self.postgres.remove()


@pytest.fixture
def services(tmp_path, s3_server):
    made = Services(tmp_path, s3_server)
    yield made
    made.close()


def ask(port, path, user=None, body=None):
    """Status and answer of a server."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data=body and json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    if user:
        request.add_header("Authorization", "Basic " + b64encode(":".join(user).encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def shown(process, secrets):
    """Secrets in the command lines of a server's processes."""
    pids = [process.pid, *descendants(process.pid)]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace") for pid in pids]
    return [name for name, value in secrets.items() if any(value in line for line in lines)]


LOG_A_RUN = """
import mlflow, sys
mlflow.set_experiment("tried")
with mlflow.start_run() as run:
    mlflow.log_metric("auroc", 0.75)
    mlflow.log_text("weights", "model/weights.txt")
print(run.info.run_id)
"""
READ_IT = """
import mlflow, sys
run = mlflow.get_run(sys.argv[1])
assert run.data.metrics == {"auroc": 0.75}, run.data.metrics
assert run.info.artifact_uri.startswith("mlflow-artifacts:"), run.info.artifact_uri
print(mlflow.artifacts.load_text(run.info.artifact_uri + "/model/weights.txt"))
"""


def test_mlflow_and_optuna(services, s3_server):
    """Who has no password sees nothing; files go through MLflow into the store; all is there after a restart."""
    port = free_port()
    extra = {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": str(port), "MLFLOW_WORKERS": "1"}
    extra["MLFLOW_ALLOWED_HOSTS"] = f"127.0.0.1:{port}"
    server = services.start("mlflow", port, **extra)
    assert shown(server, services.secrets) == []
    admin = ("admin", services.secrets["mlflow_admin_password"])
    search = "api/2.0/mlflow/experiments/search?max_results=10"
    assert ask(port, search)[0] == 401
    assert ask(port, search, user=("admin", "password1234"))[0] == 401
    assert ask(port, search, user=admin)[0] == 200

    client = {key: services.env[key] for key in ("PATH", "HOME")}  # no key of the store
    client |= {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "MLFLOW_TRACKING_USERNAME": admin[0]}
    client["MLFLOW_TRACKING_PASSWORD"] = admin[1]

    def run(script, *arguments):
        options = {"env": client, "capture_output": True, "text": True, "cwd": services.folder}
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, *arguments], check=False, **options)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.split()

    run_id = run(LOG_A_RUN)[-1]
    with urllib.request.urlopen(f"http://{s3_server}/mlflow?list-type=2", timeout=30) as listing:
        assert f"{run_id}/artifacts/model/weights.txt" in listing.read().decode()

    other = ("ward", "a-password-of-her-own")
    made = ask(port, "api/2.0/mlflow/users/create", user=admin, body={"username": other[0], "password": other[1]})
    assert made[0] == 200
    assert ask(port, f"api/2.0/mlflow/runs/get?run_id={run_id}", user=admin)[0] == 200
    assert ask(port, f"api/2.0/mlflow/runs/get?run_id={run_id}", user=other)[0] == 403

    services.stop(server)
    server = services.start("mlflow", port, **extra)
    assert run(READ_IT, run_id)[-1] == "weights"
    log = services.log("mlflow")
    assert [name for name, value in services.secrets.items() if value in log] == []

    import optuna

    url = f"postgresql+pg8000://study:{services.secrets['postgres_password']}@{services.env['POSTGRES_ADDRESS']}/study"
    optuna.create_study(study_name="tried", storage=url)
    board = free_port()
    server = services.start("optuna", board, DASHBOARD_HOST="127.0.0.1", DASHBOARD_PORT=str(board))
    assert shown(server, services.secrets) == []
    assert b'"tried"' in ask(board, "api/studies")[1]
