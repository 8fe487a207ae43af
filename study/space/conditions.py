"""Checks of conditions: the parent exists, can have the value, and does not depend on its own child."""

from collections.abc import Mapping

from study.space.nodes import Condition, Fault, Scalar, SpaceNode, takes
from study.space.spelling import hint, listed, show

Conditions = Mapping[str, tuple[Condition, ...]]


def condition_faults(conditions: Conditions, nodes: Mapping[str, SpaceNode]) -> list[Fault]:
    """Conditions on parameters that are missing, or on values that they never take.

    ``conditions`` has an entry for every parameter of the file, ``nodes`` one for every well formed parameter.
    """
    return [
        fault
        for path, when in conditions.items()
        for condition in when
        if condition.path not in conditions or condition.path in nodes
        for fault in _faults_of(condition, f"{path}.when.{condition.path}", nodes)
    ]


def _faults_of(condition: Condition, place: str, nodes: Mapping[str, SpaceNode]) -> list[Fault]:
    parent = nodes.get(condition.path)
    if parent is None:
        meant = hint(condition.path, nodes) or "; search it too, or drop the condition"
        return [Fault(place, f"not a parameter of this search space{meant}")]
    if parent.kind == "float":
        return [Fault(place, "a float range: expected a condition on a choice or int parameter")]
    return [
        Fault(place, f"{show(value)}: expected {_possible(parent)}{_meant(value, parent)}")
        for value in condition.values
        if not takes(parent, value)
    ]


def _possible(parent: SpaceNode) -> str:
    if parent.kind == "choice":
        return listed([text if isinstance(text, str) else show(text) for text in parent.choices], "or")
    step = f" in steps of {parent.step}" if parent.step is not None else ""
    return f"a whole number from {parent.low} to {parent.high}{step}"


def _meant(value: Scalar, parent: SpaceNode) -> str:
    return hint(str(value), (option for option in parent.choices if isinstance(option, str)))


def circle_faults(conditions: Conditions) -> list[Fault]:
    """One fault per circle of conditions, at its first parameter in file order."""
    faults: list[Fault] = []
    seen: set[str] = set()
    for start in conditions:
        if start not in seen and (circle := _circle_through(start, conditions)):
            seen |= set(circle)
            faults.append(Fault(f"{start}.when", f"conditions form a circle: {' -> '.join([*circle, start])}"))
    return faults


def _circle_through(start: str, conditions: Conditions) -> list[str]:
    """The shortest chain of conditions that leads from ``start`` back to it; empty when there is none."""
    chains = [[start]]
    visited: set[str] = set()
    while chains:
        chain = chains.pop(0)
        for condition in conditions.get(chain[-1], ()):
            if condition.path == start:
                return chain
            if condition.path not in visited:
                visited.add(condition.path)
                chains.append([*chain, condition.path])
    return []
