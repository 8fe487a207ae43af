"""Every algorithm: its suggestions follow from the ledger alone, and it does what it is for."""

import itertools
import json
import math
from types import SimpleNamespace

import optuna
import pytest

from study.config import ResourcesConfig
from study.ledger import ALGORITHMS, Ledger
from study.types import EpochResult, RunOutcome

METRIC, OTHER = "val/auroc_macro", "val/segment_gap_auroc"
FINITE = {"loss.name": {"choice": ["emd", "focal"]}, "train.epochs": {"int": [2, 3], "when": {"loss.name": "emd"}}}
NUMBERS = {
    "optim.lr": {"float": [1e-4, 1e-2], "scale": "log"},
    "model.drop_rate": {"float": [0.0, 0.5]},
    "loss.name": {"choice": ["emd", "focal"]},
    "loss.gamma": {"float": [0.5, 5.0], "when": {"loss.name": "focal"}},
}


def distance(params):
    """From the best point, which no grid point is."""
    off = abs(math.log10(params.get("optim.lr", 1e-3)) + 2.7) + 3 * abs(params.get("model.drop_rate", 0.1) - 0.17)
    return off + 0.2 * (params.get("loss.name") == "focal")


def train(ledger, trial, *, state="complete"):
    """One epoch whose metrics are functions of the parameters, then the end."""
    if trial.repeats is not None:
        return
    metrics = {METRIC: 1 - distance(trial.params) / 4, OTHER: 0.3 * trial.params.get("model.drop_rate", 0.1)}
    ledger.report(trial.number, EpochResult(epoch=1, metrics=metrics, images=32, seconds=2.0))
    ledger.finish(trial.number, RunOutcome(state=state, best_epoch=1, reason="" if state == "complete" else "broken"))


def search(url, config, *, reopen=False):
    """Run all trials; with ``reopen`` each trial begins in a ledger that was opened for it."""
    ledger = Ledger.open(url, config=config)
    for number in itertools.count():
        ledger.rows()  # whoever looks on in the same process changes nothing
        if reopen and number % 3 == 1:  # dies while a trial runs
            if (lost := ledger.next_trial()) is None:
                return ledger
            assert lost.number == number
            ledger.close()
            ledger = Ledger.open(url, config=config)
        if (trial := ledger.next_trial()) is None:
            return ledger
        train(ledger, trial, state="failed" if number % 7 == 5 else "complete")
    raise AssertionError


def params_of(ledger):
    return [json.dumps(row.params, sort_keys=True) for row in ledger.rows()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_that_dies_goes_on_alike(tmp_path, tools, algorithm):
    """A sampler of generations, sequences or cells suggests something else after a restart."""
    space = {**FINITE, "optim.lr": {"float": [0.001, 0.003], "step": 0.001}} if algorithm == "grid" else NUMBERS
    more = {"population": 4, "start_with": ({"loss.name": "focal"},)}
    config = tools.make_config(trials=11, seed=3, algorithm=algorithm, pruner="none", space=space, **more)
    calm = search(f"sqlite:///{tmp_path / 'calm.db'}", config)
    dying = search(f"sqlite:///{tmp_path / 'dying.db'}", config, reopen=True)
    assert params_of(calm) == params_of(dying)
    assert [row.state for row in calm.rows()] == [row.state for row in dying.rows()]
    assert json.loads(params_of(calm)[0])["loss.name"] == "focal"
    assert len(params_of(calm)) == (9 if algorithm == "grid" else 11)


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["tpe", "cmaes", "gp", "nsga2"])
def test_better_than_random(tmp_path, tools, algorithm):
    """An algorithm that learns does not get nearer to the best point than its own first trials."""
    space = {key: NUMBERS[key] for key in ("optim.lr", "model.drop_rate")}
    trials = {"gp": 16, "tpe": 32}.get(algorithm, 48)
    config = tools.make_config(trials=trials, seed=1, algorithm=algorithm, pruner="none", space=space, population=6)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    while (trial := ledger.next_trial()) is not None:
        train(ledger, trial)
    off = [distance(row.params) for row in ledger.rows()]
    third = trials // 3
    assert sum(off[-third:]) < 0.7 * sum(off[:third])


def test_quasi_random_fills_evenly(tmp_path, tools):
    """16 points of a Sobol sequence do not lie one in each sixteenth of every range."""
    space = {f"optim.p{i}": {"float": [0.0, 1.0]} for i in range(3)}
    config = tools.make_config(trials=16, algorithm="quasi_random", pruner="none", space=space)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    rows = [ledger.next_trial().params for _ in range(16)]
    for name in space:
        assert sorted(int(16 * params[name]) for params in rows) == list(range(16))


def test_a_grid_is_tried_once_with_its_seeds_innermost(tmp_path, tools):
    """Cells are left out or come twice, seeds are not next to each other, or a row has not its own seed."""
    space = {"seed": {"grid": [0, 1]}, **FINITE}
    config = tools.make_config(trials=6, algorithm="grid", pruner="none", space=space)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    while (trial := ledger.next_trial()) is not None:
        train(ledger, trial)
    cells = [(row.params["loss.name"], row.params.get("train.epochs"), *row.seeds) for row in ledger.rows()]
    assert cells == [
        ("emd", 2, 0), ("emd", 2, 1), ("emd", 3, 0), ("emd", 3, 1), ("focal", None, 0), ("focal", None, 1),
    ]  # fmt: skip
    assert ledger.left() == 0
    assert "6" in ledger.over


def test_grid_parameters_beside_tpe(tmp_path, tools):
    """A grid parameter under tpe does not take its options in turn."""
    space = {"sampler.name": {"grid": ["none", "label"]}, "optim.lr": NUMBERS["optim.lr"]}
    ledger = Ledger.open(tools.make_url(tmp_path), config=tools.make_config(trials=6, pruner="none", space=space))
    assert [ledger.next_trial().params["sampler.name"] for _ in range(6)] == ["none", "label"] * 3


def test_repeats_are_not_trained(tmp_path, tools):
    """A configuration that is known is trained again, counts as a new one, or outlives the space's size."""
    space = {**FINITE, "train.epochs": {"int": [2, 6], "when": {"loss.name": "emd"}}}
    config = tools.make_config(trials=60, algorithm="random", pruner="none", space=space)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    trained = []
    while (trial := ledger.next_trial()) is not None:
        trained += [] if trial.repeats is not None else [json.dumps(trial.params)]
        train(ledger, trial)
    assert sorted(trained) == sorted(set(trained))
    assert len(trained) == 6
    assert "6 configurations" in ledger.over
    rows = ledger.rows()
    again = [row for row in rows if row.repeats]
    assert again
    for row in again:
        first = rows[int(row.repeats)]
        assert (row.state, row.value, row.metrics) == ("complete", first.value, first.metrics)
        assert (row.params, row.seconds, row.epochs) == (first.params, 0.0, 0)
    assert not ledger.best().repeats
    looking = Ledger.open(tools.make_url(tmp_path), config=config, read_only=True)
    assert (looking.left(), looking.rows()) == (0, rows)


def test_failed_configurations_are_tried_again(tmp_path, tools):
    """A failure is taken for a result, so its configuration is never trained."""
    space = {"loss.name": {"choice": ["emd", "focal"]}, "optim.lr": {"float": [0.0, 1.0]}}
    points = ({"loss.name": "emd", "optim.lr": 0.5}, {"optim.lr": 0.5, "loss.name": "focal"})
    config = tools.make_config(trials=3, pruner="none", space=space, start_with=points)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    train(ledger, ledger.next_trial(), state="failed")
    assert ledger.next_trial().params == points[1]
    ledger.budget = 4
    ledger._asking._used.clear()
    again = ledger.next_trial()
    assert (again.params, again.repeats) == (points[0], None)


def test_start_points_come_first_and_once(tmp_path, tools):
    """A point is left out, tried twice, or tried again after a restart; what it leaves open is not suggested."""
    points = (
        {"loss.name": "emd", "optim.lr": 0.002, "model.drop_rate": 0.2},
        {"loss.gamma": 3.0, "loss.name": "focal"},
    )
    config = tools.make_config(trials=6, pruner="none", space=NUMBERS, start_with=points)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    train(ledger, ledger.next_trial())
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    for _ in range(2):
        train(ledger, ledger.next_trial())
    rows = ledger.rows()
    assert rows[0].params == points[0]
    assert rows[1].params.items() > points[1].items()
    assert set(rows[1].params) == set(NUMBERS)
    assert rows[2].params.items() ^ points[1].items()


def test_several_metrics_and_constraints(tmp_path, tools):
    """Values of several metrics or violations are lost, or one that misses a bound is called the best."""
    constraints = {OTHER: {"max": 0.03}}
    more = {"metrics": (METRIC, OTHER), "constraints": constraints}
    for algorithm in ("tpe", "nsga2"):
        config = tools.make_config(trials=12, algorithm=algorithm, pruner="none", space=NUMBERS, population=4, **more)
        config.metrics = more["metrics"]
        url = f"sqlite:///{tmp_path / algorithm}.db"
        ledger = Ledger.open(url, config=config)
        while (trial := ledger.next_trial()) is not None:
            train(ledger, trial)
        rows = ledger.rows()
        for row in rows:
            gap = 0.3 * row.params["model.drop_rate"]
            assert row.values == pytest.approx((1 - distance(row.params) / 4, gap))
            assert row.is_feasible == (gap <= 0.03)
        feasible = [row for row in rows if row.is_feasible]
        best = ledger.best()
        assert best == (max(feasible, key=lambda row: row.value) if feasible else None)
        directions = optuna.load_study(study_name="quick", storage=url).directions
        assert [direction.name for direction in directions] == ["MAXIMIZE", "MINIMIZE"]
        with pytest.raises(Exception, match="val/segment_gap_auroc"):
            Ledger.open(url, config=tools.make_config(trials=12, space=NUMBERS))


@pytest.mark.long
def test_constraints_steer_the_search(tmp_path, tools):
    """TPE does not learn which trials miss a bound."""
    space = {"model.drop_rate": {"float": [0.0, 0.5]}, "optim.lr": NUMBERS["optim.lr"]}
    shares = []
    for constraints in ({}, {OTHER: {"max": 0.02}}):
        config = tools.make_config(trials=40, seed=2, pruner="none", space=space, constraints=constraints)
        ledger = Ledger.open(f"sqlite:///{tmp_path / str(len(constraints))}.db", config=config)
        while (trial := ledger.next_trial()) is not None:
            train(ledger, trial)
        late = ledger.rows()[20:]
        shares.append(sum(0.3 * row.params["model.drop_rate"] <= 0.02 for row in late) / len(late))
    assert shares[1] > shares[0]


def test_an_undefined_second_metric_fails_the_trial(tmp_path, tools):
    """A trial without one of the metrics is complete with a value that nobody measured."""
    config = tools.make_config(trials=1, pruner="none", space=NUMBERS, metrics=(METRIC, OTHER))
    config.metrics = (METRIC, OTHER)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    ledger.next_trial()
    ledger.report(0, EpochResult(epoch=1, metrics={METRIC: 0.9, OTHER: math.nan}, images=1, seconds=1))
    ledger.finish(0, RunOutcome(state="complete", best_epoch=1))
    [row] = ledger.rows()
    assert (row.state, row.value) == ("failed", None)
    assert OTHER in row.reason


def test_a_changed_space_keeps_what_still_fits(tmp_path, tools):
    """After a change of the space old trials break the sampler, or those outside of it still steer it."""
    old = {"loss.name": {"choice": ["emd", "focal"]}, "optim.lr": NUMBERS["optim.lr"]}
    config = tools.make_config(trials=15, pruner="none", space=old)
    tools_ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    while (trial := tools_ledger.next_trial()) is not None:
        train(tools_ledger, trial)
    new = {"loss.name": {"choice": ["corn", "emd"]}, "optim.lr": {"float": [1e-3, 1e-1], "scale": "log"}}
    ledger = Ledger.open(tools.make_url(tmp_path), config=tools.make_config(trials=25, pruner="none", space=new))
    trial = ledger.next_trial()
    views = [view for view in ledger._asking._views.values() if view is not None]
    inside = [row for row in ledger.rows()[:15] if row.params["loss.name"] == "emd" and row.params["optim.lr"] >= 1e-3]
    assert 0 < len(inside) < 15
    assert len(views) == len(inside) + 1
    while trial is not None:
        assert trial.params["loss.name"] in ("corn", "emd")
        train(ledger, trial)
        trial = ledger.next_trial()
    assert len(ledger.rows()) == 25
    assert len(Ledger.open(tools.make_url(tmp_path), config=config, read_only=True).rows()) == 25


def test_trials_side_by_side_do_not_have_one_configuration(tmp_path, tools):
    """Two trials that run at the same time train the same thing although there are others."""
    space = {"loss.name": {"choice": ["emd", "focal", "corn"]}}
    ledger = Ledger.open(tools.make_url(tmp_path), config=tools.make_config(trials=9, pruner="none", space=space))
    assert {ledger.next_trial().params["loss.name"] for _ in range(3)} == {"emd", "focal", "corn"}
    assert ledger.next_trial() is None


@pytest.mark.parametrize(
    ("budget", "trials", "word"),
    [
        ({"target": 0.8}, 3, "target 0.8"),
        ({"no_better_in": 2}, 5, "2 trials in a row"),
        ({"gpu_hours": 0.004}, 4, "GPU-hours"),
        ({"hours": 1e-12}, 0, "hours"),
    ],
)
def test_budgets(tmp_path, tools, budget, trials, word):
    """A limit ends the search too early, too late, or not again after a restart; trials that run are finished."""
    limits = SimpleNamespace(**{"hours": None, "gpu_hours": None, "target": None, "no_better_in": None} | budget)
    config = tools.make_config(trials=None, pruner="none", space=NUMBERS, budget=limits)
    config.num_trials = 0
    config.resources = ResourcesConfig(workers=2, gpus_per_worker=1)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    for value in (0.5, 0.6, 0.8, 0.7, 0.75, 0.9):
        trial = ledger.next_trial()
        if trial is None:
            break
        assert ledger.left() == 2
        ledger.report(trial.number, EpochResult(epoch=1, metrics={METRIC: value}, images=8, seconds=2.0))
        ledger.finish(trial.number, RunOutcome(state="complete", best_epoch=1))
    assert len(ledger.rows()) == trials
    again = Ledger.open(tools.make_url(tmp_path), config=config)
    assert again.next_trial() is None
    assert again.left() == 0
    assert word in again.over
    assert all(row.device_seconds == 4.0 and row.images == 8 for row in again.rows())


def test_epochs_cost_the_workers_that_they_had(tmp_path, tools):
    """A run that went on with fewer workers costs as much as with all of them."""
    config = tools.make_config(trials=1, pruner="none", space=NUMBERS)
    config.resources = ResourcesConfig(workers=[1, 4], gpus_per_worker=0.5)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    trial = ledger.next_trial()
    for epoch, workers in enumerate((4, 1, 0), start=1):  # 0: not kept, as by an earlier version
        ledger.report(
            trial.number, EpochResult(epoch=epoch, metrics={METRIC: 0.5}, images=8, seconds=10.0, workers=workers)
        )
    ledger.finish(trial.number, RunOutcome(state="complete", best_epoch=1))
    (row,) = ledger.rows()
    assert (row.seconds, row.gpu_seconds, row.device_seconds) == (30.0, 45.0, 45.0)
    assert [result.workers for result in ledger.epochs(trial.number)] == [4, 1, 0]


def test_hours_add_up_over_sessions(tmp_path, tools, monkeypatch):
    """Time of an earlier session is forgotten, or time between sessions counts."""
    now = [1000.0]
    monkeypatch.setattr("study.ledger.notes.time.monotonic", lambda: now[0])
    limits = SimpleNamespace(hours=1.0, gpu_hours=None, target=None, no_better_in=None)
    config = tools.make_config(trials=50, pruner="none", space=NUMBERS, budget=limits)
    for session in range(2):
        ledger = Ledger.open(tools.make_url(tmp_path), config=config)
        trial = ledger.next_trial()
        assert trial is not None
        now[0] += 1700.0
        train(ledger, trial)
        assert ledger.hours_run() == pytest.approx((session + 1) * 1700 / 3600)
        now[0] += 90000.0 if session == 0 else 300.0
    assert ledger.next_trial() is None
    assert "1 hours" in ledger.over
