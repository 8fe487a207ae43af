"""Whether a search space fits the schema: paths exist, may be searched, and every value would pass as a fixed one."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from study.config.faults import choice_message, path_hint, value_message
from study.config.paths import find, root, settable_paths
from study.config.rules import View, rule_faults
from study.space import Fault, Scalar, SearchSpace, SpaceNode
from study.space.spelling import listed

PREFIX: Final = "search.space"
FIXED: Final = {
    "study": "it names the study",
    "seed": "a search uses one seed; confirm repeats with several",
    "strict": "it is about the file as a whole",
    "data": "it belongs to the prepared dataset",
    "evaluate": "it says what is measured",
    "search": "it steers the search itself",
    "confirm": "it follows the search",
    "resources": "it sizes the workers, which outlive a trial",
}
SEARCHABLE: Final = ("data.labels.uncertainty.",)  # applied when a batch is made, not when data is prepared


def space_faults(space: SearchSpace, view: View, broken: Collection[str] = ()) -> list[Fault]:
    """Faults of a space whose grammar is right, against the schema and the rest of the file.

    ``view`` is the file with its defaults; conditions and values are tried on it one by one. Conditions at ``broken``
    paths are not judged.
    """
    usual = set(rule_faults(view))
    faults: list[Fault] = []
    for node in space.nodes:
        message = _path_message(node.path)
        is_clear = not any(path.startswith(f"{PREFIX}.{node.path}.when") for path in broken)
        lacking = _lacking_message(node, space, view) if is_clear and not message else None
        if message or lacking:
            faults.append(Fault(f"{PREFIX}.{node.path}", message or lacking or ""))
            continue
        found = list(_value_faults(node, space, view))
        bad_places = {fault.path for fault in found}
        for place, value in _trial_values(node):
            if place in bad_places or (found and place.endswith(".int")):
                continue
            tried = view.replaced({**_given(node, space), node.path: value})
            found += [_as_seen_from(place, node.path, fault) for fault in rule_faults(tried) if fault not in usual]
        faults += found
    return faults


def loss_variants() -> dict[str, tuple[str, ...]]:
    """Parameters of every loss by its name, ``name`` itself left out."""
    place = find("loss", {})
    variants = place.variants if place is not None else {}
    return {name: tuple(key for key in section.model_fields if key != "name") for name, section in variants.items()}


def value_fault(path: str, value: Any, *, loss: str | None = None) -> str | None:
    """Why a value cannot stand at a settable path; None when it can. ``loss`` says whose parameter a loss path is."""
    above, _, key = path.rpartition(".")
    raw = {"loss": {"name": loss}} if loss is not None else {}
    parent = find(above, raw) if above else root(raw)
    if parent is None:
        return "unknown path"
    if parent.tag_key == key:
        names = tuple(parent.variants)
        return None if value in names else choice_message(value, names)
    place = parent.child(key)
    section = parent.chosen[0]
    try:
        section.model_validate({key: value})
    except ValidationError as error:
        own = (record for record in error.errors() if record["loc"][:1] == (key,))
        return next((value_message(record, place) for record in own), None)
    return None


def _path_message(path: str) -> str | None:
    """Why a path cannot be searched at all."""
    section = path.split(".", maxsplit=1)[0]
    leaves = settable_paths()
    is_open = path in leaves and path.startswith(SEARCHABLE)
    if (
        section in FIXED
        and not is_open
        and (path in leaves or find(path, {}) is not None or path.startswith("data.sources."))
    ):
        return f"stays fixed during a search: {FIXED[section]}"
    if path in leaves:
        return None
    below = [leaf for leaf in leaves if leaf.startswith(f"{path}.")]
    if below:
        return f"a whole section: expected one of {', '.join(below)}"
    return f"unknown path{path_hint(path, leaves)}"


def _lacking_message(node: SpaceNode, space: SearchSpace, view: View) -> str | None:
    """Losses that can be drawn together with this loss parameter but do not have it."""
    section, _, key = node.path.partition(".")
    if section != "loss" or key == "name":
        return None
    variants = loss_variants()
    drawn = [name for name in _loss_names(node, space, view) if name in variants]
    lacking = [name for name in drawn if key not in variants[name]]
    if not lacking:
        return None
    owners = [name for name in drawn if key in variants[name]] or [name for name in variants if key in variants[name]]
    needed = owners[0] if len(owners) == 1 else f"[{', '.join(owners)}]"
    found = f"loss {listed(lacking)} {'has' if len(lacking) == 1 else 'have'} no {key!r}"
    if space.node("loss.name") is None:
        return f"{found}; expected loss.name {listed(owners, 'or')}, fixed or searched"
    return f"{found}; add when: {{loss.name: {needed}}}"


def _loss_names(node: SpaceNode, space: SearchSpace, view: View) -> list[Any]:
    """Losses under which the parameter exists."""
    searched = space.node("loss.name")
    fixed = view.get("loss.name")
    if searched is None:
        return [fixed]
    names = [*searched.choices, *([fixed] if searched.when and fixed not in searched.choices else [])]
    for condition in _conditions(node, space):
        if condition[0] == "loss.name":
            names = [name for name in names if name in condition[1]]
    return names


def _conditions(node: SpaceNode, space: SearchSpace) -> Iterator[tuple[str, Sequence[Scalar]]]:
    """Conditions of the parameter, of its parents, and of theirs."""
    waiting, seen = [node], {node.path}
    while waiting:
        for condition in waiting.pop().when:
            yield condition.path, condition.values
            parent = space.node(condition.path)
            if parent is not None and parent.path not in seen:
                seen.add(parent.path)
                waiting.append(parent)


def _given(node: SpaceNode, space: SearchSpace) -> Mapping[str, Scalar]:
    """Values of the parents under which the parameter exists."""
    return {path: values[0] for path, values in _conditions(node, space)}


def _trial_values(node: SpaceNode) -> list[tuple[str, Scalar]]:
    """Values that stand for all of them, each with its place: every choice, both ends, the first step of an int."""
    place = f"{PREFIX}.{node.path}.{node.kind}"
    if node.kind == "choice":
        return [(f"{place}.{i}", value) for i, value in enumerate(node.choices)]
    ends: list[tuple[str, Scalar]] = [(f"{place}.0", node.low), (f"{place}.1", node.high)]
    second = node.low + (node.step or 1)
    return [*ends, (place, second)] if node.kind == "int" and second < node.high else ends


def _value_faults(node: SpaceNode, space: SearchSpace, view: View) -> Iterator[Fault]:
    losses = _losses_with(node, space, view)
    for place, value in _trial_values(node):
        message = _first_message(node.path, value, losses)
        if message and node.kind == "float" and "a whole number" in message:
            low, high = f"{node.low:g}", f"{node.high:g}"
            yield Fault(f"{PREFIX}.{node.path}.float", f"{node.path} takes whole numbers; use int: [{low}, {high}]")
            return
        if message:
            yield Fault(place, message)


def _first_message(path: str, value: Scalar, losses: Sequence[str | None]) -> str | None:
    for loss in losses:
        message = value_fault(path, value, loss=loss)
        if message:
            return f"{message} (loss {loss})" if len(losses) > 1 else message
    return None


def _losses_with(node: SpaceNode, space: SearchSpace, view: View) -> Sequence[str | None]:
    """Losses whose parameter this is and under which it is drawn; ``None`` alone when it is no loss parameter."""
    section, _, key = node.path.partition(".")
    if section != "loss" or key == "name":
        return [None]
    owners = [name for name, params in loss_variants().items() if key in params]
    drawn = _loss_names(node, space, view)
    return [name for name in owners if name in drawn] or owners


def _as_seen_from(place: str, path: str, fault: Fault) -> Fault:
    return Fault(place, fault.message if fault.path == path else f"then {fault.path}: {fault.message}")
