"""The records of a search space: parameters, their ranges and their conditions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from study.space.spelling import show

Scalar = str | bool | int | float | None
Kind = Literal["choice", "grid", "float", "int", "constant"]
NUMBERS: tuple[Kind, ...] = ("float", "int")


@dataclass(frozen=True, slots=True)
class Branch:
    """An option that sets several values at once: pairs of a path below the parameter's own and a value.

    ``{name: alpa, preset: v2}`` as an option of ``loss`` sets ``loss.name`` and ``loss.preset``.
    """

    leaves: tuple[tuple[str, Any], ...]


Value = Scalar | tuple[Any, ...] | Branch


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
    for every value; ``choices`` belong to ``choice`` and ``grid`` (every option is tried in turn), and a ``constant``
    has one. All conditions in ``when`` must hold. ``inside`` is the key of the parameter and the number of its option
    that brings this one along; then ``path`` alone need not be unique, and ``key`` is.
    """

    path: str
    kind: Kind
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    when: tuple[Condition, ...] = ()
    inside: tuple[str, int] | None = None
    owner_path: str = ""

    @property
    def key(self) -> str:
        """Unique name: the path, or ``loss[1].gamma`` for a parameter that the second option of ``loss`` brings."""
        if self.inside is None:
            return self.path
        owner, option = self.inside
        return f"{owner}[{option}]{self.path.removeprefix(self.owner_path)}"

    @property
    def provides(self) -> tuple[str, ...]:
        """Dotted paths that get a value when the parameter is drawn."""
        if not any(isinstance(option, Branch) for option in self.choices):
            return (self.path,)
        paths: dict[str, None] = {}
        for option in self.choices:
            leaves = [f"{self.path}.{leaf}" for leaf, _ in option.leaves] if isinstance(option, Branch) else [self.path]
            paths |= dict.fromkeys(leaves)
        return tuple(paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """All searched parameters, in file order; made by ``parse_space``, so every condition is known to be possible."""

    nodes: tuple[SpaceNode, ...]

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def paths(self) -> tuple[str, ...]:
        """Dotted path of every parameter, in file order."""
        return tuple(dict.fromkeys(node.path for node in self.nodes))

    def node(self, path: str) -> SpaceNode | None:
        """The first parameter with this path; None when it is not searched."""
        return next((node for node in self.nodes if node.path == path), None)

    def at(self, key: str) -> SpaceNode:
        """The parameter with this key."""
        return next(node for node in self.nodes if node.key == key)

    def ordered(self) -> tuple[SpaceNode, ...]:
        """File order, but every parameter after those that its conditions name."""
        return tuple(_parents_first(self.nodes))

    def to_raw(self) -> dict[str, Any]:
        """The space as it stands in a study file; ``parse_space`` gives an equal space back."""
        return {node.path: _node_to_raw(node, self.nodes) for node in self.nodes if node.inside is None}


def takes(node: SpaceNode, value: object) -> bool:
    """Whether the parameter can have this value."""
    if node.kind not in NUMBERS:
        return any(same(value, option) for option in node.choices)
    if isinstance(value, bool) or not isinstance(value, int | float) or not node.low <= value <= node.high:
        return False
    if node.kind == "int" and value != int(value):
        return False
    return node.step is None or divides(node.step, value - node.low)


def can_be(node: SpaceNode, path: str, value: object) -> bool:
    """Whether the parameter can give this value to ``path``, which is its own or one that its options set."""
    if path == node.path:
        return takes(node, value)
    return any(same(found, value) for found in values_at(node, path))


def values_at(node: SpaceNode, path: str) -> list[Any]:
    """The values that the options of a parameter give to a path below it."""
    leaf = path.removeprefix(f"{node.path}.")
    return [
        value for option in node.choices if isinstance(option, Branch) for key, value in option.leaves if key == leaf
    ]


def same(left: object, right: object) -> bool:
    """Equality that keeps ``true`` and 1 apart, also inside lists."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Branch) and isinstance(right, Branch):
        return [key for key, _ in left.leaves] == [key for key, _ in right.leaves] and all(
            same(one, other) for (_, one), (_, other) in zip(left.leaves, right.leaves, strict=True)
        )
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def plain(value: Any) -> Any:
    """A value as plain data: lists for tuples, nested mappings for branches."""
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    if not isinstance(value, Branch):
        return value
    raw: dict[str, Any] = {}
    for path, leaf in value.leaves:
        _insert(raw, path, plain(leaf))
    return raw


def _insert(raw: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for key in above:
        raw = raw.setdefault(key, {})
    raw[last] = value


def providers(path: str, nodes: Sequence[SpaceNode]) -> list[SpaceNode]:
    """The parameters that give a value to ``path``."""
    return [node for node in nodes if path in node.provides or path == node.path]


def _parents_first(nodes: Sequence[SpaceNode]) -> Iterator[SpaceNode]:
    parents = {
        node.key: {
            other.key for condition in node.when for other in providers(condition.path, nodes) if other.key != node.key
        }
        | ({node.inside[0]} if node.inside else set())
        for node in nodes
    }
    waiting, done = list(nodes), set[str]()
    while waiting:
        ready = next(node for node in waiting if parents[node.key] <= done)
        waiting.remove(ready)
        done.add(ready.key)
        yield ready


def _node_to_raw(node: SpaceNode, nodes: Sequence[SpaceNode]) -> dict[str, Any]:
    raw: dict[str, Any]
    if node.kind == "constant":
        raw = {"constant": plain(node.choices[0])}
    elif node.kind in NUMBERS:
        raw = {node.kind: [node.low, node.high]}
    else:
        raw = {node.kind: [_option_to_raw(node, i, nodes) for i in range(len(node.choices))]}
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


def _option_to_raw(node: SpaceNode, number: int, nodes: Sequence[SpaceNode]) -> Any:
    raw = plain(node.choices[number])
    for child in nodes:
        if child.inside == (node.key, number):
            _insert(raw, child.path.removeprefix(f"{node.path}."), _node_to_raw(child, nodes))
    return raw


def divides(step: float, span: float) -> bool:
    """Whether whole steps fill the span, up to rounding of floats."""
    ratio = span / step
    return abs(ratio - round(ratio)) < 1e-9 * max(1.0, abs(ratio))


def value_text(value: object) -> str:
    """A value in a table: words as they are, ``{name=alpa preset=v2}`` for a branch, ``[1, 2]`` for a list."""
    if isinstance(value, Branch):
        return "{" + " ".join(f"{path}={value_text(leaf)}" for path, leaf in value.leaves) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return value if isinstance(value, str) else show(value)


def values_text(node: SpaceNode) -> str:
    """What the parameter can be, as text: ``ce | emd`` or ``float 0.5 to 5``."""
    if node.kind not in NUMBERS:
        options = " | ".join(map(value_text, node.choices))
        return f"{node.kind} {options}" if node.kind != "choice" else options
    step = f", step {node.step:g}" if node.step is not None else ""
    return f"{node.kind} {node.low:g} to {node.high:g}{step}"


def params_of(node: SpaceNode, value: Any) -> Mapping[str, Any]:
    """What a drawn value gives to which paths."""
    if isinstance(value, Branch):
        return {f"{node.path}.{leaf}": plain(entry) for leaf, entry in value.leaves}
    return {node.path: plain(value)}
