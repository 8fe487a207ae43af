"""What a sampler sees: the finished and running trials as points of the present search space.

The ledger keeps the parameters of a trial as the study file spelt them. A sampler sees them with the distributions of
the space as it is now, so that a space may change between two sessions: a trial outside of it is not shown.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from study.space import NUMBERS, SearchSpace, SpaceNode, active_nodes, plain, same, value_in

GENERATION: Final = "generation"  # how Optuna's genetic samplers and ours call the attribute, after a colon
CONSTRAINT: Final = "constraints"  # Optuna's prefix of a constraint's name
FAR: Final = 1e6  # violation of a constraint whose metric is undefined


def distribution_of(node: SpaceNode) -> BaseDistribution:
    """Optuna's distribution of a parameter."""
    if node.kind == "int":
        step = int(node.step) if node.step else 1
        return IntDistribution(int(node.low), int(node.high), log=node.log, step=step)
    if node.kind == "float":
        return FloatDistribution(node.low, node.high, log=node.log, step=node.step)
    return CategoricalDistribution(labels(node.choices))


def labels(options: Sequence[Any]) -> list[Any]:
    """Options as Optuna can tell them apart: as they are, or as JSON where one is no scalar or 1 meets true."""
    scalars = [option for option in options if option is None or isinstance(option, str | bool | int | float)]
    if len(scalars) == len(options) and len(set(scalars)) == len(options):
        return list(options)
    return [json.dumps(plain(option)) for option in options]


def optuna_params(
    space: SearchSpace | None, params: Mapping[str, Any]
) -> "tuple[dict[str, Any], dict[str, Any], bool]":
    """Optuna's names, values and distributions of a configuration, and whether it lies in the space as a whole."""
    values: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    is_whole = True
    for node in active_nodes(space, params) if space is not None else ():
        if node.kind == "constant":
            continue
        found = value_in(node, params)
        if found is None:
            is_whole = is_whole and not any(path in params for path in node.provides)
            continue
        distributions[node.key] = distribution_of(node)
        values[node.key] = found[0] if node.kind in NUMBERS else label_of(node, found[0])
    return values, distributions, is_whole


def label_of(node: SpaceNode, option: Any) -> Any:
    """Optuna's name of an option."""
    return next(label for label, one in zip(labels(node.choices), node.choices, strict=True) if same(one, option))


def violations(metrics: Mapping[str, float], constraints: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """By how much each bound is missed (above 0) or kept (0 or below); a metric that is undefined misses it by far."""
    found: dict[str, float] = {}
    for name, bounds in constraints.items():
        value = metrics.get(name, math.nan)
        for end, bound in bounds.items():
            excess = value - bound if end == "max" else bound - value
            found[f"{name} {end}"] = excess if math.isfinite(excess) else FAR
    return found


def seen(
    trial: FrozenTrial, space: SearchSpace | None, constraints: Mapping[str, Mapping[str, float]]
) -> FrozenTrial | None:
    """A trial of the ledger as samplers see it; None when it lies outside of the space."""
    params, distributions, is_whole = optuna_params(space, trial.user_attrs.get("params", {}))
    if not is_whole or trial.state == TrialState.WAITING:
        return None
    attrs = {key: value for key, value in trial.system_attrs.items() if key.endswith(f":{GENERATION}")}
    if constraints and trial.state.is_finished():
        metrics = trial.user_attrs.get("outcome", {}).get("metrics", {})
        attrs |= {f"{CONSTRAINT}:{key}": excess for key, excess in violations(metrics, constraints).items()}
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=trial.state,
        value=None,
        values=trial.values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs=attrs,
        intermediate_values=dict(trial.intermediate_values),
    )
