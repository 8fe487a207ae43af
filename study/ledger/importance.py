"""Which parameters mattered: shares of importance, interactions of pairs, and how each value did.

Importance is PED-ANOVA (Watanabe et al., IJCAI 2023) with its extension to conditional parameters (arXiv 2601.20800),
as Optuna has it: how much the best trials' values of a parameter differ from those of all trials. An interaction is
Friedman's H statistic (Friedman & Popescu, Annals of Applied Statistics 2008, equation 44) on a random forest: the
share of the variance of two parameters' joint effect that their separate effects do not explain.
"""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.ledger.view import optuna_params
from study.space import SearchSpace, same
from study.types import TrialRow

MIN_TRIALS: Final = 10  # below, the best tenth and the rest are a handful of trials
MIN_FOR_PAIRS: Final = 30
NUM_PAIRED: Final = 4  # parameters whose pairs are looked at: the most important ones
NUM_BINS: Final = 4
BACKGROUND: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """The share of a parameter in the importance of all, from 0 to 1, and the trials in which it existed."""

    parameter: str
    share: float
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """Share of the joint effect of two parameters that is not the sum of their own, from 0 to 1."""

    parameters: tuple[str, str]
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Trials with one value, or one part of the range, of a parameter: how many, their mean and their best."""

    parameter: str
    values: str
    trials: int
    mean: float
    best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasons:
    """What mattered in a search; ``note`` says what could not be told, and why."""

    trials: int
    importances: tuple[Importance, ...]
    interactions: tuple[Interaction, ...]
    slices: tuple[Slice, ...]
    note: str = ""


def reasons_of(rows: Sequence[TrialRow], space: SearchSpace, *, mode: str) -> Reasons:
    """What mattered for the first metric, from the complete trials; repeats do not count.

    Args:
        rows: trials of a search.
        space: its search space; trials outside of it are left out.
        mode: ``max`` or ``min`` of the metric.
    """
    trials = _trials_of(rows, space)
    apart = sum(row.state == "complete" and not row.repeats for row in rows) - len(trials)
    reasons = _reasons_of(trials, space, mode=mode)
    if not apart:
        return reasons
    outside = f"{apart} complete trials lie outside of the present search space and do not count"
    return replace(reasons, note="; ".join(filter(None, (reasons.note, outside))))


def _reasons_of(trials: Sequence[FrozenTrial], space: SearchSpace, *, mode: str) -> Reasons:
    if not trials:
        return Reasons(trials=0, importances=(), interactions=(), slices=(), note="no trial is complete")
    names = _names(space)
    slices = tuple(_slices(trials, names, mode=mode))
    if len(trials) < MIN_TRIALS:
        note = f"{len(trials)} complete trials are too few to tell what mattered; at least {MIN_TRIALS} are needed"
        return Reasons(trials=len(trials), importances=(), interactions=(), slices=slices, note=note)
    importances = tuple(_importances(trials, names, mode=mode))
    note = "" if len(trials) >= MIN_FOR_PAIRS else f"interactions need at least {MIN_FOR_PAIRS} complete trials"
    pairs = () if note else tuple(_interactions(trials, names, [one.parameter for one in importances]))
    return Reasons(trials=len(trials), importances=importances, interactions=pairs, slices=slices, note=note)


def _trials_of(rows: Sequence[TrialRow], space: SearchSpace) -> list[FrozenTrial]:
    found = []
    for row in rows:
        if row.state != "complete" or row.value is None or row.repeats:
            continue
        params, distributions, is_whole = optuna_params(space, row.params)
        if is_whole:
            found.append(
                create_trial(state=TrialState.COMPLETE, value=row.value, params=params, distributions=distributions)
            )
    return found


def _names(space: SearchSpace) -> dict[str, str]:
    """What each parameter is called: its path, or its key where several have that path."""
    paths = [node.path for node in space.nodes]
    return {node.key: node.path if paths.count(node.path) == 1 else node.key for node in space.nodes}


def _importances(trials: Sequence[FrozenTrial], names: Mapping[str, str], *, mode: str) -> list[Importance]:
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    study.add_trials(trials)
    # At least five trials are the best ones: fewer do not make a distribution.
    evaluator = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, 5 / len(trials))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    counts = {key: sum(key in trial.params for trial in trials) for key in shares}
    found = [Importance(parameter=names[key], share=float(share), trials=counts[key]) for key, share in shares.items()]
    return sorted(found, key=lambda one: (-one.share, one.parameter))


def _slices(trials: Sequence[FrozenTrial], names: Mapping[str, str], *, mode: str) -> list[Slice]:
    found: list[Slice] = []
    for key, name in names.items():
        having = [trial for trial in trials if key in trial.params]
        if not having:
            continue
        for label, members in _bins(key, having):
            values = [float(trial.values[0]) for trial in members]
            best = max(values) if mode == "max" else min(values)
            mean = sum(values) / len(values)
            found.append(Slice(parameter=name, values=label, trials=len(values), mean=mean, best=best))
    return found


def _bins(key: str, trials: Sequence[FrozenTrial]) -> list[tuple[str, list[FrozenTrial]]]:
    """The trials by option, or by quarters of their values."""
    distribution = trials[0].distributions[key]
    if isinstance(distribution, CategoricalDistribution):
        parts = [(option, [t for t in trials if same(t.params[key], option)]) for option in distribution.choices]
        return [(str(option), members) for option, members in parts if members]
    ordered = sorted(trials, key=lambda trial: (trial.params[key], trial.number))
    count = min(NUM_BINS, len({trial.params[key] for trial in trials}))
    bins = [ordered[len(ordered) * i // count : len(ordered) * (i + 1) // count] for i in range(count)]
    return [(f"{part[0].params[key]:.4g} to {part[-1].params[key]:.4g}", part) for part in bins if part]


def _interactions(trials: Sequence[FrozenTrial], names: Mapping[str, str], order: Sequence[str]) -> list[Interaction]:
    from sklearn.ensemble import RandomForestRegressor

    keys = sorted({key for trial in trials for key in trial.params})
    given_nd = np.array([[_coordinate(trial, key) for key in keys] for trial in trials])
    # Where a parameter does not exist, its usual value: a mark of its own would tell the parent's value a second time.
    features_nd = np.where(np.isnan(given_nd), np.nanmedian(given_nd, axis=0), given_nd)
    values_n = np.array([float(trial.values[0]) for trial in trials])
    forest = RandomForestRegressor(n_estimators=60, min_samples_leaf=2, random_state=0).fit(features_nd, values_n)
    by_name = {names[key]: column for column, key in enumerate(keys)}
    found = []
    for left, right in itertools.combinations([name for name in order if name in by_name][:NUM_PAIRED], 2):
        columns = (by_name[left], by_name[right])
        both = features_nd[~np.isnan(given_nd[:, columns]).any(axis=1)]
        strength = _h_statistic(forest, both, columns)
        if math.isfinite(strength):
            found.append(Interaction(parameters=(left, right), strength=strength))
    return sorted(found, key=lambda one: (-one.strength, one.parameters))


def _coordinate(trial: FrozenTrial, key: str) -> float:
    """A value as a feature: the option's number, the logarithm where the scale is one, NaN where it does not exist."""
    if key not in trial.params:
        return math.nan
    distribution: BaseDistribution = trial.distributions[key]
    internal = float(distribution.to_internal_repr(trial.params[key]))
    return math.log(internal) if getattr(distribution, "log", False) else internal


def _h_statistic(forest: Any, both_nd: Any, columns: tuple[int, int]) -> float:
    """Friedman's H squared of two features; NaN when they hardly ever exist together or have no joint effect."""
    if len(both_nd) < BACKGROUND // 2:
        return math.nan
    some = both_nd[np.linspace(0, len(both_nd) - 1, min(BACKGROUND, len(both_nd))).astype(int)]
    joint, first, second = (_dependence(forest, some, part) for part in (columns, columns[:1], columns[1:]))
    total = float((joint**2).sum())
    return math.nan if total <= 1e-18 else min(1.0, float(((joint - first - second) ** 2).sum()) / total)


def _dependence(forest: Any, some_md: Any, columns: Sequence[int]) -> Any:
    """Centred partial dependence at the points: predictions with some features set, averaged over the others."""
    count = len(some_md)
    grid = np.repeat(some_md, count, axis=0)
    for column in columns:
        grid[:, column] = np.tile(some_md[:, column], count)
    effect_m = forest.predict(grid).reshape(count, count).mean(axis=0)
    return effect_m - effect_m.mean()
