"""Trials of several runs on a cluster: side by side where there is room, stopped together, told once each."""

import threading
from collections import Counter

import pytest

from study.config import StudyConfig
from study.distributed.searching import Search, run_search
from study.distributed.slots import SlotPool
from study.ledger import Ledger

pytestmark = pytest.mark.ray


class Told:
    """What a tracker was told: the runs that began and ended, and each epoch."""

    def __init__(self):
        self.begun, self.epochs, self.ended, self.trials = Counter(), Counter(), {}, {}

    def start_run(self, trial, seed, *, fold=0, **_):
        self.begun[trial, seed, fold] += 1

    def log_epoch(self, trial, seed, result, *, fold=0):
        self.epochs[trial, seed, fold, result.epoch] += 1
        return True

    def end_run(self, trial, seed, outcome, *, fold=0, **_):
        self.ended[trial, seed, fold] = outcome.state

    def log_trial(self, trial, seed, outcome, *, sds=None, **_):
        self.trials[trial] = (outcome.state, sds)

    def open_runs(self):
        return [run for run in self.begun if run not in self.ended]


@pytest.fixture(scope="module")
def pool(cluster, tmp_path_factory):
    """Two slots that share the cluster's processors."""
    pool = SlotPool(2, workers=1, cpus_per_worker=0.5, gpus_per_worker=0.0, scratch=tmp_path_factory.mktemp("scratch"))
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def raw(make_dataset, tmp_path_factory):
    """A study file on the tiny dataset: two epochs of a small network."""
    root = make_dataset(tmp_path_factory.mktemp("several") / "tiny")
    return {
        "study": "several",
        "data": {
            "prepared": str(root),
            "image_size": 32,
            "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}],
        },
        "model": {"name": "test_efficientnet"},
        "augment": {"policy": "none"},
        "train": {"epochs": 2, "batch_size": 12},
        "resources": {"cpus_per_worker": 0.5},
    }


def searched(raw, pool, folder, search):
    """A whole search; its ledger, what the tracker was told, and the events."""
    space = {"optim.lr": {"float": [1e-4, 1e-2]}}
    config = StudyConfig.model_validate({**raw, "search": {"space": space, **search}})
    ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}", config=config)
    events, told = [], Told()
    desk = Search(
        config=config,
        study_dir=folder,
        ledger=ledger,
        tracker=told,
        observe=events.append,
        stop=threading.Event(),
    )
    run_search(desk, pool, scratch=folder)
    return ledger, told, events


def test_folds_train_side_by_side(pool, raw, tmp_path):
    """The folds of a trial wait for one another although a slot is free, or one is trained or told twice."""
    ledger, told, events = searched(raw, pool, tmp_path, {"trials": 2, "folds": 2})
    rows = ledger.rows()
    assert [row.state for row in rows] == ["complete", "complete"]
    for row in rows:
        assert row.value == pytest.approx(sum(run.value for run in row.runs) / 2)
        assert row.epochs == 4
        assert (tmp_path / "runs" / f"{row.trial}-f2-s0").is_dir()
    assert told.epochs == Counter({(str(t), 0, f, e): 1 for t in (0, 1) for f in (1, 2) for e in (1, 2)})
    assert set(told.ended.values()) == {"complete"}
    assert {trial: state for trial, (state, _) in told.trials.items()} == {"0": "complete", "1": "complete"}
    mine = [(event.kind, event.part) for event in events if event.trial == "0"]
    assert mine.index(("started", "fold 2")) < mine.index(("ended", "fold 1"))
    assert [kind for kind, part in mine if not part] == ["ended"]


@pytest.mark.long
def test_a_pruned_trial_stops_its_other_runs(pool, raw, tmp_path):
    """The second run uses the slot that nobody needs, and leaves it as soon as the first one is pruned."""
    long = {**raw, "sampler": {"epoch_draws": 240}, "train": {"epochs": 20, "batch_size": 12}}
    pruner = {"name": "threshold", "lower": 2.0, "min_epochs": 1}
    ledger, told, _ = searched(long, pool, tmp_path, {"trials": 1, "seeds": [0, 1, 2], "pruner": pruner})
    row = ledger.rows()[0]
    assert (row.state, row.runs[2].epochs) == ("pruned", 0)
    assert set(told.ended.values()) == {"pruned"}
    assert told.begun[("0", 2, 0)] == 0
    (tmp_path / "again").mkdir()
    again, _, _ = searched(raw, pool, tmp_path / "again", {"trials": 1})
    assert again.rows()[0].state == "complete"
