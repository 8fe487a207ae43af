"""Exact resume: a kill at any write, another process, adoption of running trials."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from study.config import StudyConfig
from study.ledger import Ledger
from study.ledger.storage import open_storage
from study.types import EpochResult, RunOutcome

METRIC = "val/auroc_macro"

DRIVER = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("cases", sys.argv[3])
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
config = cases.make_config(trials=6, epochs=3)
ledger = cases.Ledger.open(sys.argv[1], config=config)
print("open", flush=True)
while (trial := ledger.next_trial()) is not None:
    time.sleep(float(sys.argv[2]))
    cases.run_trial(ledger, trial, 3)
"""


@pytest.mark.long
def test_kill_at_every_write_changes_nothing(tmp_path, killer, tools):
    """A process that dies at any one of its writes leaves a search that ends exactly like the whole one.

    Dying before a write leaves the same file as dying after the one before it.
    """
    config = tools.make_config(trials=4, epochs=2)
    empty = tmp_path / "empty.db"
    open_storage(f"sqlite:///{empty}", create=True)
    killer.count = 0
    url = f"sqlite:///{shutil.copy(empty, tmp_path / 'whole.db')}"
    whole = tools.table(tools.run_search(url, config))
    num_writes = killer.count
    assert num_writes > 4 * 5
    assert {row[1] for row in whole} == {"complete", "pruned"}
    for at in range(1, num_writes + 1):
        url = f"sqlite:///{shutil.copy(empty, tmp_path / f'{at}.db')}"
        killer.count, killer.at, killer.when = 0, at, "after"
        with pytest.raises(tools.Killed):
            tools.run_search(url, config)
        killer.at = None
        assert tools.table(tools.run_search(url, config)) == whole, at


@pytest.mark.long
def test_kill_while_the_tables_are_made_changes_nothing(tmp_path, killer, tools):
    """A process that dies while its database is being made can be started again."""
    config = tools.make_config(trials=1, epochs=1)
    open_storage(f"sqlite:///{tmp_path / 'whole.db'}", create=True)
    num_writes = killer.count
    assert num_writes >= 3
    for when, at in [("before", 1), *(("after", at) for at in range(1, num_writes + 1))]:
        url = f"sqlite:///{tmp_path / f'{when}-{at}.db'}"
        killer.count, killer.at, killer.when = 0, at, when
        with pytest.raises(tools.Killed):
            tools.run_search(url, config)
        killer.at = None
        assert len(tools.run_search(url, config).rows()) == 1


@pytest.mark.long
def test_dying_in_every_second_write_still_ends(tmp_path, killer, tools):
    """A machine that is preempted over and over again ends with the tools.table of the machine that never was."""
    config = tools.make_config(trials=5, epochs=3)
    whole = tools.table(tools.run_search(tools.make_url(tmp_path), config))
    url, rounds = f"sqlite:///{tmp_path / 'other.db'}", 0
    while True:
        killer.count, killer.at, killer.when, rounds = 0, 4, "after", rounds + 1
        assert rounds < 60
        try:
            ledger = tools.run_search(url, config)
        except tools.Killed:
            continue
        break
    killer.at = None
    assert rounds > 5
    assert tools.table(ledger) == whole
    assert max(ledger._trial(row).user_attrs["attempt"] for row in range(5)) > 1


def test_sigkill_and_another_hash_seed_change_nothing(tmp_path, tools):
    """A driver that is shot and started again in a process with another hash seed suggests the same parameters."""
    root = str(Path(__file__).parents[3])
    whole = tools.table(tools.run_search(tools.make_url(tmp_path), tools.make_config(trials=6, epochs=3)))
    url = f"sqlite:///{tmp_path / 'shot.db'}"
    for number, pause in enumerate((0.06, 0.0)):
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, url, str(pause), str(Path(__file__).with_name("conftest.py"))],
            stdout=subprocess.PIPE,
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": str(number + 11)},
        )
        assert process.stdout.readline() == b"open\n"
        if pause:
            time.sleep(0.25)
            process.send_signal(signal.SIGKILL)
            process.wait()
            counted = Ledger.open(url, config=tools.make_config(trials=6, epochs=3), read_only=True).rows()
            assert 0 < len(counted) < 6
        assert process.wait() == (-signal.SIGKILL if pause else 0)
    assert tools.table(Ledger.open(url, config=tools.make_config(trials=6, epochs=3), read_only=True)) == whole


def test_adoption_keeps_number_parameters_and_epochs(tmp_path, tools):
    """Trials that were running are handed out first, in the order of their numbers, with one more attempt."""
    config = tools.make_config(trials=4, epochs=5, pruner="none")
    first = Ledger.open(tools.make_url(tmp_path), config=config)
    given = [first.next_trial() for _ in range(3)]
    first.report(1, tools.epoch_result(given[1].params, 1))
    first.report(1, tools.epoch_result(given[1].params, 2))
    first.finish(0, RunOutcome(state="failed", reason="out of memory"))
    first.finish(2, RunOutcome(state="running"))

    second = Ledger.open(tools.make_url(tmp_path), config=config)
    adopted = [second.next_trial() for _ in range(2)]
    assert [(one.number, one.reported_epoch, one.attempt) for one in adopted] == [(1, 2, 2), (2, 0, 2)]
    assert [one.params for one in adopted] == [given[1].params, given[2].params]
    assert second.next_trial().number == 3
    assert second.next_trial() is None
    assert Ledger.open(tools.make_url(tmp_path), config=config).next_trial().attempt == 3


def test_decision_that_was_due_is_taken_at_open(tmp_path, tools):
    """A trial whose last epoch says stop is told pruned when the ledger is opened again, with its last value."""
    config = tools.make_config(trials=3, epochs=4)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    for number, value in ((0, 0.9), (1, 0.2)):
        ledger.next_trial()
        ledger.report(number, EpochResult(epoch=1, metrics={METRIC: value}, images=1, seconds=1))
    again = Ledger.open(tools.make_url(tmp_path), config=config)
    assert again.pruned_at_open == (1,)
    assert [(row.trial, row.state, row.value) for row in again.rows()] == [("0", "running", 0.9), ("1", "pruned", 0.2)]
    assert again.outcome(1).state == "pruned"
    assert again.outcome(0) is None
    assert again.next_trial().number == 0
    assert Ledger.open(tools.make_url(tmp_path), config=config).pruned_at_open == ()


def test_foreign_trials_are_failed(tmp_path, tools):
    """Trials that another program started or queued are failed with that reason, and keep their numbers."""
    config = tools.make_config(trials=4, epochs=1)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    ledger.next_trial()
    other = optuna.load_study(study_name="quick", storage=tools.make_url(tmp_path))
    other.ask()
    other.enqueue_trial({"optim.lr": 1e-3})
    again = Ledger.open(tools.make_url(tmp_path), config=config)
    assert [row.state for row in again.rows()] == ["running", "failed", "failed"]
    assert "another program" in again.rows()[1].reason
    assert [again.next_trial().number for _ in range(2)] == [0, 3]


def test_budget_may_grow(tmp_path, tools):
    """A search that is over goes on when it is opened with more trials, and a smaller budget just ends it."""
    tools.run_search(tools.make_url(tmp_path), tools.make_config(trials=3, epochs=1))
    longer = tools.run_search(tools.make_url(tmp_path), tools.make_config(trials=5, epochs=1))
    assert len(longer.rows()) == 5
    assert longer._asking._suggester.settings.startup_trials == 4
    assert Ledger.open(tools.make_url(tmp_path), config=tools.make_config(trials=2, epochs=1)).next_trial() is None


def test_study_file_drives_the_ledger(tmp_path, tools):
    """A checked study file, and the same one read back from JSON, give the same search as its values by hand."""
    raw = {
        "study": "quick",
        "seed": 7,
        "data": {"prepared": "data/x", "sources": [{"kind": "phantom", "name": "site_a", "patients": 60, "seed": 1}]},
        "train": {"epochs": 3},
        "search": {
            "trials": 5,
            "pruner": {"name": "successive_halving", "min_epochs": 1, "reduction_factor": 2},
            "space": {key: node for key, node in tools.SPACE.items() if key != "data.flip"},
        },
    }
    by_hand = tools.make_config(trials=5, epochs=3, space=raw["search"]["space"])
    tables = []
    config = StudyConfig.model_validate(raw)
    for number, one in enumerate((by_hand, config, StudyConfig.model_validate(config.model_dump(mode="json")))):
        ledger = tools.run_search(f"sqlite:///{tmp_path / f'{number}.db'}", one)
        tables.append(tools.table(ledger))
        ledger.close()
    assert tables[0] == tables[1] == tables[2]
