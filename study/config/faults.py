"""From pydantic's errors to sentences that a user can act on, and from sentences to the one error that stops."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from study.config.paths import Place, bounds_text, find, known_paths, root, type_text
from study.config.yamlfile import join
from study.errors import ConfigError
from study.space import Fault
from study.space.spelling import count_problems, hint, listed, nearest, show

OUT_OF_BOUNDS: Final = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})


def raise_faults(
    path: Path | str, faults: Sequence[Fault], *, places: Mapping[str, tuple[int, int]] | None = None
) -> None:
    """Stop with all faults of a study file at once; do nothing when there is none.

    Raises:
        ConfigError: one line per fault, in file order when ``places`` (of ``PartialStudy``) are given.
    """
    if not faults:
        return
    faults = in_file_order(faults, places) if places is not None else faults
    lines = "\n".join(f"  {fault.path}: {fault.message}" if fault.path else f"  {fault.message}" for fault in faults)
    raise ConfigError(f"{path}: {count_problems(len(faults))}\n{lines}", "correct the study file; nothing was started")


def in_file_order(faults: Sequence[Fault], places: Mapping[str, tuple[int, int]]) -> list[Fault]:
    """The faults without repetition, ordered by the line of their path or of its nearest parent in the file."""

    def line(fault: Fault) -> tuple[int, int]:
        path = fault.path
        if path.startswith("--"):
            return (1 << 30, 0)
        while path and path not in places:
            path = path.rpartition(".")[0]
        return places.get(path, (0, 0))

    return sorted(dict.fromkeys(faults), key=line)


def translate(errors: Sequence[Mapping[str, Any]], raw: Any) -> list[Fault]:
    """Faults from pydantic's error records about ``raw``, a study file as plain data."""
    return [fault for error in errors for fault in _faults_of(error, raw)]


def unknown_key(path: str, raw: Any) -> str:
    """Message for a key that the schema does not have, with the nearest right spelling."""
    above, _, key = path.rpartition(".")
    parent = find(above, raw) if above else root(raw)
    siblings = parent.keys if parent is not None else ()
    siblings = siblings if above else (*siblings, "scales")
    guess = nearest(key, siblings)
    if guess is not None:
        return f"unknown key; did you mean {guess!r}?"
    owners = [tag for tag, variant in parent.variants.items() if key in variant.model_fields] if parent else []
    if owners:
        return f"unknown key; it belongs to {listed(owners)}"
    elsewhere = _only_with_end(key, known_paths(raw))
    if elsewhere is not None:
        return f"unknown key; did you mean {elsewhere!r}?"
    return f"unknown key; expected one of {', '.join(siblings)}"


def path_hint(path: str, leaves: Sequence[str]) -> str:
    """Which path was probably meant: the nearest, one that ends alike, or those of the same section."""
    guess = nearest(path, leaves) or _only_with_end(path, leaves)
    if guess is not None:
        return f"; did you mean {guess!r}?"
    section = path.partition(".")[0]
    siblings = leaves_below(section, leaves)
    return f"; expected one of {', '.join(siblings)}" if siblings else ""


def leaves_below(section: str, leaves: Sequence[str]) -> list[str]:
    """The knobs of a section for a message: its own where it has any, not those of sections inside it."""
    below = [leaf for leaf in leaves if leaf.startswith(f"{section}.")]
    return [leaf for leaf in below if leaf.count(".") == section.count(".") + 1] or below


def _only_with_end(path: str, paths: Sequence[str]) -> str | None:
    """The one path whose last key is that of ``path``; None when there is none or several."""
    key = path.rpartition(".")[2]
    found = [known for known in paths if known.rpartition(".")[2] == key and not known.startswith("search.space.")]
    return found[0] if len(found) == 1 else None


def _faults_of(error: Mapping[str, Any], raw: Any) -> Iterator[Fault]:
    path, place = _locate(error["loc"], raw)
    context = error.get("ctx", {})
    if error["type"] == "rules":
        return
    if error["type"] == "inside":
        for below, message in context["faults"]:
            yield Fault(join(path, below) if below else path, message)
        return
    if error["type"] == "extra_forbidden":
        yield Fault(path, unknown_key(path, raw))
    elif error["type"] == "missing":
        yield Fault(path, f"missing; expected {type_text(place)}" if place else "missing")
    else:
        yield Fault(path, value_message(error, place))


def value_message(error: Mapping[str, Any], place: Place | None) -> str:
    """What was found and what was expected, for an error about a value."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "literal_error":
        return choice_message(value, re.findall(r"'([^']*)'", context["expected"]))
    if kind == "said":
        return str(context["text"])
    wanted = {"expected": context.get("text"), "finite_number": "a finite number"}.get(kind)
    if wanted is None and place is not None and kind in OUT_OF_BOUNDS:
        wanted = bounds_text(place)
    if wanted is None and place is not None and (kind.endswith("_type") or kind == "int_from_float"):
        quotes = "; put it in quotes" if kind == "string_type" and isinstance(value, int | float) else ""
        wanted = f"{type_text(place)}{quotes}"
    return f"{show(value)}: expected {wanted}" if wanted else f"{show(value)}: {error['msg'].lower()}"


def choice_message(value: object, options: Sequence[str]) -> str:
    """What was found and which names are possible."""
    if len(options) == 1:
        return f"{show(value)}: expected {options[0]}"
    return f"{show(value)}: expected one of {', '.join(options)}{hint(str(value), options)}"


def _locate(loc: Sequence[str | int], raw: Any) -> tuple[str, Place | None]:
    """Dotted path of an error without pydantic's marks for union members, and its place."""
    path = ""
    place: Place | None = root(raw)
    is_mark = False
    for step in map(str, loc):
        is_mark = place is not None and place.tag_key is not None and not is_mark and step in place.variants
        if is_mark:
            continue
        path = join(path, step)
        place = place.child(step) if place is not None else None
    return path, place
