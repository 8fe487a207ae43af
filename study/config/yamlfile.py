"""YAML as the study file uses it: numbers and true/false as in YAML 1.2, no tags, no aliases, no key twice.

PyYAML follows YAML 1.1, where ``1e-3`` is text, ``010`` is eight, ``1:30`` is ninety and ``no`` is false. The resolver
below is shared by the reader and the writer, so that what is written is read back as the same value.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from study.errors import ConfigError
from study.space import Fault

MAX_DIGITS: Final = 40
MAX_CHARACTERS: Final = 1 << 20
MAX_DEPTH: Final = 32  # the deepest search space of the documentation has 9
MAX_ENTRIES: Final = 500  # of one list or mapping: some rules look at each pair of entries
MAX_NODES: Final = 10_000  # keys and values in all
TAG: Final = "tag:yaml.org,2002:"
RESOLVERS: Final = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", rf"[-+]?[0-9]{{1,{MAX_DIGITS}}}", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, pattern, first_letters in RESOLVERS:
        for letter in first_letters:
            table.setdefault(letter, []).append((TAG + name, re.compile(rf"^(?:{pattern})$")))
    return table


class StudyLoader(yaml.SafeLoader):
    """Reads node trees; refuses aliases, which would let a small file grow without bounds, and nests without end."""

    yaml_implicit_resolvers = _resolvers()
    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One node; an alias is a syntax error here."""
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not read; write the value out", problem_mark=mark)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise OverflowError
        is_nest = self.check_event(yaml.CollectionStartEvent)
        self.depth += is_nest
        if self.depth > MAX_DEPTH:
            raise RecursionError
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= is_nest
        return node


class StudyDumper(yaml.SafeDumper):
    """Writes what ``StudyLoader`` reads back as the same value."""

    yaml_implicit_resolvers = _resolvers()


@dataclass(slots=True)
class Document:
    """A YAML text as plain data, with the place (line, column, from 1) of every dotted path and the faults found."""

    value: Any = None
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def read_yaml(text: str, *, name: str) -> Document:
    """Plain data from YAML text; ``name`` stands in front of error messages.

    Raises:
        ConfigError: the text is not YAML, larger than 1 MiB, nested more than 32 levels deep, or has more than 10,000
            keys and values.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{name}: larger than 1 MiB; expected a study file", "name a YAML file of a few kilobytes")
    document = Document()
    try:
        node = StudyLoader(text).get_single_node()
        document.value = None if node is None else _plain(node, "", document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or "unreadable"
        problem = f"{error.context} {problem}" if problem.startswith("but ") and error.context else problem
        raise ConfigError(f"{name}: not valid YAML{place}: {problem}", "correct that line") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: a character that text cannot have", "save it as UTF-8") from error
    except RecursionError as error:
        raise ConfigError(
            f"{name}: nested too deeply for a study file (more than {MAX_DEPTH} levels)", "start from search_spaces/"
        ) from error
    except OverflowError as error:
        raise ConfigError(
            f"{name}: more than {MAX_NODES:,} keys and values; expected a study file", "start from search_spaces/"
        ) from error
    return document


def write_yaml(value: object) -> str:
    """Plain data as YAML text, keys in the given order, short lists on one line."""
    return yaml.dump(value, Dumper=StudyDumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)


def join(path: str, key: object) -> str:
    """Dotted path of a child."""
    return f"{path}.{key}" if path else str(key)


def _plain(node: yaml.Node, path: str, document: Document) -> Any:
    if isinstance(node, yaml.CollectionNode) and len(node.value) > MAX_ENTRIES:
        document.faults.append(Fault(path, f"{len(node.value):,} entries; expected at most {MAX_ENTRIES:,}"))
        return None
    if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
        return _mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
        values = []
        for i, item in enumerate(node.value):
            document.places.setdefault(join(path, i), _place(item))
            values.append(_plain(item, join(path, i), document))
        return values
    try:
        return _scalar(node)
    except ValueError:
        tag = node.tag.replace(TAG, "!!")
        document.faults.append(Fault(path, f"tag {tag} is not read here; write a plain value"))
        return None


def _mapping(node: yaml.MappingNode, path: str, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.faults.append(Fault(path, f"a key in line {line} is not text"))
            continue
        key = str(key_node.value)
        child = join(path, key)
        if key in lines:
            where = f"line {line}" if lines[key] == line else f"lines {lines[key]} and {line}"
            document.faults.append(Fault(child, f"stands there twice, in {where}; keep one"))
            continue
        lines[key] = line
        document.places.setdefault(child, _place(key_node))
        values[key] = _plain(value_node, child, document)
    return values


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _scalar(node: yaml.Node) -> str | bool | int | float | None:
    kind = node.tag.removeprefix(TAG) if isinstance(node, yaml.ScalarNode) else ""
    if kind == "str":
        return str(node.value)
    if kind == "null":
        return None
    if kind == "bool" and node.value.lower() in {"true", "false"}:
        return bool(node.value.lower() == "true")
    if kind == "int" and len(node.value) <= MAX_DIGITS + 1:
        return int(node.value)
    if kind == "float":
        return float(node.value.replace(".inf", "inf").replace(".nan", "nan"))
    raise ValueError(kind)
