"""The halving pruner: Optuna's decisions, but from the stored values alone."""

import math
import random
import warnings

import optuna
import pytest

from study.ledger import HalvingPruner


def make_study(pruner, mode):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "maximize" if mode == "max" else "minimize"
    return optuna.create_study(direction=direction, pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))


def decisions(pruner, mode, curves):
    """One trial after the other; for each epoch whether the pruner said stop, which ends the trial."""
    study, answers = make_study(pruner, mode), []
    for curve in curves:
        trial = study.ask()
        for epoch, value in enumerate(curve, start=1):
            trial.report(value, step=epoch)
            answers.append(trial.should_prune())
            if answers[-1]:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            last = curve[-1]
            study.tell(trial, last if not math.isnan(last) else None, state=None if not math.isnan(last) else FAIL)
    return answers


FAIL = optuna.trial.TrialState.FAIL


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("min_epochs", [1, 2, 3])
@pytest.mark.parametrize("reduction_factor", [2, 3, 4])
def test_decides_like_optuna_on_sequential_histories(mode, min_epochs, reduction_factor):
    """On random histories, one trial at a time, every single decision equals that of Optuna's own pruner."""
    for seed in range(3):
        rng = random.Random(f"{mode}{min_epochs}{reduction_factor}{seed}")
        curves = [
            [rng.choice([rng.random(), 0.5, math.nan]) if rng.random() < 0.3 else rng.random() for _ in range(13)]
            for _ in range(25)
        ]
        theirs = optuna.pruners.SuccessiveHalvingPruner(min_resource=min_epochs, reduction_factor=reduction_factor)
        ours = HalvingPruner(min_epochs=min_epochs, reduction_factor=reduction_factor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = decisions(theirs, mode, curves)
        assert decisions(ours, mode, curves) == expected
        assert 0 < sum(expected) < len(curves)


def trials_at(study, values_by_trial):
    trials = []
    for values in values_by_trial:
        trial = study.ask()
        for epoch, value in values.items():
            trial.report(value, step=epoch)
        trials.append(trial)
    return trials


def test_worked_example():
    """Rungs at 2 and 4 with factor 2: of three values 0.9, 0.5, 0.7 only the best goes on; of four the best two."""
    study = make_study(HalvingPruner(min_epochs=2, reduction_factor=2), "max")
    three = trials_at(study, [{1: 0.1, 2: 0.9}, {1: 0.9, 2: 0.5}, {1: 0.5, 2: 0.7}])
    assert [trial.should_prune() for trial in three] == [False, True, True]
    (fourth,) = trials_at(study, [{1: 0.0, 2: 0.8}])
    assert [trial.should_prune() for trial in [*three, fourth]] == [False, True, True, False]
    three[0].report(0.1, step=3)
    assert not three[0].should_prune()


def test_asking_again_gives_the_same_answer():
    """The question may be asked again after a kill: the answer is still stop, where Optuna's pruner then says go on."""
    answers = {}
    for name, pruner in (
        ("ours", HalvingPruner(min_epochs=1, reduction_factor=2)),
        ("theirs", optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)),
    ):
        study = make_study(pruner, "max")
        first, second = trials_at(study, [{1: 0.9}, {1: 0.1}])
        assert not first.should_prune()
        answers[name] = [second.should_prune(), second.should_prune()]
    assert answers == {"ours": [True, True], "theirs": [True, False]}


def test_nan_never_goes_on_and_never_counts():
    """A trial whose value is NaN at a rung stops, and does not push others below the line."""
    study = make_study(HalvingPruner(min_epochs=1, reduction_factor=2), "min")
    undefined, only = trials_at(study, [{1: math.nan}, {1: 5.0}])
    assert undefined.should_prune()
    assert not only.should_prune()


def test_no_report_no_decision():
    """A trial that has reported nothing is not stopped."""
    (trial,) = trials_at(make_study(HalvingPruner(), "max"), [{}])
    assert not trial.should_prune()


@pytest.mark.parametrize(("min_epochs", "factor"), [(0, 2), (1, 1)])
def test_bounds_are_checked(min_epochs, factor):
    """A rung before the first epoch or a factor that stops nobody is refused."""
    with pytest.raises(ValueError, match="expected at least 1 and 2"):
        HalvingPruner(min_epochs=min_epochs, reduction_factor=factor)
