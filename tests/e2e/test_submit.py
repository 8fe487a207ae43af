"""Studies on a real cluster: a head and two workers in processes of their own, which ask for a token."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from urllib.parse import urlsplit

import pytest

from study import checkpoint
from study.config import load_config
from study.distributed.credentials import AUTHORITIES
from study.ledger import Ledger, default_url
from tests.nodes import started_nodes, wait_for
from tests.tls import tls_proxy
from tests.unit.test_job_client import answers, dashboard

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.long]

STUDY = """\
study: calm
data:
  prepared: {folder}/data/phantom-64
  sources:
    - {{kind: phantom, name: site_a, patients: 24, seed: 1, vendors: [Alpha]}}
    - {{kind: phantom, name: site_b, patients: 24, seed: 2, vendors: [Beta]}}
  image_size: 64
model: {{name: test_efficientnet, drop_rate: 0.1}}
augment: {{policy: mammogram}}
train: {{epochs: 40, batch_size: 8}}
search:
  trials: 1
  space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}
resources: {{concurrent: 1}}
"""
BATCH = 8


@pytest.fixture(scope="module")
def nodes():
    """The cluster of all tests here."""
    with started_nodes() as nodes:
        yield nodes


class Client:
    """`study` on a machine that is no node: other folder, no ledger, the token from a file."""

    def __init__(self, nodes, folder):
        self.nodes, self.folder, self.storage = nodes, folder, folder / "shared" / "studies"
        self.file = folder / "calm.yaml"
        self.file.write_text(STUDY.format(folder=folder / "shared"))
        self.at = ["--address", nodes.address]

    def start(self, *args, env=None):
        """Start the program; its output can be read from it."""
        elsewhere = ("RAY_", "STUDY_", "MLFLOW_", *AUTHORITIES)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}
        return subprocess.Popen(
            [sys.executable, "-m", "study", *args],
            cwd=self.folder,
            env={**kept, "COLUMNS": "140", **self.nodes.environment, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args, env=None):
        """Run the program to its end."""
        process = self.start(*args, env=env)
        out, err = process.communicate(timeout=400)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def submit(self, *args, env=None):
        """Send a study with this storage."""
        return self("submit", *args, *self.at, "--storage", str(self.storage), env=env)

    def job(self, name):
        """What the cluster tells of a job; None when there is none."""
        answer = self.nodes.ask(f"/api/jobs/{name}")
        return answer.json() if answer.ok else None

    def ledger(self, name):
        """The ledger of a study."""
        directory = self.storage / name
        return Ledger.open(default_url(directory), config=load_config(directory / "study.yaml"), read_only=True)

    def table(self, name):
        """Trials, parameters, states, and every metric of every epoch."""
        ledger = self.ledger(name)
        return repr(
            [
                (
                    row.trial,
                    row.state,
                    dict(row.params),
                    row.value,
                    [dict(e.metrics) for e in ledger.epochs(int(row.trial))],
                )
                for row in ledger.rows()
            ]
        )

    def epochs(self, name):
        """How many epochs have been told."""
        path = self.storage / name / "journal.jsonl"
        return path.read_text().count('"kind": "epoch"') if path.exists() else 0


@pytest.fixture(scope="module")
def client(nodes, tmp_path_factory):
    """Somebody who may use the cluster."""
    return Client(nodes, tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def calm(client):
    """A study that was sent, followed to its end, and left alone."""
    done = client.submit(str(client.file), "--follow", "--env", "SITE", env={"SITE": "north"})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done


def test_a_study_runs_there_and_is_followed(client, calm):
    """The output of the job comes here, with the closing table, and the program ends as the job did."""
    assert "study calm: sent (" in calm.stderr
    assert "val/auroc_macro" in calm.stderr
    assert "study best calm" in calm.stderr
    job = client.job("calm")
    assert (job["status"], job["driver_exit_code"]) == ("SUCCEEDED", 0)
    assert job["runtime_env"]["env_vars"]["SITE"] == "north"
    status = client("status", "calm", *client.at, "--json")
    record = json.loads(status.stdout)
    assert (record["state"], record["job"]["state"], record["trials"]) == ("done", "succeeded", {"complete": 1})
    assert "succeeded, ended 20" in client("status", "calm", *client.at).stderr
    log = client("logs", "calm", *client.at, "-n", "3")
    assert (log.returncode, len(log.stdout.splitlines())) == (0, 3)
    assert log.stdout.splitlines()[-1] in calm.stderr


def test_two_at_once_give_one_job(client, calm):
    """Of two that send an ended study at the same moment one starts a job, and the other finds it."""
    first, second = (
        client.start("submit", str(client.file), *client.at, "--storage", str(client.storage)) for _ in range(2)
    )
    told = [process.communicate(timeout=200)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], told
    assert sorted("sent again" in text for text in told) == [False, True], told
    assert sum("nothing was sent" in text for text in told) == 1, told
    assert client("logs", "calm", *client.at, "--follow").returncode == 0
    assert "nothing is left to run" in client("logs", "calm", *client.at).stdout
    assert client.nodes.log("job-driver-calm.log").count("Running entrypoint") == 2


def test_a_stopped_study_has_saved_and_goes_on(client, calm):
    """Sent twice it runs once; stopped inside an epoch it has a checkpoint there; sent again it ends as a calm one."""
    name = "rough"
    words = [str(client.file), "--set", f"study={name}"]
    follower = client.start("submit", *words, *client.at, "--storage", str(client.storage), "--follow")
    wait_for(lambda: client.epochs(name) >= 1, "the study does not train", timeout=300)
    again = client.submit(*words)
    assert again.returncode == 0
    assert "rough is there and running since 20" in again.stderr
    follower.send_signal(signal.SIGINT)
    _, shown = follower.communicate(timeout=60)
    assert follower.returncode == 130, shown
    assert "the study goes on at" in shown
    assert "logs rough --follow --address" in shown
    assert client.job(name)["status"] == "RUNNING"

    steps = inside = 0
    for _ in range(4):  # a stop may fall on the end of an epoch
        stopped = client("stop", name, *client.at)
        assert stopped.returncode == 0, stopped.stderr
        assert client.job(name)["status"] == "STOPPED"
        assert "has been terminated gracefully with SIGTERM" in client.nodes.log(f"jobs/supervisor-{name}.log")
        record = json.loads(client("status", name, *client.at, "--json").stdout)
        assert (record["state"], record["job"]["state"]) == ("interrupted", "stopped")
        running = [row for row in client.ledger(name).rows() if row.state == "running"]
        if running:
            state = checkpoint.load_last(client.storage / name / "runs" / f"{running[0].trial}-s0")
            steps = state.step
            inside = steps - len(state.history) * (state.history[0].images // BATCH) if state.history else steps
        if inside > 0:
            break
        sent = client.submit(*words)
        assert "sent again" in sent.stderr
        before = client.epochs(name)
        wait_for(lambda n=before: client.epochs(name) > n, "the study does not go on", timeout=300)
    assert inside > 0
    done = client.submit(*words, "--follow")
    assert done.returncode == 0, done.stderr
    assert "sent again, to go on where it stopped" in done.stderr
    assert "trial 0  epoch 1/40" in client.nodes.log(f"job-driver-{name}.log")
    assert "trial 0  epoch 1/40" not in done.stderr  # what the first job printed is not shown again
    assert client.table(name) == client.table("calm")
    assert client.epochs(name) == client.epochs("calm")


def test_nothing_to_stop(client, calm):
    """Stopping what has ended is harmless; what never was is bad input."""
    ended = client("stop", "calm", *client.at)
    assert (ended.returncode, "nothing to stop" in ended.stderr) == (0, True)
    for verb in ("stop", "logs", "status"):
        unknown = client(verb, "zebra", *client.at)
        assert (unknown.returncode, "has no job zebra" in unknown.stderr) == (2, True), unknown.stderr


def test_what_fails_there_is_told_here(client):
    """A study that the cluster cannot run ends here with its own message and exit code."""
    unknown = client.submit("zebra2", "--follow")
    assert unknown.returncode == 2
    assert "no study is called 'zebra2'" in unknown.stderr
    told = client("status", "zebra2", *client.at).stderr
    assert "failed with exit code 2" in told
    assert "no study is called 'zebra2'" in told
    assert "cannot be seen from here" in told


def test_what_does_not_fit_is_refused(client):
    """Wrong and missing tokens, silence, relative places and secrets end at once, and nothing is sent."""
    words = ["submit", str(client.file), "--set", "study=refused"]
    there = ["--storage", str(client.storage)]
    nobody = ["--address", "http://127.0.0.2:9"]
    for arguments, env, code, text in (
        ([*client.at, *there], {"RAY_AUTH_TOKEN": "wrong"}, 3, "refuses the token"),
        ([*client.at, *there], {"RAY_AUTH_TOKEN_PATH": "", "HOME": "/nonexistent"}, 3, "asks for a token and got none"),
        ([*nobody, *there], {}, 3, "no Ray cluster answers"),
        (client.at, {}, 2, "relative"),
        ([*client.at, *there, "--set", "data.prepared=here"], {}, 2, "data.prepared: here"),
        ([*client.at, *there, "--env", "MY_TOKEN"], {"MY_TOKEN": "hunter2"}, 2, "a secret"),
    ):
        done = client(*words, *arguments, env=env)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert text in done.stderr
        assert "hunter2" not in done.stderr
        assert "Traceback" not in done.stderr
    assert client.job("refused") is None


def test_over_https(client, calm, tmp_path):
    """A certificate that nobody has signed is refused, with what to set; with it a study is sent and followed."""
    head = urlsplit(client.nodes.address)
    with tls_proxy((head.hostname, head.port), tmp_path) as (address, certificate):
        there, trusted = ["--address", address], {"REQUESTS_CA_BUNDLE": str(certificate)}
        refused = client("submit", "calm", *there, "--storage", str(client.storage))
        assert refused.returncode == 3
        assert "is not trusted here: self-signed certificate" in refused.stderr
        assert "REQUESTS_CA_BUNDLE" in refused.stderr
        done = client("submit", "calm", *there, "--storage", str(client.storage), "--follow", env=trusted)
        assert done.returncode == 0, done.stderr
        assert "sent again, to go on where it stopped" in done.stderr
        assert "nothing is left to run" in done.stderr
        followed = client("logs", "calm", *there, "--follow", env={"SSL_CERT_FILE": str(certificate)})
        assert (followed.returncode, "nothing is left to run" in followed.stdout) == (0, True), followed.stderr
        record = json.loads(client("status", "calm", *there, "--json", env=trusted).stdout)
        assert record["job"]["state"] == "succeeded"
    plain = client("status", "calm", "--address", client.nodes.address.replace("http:", "https:"))
    assert (plain.returncode, "does not speak TLS" in plain.stderr) == (3, True), plain.stderr


def test_other_releases_of_ray(client):
    """Nothing is sent to a cluster of another release, and the message has both."""
    with dashboard(answers(ray_version="2.40.0")) as address:
        done = client("submit", str(client.file), "--address", address, "--storage", str(client.storage))
    assert done.returncode == 3
    assert "runs Ray 2.40.0 with Python" in done.stderr
    assert "install ray==" in done.stderr


def test_packages(client, calm, tmp_path):
    """One that no node has is installed for this job on every node; one that cannot be had ends with the reason."""
    name, note = "tiny_note", "here is tiny_note"
    wheel = client.folder / "shared" / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", f"import sys\nprint({note!r}, file=sys.stderr)\n")
        archive.writestr(f"{name}.pth", f"import {name}\n")  # imported by each Python of the environment as it starts
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-note\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        files = [f"{name}.py", f"{name}.pth", f"{about}/METADATA", f"{about}/WHEEL", f"{about}/RECORD"]
        archive.writestr(f"{about}/RECORD", "".join(f"{each},,\n" for each in files))
    words = [str(client.file), "--set", "study=packed", "--set", "train.epochs=1"]
    done = client.submit(*words, "--package", f"tiny-note @ file://{wheel}", "--follow")
    assert done.returncode == 0, done.stderr
    assert note in done.stderr
    assert client.job("packed")["runtime_env"]["pip"]["packages"] == [f"tiny-note @ file://{wheel}"]
    installed = f"session_*/runtime_resources/pip/*/virtualenv/lib/python*/site-packages/{name}.py"
    assert any(client.nodes.folder.glob(f"ray[01]/{installed}"))  # where the run was trained

    words[-3:] = ["study=unpacked", *words[-2:]]
    done = client.submit(*words, "--package", f"tiny-note @ file://{tmp_path}/none-1.0-py3-none-any.whl", "--follow")
    assert done.returncode == 1, done.stderr
    assert "job unpacked: failed before it began" in done.stderr
    assert "--package" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (client.storage / "unpacked").exists()
