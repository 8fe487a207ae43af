"""A made-up search whose curves are a function of the parameters, and a way to die at any write."""

import json
import math
from types import SimpleNamespace

import pytest
import sqlalchemy

from study.config import PrunerConfig, ResourcesConfig
from study.ledger import Ledger
from study.types import EpochResult, RunKey, RunOutcome

METRIC = "val/auroc_macro"


SPACE = {
    "loss.name": {"choice": ["cross_entropy", "focal", "emd"]},
    "loss.gamma": {"float": [0.5, 5.0], "when": {"loss.name": "focal"}},
    "optim.lr": {"float": [1e-4, 1e-2], "scale": "log"},
    "optim.step_epochs": {"int": [2, 10]},
    "data.flip": {"choice": [True, False]},
}


def make_config(
    *,
    trials=6,
    epochs=4,
    seed=7,
    algorithm="tpe",
    pruner="successive_halving",
    mode="max",
    space=None,
    keys=None,
    **more,
):
    """What the ledger reads of a study file; ``more`` replaces fields of the search."""
    search = SimpleNamespace(
        metric=METRIC,
        metrics=(METRIC,),
        mode=mode,
        algorithm=algorithm,
        trials=trials,
        population=None,
        budget=SimpleNamespace(hours=None, gpu_hours=None, target=None, no_better_in=None),
        constraints={},
        start_with=(),
        pruner=PrunerConfig(name=pruner),
        space=space or SPACE,
    )
    vars(search).update(more)
    return config_of(search, seed=seed, epochs=epochs, keys=keys)


def config_of(search, *, seed=7, epochs=4, keys=None):
    """What the ledger reads of a study file; ``search`` None is a file that searches nothing."""
    shown = search or SimpleNamespace(metric=METRIC, metrics=(METRIC,), mode="max", trials=1)
    return SimpleNamespace(
        study="quick",
        seed=seed,
        search=search,
        train=SimpleNamespace(epochs=epochs),
        metric=shown.metric,
        mode=shown.mode,
        num_trials=shown.trials,
        metrics=shown.metrics,
        run_keys=keys or (RunKey(seed=seed),),
        resources=ResourcesConfig(),
    )


def metric_of(params, epoch, epochs):
    """A made-up training curve: a function of the parameters alone."""
    peak = 1 - abs(math.log10(params["optim.lr"]) + 3) / 4 - 0.02 * params["optim.step_epochs"]
    return peak * (1 - math.exp(-epoch)) + 0.01 * (params["loss.name"] == "focal") + 0.001 * params.get("data.flip", 0)


def epoch_result(params, epoch, epochs=4):
    metrics = {METRIC: metric_of(params, epoch, epochs), "train/loss": 1 / epoch, "val/mcc": math.nan}
    return EpochResult(epoch=epoch, metrics=metrics, images=64, seconds=0.5)


def run_trial(ledger, trial, epochs):
    """What a driver does with one trial; a resumed one goes on after its last reported epoch."""
    for epoch in range(max(1, trial.reported_epoch), epochs + 1):
        ledger.report(trial.number, epoch_result(trial.params, epoch, epochs))
        if ledger.should_prune(trial.number):
            ledger.finish(trial.number, RunOutcome(state="pruned"))
            return
    ledger.finish(trial.number, RunOutcome(state="complete", best_epoch=epochs, checkpoint=f"runs/{trial.number}"))


def run_search(url, config):
    ledger = Ledger.open(url, config=config)
    while (trial := ledger.next_trial()) is not None:
        run_trial(ledger, trial, config.train.epochs)
    return ledger


def table(ledger):
    return [
        (row.trial, row.state, row.value, json.dumps(row.params), row.curve, row.epochs, row.reason, row.checkpoint)
        for row in ledger.rows()
    ]


def make_url(path):
    return f"sqlite:///{path / 'ledger.db'}"


class Killed(BaseException):
    """Stands for the process's death: nothing may catch it."""


@pytest.fixture
def killer(monkeypatch):
    """Counts writing transactions of every ledger; dies right before or right after the chosen one."""
    state = SimpleNamespace(count=0, at=None, when="before")
    make_engine = sqlalchemy.engine.create_engine

    def spying_engine(*args, **kwargs):
        engine = make_engine(*args, **kwargs)
        dirty = {"now": False}

        @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
        def note(conn, cursor, statement, *rest):
            if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
                dirty["now"] = True

        @sqlalchemy.event.listens_for(engine, "commit")
        def on_commit(conn):
            if not dirty["now"]:
                return
            dirty["now"] = False
            state.count += 1
            if state.count == state.at:
                database = conn.connection.dbapi_connection
                database.commit() if state.when == "after" else database.rollback()
                raise Killed

        return engine

    monkeypatch.setattr(sqlalchemy.engine, "create_engine", spying_engine)
    return state


SPACE_PARAMS = {"loss.name": "emd", "optim.lr": 1e-3, "optim.step_epochs": 2, "data.flip": True}


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    """Killing a process loses nothing that it has written; only a power cut would."""

    def hurry(connection, _):
        if "sqlite" in type(connection).__module__:
            connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", hurry)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", hurry)


@pytest.fixture
def tools():
    """The functions of this file, for the tests beside it."""
    return SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})
