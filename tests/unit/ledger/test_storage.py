"""Opening, reading beside the writer, and databases that do not answer."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage

from study.errors import EnvironmentFault, InputError, StudyError
from study.ledger import Ledger, default_url
from study.ledger.glance import looked_at
from study.ledger.storage import is_on_network
from study.types import RunOutcome


def test_reader_changes_nothing(tmp_path, tools):
    """Looking on adopts, prunes and writes nothing, and is refused to write."""
    config = tools.make_config(trials=3)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    ledger.next_trial()
    before = (tmp_path / "ledger.db").read_bytes()
    reader = Ledger.open(tools.make_url(tmp_path), config=config, read_only=True)
    assert [row.state for row in reader.rows()] == ["running"]
    for write in (
        reader.next_trial,
        lambda: reader.report(0, tools.epoch_result(tools.SPACE_PARAMS, 1)),
        lambda: reader.finish(0, RunOutcome(state="failed")),
        lambda: reader.record_stage("search", "over"),
    ):
        with pytest.raises(StudyError, match="opened for reading"):
            write()
    assert (tmp_path / "ledger.db").read_bytes() == before


def test_reader_sees_the_writer_go_on(tmp_path, tools):
    """A reader that was opened early sees epochs and states that are written later."""
    config = tools.make_config(trials=3, pruner="none")
    writer = Ledger.open(tools.make_url(tmp_path), config=config)
    reader = Ledger.open(tools.make_url(tmp_path), config=config, read_only=True)
    assert reader.rows() == []
    trial = writer.next_trial()
    writer.report(0, tools.epoch_result(trial.params, 1))
    assert reader.rows()[0].epochs == 1
    writer.finish(0, RunOutcome(state="complete", best_epoch=1))
    assert [row.state for row in reader.rows()] == ["complete"]
    assert reader.rows() == writer.rows()


def test_readers_do_not_break_the_writer(tmp_path, tools):
    """A writer ends its search while three readers ask for the tools.table without pause."""
    config = tools.make_config(trials=8, epochs=2)
    Ledger.open(tools.make_url(tmp_path), config=config)
    stop, faults, reads = threading.Event(), [], [0]

    def read():
        ledger = Ledger.open(tools.make_url(tmp_path), config=config, read_only=True)
        while not stop.is_set():
            try:
                ledger.rows()
                reads[0] += 1
            except Exception as error:
                faults.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    ledger = tools.run_search(tools.make_url(tmp_path), config)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert reads[0] > 10
    assert len(ledger.rows()) == 8


def test_missing_ledger_and_missing_study_are_named(tmp_path, tools):
    """Reading where nothing is says so, creates no file, and names studies that sound alike."""
    with pytest.raises(InputError, match="no ledger at"):
        Ledger.open(tools.make_url(tmp_path), config=tools.make_config(), read_only=True)
    assert not list(tmp_path.iterdir())
    Ledger.open(tools.make_url(tmp_path), config=tools.make_config())
    config = tools.make_config()
    config.study = "quikc"
    with pytest.raises(InputError, match="knows no study 'quikc'") as caught:
        Ledger.open(tools.make_url(tmp_path), config=config, read_only=True)
    assert caught.value.fix == "did you mean quick?"


def test_unusable_database_is_explained_without_its_password(tmp_path, tools):
    """A file that is no database, a server that is not there and an unknown driver say so; no password is shown."""
    (tmp_path / "ledger.db").write_text("this is not a database, but it is long enough to be looked at" * 20)
    with pytest.raises(StudyError, match="does not begin like an SQLite database"):
        Ledger.open(tools.make_url(tmp_path), config=tools.make_config())
    for url, kind in (
        ("postgresql://me:geheim@127.0.0.1:9/x", EnvironmentFault),
        ("postgresql+nosuch://me:geheim@127.0.0.1:9/x", EnvironmentFault),
        ("oracle://me:geheim@127.0.0.1:9/x", InputError),
    ):
        with pytest.raises(kind) as caught:
            Ledger.open(url, config=tools.make_config())
        assert "geheim" not in str(caught.value)
        assert "geheim" not in json.dumps([str(part) for part in caught.value.args])
    with pytest.raises(InputError, match="not a database URL"):
        Ledger.open("me:geheim@somewhere", config=tools.make_config())


def test_path_with_braces_and_blanks_works(tmp_path, tools):
    """A study directory whose name holds braces, blanks or percent signs has its ledger there."""
    folder = tmp_path / "a {b} 50% c"
    tools.run_search(default_url(folder), tools.make_config(trials=1, epochs=1))
    assert (folder / "ledger.db").exists()


def test_database_that_stops_answering_is_explained(tmp_path, monkeypatch, tools):
    """A write that the database refuses is an error that says so, and the trial can be reported again."""
    ledger = Ledger.open(tools.make_url(tmp_path), config=tools.make_config())
    trial = ledger.next_trial()

    def refuse(*_):
        raise sqlalchemy.exc.OperationalError("UPDATE", {}, Exception("disk I/O error"))

    monkeypatch.setattr(RDBStorage, "set_trial_intermediate_value", refuse)
    with pytest.raises(EnvironmentFault, match="disk I/O error"):
        ledger.report(0, tools.epoch_result(trial.params, 1))
    monkeypatch.undo()
    ledger.report(0, tools.epoch_result(trial.params, 1))
    assert ledger.rows()[0].epochs == 1
    assert ledger._trial(0).last_step == 1


def test_other_metric_is_refused(tmp_path, tools):
    """A ledger that was made for one metric is not continued with another one."""
    tools.run_search(tools.make_url(tmp_path), tools.make_config(trials=1, epochs=1))
    with pytest.raises(InputError, match=r"holds val/auroc_macro .max."):
        Ledger.open(tools.make_url(tmp_path), config=tools.make_config(mode="min"))


def test_a_closed_ledger_is_one_file(tmp_path, tools):
    """A log stays beside the file, so that a copy of it lacks trials, or a read-only folder cannot be read."""
    ledger = Ledger.open(tools.make_url(tmp_path), config=tools.make_config(trials=2, epochs=1))
    ledger.next_trial()
    assert (tmp_path / "ledger.db-wal").exists()
    looking = Ledger.open(tools.make_url(tmp_path), config=tools.make_config(trials=2), read_only=True)
    assert len(looking.rows()) == 1
    looking.close()
    ledger.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]
    again = Ledger.open(tools.make_url(tmp_path), config=tools.make_config(trials=2), read_only=True)
    assert len(again.rows()) == 1
    again.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]


def test_file_systems_of_several_machines(tmp_path):
    """A ledger on a network keeps its log in memory that other machines do not see."""
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\n/dev/sdb /home/me/local\\040disk xfs rw 0 0\n"
    )
    assert not is_on_network(Path("/srv/studies/ledger.db"), mounts)
    assert is_on_network(Path("/home/me/studies/ledger.db"), mounts)
    assert not is_on_network(Path("/home/me/local disk/ledger.db"), mounts)
    assert is_on_network(Path("/srv"), tmp_path / "missing")


def test_ledgers_of_before_are_read(tmp_path, tools):
    """A ledger whose trials Optuna itself has written, in its usual journal, cannot go on."""
    url = tools.make_url(tmp_path)
    storage = optuna.storages.get_storage(optuna.storages.RDBStorage(url))
    study = optuna.create_study(study_name="quick", storage=storage, direction="maximize")
    study.set_user_attr("stage:search_settings", {"metric": tools.METRIC, "mode": "max", "startup_trials": 4})
    params = {"loss.name": "emd", "optim.lr": 1e-3, "optim.step_epochs": 2, "data.flip": True}
    distributions = {
        "loss.name": optuna.distributions.CategoricalDistribution(["cross_entropy", "focal", "emd"]),
        "optim.lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "optim.step_epochs": optuna.distributions.IntDistribution(2, 10),
        "data.flip": optuna.distributions.CategoricalDistribution([True, False]),
    }
    epoch = {"epoch": 1, "metrics": {tools.METRIC: 0.7}, "images": 8, "seconds": 1.0}
    outcome = {"state": "complete", "best_epoch": 1, "metrics": {}, "checkpoint": "runs/0", "reason": ""}
    attrs = {"params": params, "attempt": 1, "epoch:00001": epoch, "outcome": outcome}
    study.add_trial(
        optuna.trial.create_trial(
            value=0.7, params=params, distributions=distributions, user_attrs=attrs, intermediate_values={1: 0.7}
        )
    )
    ledger = tools.run_search(url, tools.make_config(trials=4, epochs=1))
    rows = ledger.rows()
    assert (rows[0].value, rows[0].params, rows[0].checkpoint, rows[0].images) == (0.7, params, "runs/0", 8)
    assert len(rows) == 4
    assert ledger._asking._views[0].params == params


def test_a_search_that_is_over_is_not_touched(tmp_path, tools):
    """Opening a finished ledger for writing, with nothing left to do, changes a byte of it."""
    config = tools.make_config(trials=2, epochs=1)
    tools.run_search(tools.make_url(tmp_path), config).close()
    before = (tmp_path / "ledger.db").read_bytes()
    again = Ledger.open(tools.make_url(tmp_path), config=config)
    assert again.left() == 0
    again.close()
    assert (tmp_path / "ledger.db").read_bytes() == before


def test_looking_at_a_file_loads_no_migrations(tmp_path, tools):
    """Whoever only looks waits for what makes tables, sees other trials, or is fooled by tables of another release."""
    url, config = default_url(tmp_path), tools.make_config(trials=2)
    ledger = Ledger.open(url, config=config)
    while (trial := ledger.next_trial()) is not None:
        tools.run_trial(ledger, trial, 4)
    written = ledger.rows()
    ledger.close()
    before = (tmp_path / "ledger.db").read_bytes()
    code = (
        "import sys; from study.ledger.storage import open_storage, find_study;"
        "storage = open_storage(sys.argv[1], create=False);"
        "print(len(storage.get_all_trials(find_study(storage, 'quick'))), 'alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    reader = Ledger.open(url, config=config, read_only=True)
    assert reader.rows() == written
    reader.close()
    assert (tmp_path / "ledger.db").read_bytes() == before
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as other, other:
        other.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    assert looked_at(url, {}) is None
