"""Where things stand in the schema: fields by dotted path, their bounds in words, all paths that can be set."""

import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from study.config.names import mode_of
from study.config.record import Section
from study.config.schema import StudyConfig
from study.config.yamlfile import join
from study.space import SearchSpace

TAGS: Final = ("name", "kind")


@dataclass(frozen=True, slots=True)
class Place:
    """One place of the schema: its type, the metadata that bounds it, and the file's value there."""

    annotation: Any
    metadata: tuple[Any, ...]
    raw: Any

    @property
    def variants(self) -> dict[str, type[Section]]:
        """Records that can stand here; with several, by the tag that chooses between them."""
        return _variants(self.annotation)

    @property
    def tag_key(self) -> str | None:
        """Key that chooses between the variants; None when there is one or none."""
        return _tag_key(self.annotation)

    @property
    def chosen(self) -> tuple[type[Section], ...]:
        """The variants that fit the file's tag; all of them while the tag is missing or unknown."""
        variants, key = self.variants, self.tag_key
        tag = self.raw.get(key) if key and isinstance(self.raw, Mapping) else None
        return (variants[tag],) if isinstance(tag, str) and tag in variants else tuple(variants.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys that a mapping may have here, in schema order."""
        return tuple(dict.fromkeys(key for section in self.chosen for key in section.model_fields))

    @property
    def item(self) -> Any:
        """Type of the entries when this is a list; None otherwise."""
        for part in _parts(self.annotation):
            if get_origin(part) is tuple:
                return get_args(part)[0]
        return None

    def child(self, key: str) -> "Place | None":
        """The place one step down; None when the schema has no such key."""
        below = self.raw.get(key) if isinstance(self.raw, Mapping) else None
        for section in self.chosen:
            if key in section.model_fields:
                info = section.model_fields[key]
                return Place(info.annotation, (info, *info.metadata), below)
        if self.item is not None and key.isdecimal():
            entries = self.raw if isinstance(self.raw, list | tuple) else ()
            return Place(self.item, (), entries[int(key)] if int(key) < len(entries) else None)
        return None


def root(raw: Any) -> Place:
    """The whole study file as a place."""
    return Place(StudyConfig, (), raw)


def find(path: str, raw: Any) -> Place | None:
    """The place of a dotted path; None when the schema has none."""
    place: Place | None = root(raw)
    for key in path.split("."):
        if place is None:
            return None
        place = place.child(key)
    return place


@functools.cache
def settable_paths() -> tuple[str, ...]:
    """Dotted path of every value of a study file in schema order; lists and the search space count as one value."""
    return tuple(_leaves(root(None), ""))


def known_paths(raw: Any) -> tuple[str, ...]:
    """The settable paths and their sections, with those of the sources and searched parameters of this file."""
    sources = find("data.sources", raw)
    entries = sources.raw if sources is not None and isinstance(sources.raw, list) else []
    space = find("search.space", raw)
    searched = space.raw if space is not None and isinstance(space.raw, Mapping) else {}
    leaves = settable_paths()
    sections = dict.fromkeys(leaf.rsplit(".", maxsplit=depth)[0] for leaf in leaves for depth in (1, 2) if "." in leaf)
    extra = [
        leaf
        for i in range(len(entries))
        if (place := find(f"data.sources.{i}", raw)) is not None
        for leaf in _leaves(place, f"data.sources.{i}")
    ]
    return (*leaves, *sections, *extra, *(f"search.space.{key}" for key in searched))


def with_defaults(raw: Any, place: Place | None = None) -> Any:
    """The file's plain values with every missing one that has a default; required ones stay missing."""
    here = place or root(raw)
    if isinstance(raw, list) and here.item is not None:
        return [with_defaults(value, Place(here.item, (), value)) for value in raw]
    if not here.variants or not isinstance(raw, Mapping):
        return raw
    filled = dict(raw)
    if here.variants.get("") is StudyConfig and isinstance(raw.get("search"), Mapping):
        search = raw["search"]
        metric = search.get("metric", "")
        first = metric[0] if isinstance(metric, list | tuple) and metric else metric
        filled["search"] = {"mode": mode_of(first) if isinstance(first, str) else None, **search}
    for key, info in here.chosen[0].model_fields.items():
        if key in filled:
            filled[key] = with_defaults(filled[key], here.child(key))
        elif not info.is_required():
            default = info.get_default(call_default_factory=True, validated_data={})
            filled[key] = default.model_dump(mode="json") if isinstance(default, Section) else default
    return filled


def bounds_text(place: Place) -> str:
    """What a number may be here: ``at least 1``, ``a number above 0 and below 1``."""
    bounds = dict(_bounds(place.annotation, place.metadata))
    low, above, high, below = (bounds.get(key) for key in ("ge", "gt", "le", "lt"))
    if int in _parts(place.annotation):
        high = below - 1 if below is not None else high
        return f"at least {low:g}" if high is None else f"a whole number from {low} to {high}"
    if low is not None and high is not None:
        return f"a number from {low:g} to {high:g}"
    lower = f"at least {low:g}" if low is not None else f"a number above {above:g}"
    if below is None:
        return lower
    return f"{'a number of ' if low is not None else ''}{lower} and below {below:g}"


def type_text(place: Place) -> str:
    """What kind of value stands here, in the user's words."""
    if place.item is not None:
        return "a list"
    if place.variants or SearchSpace in _parts(place.annotation):
        return "a mapping"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return next((words[part] for part in _parts(place.annotation) if part in words), "a value")


def _leaves(place: Place, path: str) -> Iterator[str]:
    if not place.variants:
        yield path
        return
    for key in place.keys:
        below = place.child(key)
        if below is not None:
            yield from _leaves(below, join(path, key))


def _parts(annotation: Any) -> Iterator[Any]:
    """The alternatives of a type, without None and without metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    elif annotation is not type(None):
        yield annotation


@functools.cache
def _variants(annotation: Any) -> dict[str, type[Section]]:
    found = list(_sections(annotation))
    return {_tag_of(section): section for section in found} if len(found) > 1 else {"": found[0]} if found else {}


@functools.cache
def _tag_key(annotation: Any) -> str | None:
    variants = list(_variants(annotation).values())
    return next(key for key in TAGS if _is_literal(variants[0], key)) if len(variants) > 1 else None


def _sections(annotation: Any) -> Iterator[type[Section]]:
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, Section):
            yield part


def _tag_of(section: type[Section]) -> str:
    key = next(key for key in TAGS if _is_literal(section, key))
    return str(get_args(section.model_fields[key].annotation)[0])


def _is_literal(section: type[Section], key: str) -> bool:
    return key in section.model_fields and get_origin(section.model_fields[key].annotation) is Literal


def _bounds(annotation: Any, metadata: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for part in metadata:
        yield from _bounds(None, part.metadata) if isinstance(part, FieldInfo) else ()
        for key in ("ge", "gt", "le", "lt"):
            if getattr(part, key, None) is not None:
                yield key, getattr(part, key)
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        yield from _bounds(inner, extra)
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _bounds(part, ())
