"""Checks of conditions: the parent exists, can have the value, and does not depend on its own child."""

from collections.abc import Mapping, Sequence

from study.space.nodes import NUMBERS, Condition, Fault, Scalar, SpaceNode, can_be, providers, value_text, values_at
from study.space.spelling import hint, listed, show

Conditions = Mapping[str, tuple[Condition, ...]]


def condition_faults(conditions: Conditions, nodes: Mapping[str, SpaceNode]) -> list[Fault]:
    """Conditions on parameters that are missing, or on values that they never take.

    ``conditions`` has an entry for every parameter of the file by its place, ``nodes`` one for every well formed one.
    """
    known = list(nodes.values())
    return [
        fault
        for place, when in conditions.items()
        for condition in when
        if condition.path not in conditions or providers(condition.path, known)
        for fault in _faults_of(condition, f"{place}.when.{condition.path}", known)
    ]


def _faults_of(condition: Condition, place: str, nodes: Sequence[SpaceNode]) -> list[Fault]:
    parents = providers(condition.path, nodes)
    if not parents:
        paths = dict.fromkeys(path for node in nodes for path in (node.path, *node.provides))
        meant = hint(condition.path, paths) or "; search it too, or drop the condition"
        return [Fault(place, f"not a parameter of this search space{meant}")]
    if all(parent.kind == "float" for parent in parents):
        return [Fault(place, "a float range: expected a condition on a choice or int parameter")]
    parent = parents[0]
    return [
        Fault(
            place, f"{show(value)}: expected {_possible(parent, condition.path)}{_meant(value, parent, condition.path)}"
        )
        for value in condition.values
        if not any(can_be(one, condition.path, value) for one in parents)
    ]


def _options(parent: SpaceNode, path: str) -> list[object]:
    return list(parent.choices) if path == parent.path else values_at(parent, path)


def _possible(parent: SpaceNode, path: str) -> str:
    if parent.kind not in NUMBERS:
        return listed([*dict.fromkeys(map(value_text, _options(parent, path)))], "or")
    step = f" in steps of {parent.step}" if parent.step is not None else ""
    return f"a whole number from {parent.low} to {parent.high}{step}"


def _meant(value: Scalar, parent: SpaceNode, path: str) -> str:
    return hint(str(value), (option for option in _options(parent, path) if isinstance(option, str)))


def circle_faults(conditions: Conditions, nodes: Mapping[str, SpaceNode]) -> list[Fault]:
    """One fault per circle of conditions, at its first parameter in file order."""
    parents = {place: _parents(when, nodes) for place, when in conditions.items()}
    faults: list[Fault] = []
    seen: set[str] = set()
    for start in parents:
        if start not in seen and (circle := _circle_through(start, parents)):
            seen |= set(circle)
            faults.append(Fault(f"{start}.when", f"conditions form a circle: {' -> '.join([*circle, start])}"))
    return faults


def _parents(when: Sequence[Condition], nodes: Mapping[str, SpaceNode]) -> list[str]:
    """Places of the parameters that conditions name; a path that none provides stands for itself."""
    found: list[str] = []
    for condition in when:
        places = [place for place, node in nodes.items() if condition.path in (node.path, *node.provides)]
        found += places or [condition.path]
    return found


def _circle_through(start: str, parents: Mapping[str, Sequence[str]]) -> list[str]:
    """The shortest chain of conditions that leads from ``start`` back to it; empty when there is none."""
    chains = [[start]]
    visited: set[str] = set()
    while chains:
        chain = chains.pop(0)
        for parent in parents.get(chain[-1], ()):
            if parent == start:
                return chain
            if parent not in visited:
                visited.add(parent)
                chains.append([*chain, parent])
    return []


def overlap_faults(nodes: Sequence[SpaceNode], places: Mapping[str, str]) -> list[Fault]:
    """Parameters that give a value to a path that another one gives a value to, unless options keep them apart."""
    faults: list[Fault] = []
    for i, node in enumerate(nodes):
        for other in nodes[:i]:
            shared = [path for path in node.provides if path in other.provides]
            if shared and not _are_apart(node, other, nodes):
                faults.append(Fault(places[node.key], f"{shared[0]} gets a value from {places[other.key]} too"))
                break
    return faults


def _are_apart(left: SpaceNode, right: SpaceNode, nodes: Sequence[SpaceNode]) -> bool:
    """Whether the two never exist together, because different options of one parameter bring them."""
    chains = [dict(_chain(node, nodes)) for node in (left, right)]
    if right.key in chains[0] or left.key in chains[1]:
        return True  # an option and what it brings along: a mapping has each path once
    return any(owner in chains[1] and chains[1][owner] != option for owner, option in chains[0].items())


def _chain(node: SpaceNode, nodes: Sequence[SpaceNode]) -> list[tuple[str, int]]:
    chain: list[tuple[str, int]] = []
    while node.inside is not None:
        chain.append(node.inside)
        node = next(one for one in nodes if one.key == node.inside[0])
    return chain
