"""Studies in a store on nodes that share no folder with the driver, nor with each other; the ledger is on a server."""

import json
import shutil
import urllib.request
import uuid

import pandas as pd
import pytest

from study.config import load_config
from study.data.files import stored_files, write_bytes
from study.data.phantom import LABELS_FILE, PhantomSettings, write_phantom
from study.data.pseudo import PSEUDO_FILE
from study.ledger import Ledger
from tests.e2e.nodes import nodes_apart
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


class Store:
    """A new bucket, by URIs that this process may use, too."""

    def __init__(self, server):
        self.bucket, self.query = f"study-{uuid.uuid4().hex[:12]}", f"scheme=http&endpoint_override={server}"
        with urllib.request.urlopen(urllib.request.Request(f"http://{server}/{self.bucket}", method="PUT"), timeout=30):
            pass

    def __call__(self, path):
        return f"s3://{self.bucket}/{path}?{self.query}&region=us-east-1"

    def names(self, path):
        """The objects below a path."""
        return stored_files(self(path))


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


@pytest.fixture(scope="module")
def copies(apart):
    """Which copies of stores a node has: those of drivers, workers, or verbs that look."""

    def of(number):
        names = apart.seen_there(apart.root, number)
        return {role for role in ("drive", "work", "look") for name in names if f"/studies/" in name and f"/{role}/" in name}

    return of


def _numbers(url, config):
    """Every trial's value and epochs, every run's outcome, as text."""
    ledger = Ledger.open(url, config=config, read_only=True)
    trials = [(row.trial, row.state, row.value, dict(row.params)) for row in ledger.rows()]
    runs = {(record.trial, record.seed, record.kind): dict(record.outcome.metrics) for record in ledger.run_records()}
    epochs = {row.trial: [dict(each.metrics) for each in ledger.epochs(int(row.trial))] for row in ledger.rows()}
    ledger.close()
    return repr((trials, runs, epochs))


@pytest.fixture(scope="module")
def calm(drivers, study_file, store, ledger_server, cli):
    """The study on this machine alone, undisturbed, in a folder: its numbers. It prepares nothing."""
    return None


def test_killed_driver_and_lost_machine(apart, drivers, copies, study_file, store, ledger_server, cli):
    """Preparing, training, checkpoints, taking over and `best`; the numbers are those of an undisturbed local study."""
    at = ["--storage", store("studies")]
    first = drivers("first")
    process = cli.start("run", str(study_file), *at, env=first.env)
    cli.kill_when(process, lambda: any("/1-s0/checkpoints-step_" in f"/{name}" for name in store.names("studies/far/runs")))
    shutil.rmtree(first.folder)
    second = drivers("second")
    assert "taking over from process" in second("resume", "far", *at).stderr
    assert copies(1) == {"work"}
    assert not list(apart.root.rglob("cache/studies/*/work"))

    third = drivers("third")
    best = json.loads(third("best", "far", "--json", *at).stdout)
    assert [row["state"] for row in best] == ["complete", "complete"]
    assert all(row["checkpoint"].startswith(f"s3://{store.bucket}/studies/far/runs/") for row in best)
    alone = cli("run", str(study_file), "--storage", str(third.folder / "studies"), env={"HOME": str(third.folder)})
    assert alone.returncode == 0, alone.stderr
    config = load_config(study_file)
    local = _numbers(f"sqlite:///{third.folder}/studies/far/ledger.db", config)
    assert _numbers(ledger_server.url, config) == local
