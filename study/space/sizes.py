"""How many configurations a space has, all of them in order, and the one at a point of the unit cube."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from study.space.nodes import NUMBERS, SearchSpace, SpaceNode, params_of
from study.space.walking import exists

SEED: Final = "seed"


def finite_values(node: SpaceNode) -> list[Any] | None:
    """All values of a parameter in order; None for a float range without a step."""
    if node.kind not in NUMBERS:
        return list(node.choices)
    if node.kind == "int":
        return list(range(int(node.low), int(node.high) + 1, int(node.step or 1)))
    if node.step is None:
        return None
    return [node.low + i * node.step for i in range(num_values(node) or 0)]


def num_values(node: SpaceNode) -> int | None:
    """How many values a parameter has; None for a float range without a step."""
    if node.kind not in NUMBERS:
        return len(node.choices)
    step = node.step if node.step is not None else 1 if node.kind == "int" else None
    return None if step is None else round((node.high - node.low) / step) + 1


def count(space: SearchSpace) -> int | None:
    """Number of configurations; None when a float range without a step can occur in one."""
    return _Counting(space).below(0, {}, {})


class _Counting:
    """Counts the configurations below a parameter; what no later condition names is multiplied, not walked through."""

    def __init__(self, space: SearchSpace) -> None:
        self._space, self._nodes = space, space.ordered()
        self._later = [_named_after(self._nodes, i + 1) for i in range(len(self._nodes))]
        self._memo: dict[Any, int | None] = {}

    def below(self, i: int, params: dict[str, Any], chosen: dict[str, Any]) -> int | None:
        """Configurations of the parameters from ``i`` on, given the values of those before."""
        if i == len(self._nodes):
            return 1
        paths, keys = _named_after(self._nodes, i)
        state = (i, *(repr(params.get(path)) for path in paths), *(repr(chosen.get(key)) for key in keys))
        if state not in self._memo:
            self._memo[state] = self._count(i, params, chosen)
        return self._memo[state]

    def _count(self, i: int, params: dict[str, Any], chosen: dict[str, Any]) -> int | None:
        node, (paths, keys) = self._nodes[i], self._later[i]
        if not exists(node, self._space, params=params, chosen=chosen):
            return self.below(i + 1, params, chosen)
        if not set(paths) & set(node.provides) and node.key not in keys:
            number, after = num_values(node), self.below(i + 1, params, chosen)
            return None if number is None or after is None else number * after
        total = 0
        for value in finite_values(node) or []:
            one = self.below(i + 1, {**params, **params_of(node, value)}, {**chosen, node.key: value})
            if one is None:
                return None
            total += one
        return total


def _named_after(nodes: Sequence[SpaceNode], i: int) -> tuple[list[str], list[str]]:
    """Paths and keys that the conditions of the parameters from ``i`` on name."""
    paths = {condition.path for node in nodes[i:] for condition in node.when}
    return sorted(paths), sorted({node.inside[0] for node in nodes[i:] if node.inside})


def cells(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Every configuration of a finite space in file order, the last parameter fastest, ``seed`` innermost."""
    nodes = sorted(space.ordered(), key=lambda node: node.path == SEED)

    def below(i: int, params: dict[str, Any], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if i == len(nodes):
            yield params
            return
        node = nodes[i]
        if not exists(node, space, params=params, chosen=chosen):
            yield from below(i + 1, params, chosen)
            return
        for value in finite_values(node) or []:
            yield from below(i + 1, {**params, **params_of(node, value)}, {**chosen, node.key: value})

    return below(0, {}, {})


def grid_turn(space: SearchSpace, number: int) -> dict[str, Any]:
    """Options of the ``grid`` parameters for trial ``number``: all combinations in turn, the last one fastest."""
    turn: dict[str, Any] = {}
    for node in reversed([node for node in space.nodes if node.kind == "grid"]):
        number, option = divmod(number, len(node.choices))
        turn[node.key] = node.choices[option]
    return turn


class UnitPoint:
    """Answers a walk with the values at a point of the unit cube, one coordinate for each parameter of the space."""

    def __init__(self, space: SearchSpace, point_d: Sequence[float], *, fixed: Mapping[str, Any] | None = None) -> None:
        self._at = {node.key: value for node, value in zip(space.nodes, point_d, strict=True)}
        self._fixed = fixed or {}

    def choice(self, path: str, options: Sequence[Any]) -> Any:
        """The option whose equal share of the unit interval holds the coordinate."""
        if path in self._fixed:
            return self._fixed[path]
        return options[min(len(options) - 1, int(self._at[path] * len(options)))]

    def number(self, path: str, node: SpaceNode) -> float:
        """The number at the coordinate, evenly in the range or in its logarithm, on the node's steps."""
        return from_unit(node, self._at[path])


def from_unit(node: SpaceNode, unit: float) -> float:
    """The number of a range at ``unit`` from 0 to 1; whole numbers and steps get equal shares of it."""
    count_ = None if node.log else num_values(node)
    if count_ is not None:
        number = node.low + min(count_ - 1, int(unit * count_)) * (node.step or 1)
        return int(number) if node.kind == "int" else number
    low, high = node.low, node.high
    if node.kind == "int":  # half a step of room on both sides, so that the ends are no rarer than their neighbours
        low, high = low - 0.5, high + 0.5
    drawn = math.exp(math.log(low) + unit * (math.log(high) - math.log(low))) if node.log else low + unit * (high - low)
    drawn = min(node.high, max(node.low, drawn))
    return round(drawn) if node.kind == "int" else drawn
