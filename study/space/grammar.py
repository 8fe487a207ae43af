"""From plain data to a search space: every fault of the grammar at once."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from study.errors import ConfigError
from study.space.conditions import circle_faults, condition_faults
from study.space.nodes import Condition, Fault, Kind, Scalar, SearchSpace, SpaceNode, divides, same
from study.space.spelling import count_problems, hint, show

KINDS: Final[tuple[Kind, ...]] = ("choice", "float", "int")
KEYS: Final = (*KINDS, "scale", "step", "when")
SCALES: Final = ("linear", "log")
FORMS: Final = "one of {choice: [...]}, {float: [low, high]}, {int: [low, high]}"


def parse_space(raw: object) -> SearchSpace:
    """Read a search space from plain data.

    Raises:
        ConfigError: the grammar is broken; all faults at once.
    """
    space, faults = check_space(raw)
    if faults:
        lines = "\n".join(f"  {fault.path}: {fault.message}" for fault in faults)
        raise ConfigError(f"search space: {count_problems(len(faults))}\n{lines}", "correct the search space")
    return space


def check_space(raw: object) -> tuple[SearchSpace, list[Fault]]:
    """Read a search space as far as it can be read; faults carry paths relative to the space.

    The space holds the parameters that are well formed on their own. It can be walked only when there is no fault.
    """
    if not isinstance(raw, Mapping):
        return SearchSpace(nodes=()), [Fault("", f"{show(raw)}: expected a mapping of parameters to ranges")]
    if not raw:
        example = "optim.lr: {float: [0.0001, 0.01]}"
        return SearchSpace(nodes=()), [Fault("", f"empty: expected at least one parameter, as in {example}")]
    faults: list[Fault] = []
    nodes: dict[str, SpaceNode] = {}
    conditions: dict[str, tuple[Condition, ...]] = {}
    for key, value in raw.items():
        path = str(key)
        conditions[path], found = _read_when(path, value)
        node, node_faults = _read_node(path, value)
        faults += node_faults + found
        if node is not None and not found:
            nodes[path] = replace(node, when=conditions[path])
    faults += condition_faults(conditions, nodes) + circle_faults(conditions)
    return SearchSpace(nodes=tuple(nodes.values())), faults


def _read_node(path: str, raw: object) -> tuple[SpaceNode | None, list[Fault]]:
    """The parameter without its conditions when it is well formed on its own, and every fault of its line."""
    if not isinstance(raw, Mapping):
        return None, [Fault(path, f"{show(raw)}: expected {FORMS}")]
    faults = [Fault(f"{path}.{key}", f"unknown key{hint(str(key), KEYS)}") for key in raw if key not in KEYS]
    kinds = [kind for kind in KINDS if kind in raw]
    if len(kinds) != 1:
        found = f"{' and '.join(kinds)} together" if kinds else "no range"
        return None, [*faults, Fault(path, f"{found}: expected {FORMS}")]
    kind = kinds[0]
    fields, kind_faults = _read_choices(path, raw) if kind == "choice" else _read_range(path, raw, kind=kind)
    faults += kind_faults
    return (None if faults else SpaceNode(path=path, kind=kind, **fields)), faults


def _read_choices(path: str, raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    faults = [Fault(f"{path}.{key}", "only a float or int range has it") for key in ("scale", "step") if key in raw]
    values = raw["choice"]
    place = f"{path}.choice"
    if not isinstance(values, list | tuple):
        return {}, [*faults, Fault(place, f"{show(values)}: expected a list of values")]
    if not values:
        return {}, [*faults, Fault(place, "empty: expected at least one value")]
    for i, value in enumerate(values):
        if not isinstance(value, Scalar):
            faults.append(Fault(f"{place}.{i}", f"{show(value)}: expected text, a number, true, false or null"))
        elif any(same(value, other) for other in values[:i]):
            faults.append(Fault(f"{place}.{i}", f"{show(value)}: stands there twice"))
    return {"choices": tuple(values)}, faults


def _read_range(path: str, raw: Mapping[str, Any], *, kind: Kind) -> tuple[dict[str, Any], list[Fault]]:
    place = f"{path}.{kind}"
    faults: list[Fault] = []
    scale = raw.get("scale", "linear")
    if scale not in SCALES:
        faults.append(Fault(f"{path}.scale", f"{show(scale)}: expected linear or log{hint(str(scale), SCALES)}"))
    ends = raw[kind]
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        size = f"a list of {len(ends)}" if isinstance(ends, list | tuple) else show(ends)
        return {}, [*faults, Fault(place, f"{size}: expected [low, high]")]
    wrong = [Fault(f"{place}.{i}", message) for i, end in enumerate(ends) if (message := _number_fault(end, kind))]
    if wrong:
        return {}, faults + wrong
    low, high = (float(end) if kind == "float" else end for end in ends)
    if low >= high:
        faults.append(Fault(place, f"{show(ends[0])} to {show(ends[1])}: expected low below high"))
    elif scale == "log" and low <= 0:
        faults.append(Fault(place, f"low is {show(ends[0])}: expected a number above 0 with scale: log"))
    step, found = _read_step(path, raw, span=high - low)
    return {"low": low, "high": high, "log": scale == "log", "step": step}, faults + found


def _read_step(path: str, raw: Mapping[str, Any], *, span: float) -> tuple[float | None, list[Fault]]:
    step, place = raw.get("step"), f"{path}.step"
    if step is None:
        return None, []
    if message := _number_fault(step, "int" if "int" in raw else "float"):
        return None, [Fault(place, message)]
    if raw.get("scale") == "log":
        return None, [Fault(place, "a range with scale: log has no step")]
    if step <= 0:
        return None, [Fault(place, f"{show(step)}: expected a number above 0")]
    if span > 0 and not divides(step, span):
        return None, [Fault(place, f"{show(step)}: expected a step that leads from low exactly to high")]
    return step, []


def _number_fault(value: object, kind: str) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return None
    if kind == "int":
        return f"{show(value)}: expected a whole number"
    return None if isinstance(value, float) and math.isfinite(value) else f"{show(value)}: expected a number"


def _read_when(path: str, raw: object) -> tuple[tuple[Condition, ...], list[Fault]]:
    if not isinstance(raw, Mapping) or "when" not in raw:
        return (), []
    when = raw["when"]
    if not isinstance(when, Mapping) or not when:
        example = "{loss.name: focal}"
        return (), [Fault(f"{path}.when", f"{show(when)}: expected a parameter and its value, as in {example}")]
    conditions: list[Condition] = []
    faults: list[Fault] = []
    for parent, values in when.items():
        listed = list(values) if isinstance(values, list | tuple) else [values]
        if not listed or not all(isinstance(value, Scalar) for value in listed):
            faults.append(Fault(f"{path}.when.{parent}", f"{show(values)}: expected a value or a list of values"))
        conditions.append(Condition(path=str(parent), values=tuple(listed)))
    return tuple(conditions), faults
