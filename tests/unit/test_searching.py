"""The desk of a search: what the ledger, the tracker and the viewer are told of trials of several runs."""

import threading
from collections import Counter

import pytest

from study.config import StudyConfig
from study.distributed.runs import build_run
from study.distributed.searching import Search, _keeping_secrets
from study.distributed.specs import Job
from study.ledger import Ledger
from study.secrecy import OTHERS, SECRETS
from study.types import EpochResult, RunOutcome

METRIC = "val/auroc_macro"


class Told:
    """What a tracker was told: runs that began and ended, epochs, and trials as a whole."""

    def __init__(self):
        self.begun, self.epochs, self.ended, self.trials = [], Counter(), {}, {}

    def start_run(self, trial, seed, *, fold=0, **_):
        self.begun.append((trial, seed, fold))
        self.ended.pop((trial, seed, fold), None)

    def log_epoch(self, trial, seed, result, *, fold=0):
        self.epochs[trial, seed, fold, result.epoch] += 1
        return True

    def end_run(self, trial, seed, outcome, *, fold=0, **_):
        self.ended[trial, seed, fold] = outcome.state

    def log_trial(self, trial, seed, outcome, *, sds=None, **_):
        self.trials[trial] = (outcome.state, (sds or {}).get(METRIC))

    def has_begun(self, trial, seed, *, fold=0, **_):
        return (trial, seed, fold) in self.begun

    def open_runs(self):
        return [run for run in self.begun if run not in self.ended]


class Desk:
    """A search whose runs report what the test says."""

    def __init__(self, folder, *, epochs=1, **search):
        space = {"optim.lr": {"float": [1e-4, 1e-2]}}
        self.config = StudyConfig.model_validate(
            {
                "study": "desk",
                "data": {
                    "prepared": str(folder / "none"),
                    "sources": [{"kind": "phantom", "name": "a", "patients": 9}],
                },
                "train": {"epochs": epochs},
                "search": {"trials": 4, "space": space, **search},
            }
        )
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}", config=self.config)
        self.told, self.events = Told(), []
        self.search = Search(
            config=self.config,
            study_dir=folder,
            ledger=self.ledger,
            tracker=self.told,
            observe=self.events.append,
            stop=threading.Event(),
        )

    def epoch(self, spec, value):
        self.search.on_started(spec)
        result = EpochResult(epoch=1, metrics={METRIC: value}, images=8, seconds=1.0)
        return self.search.on_epoch(spec, result)

    def train(self, spec, value):
        assert self.epoch(spec, value)
        return self.search.on_end(spec, RunOutcome(state="complete", best_epoch=1, metrics={METRIC: value}))

    def ends(self):
        return [(event.trial, event.part, event.state, event.text) for event in self.events if event.kind == "ended"]


def test_wilcoxon_begins_no_further_run(tmp_path):
    """A trial that the test has stopped goes on, or its other runs are told to MLflow."""
    desk = Desk(tmp_path, seeds=[0, 1, 2], pruner={"name": "wilcoxon", "p_value": 0.3})
    best = desk.search.next_job()
    assert [spec.run_id for spec in best.runs] == ["0-s0", "0-s1", "0-s2"]
    assert not best.together
    assert Job.from_json(best.to_json()) == best
    assert [desk.train(spec, 0.8 + 0.01 * spec.seed) for spec in best.runs] == [True, True, False]
    worse = desk.search.next_job()
    assert [desk.train(spec, 0.7 + 0.01 * spec.seed) for spec in worse.runs[:2]] == [True, False]
    assert desk.told.begun == [(trial, seed, 0) for trial, seeds in (("0", 3), ("1", 2)) for seed in range(seeds)]
    assert desk.told.trials == {
        "0": ("complete", pytest.approx(0.01)),
        "1": ("pruned", pytest.approx(0.00707, abs=1e-5)),
    }
    assert desk.ends()[3] == ("0", "", "complete", "3 of 3 runs, SD 0.01")
    assert desk.ends()[-1] == ("1", "", "pruned", "2 of 3 runs, SD 0.00707")
    assert all(count == 1 for count in desk.told.epochs.values())


def test_a_failed_run_ends_its_trial_and_the_others(tmp_path):
    """The trial counts as complete, or a run that was stopped stays open in MLflow."""
    desk = Desk(tmp_path, folds=3)
    job = desk.search.next_job()
    assert job.together
    first, second, _ = job.runs
    assert desk.train(first, 0.8)
    assert desk.epoch(second, 0.8)
    desk.search.on_started(job.runs[2])
    assert not desk.search.on_end(second, RunOutcome(state="failed", reason="the loss is not finite"))
    assert desk.told.ended == {("0", 0, 1): "complete", ("0", 0, 2): "failed", ("0", 0, 3): "failed"}
    assert desk.ends()[-1] == ("0", "", "failed", "fold 2: the loss is not finite")
    assert desk.ledger.rows()[0].state == "failed"


def test_an_interrupted_trial_is_told_to_begin_where_it_has_begun(tmp_path):
    """A run that never began is in MLflow, or a complete one is trained again after a resume."""
    desk = Desk(tmp_path, seeds=[5, 6, 7])
    first, second, third = desk.search.next_job().runs
    assert desk.train(first, 0.8)
    assert desk.epoch(second, 0.7)
    for spec in (second, third):
        assert desk.search.on_end(spec, RunOutcome(state="waiting", reason="interrupted"))
    assert desk.told.ended == {("0", 5, 0): "complete", ("0", 6, 0): "waiting"}
    desk.ledger.close()
    again = Desk(tmp_path, seeds=[5, 6, 7])
    again.search.mirror_ledger()
    assert again.told.ended == {("0", 5, 0): "complete"}
    job = again.search.next_job()
    assert [(spec.run_id, spec.reported_epoch) for spec in job.runs] == [("0-s6", 1), ("0-s7", 0)]
    assert job.of_runs == 3


def test_the_first_run_takes_the_others_with_it(tmp_path):
    """A run beside a pruned first one trains on, or has another end than its trial."""
    pruner = {"name": "threshold", "lower": 0.5}
    desk = Desk(tmp_path, epochs=2, seeds=[0, 1], pruner=pruner)
    first, second = desk.search.next_job().runs
    assert desk.epoch(second, 0.1)  # no pruner looks at it
    assert not desk.epoch(first, 0.1)
    assert desk.told.ended == {("0", 0, 0): "pruned", ("0", 1, 0): "pruned"}
    assert desk.ends()[-1] == ("0", "", "pruned", "0 of 2 runs")
    assert desk.ledger.rows()[0].value == 0.1


def test_a_checkpoint_fits_its_own_fold_alone(make_dataset, tmp_path):
    """A run goes on from the checkpoint of another fold, or trains on patients that validate."""
    root = make_dataset(tmp_path / "tiny")
    config = StudyConfig.model_validate(
        {
            "study": "folds",
            "data": {
                "prepared": str(root),
                "image_size": 32,
                "sources": [{"kind": "phantom", "name": "a", "patients": 9}],
            },
            "model": {"name": "test_efficientnet"},
            "train": {"epochs": 1, "batch_size": 8},
            "search": {"trials": 1, "folds": 2, "space": {"optim.lr": {"float": [1e-4, 1e-2]}}},
        }
    )
    runs = [build_run(config, seed=0, fold=fold) for fold in (0, 1, 2)]
    assert len({parts.identity for parts, _ in runs}) == 3
    whole, first, second = (parts.dataset for parts, _ in runs)
    assert sorted([*first.rows("val"), *second.rows("val")]) == sorted([*whole.rows("train"), *whole.rows("val")])
    assert set(first.rows("train")) == set(second.rows("val"))
    for parts, plan in runs:
        assert plan.indices().max() < len(parts.dataset.rows("train"))


def test_tune_hands_no_secret_to_trials(monkeypatch):
    """A secret of the driver stands in the runtime environment of trials, which Ray keeps in tables and logs."""
    from ray.tune.execution.class_cache import _ActorClassCache

    class Trial:
        pass

    def surroundings():
        return _ActorClassCache().get(Trial)._default_options["runtime_env"]["env_vars"]

    for name in (*OTHERS, *SECRETS):
        monkeypatch.setenv(name, f"secret-{name}")
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    before = surroundings()
    with _keeping_secrets():
        kept = surroundings()
    assert kept["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    assert not {name for name in kept if "secret-" in kept[name]}
    assert surroundings() == before
