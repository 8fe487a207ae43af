"""The image of cluster/Dockerfile in containers: a study, the servers of compose.yaml, the pods of KubeRay."""

import json
import os
import re
import uuid
from pathlib import Path

import optuna
import pytest
import yaml

from study import __version__
from tests.containers import HARDENED, Containers
from tests.e2e.conftest import SMALL
from tests.e2e.test_compose_servers import SERVICES, Services, ask
from tests.servers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.long]

KUBERAY = Path(__file__).parents[2] / "cluster" / "kuberay"
# What KubeRay 1.6 asks in a head and in a worker for its probes.
PROBES = {
    "head": ("52365/api/local_raylet_healthz", "8265/api/gcs_healthz"),
    "worker": ("52365/api/local_raylet_healthz",),
}
SHORT = ["--set", "search.trials=2", "--set", "search.pruner.name=none", "--set", "confirm.seeds=[0]"]


@pytest.fixture(scope="module")
def containers():
    """Containers of the image that STUDY_IMAGE names."""
    made = Containers()
    yield made
    made.close()


def owned_by(user, *paths):
    """Give files to a user, where this process may; the user that the containers are to run as."""
    if os.geteuid():
        return os.geteuid()
    for path in paths:
        for each in (path, *path.rglob("*")):
            os.chown(each, user, user)
    return user


def test_what_it_holds(containers):
    """It runs as a user without rights, has what it needs, and neither tests nor keys nor a compiler."""
    assert containers.run("id", "-u").stdout == "1000\n"
    done = containers.run("study", "doctor", "--json", options=("--shm-size", "3g"))
    assert done.returncode == 0, done.stdout
    checks = json.loads(done.stdout)
    assert {check["state"] for check in checks} == {"ok"}, checks
    found = "find / -xdev \\( -name '*.key' -o -name .git -o -name '*.sh' -path '/opt/study/libexec/*' \\) 2>/dev/null"
    listed = containers.run("bash", "-c", f"{found}; pip list 2>/dev/null; which gcc; study --version").stdout
    names = {line.split()[0] for line in listed.splitlines()}
    assert {"/opt/study/libexec/mlflow-server.sh", "/opt/study/libexec/optuna-server.sh"} <= names
    assert not [name for name in names if name.endswith((".key", ".git", "gcc"))]
    assert not {"pytest", "hypothesis", "mypy", "ruff", "moto"} & names
    assert f"study {__version__}, Python 3.11." in listed


def test_a_study_as_any_user(containers, tmp_path):
    """A folder of the machine is mounted; what the study writes there belongs to its owner."""
    (tmp_path / "small.yaml").write_text(SMALL.format(folder="/work"))
    user = owned_by(12345, tmp_path)
    options = ["--shm-size", "2g", "-v", f"{tmp_path}:/work", "-w", "/work", "--user", f"{user}:{user}"]
    done = containers.run("study", "run", "small.yaml", *SHORT, options=[*options, "-e", "HOME=/tmp", *HARDENED])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "val/auroc_macro" in done.stderr
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {user}


class ContainedServices(Services):
    """The servers of compose.yaml in containers with the rights that stand there; PostgreSQL and the store are ours."""

    def __init__(self, folder, s3, containers):
        super().__init__(folder, s3)
        self.containers = containers
        self.user = owned_by(1000, folder / "compose" / "secrets")

    def run(self, service, port, **extra):
        """Start a service, and wait until its health check in the container says so."""
        each = SERVICES[service]
        given = each["environment"] | {"MLFLOW_S3_ENDPOINT_URL": self.env["MLFLOW_S3_ENDPOINT_URL"]}
        given |= {"POSTGRES_ADDRESS": self.env["POSTGRES_ADDRESS"], **extra}
        assert (each["read_only"], each["tmpfs"], each["cap_drop"]) == (True, ["/tmp"], ["ALL"])
        assert each["security_opt"] == ["no-new-privileges:true"]
        options = ["--network", "host", "--read-only", "--tmpfs", "/tmp", *HARDENED, "--user", f"{self.user}"]
        options += ["-v", f"{self.folder / 'compose' / 'secrets'}:/run/secrets:ro"]
        options += [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
        self.containers.start(service, *each["command"], options=options)
        check = [re.sub(r":\d+/", f":{port}/", word) for word in each["healthcheck"]["test"][1:]]
        self.containers.wait_for(service, *check)


def test_servers_of_compose(containers, tmp_path, s3_server):
    """MLflow and the dashboard run without a right and without a root file system that can be written to."""
    services = ContainedServices(tmp_path, s3_server, containers)
    try:
        port, board = free_port(), free_port()
        hosts = {"MLFLOW_ALLOWED_HOSTS": f"127.0.0.1:{port}"}
        services.run("mlflow", port, MLFLOW_HOST="127.0.0.1", MLFLOW_PORT=str(port), **hosts)
        admin = ("admin", services.secrets["mlflow_admin_password"])
        made = {"name": "tried"}
        assert ask(port, "api/2.0/mlflow/experiments/create", body=made)[0] == 401
        assert ask(port, "api/2.0/mlflow/experiments/create", user=admin, body=made)[0] == 200
        ledger = f"postgresql+pg8000://study:{services.secrets['postgres_password']}@{services.env['POSTGRES_ADDRESS']}"
        optuna.create_study(study_name="tried", storage=f"{ledger}/study")
        services.run("optuna", board, DASHBOARD_HOST="127.0.0.1", DASHBOARD_PORT=str(board))
        assert b'"tried"' in ask(board, "api/studies")[1]
        seen = containers.inside("mlflow", "bash", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; touch /home/study/x")
        assert "Read-only file system" in seen.stderr
        printed = seen.stdout + containers.log("mlflow") + containers.log("optuna")
        assert [name for name, value in services.secrets.items() if value in printed] == []
    finally:
        services.close()


def pods():
    """Ray's start parameters, and what pods do before they stop, as `rayjob.yaml` has them; and the job's own part."""
    job = next(each for each in yaml.safe_load_all((KUBERAY / "rayjob.yaml").read_text()) if each["kind"] == "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"], "worker": cluster["workerGroupSpecs"][0]}
    for group in groups.values():
        assert group["template"]["spec"]["securityContext"]["runAsUser"] == 1000
        paths = {each["mountPath"] for each in group["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert {"/storage", "/cache", "/tmp/ray", "/dev/shm"} <= paths
    return job["spec"], groups


def test_pods_of_kuberay(containers, tmp_path):
    """A head and a worker as the operator starts them, without a right: a study, a head that goes, the next try."""
    spec, groups = pods()
    storage = tmp_path / "storage"
    storage.mkdir()
    (tmp_path / "study.yaml").write_text(SMALL.format(folder="/storage").replace("epochs: 4", "epochs: 12"))
    user = owned_by(1000, storage, tmp_path / "study.yaml")
    token = ["-e", f"RAY_AUTH_TOKEN={uuid.uuid4().hex}{uuid.uuid4().hex}"]
    common = ["--user", str(user), *HARDENED, *token, "--shm-size", "2g", "-v", f"{storage}:/storage"]
    common += ["--tmpfs", "/tmp/ray:mode=1777", "--tmpfs", "/cache:mode=1777"]
    lifecycle = {name: group["template"]["spec"]["containers"][0]["lifecycle"] for name, group in groups.items()}

    def start(name, *address, **extra):
        given = {**groups[name]["rayStartParams"], **extra}
        words = " ".join(f"--{key}={value}" for key, value in given.items()).replace("=true", "")
        options = [*common, "-v", f"{tmp_path / 'study.yaml'}:/etc/study/study.yaml:ro", "-e", "RAY_ADDRESS=head:6379"]
        if name == "head":
            options = options[:-2]
        command = f"ulimit -n 65536 2> /dev/null; ray start {' '.join(address)} {words} --block"
        containers.start(name, "bash", "-c", command, options=options)
        for probe in PROBES[name]:
            containers.wait_for(name, "bash", "-c", f"wget --tries 1 -T 10 -q -O- localhost:{probe} | grep success")

    def submit(identity):
        """As the operator's job does it, from a container of its own."""
        words = ["ray", "job", "submit", "--address", "http://head:8265", "--submission-id", identity]
        words += ["--runtime-env-json", json.dumps(yaml.safe_load(spec["runtimeEnvYAML"])), "--no-wait", "--"]
        options = [*common, "--network", containers.network]
        done = containers.run(*words, *spec["entrypoint"].split(), *SHORT, options=options)
        assert done.returncode == 0, done.stdout + done.stderr

    start("head", "--head")
    start("worker", "--address=head:6379", **{"num-cpus": "2"})
    submit("first")
    events = "/storage/studies/small/events.jsonl"
    containers.wait_for("head", "grep", "-q", "run.epoch", events, timeout=300)
    # The pod of the head is asked to leave: the driver saves first.
    left = containers.inside("head", *lifecycle["head"]["preStop"]["exec"]["command"])
    assert left.returncode == 0, left.stderr
    status = ["study", "status", "small", "--storage", "/storage/studies", "--json"]
    assert json.loads(containers.inside("head", *status).stdout)["state"] == "interrupted"
    containers.stop("worker")
    containers.stop("head")
    for name in ("worker", "head"):
        containers.remove(name)

    start("head", "--head")
    start("worker", "--address=head:6379", **{"num-cpus": "2"})
    submit("second")
    containers.wait_for("head", "pgrep", "-x", "study")
    containers.wait_for("head", "bash", "-c", "while pgrep -x study; do sleep 1; done", timeout=500)
    shown = json.loads(containers.inside("head", *status).stdout)
    assert (shown["state"], shown["trials"]) == ("done", {"complete": 2}), shown
    # The worker's pod is asked to leave: its node is drained, and nothing runs there.
    pod = f"POD_IP=$(hostname -i) RAY_ADDRESS=head:6379 {lifecycle['worker']['preStop']['exec']['command'][-1]}"
    left = containers.inside("worker", "bash", "-c", pod)
    assert left.returncode == 0, containers.inside("worker", "cat", "/tmp/ray/preemption.log").stdout
