"""From plain data to a search space: every fault of the grammar at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from study.errors import ConfigError
from study.space.conditions import circle_faults, condition_faults, overlap_faults
from study.space.nodes import Condition, Fault, Kind, Scalar, SearchSpace, SpaceNode, divides
from study.space.options import flatten, read_option, repeated
from study.space.spelling import count_problems, hint, show

KINDS: Final[tuple[Kind, ...]] = ("choice", "float", "int", "grid", "constant")
LISTS: Final[tuple[Kind, ...]] = ("choice", "grid")
KEYS: Final = (*KINDS, "scale", "step", "when")
SCALES: Final = ("linear", "log")
FORMS: Final = "one of {choice: [...]}, {float: [low, high]}, {int: [low, high]}, {grid: [...]}, {constant: value}"
MAX_NODES: Final = 1000


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
    reading = _Reading()
    lines = flatten(raw)
    seen: set[str] = set()
    for path, value in lines:
        if path in seen:
            reading.faults.append(Fault(path, "stands there twice, once in a group"))
            continue
        seen.add(path)
        reading.line(path, value, place=path)
    if len(reading.nodes) > MAX_NODES:
        return SearchSpace(nodes=()), [Fault("", f"{len(reading.nodes)} parameters: expected at most {MAX_NODES}")]
    nodes = list(reading.nodes.values())
    places = {node.key: place for place, node in reading.nodes.items()}
    faults = reading.faults + condition_faults(reading.conditions, reading.nodes)
    faults += circle_faults(reading.conditions, reading.nodes) + overlap_faults(nodes, places)
    return SearchSpace(nodes=tuple(nodes)), faults


@dataclass(slots=True)
class _Reading:
    """What has been read: parameters and conditions by their place in the file, and the faults."""

    nodes: dict[str, SpaceNode] = field(default_factory=dict)
    conditions: dict[str, tuple[Condition, ...]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def line(self, path: str, raw: object, *, place: str, inside: tuple[SpaceNode, int] | None = None) -> None:
        """Read the line of one parameter, and of those that its options bring along."""
        self.conditions[place], found = _read_when(place, raw)
        node, brought, faults = _read_node(path, raw, place=place)
        self.faults += faults + found
        if node is None or found:
            return
        owner = {"inside": (inside[0].key, inside[1]), "owner_path": inside[0].path} if inside else {}
        node = replace(node, when=self.conditions[place], **owner)  # type: ignore[arg-type]  # mypy sees one type
        self.nodes[place] = node
        for number, relative, line in brought:
            below = f"{place}.{node.kind}.{number}.{relative}"
            self.line(f"{path}.{relative}", line, place=below, inside=(node, number))


Brought = list[tuple[int, str, Any]]


def _read_node(path: str, raw: object, *, place: str) -> tuple[SpaceNode | None, Brought, list[Fault]]:
    """The parameter without its conditions when it is well formed on its own, what it brings, and its faults."""
    if isinstance(raw, Scalar):
        return SpaceNode(path=path, kind="constant", choices=(raw,)), [], []
    if not isinstance(raw, Mapping):
        return None, [], [Fault(place, f"{show(raw)}: expected {FORMS}")]
    faults = [Fault(f"{place}.{key}", f"unknown key{hint(str(key), KEYS)}") for key in raw if key not in KEYS]
    kinds = [kind for kind in KINDS if kind in raw]
    if len(kinds) != 1:
        found = f"{' and '.join(kinds)} together" if kinds else "no range"
        return None, [], [*faults, Fault(place, f"{found}: expected {FORMS}")]
    kind, brought = kinds[0], Brought()
    if kind in (*LISTS, "constant"):
        fields, brought, kind_faults = _read_options(place, raw, kind=kind)
    else:
        fields, kind_faults = _read_range(place, raw, kind=kind)
    faults += kind_faults
    return (None if faults else SpaceNode(path=path, kind=kind, **fields)), brought, faults


def _read_options(place: str, raw: Mapping[str, Any], *, kind: Kind) -> tuple[dict[str, Any], Brought, list[Fault]]:
    """The options of a choice or grid, or the one value of a constant."""
    faults = [Fault(f"{place}.{key}", "only a float or int range has it") for key in ("scale", "step") if key in raw]
    values, below = raw[kind], f"{place}.{kind}"
    if kind == "constant":
        value, lines, found = read_option(values, below)
        found += [Fault(f"{below}.{path}", "a range: expected a value that stays the same") for path, _ in lines]
        return {"choices": (value,)}, [], faults + found
    if not isinstance(values, list | tuple):
        return {}, [], [*faults, Fault(below, f"{show(values)}: expected a list of values")]
    if not values:
        return {}, [], [*faults, Fault(below, "empty: expected at least one value")]
    options, brought = [], Brought()
    for i, value in enumerate(values):
        option, lines, found = read_option(value, f"{below}.{i}")
        faults += found
        options.append(option)
        brought += [(i, relative, line) for relative, line in lines]
    faults += [] if faults else repeated(options, below)
    return {"choices": tuple(options)}, brought, faults


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
