"""Rules of the ``search`` section that need two fields, or the search space, at once; and advice about both."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from study.config.runs_rules import has_several, runs_advice, runs_faults
from study.config.view import View
from study.space import Fault, SearchSpace, SpaceNode, active_nodes, can_be, num_values, providers, value_in
from study.space.nodes import values_text
from study.space.options import point_leaves
from study.space.spelling import hint, listed, show
from study.space.walking import when_text

MAX_GP_TRIALS: Final = 300  # a suggestion takes 0.7 s at 300 finished trials and 16 s at 1,000
ONE_METRIC: Final = ("cmaes",)
# Knobs of the pruner that only some pruners read.
PRUNER_KNOBS: Final[Mapping[str, tuple[Any, tuple[str, ...]]]] = {
    "min_epochs": (1, ("median", "percentile", "successive_halving", "hyperband", "patience", "threshold")),
    "reduction_factor": (2, ("successive_halving", "hyperband")),
    "percentile": (25.0, ("percentile",)),
    "startup_trials": (5, ("median", "percentile")),
    "patience": (5, ("patience",)),
    "min_delta": (0.0, ("patience",)),
    "lower": (None, ("threshold",)),
    "upper": (None, ("threshold",)),
    "p_value": (0.1, ("wilcoxon",)),
}
PRUNER: Final = "search.pruner"
BUDGET: Final = "search.budget"


def search_faults(view: View) -> Iterator[Fault]:
    """Faults of budget, pruner and algorithm against the rest of the file."""
    if view.get("search") is None:
        return
    yield from chain(_trials_faults(view), _pruner_faults(view), runs_faults(view), _metrics_faults(view))


def search_advice(view: View) -> Iterator[str]:
    """Settings of the search that work but hardly mean what they say; one sentence each."""
    name = view.get(f"{PRUNER}.name")
    yield from runs_advice(view)
    for knob, (default, readers) in PRUNER_KNOBS.items():
        value = view.get(f"{PRUNER}.{knob}")
        if knob == "p_value" and has_several(view) and name != "none":
            continue
        if name is not None and value not in (None, default) and name not in readers:
            yield f"{PRUNER}.{knob} has no effect with {PRUNER}.name {name}; it belongs to {listed(readers)}"
    if view.get("search.population") is not None and view.get("search.algorithm") not in ("cmaes", "nsga2", None):
        yield "search.population has no effect without search.algorithm cmaes or nsga2"


def _trials_faults(view: View) -> Iterator[Fault]:
    trials, algorithm = view.number("search.trials"), view.get("search.algorithm")
    limits = [view.number(f"{BUDGET}.{key}") for key in ("hours", "gpu_hours", "target", "no_better_in")]
    is_known = not any(view.is_broken(path) for path in ("search.trials", BUDGET, "search.algorithm"))
    if trials is None and algorithm != "grid" and is_known and all(limit is None for limit in limits):
        yield Fault("search.trials", "missing; expected a whole number, or a limit in search.budget")
    if algorithm == "gp" and is_known and (trials is None or trials > MAX_GP_TRIALS):
        found = "missing" if trials is None else str(trials)
        yield Fault(
            "search.trials",
            f"{found}: expected at most {MAX_GP_TRIALS} with algorithm gp, whose suggestions take minutes beyond; "
            "tpe has no such limit",
        )
    gpus = view.number("resources.gpus_per_worker")
    if limits[1] is not None and gpus == 0:
        yield Fault(f"{BUDGET}.gpu_hours", "resources.gpus_per_worker is 0, so none would ever pass; use hours")


def _pruner_faults(view: View) -> Iterator[Fault]:
    name = view.get(f"{PRUNER}.name")
    epochs, first = view.number("train.epochs"), view.number(f"{PRUNER}.min_epochs")
    if name not in (None, "none") and epochs is not None and first is not None and first > epochs:
        yield Fault(f"{PRUNER}.min_epochs", f"{first}: expected at most train.epochs, which is {epochs}")
    if name == "threshold":
        lower, upper = view.number(f"{PRUNER}.lower"), view.number(f"{PRUNER}.upper")
        if lower is None and upper is None and not view.is_broken(PRUNER):
            yield Fault(PRUNER, "threshold without lower or upper would stop nothing; expected one of them")
        if lower is not None and upper is not None and lower >= upper:
            yield Fault(f"{PRUNER}.lower", f"{lower:g}: expected less than upper, which is {upper:g}")


def _metrics_faults(view: View) -> Iterator[Fault]:
    metrics = view.get("search.metric")
    if not isinstance(metrics, list | tuple) or len(metrics) < 2:
        return
    algorithm, pruner = view.get("search.algorithm"), view.get(f"{PRUNER}.name")
    if algorithm in ONE_METRIC:
        yield Fault(
            "search.algorithm", f"{show(algorithm)} takes one metric; expected tpe, nsga2 or gp for {len(metrics)}"
        )
    if pruner not in (None, "none"):
        yield Fault(f"{PRUNER}.name", f"{show(pruner)} compares one metric, the file has {len(metrics)}; expected none")
    if view.number(f"{BUDGET}.target") is not None or view.number(f"{BUDGET}.no_better_in") is not None:
        key = "target" if view.number(f"{BUDGET}.target") is not None else "no_better_in"
        yield Fault(f"{BUDGET}.{key}", f"there is no best trial with {len(metrics)} metrics; use trials or hours")


def with_space_faults(space: SearchSpace, view: View) -> Iterator[Fault]:
    """Faults of algorithm and start points against a space whose grammar is right."""
    algorithm = view.get("search.algorithm")
    if algorithm == "grid":
        yield from (
            Fault(
                f"search.space.{node.path}",
                "a float range without end of values; algorithm grid needs a choice, grid or int, or a range with step",
            )
            for node in space.nodes
            if num_values(node) is None
        )
    if algorithm == "cmaes" and not any(_is_plain_number(node) for node in space.nodes):
        yield Fault("search.algorithm", "'cmaes' needs a float or int range without condition; the space has none")
    points = view.get("search.start_with")
    for i, point in enumerate(points if isinstance(points, list | tuple) else ()):
        if isinstance(point, Mapping):
            yield from _point_faults(space, dict(point_leaves(point)), f"search.start_with.{i}")


def space_advice(space: SearchSpace, view: View) -> Iterator[str]:
    """What an algorithm does not do with a space, in one sentence."""
    algorithm = view.get("search.algorithm")
    conditional = [node.path for node in space.nodes if node.when or node.inside]
    if algorithm == "gp" and conditional:
        yield f"search.algorithm gp draws conditional parameters at random ({listed(conditional)}); tpe models them"
    if algorithm == "cmaes":
        others = [node.path for node in space.nodes if node.kind != "constant" and not _is_plain_number(node)]
        if others:
            yield f"search.algorithm cmaes draws {listed(others)} at random: it models unconditional numbers alone"


def _is_plain_number(node: SpaceNode) -> bool:
    return node.kind in ("float", "int") and not node.when and not node.inside


def _point_faults(space: SearchSpace, point: Mapping[str, Any], place: str) -> Iterator[Fault]:
    paths = dict.fromkeys(path for node in space.nodes for path in node.provides)
    active = active_nodes(space, point)
    for path, value in point.items():
        owners = providers(path, space.nodes)
        owners = [node for node in owners if path in node.provides]
        if not owners:
            yield Fault(f"{place}.{path}", f"not a parameter of this search space{hint(path, paths)}")
            continue
        if not any(can_be(node, path, value) for node in owners):
            wanted = " or ".join(dict.fromkeys(values_text(node) for node in owners))
            yield Fault(f"{place}.{path}", f"{show(value)}: out of range; expected {wanted}")
            continue
        living = [node for node in active if path in node.provides]
        if not living:
            needs = " or ".join(filter(None, (when_text(node, space) for node in owners)))
            yield Fault(f"{place}.{path}", f"does not exist at this point; it needs {needs}")
        elif not any(value_in(node, point) for node in living):
            wanted = " or ".join(values_text(node) for node in living)
            yield Fault(f"{place}.{path}", f"no option has these values together; expected {wanted}")
