"""A search space as a tree, and a dry run of a search as text."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from study.report.words import cut, params_text
from study.space import SearchSpace, SpaceNode, providers
from study.space.nodes import value_text, values_text

BRANCH: Final = ("├─ ", "└─ ")
STEM: Final = ("│  ", "   ")


def space_tree(space: SearchSpace) -> list[str]:
    """One line per parameter, below the parameter whose value makes it exist; further conditions stand beside it."""
    below: dict[str, list[SpaceNode]] = {}
    for node in space.nodes:
        below.setdefault(_parent(node, space), []).append(node)

    def lines(parent: str, indent: str) -> list[str]:
        found = []
        children = below.get(parent, [])
        for i, node in enumerate(children):
            is_last = i == len(children) - 1
            found.append(f"{indent}{BRANCH[is_last]}{_text(node, space)}")
            found += lines(node.key, indent + STEM[is_last])
        return found

    return lines("", "")


def dry_run_text(
    space: SearchSpace, *, size: int | None, samples: Sequence[Mapping[str, Any]], cost: Sequence[str], width: int
) -> str:
    """Everything that ``study run --dry-run`` prints about a search."""
    count = "infinite: at least one parameter is continuous" if size is None else f"{size:,} configurations"
    lines = ["Search space", *(cut(line, width) for line in space_tree(space)), "", f"Size: {count}", ""]
    lines.append(f"The first {len(samples)} configurations, as long as no result is known")
    lines += [cut(f"  {number:>2}  {params_text(params)}", width) for number, params in enumerate(samples)]
    return "\n".join([*lines, "", "Cost", *(f"  {line}" for line in cost)])


def _parent(node: SpaceNode, space: SearchSpace) -> str:
    """Key of the parameter below which a line stands; empty for those that always exist."""
    if node.inside is not None:
        return node.inside[0]
    if not node.when:
        return ""
    return providers(node.when[0].path, space.nodes)[0].key


def _text(node: SpaceNode, space: SearchSpace) -> str:
    text = f"{node.path}: {values_text(node)}{' (log)' if node.log else ''}"
    conditions = [f"{part.path} = {' | '.join(map(value_text, part.values))}" for part in node.when]
    if node.inside is not None:
        conditions.insert(0, value_text(space.at(node.inside[0]).choices[node.inside[1]]))
    return f"{text}   when {' and '.join(conditions)}" if conditions else text
