"""Pruners by name: their decisions against Optuna's own, by hand, and after a restart."""

import math
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from study.config import PrunerConfig
from study.ledger import PRUNERS, Ledger
from study.ledger.pruners import HyperbandPruner, make_pruner, stops_by_runs
from study.types import RunOutcome

METRIC = "val/auroc_macro"


def trial_of(curve, number=0, state=TrialState.RUNNING):
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=curve[-1] if state == TrialState.COMPLETE else None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values=dict(enumerate(curve, start=1)),
    )


def study_of(trials, mode="max"):
    """As much of an Optuna study as pruners ask."""
    direction = optuna.study.StudyDirection.MAXIMIZE if mode == "max" else optuna.study.StudyDirection.MINIMIZE

    def get_trials(deepcopy=True, states=None):
        return [trial for trial in trials if states is None or trial.state in states]

    return SimpleNamespace(direction=direction, get_trials=get_trials)


def stops_at(pruner, curve, others=(), mode="max"):
    """The epoch at which a trial with this curve stops; None when it never does."""
    study = study_of(list(others), mode)
    found = (n for n in range(1, len(curve) + 1) if pruner.prune(study, trial_of(curve[:n], number=99)))
    return next(found, None)


DONE = [trial_of([0.1 * i, 0.1 * i + 0.05, 0.1 * i + 0.1], i, TrialState.COMPLETE) for i in range(1, 6)]


@pytest.mark.parametrize(
    ("settings", "curve", "epoch"),
    [
        ({"name": "none"}, [0.0, 0.0, 0.0], None),
        # Medians of the five by epoch: 0.3, 0.35, 0.4; the best value so far counts.
        ({"name": "median"}, [0.29, 0.3, 0.3], 1),
        ({"name": "median"}, [0.31, 0.34, 0.39], 2),
        ({"name": "median", "min_epochs": 3}, [0.0, 0.0, 0.0], 3),
        ({"name": "median", "startup_trials": 6}, [0.0, 0.0, 0.0], None),
        ({"name": "median"}, [math.nan], 1),
        # The best quarter of five: at least 0.4, 0.45, 0.5.
        ({"name": "percentile", "percentile": 25}, [0.41, 0.44, 0.9], 2),
        ({"name": "percentile", "percentile": 25}, [0.41, 0.46, 0.51], None),
        ({"name": "threshold", "lower": 0.5, "min_epochs": 2}, [0.1, 0.51, 0.49], 3),
        ({"name": "threshold", "upper": 0.5}, [0.1, 0.51], 2),
        ({"name": "patience", "patience": 2}, [0.5, 0.5, 0.5, 0.6], 3),
        ({"name": "patience", "patience": 2}, [0.5, 0.4, 0.6, 0.5, 0.6], 5),
        ({"name": "patience", "patience": 1, "min_delta": 0.05}, [0.5, 0.6, 0.62], 3),
        ({"name": "patience", "patience": 1, "min_epochs": 4}, [0.5, 0.4, 0.4, 0.4], 4),
        ({"name": "patience", "patience": 2}, [math.nan, math.nan, 0.1, 0.2], None),
        ({"name": "patience", "patience": 2}, [math.nan, math.nan, math.nan], 3),
        ({"name": "successive_halving", "min_epochs": 1}, [0.2, 0.9, 0.9], 1),
        ({"name": "wilcoxon"}, [0.0, 0.0], None),
    ],
)
def test_by_hand(settings, curve, epoch):
    """A trial stops at another epoch than the pruner's rule says."""
    pruner = make_pruner(PrunerConfig.model_validate(settings), max_epochs=9, seed=0)
    assert stops_at(pruner, curve, DONE) == epoch


def test_less_is_better():
    """A pruner stops the better trials of a metric that is better when it is lower."""
    for settings, good, bad in (
        ({"name": "median"}, [0.2], [0.4]),
        ({"name": "patience", "patience": 1}, [0.5, 0.4], [0.5, 0.6]),
        ({"name": "hyperband"}, [0.05] * 8, [0.9] * 8),
    ):
        pruner = make_pruner(PrunerConfig.model_validate(settings), max_epochs=8, seed=1)
        others = DONE if settings["name"] != "hyperband" else [trial_of([0.1] * 8, n) for n in range(98)]
        assert stops_at(pruner, good, others, "min") is None
        assert stops_at(pruner, bad, others, "min") is not None or settings["name"] == "hyperband"


def test_hyperband_brackets():
    """Brackets, first rungs and shares are not those of the paper, or a trial changes its bracket."""
    pruner = HyperbandPruner(min_epochs=1, max_epochs=81, reduction_factor=3, seed=0)
    assert pruner.first_rungs == [81, 27, 9, 3, 1]
    assert pruner.shares == [5, 8, 15, 34, 81]  # table 1 of the paper, bracket 4 to 0 read backwards
    counts = [[pruner.bracket(n) for n in range(3000)].count(s) for s in range(5)]
    assert counts == pytest.approx([3000 * share / 143 for share in pruner.shares], rel=0.25)
    again = HyperbandPruner(min_epochs=1, max_epochs=81, reduction_factor=3, seed=0)
    assert [again.bracket(n) for n in range(50)] == [pruner.bracket(n) for n in range(50)]
    assert HyperbandPruner(min_epochs=3, max_epochs=243 * 3, reduction_factor=3, seed=0).first_rungs[-1] == 3


def test_hyperband_compares_inside_a_bracket():
    """A trial is stopped because of trials of other brackets, or one of the last bracket before its end."""
    pruner = HyperbandPruner(min_epochs=1, max_epochs=4, reduction_factor=2, seed=0)
    numbers = {s: [n for n in range(200) if pruner.bracket(n) == s] for s in range(3)}
    better = {s: [trial_of([0.9] * 4, n) for n in numbers[s][1:]] for s in range(3)}
    for s, first in ((2, 1), (1, 2), (0, 4)):
        number = numbers[s][0]
        own, others = study_of(better[s]), study_of([t for other in better if other != s for t in better[other]])
        stops = [n for n in range(1, 5) if pruner.prune(own, trial_of([0.1] * n, number))]
        assert stops[0] == first
        assert not any(pruner.prune(others, trial_of([0.1] * n, number)) for n in range(1, 5))


@pytest.mark.parametrize(
    "name",
    [
        name if name == "successive_halving" else pytest.param(name, marks=pytest.mark.long)
        for name in PRUNERS
        if name not in ("none", "wilcoxon")
    ],
)
def test_decisions_survive_restarts(tmp_path, tools, name):
    """A search whose ledger is opened anew after every epoch stops other trials, or at other epochs."""
    pruner = PrunerConfig(name=name, startup_trials=2, patience=1, min_delta=0.05, lower=0.55)
    config = tools.make_config(trials=8, epochs=4, algorithm="random", pruner=name)
    config.search.pruner = pruner
    tables = []
    for restarts in (False, True):
        url = f"sqlite:///{tmp_path / str(restarts)}.db"
        ledger = Ledger.open(url, config=config)
        while (trial := ledger.next_trial()) is not None:
            for epoch in range(1, 5):
                ledger.report(trial.number, tools.epoch_result(trial.params, epoch))
                if restarts:
                    ledger = Ledger.open(url, config=config)
                    if trial.number in ledger.pruned_at_open:
                        break
                    assert ledger.next_trial().number == trial.number
                if ledger.should_prune(trial.number):
                    ledger.finish(trial.number, RunOutcome(state="pruned"))
                    break
            else:
                ledger.finish(trial.number, RunOutcome(state="complete", best_epoch=4))
        tables.append([(row.state, row.value, row.epochs) for row in ledger.rows()])
    assert tables[0] == tables[1]
    assert {state for state, _, _ in tables[0]} >= {"pruned"}


def test_wilcoxon_over_seeds():
    """Seeds of a worse trial go on, or those of a better one, an equal one or a lucky one stop."""
    best = {seed: 0.8 + 0.01 * seed for seed in range(6)}
    worse = {seed: value - 0.05 for seed, value in best.items()}
    assert stops_by_runs(worse, best, mode="max", p_value=0.1)
    assert not stops_by_runs(best, worse, mode="max", p_value=0.1)
    assert stops_by_runs(best, worse, mode="min", p_value=0.1)
    assert not stops_by_runs(best, best, mode="max", p_value=0.1)
    assert not stops_by_runs({0: 0.1}, best, mode="max", p_value=0.1)
    assert not stops_by_runs({0: 0.1, 1: 0.1, 2: 0.1}, best, mode="max", p_value=0.1)  # 1 in 8 at best
    assert stops_by_runs({0: 0.1, 1: 0.1, 2: 0.1}, best, mode="max", p_value=0.13)
    assert not stops_by_runs({**worse, 3: math.nan}, best, mode="max", p_value=0.1)
