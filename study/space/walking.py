"""Going through a search space: values for the parameters that exist, and rows for a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from study.space.nodes import Condition, Scalar, SearchSpace, SpaceNode, same, values_text
from study.space.spelling import show


class Suggest(Protocol):
    """Whoever decides the values: a search algorithm, a random generator or a test."""

    def choice(self, path: str, options: Sequence[Scalar]) -> Scalar:
        """One of ``options``."""
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


def walk(space: SearchSpace, suggest: Suggest) -> dict[str, Scalar]:
    """Ask for every parameter that exists, parents before children; those whose condition fails are left out."""
    params: dict[str, Scalar] = {}
    for node in space.ordered():
        if not _holds(node, params):
            continue
        is_choice = node.kind == "choice"
        params[node.path] = suggest.choice(node.path, node.choices) if is_choice else suggest.number(node.path, node)
    return params


def is_active(space: SearchSpace, path: str, params: Mapping[str, Scalar]) -> bool:
    """Whether the parameter exists under ``params``: its conditions hold, and so do those of its parents.

    Raises:
        KeyError: ``path`` is not searched.
    """
    node = space.node(path)
    if node is None:
        raise KeyError(path)
    return _holds(node, params) and all(is_active(space, condition.path, params) for condition in node.when)


def describe(space: SearchSpace) -> list[SpaceRow]:
    """One row of text per parameter, parents before children."""
    return [
        SpaceRow(path=node.path, values=values_text(node), scale=_scale_text(node), when=_when_text(node.when))
        for node in space.ordered()
    ]


def _holds(node: SpaceNode, params: Mapping[str, Scalar]) -> bool:
    return all(
        condition.path in params and any(same(params[condition.path], value) for value in condition.values)
        for condition in node.when
    )


def _scale_text(node: SpaceNode) -> str:
    if node.kind == "choice":
        return ""
    return "log" if node.log else "linear"


def _when_text(when: Sequence[Condition]) -> str:
    def text(value: Scalar) -> str:
        return value if isinstance(value, str) else show(value)

    return " and ".join(f"{part.path} = {' | '.join(map(text, part.values))}" for part in when)
