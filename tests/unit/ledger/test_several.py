"""Trials of several runs, one for each seed or fold: their mean, their pruning, and a kill between or within runs."""

import math
import shutil
import statistics

import pytest

from study.ledger import Ledger
from study.ledger.storage import open_storage
from study.types import EpochResult, RunKey, RunOutcome

METRIC = "val/auroc_macro"
SEEDS = tuple(RunKey(seed=seed) for seed in (3, 1, 2))
FOLDS = tuple(RunKey(seed=7, fold=fold) for fold in (1, 2, 3))


def result(value, epoch=1, **more):
    return EpochResult(epoch=epoch, metrics={METRIC: value, **more}, images=64, seconds=0.5)


def value_of(tools, params, epoch, key, epochs):
    return tools.metric_of(params, epoch, epochs) + 0.01 * (key.seed % 3) + 0.02 * key.fold


def run_trial(ledger, trial, tools, epochs, *, log=None):
    """What a driver with one slot does: run after run, each from its last known epoch."""
    for run in trial.runs:
        for epoch in range(max(1, run.reported_epoch), epochs + 1):
            if log is not None:
                log.append((trial.number, run.key.name, epoch))
            ledger.report(trial.number, result(value_of(tools, trial.params, epoch, run.key, epochs), epoch), run.key)
            if ledger.should_prune(trial.number, run.key):
                ledger.finish(trial.number, RunOutcome(state="pruned"))
                return
        done = RunOutcome(state="complete", best_epoch=epochs, checkpoint=f"runs/{trial.number}-{run.key.name}")
        over = ledger.end_run(trial.number, run.key, done)
        if over is not None:
            ledger.finish(trial.number, over)
            return


def run_search(url, config, tools, *, log=None):
    ledger = Ledger.open(url, config=config)
    while (trial := ledger.next_trial()) is not None:
        if trial.repeats is None:
            run_trial(ledger, trial, tools, config.train.epochs, log=log)
    return ledger


def whole_table(ledger, tools):
    return [(*line, row.runs, row.metrics) for line, row in zip(tools.table(ledger), ledger.rows(), strict=True)]


def feed(ledger, values, *, keys=SEEDS):
    """One trial whose runs have these values after one epoch; how the last of them left it."""
    trial = ledger.next_trial()
    over = None
    for key, value in zip(keys, values, strict=False):
        ledger.report(trial.number, result(value), key)
        over = ledger.end_run(trial.number, key, RunOutcome(state="complete", best_epoch=1))
        if over is not None:
            ledger.finish(trial.number, over)
            break
    return trial, over


@pytest.mark.parametrize("keys", [SEEDS, FOLDS])
def test_a_trial_is_worth_the_mean_of_its_runs(tmp_path, tools, keys):
    """Value, metrics and SD are over the runs; epochs, time and images add up; the curve is the first run's."""
    config = tools.make_config(trials=2, epochs=1, pruner="none", keys=keys)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    trial, over = feed(ledger, [0.7, 0.8, 0.9], keys=keys)
    assert [run.key for run in trial.runs] == list(keys)
    assert over.state == "complete"
    for again in (ledger, Ledger.open(tools.make_url(tmp_path), config=config, read_only=True)):
        row = again.rows()[0]
        assert (row.state, row.value) == ("complete", pytest.approx(0.8))
        assert row.metrics[METRIC] == pytest.approx(0.8)
        assert row.sd == pytest.approx(statistics.stdev([0.7, 0.8, 0.9]))
        assert [(run.seed, run.fold, run.state, run.value) for run in row.runs] == [
            (key.seed, key.fold, "complete", value) for key, value in zip(keys, [0.7, 0.8, 0.9], strict=True)
        ]
        assert (row.epochs, row.seconds, row.images, row.curve) == (3, 1.5, 192, (0.7,))
    assert ledger.run_sds(0)[METRIC] == pytest.approx(0.1)


def test_runs_that_are_not_over_leave_the_trial_open(tmp_path, tools):
    """An interrupted run ends nothing; the next session trains what is left, and no run twice."""
    config = tools.make_config(trials=1, epochs=2, pruner="none", keys=SEEDS)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    number = ledger.next_trial().number
    ledger.report(number, result(0.7), SEEDS[0])
    assert ledger.end_run(number, SEEDS[0], RunOutcome(state="complete", best_epoch=1)) is None
    ledger.report(number, result(0.8), SEEDS[1])
    assert ledger.end_run(number, SEEDS[1], RunOutcome(state="waiting", reason="interrupted")) is None
    row = ledger.rows()[0]
    assert [run.state for run in row.runs] == ["complete", "running", "waiting"]
    again = Ledger.open(tools.make_url(tmp_path), config=config).next_trial()
    assert [(run.key, run.reported_epoch) for run in again.runs] == [(SEEDS[1], 1), (SEEDS[2], 0)]
    assert (again.attempt, again.of_runs) == (2, 3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("keys", "pruner", "epochs"),
    [
        (SEEDS, "wilcoxon", 1),
        pytest.param(FOLDS, "successive_halving", 2, marks=pytest.mark.long),
    ],
)
def test_kill_at_every_write_changes_nothing(tmp_path, killer, tools, keys, pruner, epochs):
    """A process that dies between or within the runs of a trial leaves a search that ends like the whole one."""
    from study.config import PrunerConfig

    settings = PrunerConfig(name=pruner, p_value=0.3)
    config = tools.make_config(trials=3, epochs=epochs, keys=keys, pruner="none")
    config.search.pruner = settings
    empty = tmp_path / "empty.db"
    open_storage(f"sqlite:///{empty}", create=True)
    killer.count = 0
    url = f"sqlite:///{shutil.copy(empty, tmp_path / 'whole.db')}"
    whole = whole_table(run_search(url, config, tools), tools)
    num_writes = killer.count
    assert {row[1] for row in whole} == {"complete", "pruned"}
    for at in range(1, num_writes + 1, 1 if epochs > 1 else 3):
        url = f"sqlite:///{shutil.copy(empty, tmp_path / f'{at}.db')}"
        killer.count, killer.at, killer.when = 0, at, "after"
        log = []
        with pytest.raises(tools.Killed):
            run_search(url, config, tools, log=log)
        killer.at = None
        assert whole_table(run_search(url, config, tools, log=log), tools) == whole, at
        assert len(log) - len(set(log)) <= 1, "more than the epoch at the kill was trained twice"


def test_wilcoxon_leaves_the_remaining_runs_out(tmp_path, tools):
    """A trial that is worse than the best one on its own seeds stops as soon as the test says so, and is kept so."""
    from study.config import PrunerConfig

    keys = tuple(RunKey(seed=seed) for seed in range(6))
    config = tools.make_config(trials=4, epochs=1, keys=keys, pruner="none")
    config.search.pruner = PrunerConfig(name="wilcoxon", p_value=0.1)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    assert feed(ledger, [0.8, 0.81, 0.82, 0.83, 0.84, 0.85], keys=keys)[1].state == "complete"
    trial, over = feed(ledger, [0.7, 0.71, 0.72, 0.73, 0.74, 0.75], keys=keys)
    assert over.state == "pruned"
    row = ledger.rows()[trial.number]
    assert [run.state for run in row.runs] == ["complete"] * 4 + ["waiting"] * 2  # 1 in 16, for 1 in 8 is above 0.1
    assert (row.state, row.value, row.epochs) == ("pruned", pytest.approx(0.715), 4)
    assert feed(ledger, [0.7, 0.9, 0.9, 0.9, 0.9, 0.9], keys=keys)[1].state == "complete"
    # Now the best trial is another one, and it is its seeds that count: 0.75 beats its first one alone.
    trial, over = feed(ledger, [0.75, 0.8, 0.8, 0.8, 0.8, 0.8], keys=keys)
    assert over.state == "pruned"
    assert sum(run.state == "complete" for run in ledger.rows()[trial.number].runs) == 5


def test_the_first_run_alone_is_pruned_by_its_epochs(tmp_path, tools):
    """The epochs of further runs are neither shown to the pruner nor judged by it."""
    config = tools.make_config(trials=3, epochs=4, keys=SEEDS)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    for value in (0.9, 0.8):
        number = ledger.next_trial().number
        ledger.report(number, result(value), SEEDS[0])
    assert ledger.should_prune(1, SEEDS[0])
    assert not ledger.should_prune(0, SEEDS[0])
    ledger.report(0, result(0.1), SEEDS[1])
    assert not ledger.should_prune(0, SEEDS[1])
    assert [epoch.metrics[METRIC] for epoch in ledger.epochs(0)] == [0.9]
    assert [epoch.metrics[METRIC] for epoch in ledger.epochs(0, SEEDS[1])] == [0.1]
    ledger.finish(1, RunOutcome(state="pruned"))
    assert (ledger.rows()[1].value, ledger.rows()[1].epochs) == (0.8, 1)


@pytest.mark.parametrize(
    ("outcome", "value", "reason"),
    [
        (RunOutcome(state="failed", reason="the loss is not finite"), 0.8, "seed 1: the loss is not finite"),
        (RunOutcome(state="complete", best_epoch=1), math.nan, "seed 1 gives val/auroc_macro nan at epoch 1"),
    ],
)
def test_a_failed_run_fails_its_trial(tmp_path, tools, outcome, value, reason):
    """The trial has no value, says which run it was, and its other runs are told as stopped."""
    config = tools.make_config(trials=2, epochs=1, pruner="none", keys=SEEDS)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    number = ledger.next_trial().number
    ledger.report(number, result(0.7), SEEDS[0])
    assert ledger.end_run(number, SEEDS[0], RunOutcome(state="complete", best_epoch=1)) is None
    ledger.report(number, result(0.7), SEEDS[2])
    ledger.report(number, result(value), SEEDS[1])
    over = ledger.end_run(number, SEEDS[1], outcome)
    ledger.finish(number, over)
    row = ledger.rows()[0]
    assert (row.state, row.value, row.reason) == ("failed", None, reason)
    ended = ledger.run_outcomes(number)
    assert {key.name: one.state for key, one in ended.items()} == {"s3": "complete", "s1": "failed", "s2": "failed"}
    assert "stopped with its trial" in ended[SEEDS[2]].reason


def test_the_same_configuration_is_not_trained_again(tmp_path, tools):
    """A repeat has mean, SD and runs of the earlier trial, and costs nothing."""
    space = {"optim.lr": {"choice": [1e-3]}}
    config = tools.make_config(trials=2, epochs=1, pruner="none", keys=SEEDS, space=space, algorithm="random")
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    ledger._asking.limits = type(ledger._asking.limits)(trials=2)  # a space of one cell ends the search
    feed(ledger, [0.7, 0.8, 0.9])
    assert ledger.next_trial().repeats == 0
    first, second = ledger.rows()
    assert (second.value, second.sd, second.metrics) == (first.value, first.sd, first.metrics)
    assert [run.value for run in second.runs] == [0.7, 0.8, 0.9]
    assert (second.epochs, second.seconds) == (0, 0)


def test_several_metrics_and_constraints_are_means(tmp_path, tools):
    """Each metric is averaged at the best epoch of each run by the first metric; constraints bound the means."""
    config = tools.make_config(
        trials=1,
        epochs=2,
        pruner="none",
        keys=SEEDS,
        metrics=(METRIC, "val/ece"),
        constraints={"val/mcc": {"max": 0.5}},
    )
    config.metrics = (METRIC, "val/ece")
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    number = ledger.next_trial().number
    over = None
    for key, (best, ece, mcc) in zip(SEEDS, [(2, 0.1, 0.4), (1, 0.2, 0.5), (2, 0.6, 0.9)], strict=True):
        for epoch in (1, 2):
            at_best = epoch == best
            shown = {"val/ece": ece if at_best else 9.0, "val/mcc": mcc if at_best else 9.0}
            ledger.report(number, result(0.8 if at_best else 0.1, epoch, **shown), key)
        over = ledger.end_run(number, key, RunOutcome(state="complete", best_epoch=best))
    ledger.finish(number, over)
    row = ledger.rows()[0]
    assert row.values == (pytest.approx(0.8), pytest.approx(0.3))
    assert row.violations == {"val/mcc max": pytest.approx(0.1)}


def test_a_grid_has_the_seeds_as_its_inner_axis(tmp_path, tools):
    """Every cell is one trial with all seeds; a seed that the grid searches is the seed of its folds."""
    space = {"loss.name": {"grid": ["emd", "focal"]}}
    config = tools.make_config(trials=2, epochs=1, pruner="none", keys=SEEDS, space=space, algorithm="grid")
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    order = [
        (trial.params["loss.name"], [run.key.seed for run in trial.runs]) for trial in iter(ledger.next_trial, None)
    ]
    assert order == [("emd", [3, 1, 2]), ("focal", [3, 1, 2])]
    space = {"seed": {"grid": [4, 5]}}
    config = tools.make_config(trials=2, epochs=1, pruner="none", keys=FOLDS, space=space, algorithm="grid")
    (tmp_path / "folds").mkdir()
    ledger = Ledger.open(tools.make_url(tmp_path / "folds"), config=config)
    names = [[run.key.name for run in trial.runs] for trial in iter(ledger.next_trial, None)]
    assert names == [["f1-s4", "f2-s4", "f3-s4"], ["f1-s5", "f2-s5", "f3-s5"]]
