"""Epochs, states and values of trials, and the table."""

import math
import random

import optuna
import pytest
import sqlalchemy

from study.errors import InputError
from study.ledger import Ledger
from study.types import EpochResult, RunOutcome

METRIC = "val/auroc_macro"


def test_last_epoch_is_never_pruned(tmp_path, tools):
    """A trial that has trained to its end is complete, even where a rung lies there, and where the end is searched."""
    for epochs, space in ((2, None), (9, {**tools.SPACE, "train.epochs": {"choice": [2]}})):
        config = tools.make_config(trials=3, epochs=epochs, space=space)
        ledger = Ledger.open(f"sqlite:///{tmp_path / f'{epochs}.db'}", config=config)
        for value in (0.9, 0.8):
            number = ledger.next_trial().number
            ledger.report(number, EpochResult(epoch=2, metrics={METRIC: value}, images=1, seconds=1))
            assert not ledger.should_prune(number)
        number = ledger.next_trial().number
        ledger.report(number, EpochResult(epoch=1, metrics={METRIC: 0.1}, images=1, seconds=1))
        assert ledger.should_prune(number)


def test_report_twice_changes_nothing(tmp_path, tools):
    """An epoch that is reported again keeps its first value, and a finished trial takes no more epochs."""
    ledger = Ledger.open(tools.make_url(tmp_path), config=tools.make_config())
    ledger.next_trial()
    first = EpochResult(epoch=1, metrics={METRIC: 0.1 + 0.2, "val/mcc": math.nan}, images=64, seconds=2.0)
    ledger.report(0, first)
    ledger.report(0, EpochResult(epoch=1, metrics={METRIC: 0.9}, images=1, seconds=9.0))
    (kept,) = ledger.epochs(0)
    assert kept.metrics[METRIC] == 0.1 + 0.2
    assert math.isnan(kept.metrics["val/mcc"])
    assert ledger.rows()[0].value == 0.1 + 0.2
    ledger.finish(0, RunOutcome(state="complete", best_epoch=1))
    ledger.report(0, EpochResult(epoch=2, metrics={METRIC: 0.9}, images=1, seconds=1.0))
    ledger.finish(0, RunOutcome(state="failed", reason="too late"))
    assert ledger.rows()[0].curve == (0.1 + 0.2,)
    assert ledger.rows()[0].state == "complete"


@pytest.mark.parametrize("state", ["complete", "pruned"])
@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({METRIC: math.nan}, f"{METRIC} is nan at epoch 2"),
        ({METRIC: math.inf}, f"{METRIC} is inf at epoch 2"),
        ({"train/loss": 1.0}, f"epoch 2 has no {METRIC}"),
    ],
)
def test_trial_without_a_number_is_failed(tmp_path, state, metrics, reason, tools):
    """A trial whose metric is missing or no number fails with the reason, and can neither win nor be left running."""
    ledger = Ledger.open(tools.make_url(tmp_path), config=tools.make_config(trials=3))
    ledger.next_trial()
    ledger.report(0, EpochResult(epoch=1, metrics={METRIC: 0.4}, images=1, seconds=1))
    ledger.report(0, EpochResult(epoch=2, metrics=metrics, images=1, seconds=1))
    assert ledger.should_prune(0)
    ledger.finish(0, RunOutcome(state=state, best_epoch=2))
    (row,) = ledger.rows()
    assert (row.state, row.value, row.reason) == ("failed", None, reason)
    assert ledger.best() is None
    assert ledger.next_trial().number == 1
    assert ledger.next_trial().number == 2
    assert ledger.next_trial() is None


def test_complete_value_is_that_of_the_best_epoch(tmp_path, tools):
    """The value of a complete trial is the metric at its best epoch, found by the ledger when the run does not say."""
    for mode, stated, expected in (("max", 0, 0.8), ("min", 0, 0.5), ("max", 3, 0.6)):
        config = tools.make_config(mode=mode, pruner="none")
        ledger = Ledger.open(f"sqlite:///{tmp_path / f'{mode}{stated}.db'}", config=config)
        ledger.next_trial()
        for epoch, value in enumerate((0.5, 0.8, 0.6), start=1):
            ledger.report(0, EpochResult(epoch=epoch, metrics={METRIC: value}, images=1, seconds=1))
        ledger.finish(0, RunOutcome(state="complete", best_epoch=stated, checkpoint="runs/0-s7"))
        (row,) = ledger.rows()
        assert (row.value, row.metrics[METRIC], row.checkpoint, row.seeds) == (expected, expected, "runs/0-s7", (7,))
        assert row.curve == (0.5, 0.8, 0.6)
        assert ledger.best() == row


def test_best_ignores_pruned_trials_and_keeps_the_first_of_equals(tmp_path, tools):
    """Only complete trials can be best; of two equal ones the earlier."""
    ledger = Ledger.open(tools.make_url(tmp_path), config=tools.make_config(trials=4, pruner="none"))
    for number, (state, value) in enumerate(
        (("pruned", 0.99), ("complete", 0.5), ("complete", 0.5), ("complete", 0.1))
    ):
        ledger.next_trial()
        ledger.report(number, EpochResult(epoch=1, metrics={METRIC: value}, images=1, seconds=1))
        ledger.finish(number, RunOutcome(state=state, best_epoch=1))
    status = ledger.status()
    assert status.best.trial == "1"
    assert status.counts == {"pruned": 1, "complete": 3}
    assert (status.planned, status.running, status.study) == (4, (), "quick")


def test_unknown_trial_is_refused(tmp_path, tools):
    """Asking for a number that does not exist says so."""
    with pytest.raises(InputError, match="no trial 3"):
        Ledger.open(tools.make_url(tmp_path), config=tools.make_config()).should_prune(3)


def test_many_trials_are_read_in_bulk(tmp_path, tools):
    """The table of 100 trials takes no more queries than that of 10: trials are read together, finished ones once."""
    rng = random.Random(0)
    config = tools.make_config(trials=2000, epochs=1)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    statements = []
    done = optuna.trial.create_trial(value=0.5, user_attrs={"params": {"optim.lr": 1e-3}, "attempt": 1})

    def add(count):
        for _ in range(count):
            trial = optuna.trial.create_trial(
                value=rng.random(),
                user_attrs={
                    **done.user_attrs,
                    "epoch:00001": {"epoch": 1, "metrics": {METRIC: rng.random()}, "images": 1, "seconds": 1.0},
                    "outcome": {"state": "complete", "best_epoch": 1, "metrics": {}, "checkpoint": "", "reason": ""},
                },
                intermediate_values={1: 0.5},
            )
            ledger._storage.create_new_trial(ledger._study_id, template_trial=trial)

    def count_queries(size):
        reader = Ledger.open(tools.make_url(tmp_path), config=config, read_only=True)
        engine = reader._storage._backend.engine
        statements.clear()
        sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        assert len(reader.rows()) == size
        first = len(statements)
        assert len(reader.rows()) == size
        return first, len(statements) - first

    add(10)
    few = count_queries(10)
    add(90)
    many = count_queries(100)
    assert many[0] <= few[0] + 5
    assert many[1] <= 2
