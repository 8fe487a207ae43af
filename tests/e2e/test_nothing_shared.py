"""Studies in a store on nodes that share no folder with the driver, nor with each other; the ledger is on a server."""

import contextlib
import functools
import io
import json
import signal
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path

import pandas as pd
import pytest

from study.cli.folders import storage_root
from study.config import load_config
from study.data.files import read_bytes, stored_files, write_bytes
from study.data.phantom import LABELS_FILE, PhantomSettings, write_phantom
from study.data.pseudo import PSEUDO_FILE
from study.distributed.teacher import find_teacher
from study.errors import InputError
from study.ledger import Ledger
from tests.e2e.nodes import nodes_apart
from tests.nodes import wait_for
from tests.processes import burn_down
from tests.servers import PostgresServer

pytestmark = [pytest.mark.e2e, pytest.mark.long]
SECRET = "wJalrXUtnSecret"
STUDY = """\
study: far
data:
  prepared: "{prepared}"
  sources: [{{kind: table, name: clinic, root: "{images}", table: images.csv}}]
  image_size: 64
  labels: {{keep_unlabelled: true}}
model: {{name: test_efficientnet, drop_rate: 0.1}}
augment: {{policy: mammogram}}
train: {{epochs: 3, batch_size: 16, checkpoint_every: 1 step}}
search:
  trials: 2
  space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}
confirm: {{top: 1, seeds: [0]}}
resources: {{concurrent: 1}}
"""
UNLABELLED = 12
# The nodes that actors live on, but for the driver's own.
ACTORS = """
import json, ray
ray.init(log_to_driver=False, logging_level="ERROR")
own = ray.get_runtime_context().get_node_id()
living = [each for each in ray._private.state.actors().values() if each["State"] != "DEAD"]
print(json.dumps([each["ActorClassName"] for each in living if each["Address"]["NodeID"] != own]))
"""


class Store:
    """A new bucket, by URIs that this process may use, too."""

    def __init__(self, server):
        self.bucket, self.query = f"study-{uuid.uuid4().hex[:12]}", f"scheme=http&endpoint_override={server}"
        with urllib.request.urlopen(urllib.request.Request(f"http://{server}/{self.bucket}", method="PUT"), timeout=30):
            pass

    def __call__(self, path):
        return f"s3://{self.bucket}/{path}?{self.query}&region=us-east-1"

    def has_saved(self, study, run):
        """Whether a checkpoint of a run is there."""
        return any(name.startswith("checkpoints-step_") for name in stored_files(self(f"studies/{study}/runs/{run}")))


@pytest.fixture(scope="module")
def ledger_server():
    """A PostgreSQL server for the ledger."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def store(s3_server):
    """A bucket; the credentials of this process are those of the nodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield Store(s3_server)


@pytest.fixture(scope="module")
def study_file(store, tmp_path_factory):
    """The study file; its images, some without a label, lie in the store."""
    folder = tmp_path_factory.mktemp("drawn")
    write_phantom(folder, PhantomSettings(name="clinic", patients=16, seed=3, rows=128, cols=104))
    table = pd.read_csv(folder / LABELS_FILE, dtype=str)
    last = table["patient_id"].unique()[-UNLABELLED // 4 :]
    kept = table[["path", "patient_id", "label3"]].rename(columns={"label3": "label"})
    kept.loc[table["patient_id"].isin(last), "label"] = None
    write_bytes(store("images/images.csv"), kept.to_csv(index=False).encode())
    for path in table["path"]:
        write_bytes(store(f"images/{path}"), (folder / path).read_bytes())
    file = folder / "far.yaml"
    file.write_text(STUDY.format(prepared=store("prepared/set"), images=store("images")))
    return file


@pytest.fixture(scope="module")
def apart(tmp_path_factory, store):
    """A cluster: the driver's machine without CPUs, and a node to which everything of the tests is an empty folder."""
    root = tmp_path_factory.getbasetemp()
    with nodes_apart(env={"HOME": str(root / "node"), "STUDY_CACHE": str(root / "node" / "cache")}) as nodes:
        hidden = [root, nodes.folder]
        nodes.join(hidden)
        nodes.wait_for(2)
        nodes.hidden, nodes.root = hidden, root
        yield nodes


class Driver:
    """A machine that drives studies: a home of its own, the cluster, the store, and the servers."""

    def __init__(self, folder, *, cli, server, joining=None):
        self.folder, self.cli = folder, cli
        self.folder.mkdir()
        self.env = {
            "HOME": str(folder),
            "STUDY_CACHE": str(folder / "cache"),
            "STUDY_LEDGER_URL": server.url,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder.parent / 'mlflow.db'}",
            **(joining or {}),
        }

    def __call__(self, *words):
        done = self.cli(*words, env=self.env)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def drivers(tmp_path_factory, apart, ledger_server, cli):
    """A machine beside the head node, by its name."""
    folder = tmp_path_factory.mktemp("drivers")
    return lambda name: Driver(folder / name, cli=cli, server=ledger_server, joining=apart.joining)


def copies(nodes, number):
    """Which copies of stores a node has: those of drivers, workers, or verbs that look."""
    names = [name for name in nodes.seen_there(nodes.root, number) if "/cache/studies/" in name]
    return {role for role in ("drive", "work", "look") for name in names if f"/{role}/" in name}


def _numbers(url, config):
    """Every trial's value and epochs, every run's outcome, as text."""
    with contextlib.closing(Ledger.open(url, config=config, read_only=True)) as ledger:
        trials = [(row.trial, row.state, row.value, dict(row.params)) for row in ledger.rows()]
        runs = {(each.trial, each.seed, each.kind): dict(each.outcome.metrics) for each in ledger.run_records()}
        epochs = {row.trial: [dict(each.metrics) for each in ledger.epochs(int(row.trial))] for row in ledger.rows()}
    return repr((trials, runs, epochs))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cli, study_file):
    """A study of that file on this machine alone, with its folder and ledger here, by the changes; its directory.

    Call it when the dataset is prepared, so that it is prepared on the cluster.
    """
    home = tmp_path_factory.mktemp("alone")

    @functools.cache
    def run(name, *words):
        at = ["--storage", str(home / "studies")]
        done = cli("run", str(study_file), "--set", f"study={name}", *words, *at, env={"HOME": str(home)})
        assert done.returncode == 0, done.stderr
        return home / "studies" / name

    return run


@pytest.fixture(scope="module")
def same(ledger_server):
    """Whether a study on the cluster has the numbers of one on a machine alone, from its directory."""

    def compare(directory):
        config = load_config(directory / "study.yaml")
        assert _numbers(ledger_server.url, config) == _numbers(f"sqlite:///{directory}/ledger.db", config)

    return compare


@pytest.fixture(scope="module")
def far(apart, drivers, study_file, store, cli):
    """The study, whose first driver was killed while the second trial trained, and its machine lost; what was told."""
    at = ["--storage", store("studies")]
    first = drivers("first")
    process = cli.start("run", str(study_file), *at, env=first.env)
    cli.kill_when(process, lambda: store.has_saved("far", "1-s0"))
    burn_down(first.folder)
    return drivers("second")("resume", "far", *at).stderr


def test_nothing_stays_on_a_worker(apart, far):
    """Ray Data's own actors are at the driver's node, which stays; a worker's node is idle after a study."""
    asked = subprocess.run(
        [sys.executable, "-c", ACTORS], env=apart.env | apart.joining, capture_output=True, text=True, check=True
    )
    assert json.loads(asked.stdout) == []


def test_killed_driver_and_lost_machine(apart, drivers, far, store, alone, same):
    """Preparing, training, checkpoints, taking over and `best`; the numbers are those of an undisturbed local study."""
    assert "taking over from process" in far
    assert copies(apart, 1) == {"work"}
    assert not list(apart.root.rglob("cache/studies/*/work"))
    assert "the key of s3://" in far  # it is lost with the first machine: names must stay what they are
    best = json.loads(drivers("third")("best", "far", "--json", "--storage", store("studies")).stdout)
    assert [row["state"] for row in best] == ["complete", "complete"]
    assert all(row["checkpoint"].startswith(f"s3://{store.bucket}/studies/far/runs/") for row in best)
    same(alone("far"))


def test_teacher_whose_study_lies_there(drivers, far, study_file, store, alone, same, cli):
    """It labels images on the node; the driver is killed, and a third machine goes on with the same labels."""
    words = ["--set", "study=pupil", "--set", "search.trials=1", "--set", "confirm=null"]
    taught, at = [*words, "--set", "pseudo.teacher=far/0-s0"], ["--storage", store("studies")]
    process = cli.start("run", str(study_file), *taught, *at, env=drivers("fourth").env)
    cli.kill_when(process, lambda: store.has_saved("pupil", "0-s0"))
    labels = read_bytes(store(f"studies/pupil/{PSEUDO_FILE}"))
    assert len(pd.read_parquet(io.BytesIO(labels))) > 0
    fifth = drivers("fifth")
    fifth("resume", "pupil", *at)
    assert read_bytes(store(f"studies/pupil/{PSEUDO_FILE}")) == labels
    alone("far")
    local = alone("pupil", *taught[2:])
    pd.testing.assert_frame_equal(pd.read_parquet(local / PSEUDO_FILE), pd.read_parquet(io.BytesIO(labels)))
    same(local)


def test_how_a_teacher_is_named(drivers, far, study_file, store, cli, monkeypatch):
    """By its study's name or by the URI of its folder; others are refused before anything starts, with the reason."""
    someone = drivers("sixth")
    for name in ("STUDY_CACHE", "STUDY_LEDGER_URL"):
        monkeypatch.setenv(name, someone.env[name])
    storage = storage_root(store("studies"))
    by_name, by_uri = (
        find_teacher("far/1-s0", storage=storage),
        find_teacher(store("studies/far/runs/1-s0"), storage=Path()),
    )
    assert by_name.to_spec() == by_uri.to_spec()
    for teacher, words in [
        ("far/7-s0", r"run 7-s0 of study far has no checkpoint"),
        (store("others/far/1-s0"), f"there is no study at s3://{store.bucket}/others/far"),
        (store("studies/far/1-s0").replace("s3://", "s3://AKID:hunter2@"), "holds a user or a password"),
    ]:
        with pytest.raises(InputError, match=words) as found:
            find_teacher(teacher, storage=storage)
        assert "hunter2" not in str(found.value)
    words = ["--set", "study=other", "--set", "pseudo.teacher=zebra/0-s0", "--storage", store("studies")]
    done = cli("run", str(study_file), *words, env=someone.env)
    assert done.returncode == 2
    assert f"pseudo.teacher: there is no study at s3://{store.bucket}/studies/zebra" in done.stderr


def test_two_workers_on_nodes_apart(apart, drivers, study_file, store, alone, same, cli):
    """A run whose workers are on two nodes, killed and gone on with, has the numbers of two workers on one machine."""
    number = apart.join(apart.hidden)
    apart.wait_for(3)
    words = ["--set", "study=wide", "--set", "search.trials=1", "--set", "confirm=null", "--set", "resources.workers=2"]
    at, cpus = ["--storage", store("studies")], "resources.cpus_per_worker="
    process = cli.start("run", str(study_file), *words, "--set", f"{cpus}1.5", *at, env=drivers("seventh").env)
    cli.kill_when(process, lambda: store.has_saved("wide", "0-s0"))
    drivers("eighth")("resume", "wide", *at)
    assert copies(apart, number) == copies(apart, 1) == {"work"}
    same(alone("wide", *words[2:], "--set", f"{cpus}0.5"))


def test_lost_node(apart, drivers, study_file, store, ledger_server, alone, same, cli):
    """The node of a run is killed; the run goes on on another node, which has nothing but what lies in the store."""
    if len(apart.processes) < 3:
        apart.join(apart.hidden)
        apart.wait_for(3)
    words = ["--set", "study=lost", "--set", "search.trials=1", "--set", "confirm=null", "--set", "train.epochs=6"]
    process = cli.start("run", str(study_file), *words, "--storage", store("studies"), env=drivers("ninth").env)

    def has_saved():
        assert process.poll() is None, (cli.folder / "out.txt").read_text()
        return store.has_saved("lost", "0-s0")

    wait_for(has_saved, "no checkpoint comes into the store", timeout=200)
    busy = [
        number for number in (1, 2) if any("/lost/runs/0-s0/" in name for name in apart.seen_there(apart.root, number))
    ]
    assert len(busy) == 1
    apart.leave(busy[0], sig=signal.SIGKILL)
    assert process.wait(300) == 0, (cli.folder / "out.txt").read_text()
    assert any("/lost/" in name for name in apart.seen_there(apart.root, 3 - busy[0]))
    same(alone("lost", *words[2:]))
