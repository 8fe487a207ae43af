"""The records of a search space: parameters, their ranges and their conditions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from study.space.spelling import show

Scalar = str | bool | int | float | None
Kind = Literal["choice", "float", "int"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a study file: the dotted path of the place, and what was found and expected."""

    path: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The parameter exists only while ``path`` has one of ``values``."""

    path: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceNode:
    """One searched parameter.

    ``low`` and ``high`` are both included; ``log`` draws evenly in the logarithm; ``step`` is the grid of a range, None
    for every value; ``choices`` belong to kind ``choice`` alone. All conditions in ``when`` must hold.
    """

    path: str
    kind: Kind
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Scalar, ...] = ()
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """All searched parameters, in file order; made by ``parse_space``, so every condition is known to be possible."""

    nodes: tuple[SpaceNode, ...]

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def paths(self) -> tuple[str, ...]:
        """Dotted path of every parameter, in file order."""
        return tuple(node.path for node in self.nodes)

    def node(self, path: str) -> SpaceNode | None:
        """The parameter with this path; None when it is not searched."""
        return next((node for node in self.nodes if node.path == path), None)

    def ordered(self) -> tuple[SpaceNode, ...]:
        """File order, but every parameter after those that its conditions name."""
        return tuple(_parents_first(self.nodes))

    def to_raw(self) -> dict[str, dict[str, Any]]:
        """The space as it stands in a study file; ``parse_space`` gives an equal space back."""
        return {node.path: _node_to_raw(node) for node in self.nodes}


def takes(node: SpaceNode, value: Scalar) -> bool:
    """Whether the parameter can have this value."""
    if node.kind == "choice":
        return any(same(value, option) for option in node.choices)
    if isinstance(value, bool) or not isinstance(value, int | float) or not node.low <= value <= node.high:
        return False
    if node.kind == "int" and value != int(value):
        return False
    return node.step is None or divides(node.step, value - node.low)


def same(left: object, right: object) -> bool:
    """Equality that keeps ``true`` and 1 apart."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _parents_first(nodes: Sequence[SpaceNode]) -> Iterator[SpaceNode]:
    waiting, done = list(nodes), set[str]()
    while waiting:
        ready = next(node for node in waiting if all(condition.path in done for condition in node.when))
        waiting.remove(ready)
        done.add(ready.path)
        yield ready


def _node_to_raw(node: SpaceNode) -> dict[str, Any]:
    raw: dict[str, Any] = {node.kind: list(node.choices) if node.kind == "choice" else [node.low, node.high]}
    if node.log:
        raw["scale"] = "log"
    if node.step is not None:
        raw["step"] = node.step
    if node.when:
        raw["when"] = {
            condition.path: condition.values[0] if len(condition.values) == 1 else list(condition.values)
            for condition in node.when
        }
    return raw


def divides(step: float, span: float) -> bool:
    """Whether whole steps fill the span, up to rounding of floats."""
    ratio = span / step
    return abs(ratio - round(ratio)) < 1e-9 * max(1.0, abs(ratio))


def values_text(node: SpaceNode) -> str:
    """What the parameter can be, as text: ``ce | emd`` or ``float 0.5 to 5``."""
    if node.kind == "choice":
        return " | ".join(text if isinstance(text, str) else show(text) for text in node.choices)
    step = f", step {node.step:g}" if node.step is not None else ""
    return f"{node.kind} {node.low:g} to {node.high:g}{step}"
