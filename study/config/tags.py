"""Losses and sources whose name or kind is wrong: the fault, and a stand-in so that the rest can still be checked."""

from collections.abc import Mapping
from typing import Any, Final

from study.config.faults import choice_message, unknown_key
from study.config.paths import Place, find, root
from study.space import Fault
from study.space.spelling import nearest

STAND_IN: Final = {"name": {"name": "cross_entropy"}, "kind": {"kind": "mias", "root": "."}}


def with_right_tags(raw: dict[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """The file with the nearest possible name where a loss or source kind is wrong, so that the rest can be checked."""
    repaired, faults = dict(raw), []
    if isinstance(raw.get("loss"), Mapping):
        repaired["loss"], found = _tagged("loss", raw)
        faults += found
    data = raw.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("sources"), list):
        entries = [_tagged(f"data.sources.{i}", raw) for i in range(len(data["sources"]))]
        repaired["data"] = {**data, "sources": [entry for entry, _ in entries]}
        faults += [fault for _, found in entries for fault in found]
    return repaired, faults


def _tagged(path: str, raw: Mapping[str, Any]) -> tuple[Any, list[Fault]]:
    place = find(path, raw) or root(raw)
    value, key = place.raw, place.tag_key
    if not isinstance(value, Mapping) or key is None or _has_tag(place):
        return value, []
    if path == "loss" and key not in value:
        return {key: "cross_entropy", **value}, []  # the only choice that has a default
    options = tuple(place.variants)
    found = value.get(key)
    message = choice_message(found, options) if key in value else f"missing; expected one of {', '.join(options)}"
    faults = [Fault(f"{path}.{key}", message)]
    guess = nearest(str(found), options) if key in value else None
    if guess is not None:
        return {**value, key: guess}, faults
    strays = [name for name in value if name not in place.keys]
    faults += [Fault(f"{path}.{name}", unknown_key(f"{path}.{name}", raw)) for name in strays]
    return dict(STAND_IN[key]), faults


def _has_tag(place: Place) -> bool:
    tag = place.raw.get(place.tag_key)
    return isinstance(tag, str) and tag in place.variants
