"""Going through a search space: values for the parameters that exist, and rows for a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from study.space.nodes import (
    NUMBERS,
    Branch,
    Condition,
    SearchSpace,
    SpaceNode,
    params_of,
    plain,
    same,
    takes,
    value_text,
    values_text,
)


class Suggest(Protocol):
    """Whoever decides the values: a search algorithm, a random generator or a test."""

    def choice(self, path: str, options: Sequence[Any]) -> Any:
        """One of ``options``; ``path`` is the parameter's key."""
        ...

    def number(self, path: str, node: SpaceNode) -> float:
        """A number of the range of ``node``; a whole one when its kind is ``int``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRow:
    """One parameter as text for a table; ``scale`` and ``when`` are empty where they do not apply."""

    path: str
    values: str
    scale: str
    when: str


def walk(space: SearchSpace, suggest: Suggest) -> dict[str, Any]:
    """Ask for every parameter that exists, parents before children; those whose condition fails are left out.

    An option that sets several values gives each of them under its own dotted path.
    """
    params: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for node in space.ordered():
        if not exists(node, space, params=params, chosen=chosen):
            continue
        if node.kind == "constant":
            value: Any = node.choices[0]
        elif node.kind in NUMBERS:
            value = suggest.number(node.key, node)
        else:
            value = suggest.choice(node.key, node.choices)
        chosen[node.key] = value
        params |= params_of(node, value)
    return params


def is_active(space: SearchSpace, path: str, params: Mapping[str, Any]) -> bool:
    """Whether the parameter exists under ``params``: its conditions hold, and so do those of its parents.

    Raises:
        KeyError: ``path`` is not searched.
    """
    if space.node(path) is None:
        raise KeyError(path)
    return any(node.path == path for node in active_nodes(space, params))


def active_nodes(space: SearchSpace, params: Mapping[str, Any]) -> list[SpaceNode]:
    """The parameters that exist under ``params``, parents first, whether they have a value there or not."""
    known: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    found = []
    for node in space.ordered():
        if not exists(node, space, params=known, chosen=chosen):
            continue
        found.append(node)
        value = value_in(node, params)
        if value is not None:
            chosen[node.key] = value[0]
            known |= params_of(node, value[0])
    return found


def value_in(node: SpaceNode, params: Mapping[str, Any]) -> tuple[Any] | None:
    """The parameter's value in ``params``, alone in a tuple; None when it has none or one that it cannot take.

    Of several options whose values all stand in ``params``, the one with the most values counts.
    """
    fitting = [option for option in node.choices if isinstance(option, Branch) and _stands(node, option, params)]
    if fitting:
        return (max(fitting, key=lambda option: len(option.leaves)),)
    if node.path not in params or not takes(node, params[node.path]):
        return None
    value = params[node.path]
    return (next((option for option in node.choices if same(option, value)), value),)


def describe(space: SearchSpace) -> list[SpaceRow]:
    """One row of text per parameter, parents before children."""
    return [
        SpaceRow(path=node.path, values=values_text(node), scale=scale_text(node), when=when_text(node, space))
        for node in space.ordered()
    ]


def scale_text(node: SpaceNode) -> str:
    """``log`` or ``linear``; empty where it does not apply."""
    if node.kind not in NUMBERS:
        return ""
    return "log" if node.log else "linear"


def when_text(node: SpaceNode, space: SearchSpace) -> str:
    """The conditions of a parameter as text: ``loss.name = focal | emd and optim.name = sgd``."""
    parts = [f"{part.path} = {' | '.join(map(value_text, part.values))}" for part in node.when]
    if node.inside is not None:
        owner = space.at(node.inside[0])
        parts.insert(0, f"{owner.path} = {value_text(owner.choices[node.inside[1]])}")
    return " and ".join(parts)


def exists(node: SpaceNode, space: SearchSpace, *, params: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    """Whether a parameter exists under values by path (``params``) and by key of their parameter (``chosen``)."""
    if node.inside is not None:
        owner, option = node.inside
        if owner not in chosen or not same(chosen[owner], space.at(owner).choices[option]):
            return False
    return all(_holds(condition, params) for condition in node.when)


def _holds(condition: Condition, params: Mapping[str, Any]) -> bool:
    return condition.path in params and any(same(params[condition.path], value) for value in condition.values)


def _stands(node: SpaceNode, option: Branch, params: Mapping[str, Any]) -> bool:
    return all(
        f"{node.path}.{leaf}" in params and same(params[f"{node.path}.{leaf}"], plain(value))
        for leaf, value in option.leaves
    )
