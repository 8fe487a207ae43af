"""A whole study whose files lie in a store and whose ledger is on a server, on one machine after the other.

The stores are an S3-compatible process and one that pretends to be Google's, which takes requests with a token
alone.
"""

import json
import os
import urllib.request
import uuid
from pathlib import Path

import pytest

from study.config import load_config
from study.data.files import read_bytes, stored_files
from study.ledger import Ledger
from study.remote import snapshots
from tests.processes import burn_down
from tests.servers import PASSWORD, PostgresServer

pytestmark = [pytest.mark.e2e, pytest.mark.long]
SECRET = "wJalrXUtnSecret"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET}
CHANGES = ("study=stored", "search.trials=2", "train.epochs=2", "train.checkpoint_every=1 step", "confirm.seeds=[0]")
SETS = [word for change in CHANGES for word in ("--set", change)]


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request):
    """The URI of a new bucket's folder; this process may look into it, too, with what its environment has."""
    bucket = f"study-{uuid.uuid4().hex[:12]}"
    if request.param == "gs":
        server = request.getfixturevalue("gcs_server")
        server.pretend(make=[bucket], needs="Bearer ey", faults=[], page=1000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(server.key))
            yield server.uri(bucket, "studies")
        return
    s3_server = request.getfixturevalue("s3_server")
    make = urllib.request.Request(f"http://{s3_server}/{bucket}", method="PUT")
    with urllib.request.urlopen(make, timeout=30):
        pass
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield f"s3://{bucket}/studies?scheme=http&endpoint_override={s3_server}&region=us-east-1"


@pytest.fixture(scope="module")
def server(store):
    """A PostgreSQL server for the ledger, one for each store."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


class Machine:
    """A home of its own, and nothing else that another machine has."""

    def __init__(self, folder, server, cli):
        self.folder, self.cli = folder, cli
        self.folder.mkdir()
        self.env = {
            "HOME": str(folder),
            "STUDY_CACHE": str(folder / "cache"),
            "STUDY_LEDGER_URL": server.url,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder.parent / 'mlflow.db'}",
            **{name: os.environ[name] for name in (*KEYS, "GOOGLE_APPLICATION_CREDENTIALS") if name in os.environ},
        }

    def __call__(self, *words):
        done = self.cli(*words, env=self.env)
        assert done.returncode == 0, done.stderr
        return done


def _numbers(ledger):
    """Every trial's value and epochs, every run's outcome."""
    trials = [(row.trial, row.state, row.value, dict(row.params), dict(row.metrics)) for row in ledger.rows()]
    runs = {(record.trial, record.seed, record.kind): dict(record.outcome.metrics) for record in ledger.run_records()}
    epochs = {row.trial: [result.metrics for result in ledger.epochs(int(row.trial))] for row in ledger.rows()}
    return repr((trials, runs, epochs))  # where no number is, none is expected


def _contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_killed_on_one_machine_and_gone_on_with_on_another(tmp_path, cli, small_file, server, store, phantom_data):
    """The numbers of an undisturbed local study; everything that looks reads it from a third machine."""
    done = cli("run", str(small_file), *SETS)
    assert done.returncode == 0, done.stderr
    local = cli.folder / "studies" / "stored"
    at = ["--storage", store]

    first = Machine(tmp_path / "a", server, cli)
    process = cli.start("run", str(small_file), *SETS, *at, env=first.env)
    place = store.replace("/studies?", "/studies/stored?")

    def second_trial_saved():
        names = stored_files(place)
        return any(name.startswith("runs/1-s0/checkpoints-step_") for name in names)

    cli.kill_when(process, second_trial_saved)
    burn_down(first.folder)

    second = Machine(tmp_path / "b", server, cli)
    told = second("resume", "stored", *at).stderr
    assert "taking over from process" in told

    config = load_config(local / "study.yaml")
    ledgers = [Ledger.open(url, config=config, read_only=True) for url in (f"sqlite:///{local}/ledger.db", server.url)]
    expected, found = map(_numbers, ledgers)
    for ledger in ledgers:
        ledger.close()
    assert found == expected

    third = Machine(tmp_path / "c", server, cli)
    best = json.loads(third("best", "stored", "--json", *at).stdout)
    assert [row["trial"] for row in best] == [
        row["trial"] for row in json.loads(cli("best", "stored", "--json").stdout)
    ]
    assert all(row["checkpoint"].startswith(place.partition("?")[0] + "/runs/") for row in best)
    assert json.loads(third("status", "stored", "--json", *at).stdout)["state"] == "done"
    assert [line["study"] for line in json.loads(third("list", "--json", *at).stdout)] == ["stored"]
    assert third("logs", "stored", *at).stdout
    report = third("report", "stored", "--quick", *at).stderr
    assert f"kept in {place.partition('?')[0]}/report" in report
    answers = tmp_path / "answers.parquet"
    third("predict", "stored", str(next(phantom_data.rglob("phantom-dicom"))), "--out", str(answers), *at)
    assert answers.stat().st_size
    exported = tmp_path / "exported"
    third("export", "stored", "--to", str(exported), *at)
    assert cli("export", "stored", "--to", str(tmp_path / "expected")).returncode == 0
    weights = [next(folder.rglob("*.safetensors")).read_bytes() for folder in (exported, tmp_path / "expected")]
    assert weights[0] == weights[1]
    assert not list((third.folder / "cache").rglob("ledger.db"))
    _check_store(place)
    for path, content in _contents(tmp_path).items():
        assert SECRET.encode() not in content, path
        assert b"PRIVATE KEY" not in content, path
        assert PASSWORD.encode() not in content, path
    gone = Machine(tmp_path / "d", server, cli)
    assert gone("run", str(small_file), *SETS, *at).stderr.count("is done; nothing is left to run") == 1


def _check_store(place):
    """Only what some head names, the study's own files, and no secret."""
    names = stored_files(place)
    own = {name for name in names if not name.startswith("runs/") or "-ensemble/" in name}
    assert {"study.yaml", "journal.jsonl", "study.log", "report/search.csv", "report/report.html"} <= own
    kept = set(own)
    for run in {name.split("/")[1] for name in names if name not in own}:
        base, _, query = place.partition("?")
        head = snapshots.read_head(f"{base}/runs/{run}?{query}")
        kept |= {f"runs/{run}/{entry.object}" for entry in head.files.values()}
        kept.add(f"runs/{run}/heads/{head.attempt:012d}.json")
    assert set(names) == kept
    base, _, query = place.partition("?")
    for name in names:
        content = read_bytes(f"{base}/{name}?{query}")
        assert SECRET.encode() not in content, name
        assert b"PRIVATE KEY" not in content, name
        assert PASSWORD.encode() not in content, name


def test_what_is_missing_is_said_before_anything_starts(tmp_path, cli, small_file, server, store):
    """No server for the ledger; a user in the URI; a bucket that is not there."""
    machine = Machine(tmp_path / "x", server, cli)
    for env, place, words in [
        ({"STUDY_LEDGER_URL": ""}, store, "a study in a store needs its ledger on a server"),
        ({}, store.replace("://", "://AKID:hunter2@"), "the URI holds a user or a password"),
        ({}, store.replace("://study-", "://none-"), "no such bucket"),
    ]:
        done = cli("run", str(small_file), *SETS, "--storage", place, env=machine.env | env)
        assert done.returncode in (2, 3), done.stderr
        assert words in done.stderr
        assert "hunter2" not in done.stderr
    assert not list(Path(tmp_path).rglob("study.log"))
