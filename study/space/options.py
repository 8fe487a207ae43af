"""Options of a choice or a grid: single values, lists, and branches that set several values and may bring ranges."""

from collections.abc import Mapping
from typing import Any, Final

from study.space.nodes import Branch, Fault, Scalar, same
from study.space.spelling import show

RANGES: Final = ("choice", "grid", "float", "int")
MAX_DEPTH: Final = 8


def is_line(raw: object) -> bool:
    """Whether plain data is the line of one parameter (``{float: [0, 1]}``) rather than a value or a group."""
    return isinstance(raw, Mapping) and any(key in raw for key in (*RANGES, "constant"))


def is_group(raw: object) -> bool:
    """Whether plain data is a group of parameters: a mapping without a range of its own that holds mappings."""
    return (
        isinstance(raw, Mapping)
        and not is_line(raw)
        and any(isinstance(value, Mapping) for key, value in raw.items() if key != "when")
    )


def flatten(raw: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    """The lines of a space with dotted paths: groups are taken apart, ``{optim: {lr: ...}}`` is ``optim.lr``."""
    lines: list[tuple[str, Any]] = []
    for key, value in raw.items():
        path = f"{prefix}{key}"
        if is_group(value) and depth < MAX_DEPTH:
            lines += flatten(value, f"{path}.", depth + 1)
        else:
            lines.append((path, value))
    return lines


def point_leaves(value: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of a point of a space with dotted paths, out of groups."""
    leaves: list[tuple[str, Any]] = []
    for key, below in value.items():
        path = f"{prefix}{key}"
        leaves += point_leaves(below, f"{path}.") if isinstance(below, Mapping) and below else [(path, below)]
    return leaves


def read_option(raw: object, place: str) -> tuple[Any, list[tuple[str, Any]], list[Fault]]:
    """One option: its value, the lines of parameters that it brings along (relative paths), and its faults."""
    if isinstance(raw, Scalar):
        return raw, [], []
    if isinstance(raw, list | tuple):
        return _read_list(raw, place)
    if is_line(raw):
        return None, [], [Fault(place, "a range: expected a value; a range needs a fixed value beside it")]
    if not isinstance(raw, Mapping) or not raw:
        wanted = "text, a number, true, false, null, a list of them, or a mapping of values"
        return None, [], [Fault(place, f"{show(raw)}: expected {wanted}")]
    leaves: list[tuple[str, Any]] = []
    lines: list[tuple[str, Any]] = []
    faults: list[Fault] = []
    for path, value in _leaves(raw):
        if is_line(value):
            lines.append((path, value))
            continue
        if isinstance(value, Mapping):
            faults.append(Fault(f"{place}.{path}", "a mapping: expected a value or a range"))
            continue
        leaf, _, found = read_option(value, f"{place}.{path}")
        faults += found
        leaves.append((path, leaf))
    if not leaves and not faults:
        faults.append(
            Fault(place, "no fixed value: expected at least one beside the ranges, to tell the options apart")
        )
    return Branch(tuple(leaves)), lines, faults


def repeated(options: list[Any], place: str) -> list[Fault]:
    """Faults of options that stand there twice."""
    return [
        Fault(f"{place}.{i}", f"{show_option(option)}: stands there twice")
        for i, option in enumerate(options)
        if any(same(option, other) for other in options[:i])
    ]


def show_option(option: object) -> str:
    """An option in a message."""
    if isinstance(option, Branch):
        return "{" + ", ".join(f"{path}: {show(value)}" for path, value in option.leaves) + "}"
    return show(option)


def _read_list(raw: list[Any] | tuple[Any, ...], place: str) -> tuple[Any, list[tuple[str, Any]], list[Fault]]:
    wrong = [
        Fault(f"{place}.{i}", f"{show(value)}: expected text, a number, true, false or null")
        for i, value in enumerate(raw)
        if not isinstance(value, Scalar)
    ]
    return tuple(raw), [], wrong


def _leaves(raw: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in raw.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and not is_line(value) and depth < MAX_DEPTH:
            found += _leaves(value, f"{path}.", depth + 1)
        else:
            found.append((path, value))
    return found
