"""`study sync`: MLflow written anew from ledger, journal and checkpoints."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli import app
from study.cli.folders import ledger_url, store_config, stored_config
from study.config import load_config
from study.errors import EnvironmentFault, InputError, StudyError
from study.ledger import Ledger, default_url, lock_study
from study.retelling import retell, tracker_of
from study.tracking import default_uri
from study.tracking.server import make_client
from study.types import EpochResult, RunOutcome
from tests.servers import free_port

METRIC = "val/auroc_macro"
STUDY_FILE = """
study: tiny
data:
  prepared: {root}/prepared
  sources: [{{kind: phantom, name: site_a, patients: 30, seed: 1}}]
train: {{epochs: 2}}
search:
  trials: 3
  algorithm: random
  space:
    optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}
confirm: {{top: 1, seeds: [0, 1]}}
"""
RUNS = {("0", 0), ("1", 0), ("0", 1), ("baseline", 0)}


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """MLflow takes seconds to make its tables: once is enough."""
    folder = tmp_path_factory.mktemp("mlflow")
    make_client(default_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def template(tmp_path_factory, empty):
    """A study in its ledger: a complete, a pruned and a running trial, two runs that confirm, one test reading."""
    root = tmp_path_factory.mktemp("template")
    file = root / "tiny.yaml"
    file.write_text(STUDY_FILE.format(root=root))
    config, directory = load_config(file), root / "studies" / "tiny"
    directory.mkdir(parents=True)
    store_config(directory, config)
    shutil.copy(empty, directory / "mlflow.db")
    with contextlib.closing(Ledger.open(default_url(directory), config=config)) as ledger:
        for number, state in enumerate(("complete", "pruned", "waiting")):
            assert ledger.next_trial().number == number
            for epoch in (1, 2):
                metrics = {METRIC: 0.5 + epoch / 10 - number / 100, "val/mcc": float("nan")}
                ledger.report(number, EpochResult(epoch=epoch, metrics=metrics, images=96, seconds=1.0))
            ledger.finish(number, RunOutcome(state=state, best_epoch=2))
        for trial, seed in (("0", 1), ("baseline", 0)):
            ledger.record_run(trial, seed, RunOutcome(state="complete", best_epoch=1, metrics={METRIC: 0.6}))
        ledger.record_run("0", 1, RunOutcome(state="complete", metrics={"test/auroc_macro": 0.55}), kind="evaluate")
    predictions = directory / "runs" / "0-s0" / "predictions_val.parquet"
    predictions.parent.mkdir(parents=True)
    predictions.write_bytes(b"parquet")
    return root / "studies"


@pytest.fixture
def storage(template, tmp_path, monkeypatch):
    """A copy of the study."""
    for name in ("MLFLOW_TRACKING_URI", "STUDY_LEDGER_URL"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(template, tmp_path / "studies")
    return tmp_path / "studies"


def sync(storage, **env):
    """The verb; its exit code, and the rows of its table by their first word."""
    done = CliRunner().invoke(app, ["sync", "tiny", "--storage", str(storage)], env=env, catch_exceptions=False)
    rows = {
        line.split("  ")[0]: tuple(map(int, line.split()[-3:]))
        for line in done.stderr.splitlines()
        if line[-1:].isdigit()
    }
    return done.exit_code, rows


def contents(database):
    """Every active run by (trial, seed), and every point; a run or an epoch that is there twice is an error."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        active = {run for (run,) in db.execute("select run_uuid from runs where lifecycle_stage = 'active'")}
        tags = {(run, key): value for run, key, value in db.execute("select run_uuid, key, value from tags")}
        points = [row for row in db.execute("select run_uuid, key, step, value from metrics") if row[0] in active]
    names = {run: (tags.get((run, "study.trial")), tags.get((run, "study.seed"))) for run in active}
    assert len(set(names.values())) == len(names)
    assert len({point[:3] for point in points}) == len(points)
    states = {names[run]: tags[run, "study.state"] for run in active}
    return states, sorted((*names[run], key, step, value) for run, key, step, value in points if names[run][0])


def test_everything_is_sent_once(storage):
    """An empty store gets every run, epoch, end, test and file; the second time nothing is new, and nothing doubled."""
    code, rows = sync(storage)
    assert code == 0
    assert rows["runs"] == (4, 0, 4)
    assert rows["epochs"] == (4, 0, 4)
    assert rows["ends of runs"] == (4, 0, 4)
    assert rows["test results"] == (1, 0, 1)
    assert rows["files"] == (1, 0, 1)
    states, points = contents(storage / "tiny" / "mlflow.db")
    assert states == {
        (None, None): "interrupted",
        ("0", "0"): "complete",
        ("1", "0"): "pruned",
        ("0", "1"): "complete",
        ("baseline", "0"): "complete",
    }
    assert [point[3:] for point in points if point[:3] == ("0", "0", METRIC)] == [(1, 0.6), (2, 0.7)]
    assert ("0", "1", "test/auroc_macro", 0, 0.55) in points
    code, rows = sync(storage)
    assert (code, rows["runs"], rows["epochs"], rows["test results"]) == (0, (4, 4, 0), (4, 4, 0), (1, 1, 0))
    assert contents(storage / "tiny" / "mlflow.db") == (states, points)


@pytest.mark.long
def test_another_store_gets_all_and_the_first_one_keeps_its_place(storage, tmp_path, empty):
    """A store that MLFLOW_TRACKING_URI names is filled from nothing, a lost run comes back, and both stores agree."""
    sync(storage)
    first = contents(storage / "tiny" / "mlflow.db")
    other = tmp_path / "other.db"
    shutil.copy(empty, other)
    code, rows = sync(storage, MLFLOW_TRACKING_URI=f"sqlite:///{other}")
    assert (code, rows["runs"], rows["epochs"]) == (0, (4, 0, 4), (4, 0, 4))
    assert contents(other) == first
    with contextlib.closing(sqlite3.connect(other)) as db, db:
        db.execute(
            "update runs set lifecycle_stage = 'deleted' where run_uuid in "
            "(select run_uuid from tags where key = 'study.trial' and value = '1')"
        )
    code, rows = sync(storage, MLFLOW_TRACKING_URI=f"sqlite:///{other}")
    assert (code, rows["runs"], rows["epochs"]) == (0, (4, 3, 1), (4, 2, 2))
    assert contents(other) == first
    assert contents(storage / "tiny" / "mlflow.db") == first


@pytest.mark.long
def test_a_lost_journal_is_written_anew_and_doubles_nothing(storage):
    """Without its journal a study finds its runs in MLflow again, and adds only what they lack."""
    sync(storage)
    first = contents(storage / "tiny" / "mlflow.db")
    for name in ("journal.jsonl", "journal.cursor"):
        (storage / "tiny" / name).unlink()
    code, rows = sync(storage)
    assert (code, rows["runs"], rows["epochs"]) == (0, (4, 4, 0), (4, 4, 0))
    assert contents(storage / "tiny" / "mlflow.db") == first


def test_a_damaged_journal_is_named_with_what_to_do(storage):
    """A changed byte in the journal is refused; done as the fix says, nothing is lost or doubled."""
    sync(storage)
    first = contents(storage / "tiny" / "mlflow.db")
    journal = storage / "tiny" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"0.6", b"0.7", 1))
    with pytest.raises(StudyError, match=r"line \d+ of .*journal.jsonl is damaged .it does not agree") as caught:
        sync(storage)
    assert "move that file away, then `study sync tiny`" in caught.value.fix
    journal.rename(journal.with_suffix(".old"))
    assert sync(storage)[0] == 0
    assert contents(storage / "tiny" / "mlflow.db") == first


def test_what_cannot_be_synchronised_says_why(storage):
    """A study that runs, one that has not begun and a server that is away are errors with one thing to do."""
    with lock_study(storage / "tiny"), pytest.raises(InputError, match="tiny is running as process"):
        sync(storage)
    with pytest.raises(EnvironmentFault, match=r"MLflow at http://127.* cannot be used") as caught:
        sync(storage, MLFLOW_TRACKING_URI=f"http://me:geheim@127.0.0.1:{free_port()}")
    assert "geheim" not in str(caught.value)
    for name in ("ledger.db", "journal.jsonl"):
        (storage / "tiny" / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match="has not begun"):
        sync(storage)
    assert not (storage / "tiny" / "ledger.db").exists()


def test_a_resumed_study_tells_what_a_kill_kept_from_the_journal(storage):
    """What the ledger has and the journal lacks is told when the study goes on; a running trial is its driver's."""
    directory = Path(storage) / "tiny"
    config = stored_config(directory)
    with contextlib.closing(Ledger.open(ledger_url(directory), config=config)) as ledger:
        for _ in range(2):
            tracker = tracker_of(ledger, config, study_dir=directory, tracking_uri=default_uri(directory))
            retell(ledger, tracker, config, study_dir=directory, artifacts=lambda _: [])
            assert {(trial, seed) for trial, seed in RUNS if tracker.has_begun(trial, seed)} == RUNS
            assert not tracker.has_begun("2", 0)
            assert tracker.close() == 0
            assert ledger.stage("id in mlflow") == tracker.study_id
