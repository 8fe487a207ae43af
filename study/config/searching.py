"""Whether a search space fits the schema: paths exist, may be searched, and every value would pass as a fixed one."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from study.config.faults import choice_message, leaves_below, path_hint, value_message
from study.config.paths import find, root, settable_paths
from study.config.rules import View, rule_faults
from study.space import NUMBERS, Branch, Fault, SearchSpace, SpaceNode, params_of, plain, providers, values_at
from study.space.spelling import listed

PREFIX: Final = "search.space"
# Parts of ``data`` that a run reads when it begins; all others are fixed when the dataset is prepared.
READ_BY_RUNS: Final = ("data.labels.uncertainty",)
FIXED: Final = {
    "study": "it names the study",
    "seed": "a search uses one seed; confirm repeats with several, and so does {grid: [0, 1, 2]} with algorithm grid",
    "strict": "it is about the file as a whole",
    "data": "it belongs to the prepared dataset, which all trials share; run a study for each value",
    "pseudo": "its labels are made before the search",
    "evaluate": "it says what is measured",
    "search": "it steers the search itself",
    "confirm": "it follows the search",
    "resources": "it sizes the workers, which outlive a trial",
}


def space_faults(space: SearchSpace, view: View, broken: Collection[str] = ()) -> list[Fault]:
    """Faults of a space whose grammar is right, against the schema and the rest of the file.

    ``view`` is the file with its defaults; conditions and values are tried on it one by one. Conditions at ``broken``
    paths are not judged.
    """
    usual = set(rule_faults(view))
    faults: list[Fault] = []
    for node in space.nodes:
        place = place_of(node, space)
        wrong = [
            Fault(_leaf_place(path, node, place), text)
            for path in node.provides
            if (text := _path_message(path, node, view))
        ]
        is_clear = not any(path.startswith(f"{place}.when") for path in broken)
        lacking = _lacking_message(node, space, view) if is_clear and not wrong else None
        if wrong or lacking:
            faults += wrong or [Fault(place, lacking or "")]
            continue
        found = list(_value_faults(node, space, view))
        bad_places = {fault.path for fault in found}
        for spot, value in _trial_values(node, space):
            if any(bad == spot or bad.startswith(f"{spot}.") for bad in bad_places) or (
                found and spot.endswith(".int")
            ):
                continue
            tried = view.replaced({**_given(node, space), **params_of(node, value)})
            found += [_as_seen_from(spot, node, fault) for fault in rule_faults(tried) if fault not in usual]
        faults += found
    return faults


def place_of(node: SpaceNode, space: SearchSpace) -> str:
    """Dotted path of a parameter's line in the study file."""
    if node.inside is None:
        return f"{PREFIX}.{node.path}"
    owner = space.at(node.inside[0])
    return f"{place_of(owner, space)}.{owner.kind}.{node.inside[1]}{node.path.removeprefix(owner.path)}"


def _leaf_place(path: str, node: SpaceNode, place: str) -> str:
    """Where the file gives a value to a path: the parameter's line, or a line inside one of its options."""
    for i, option in enumerate(node.choices):
        if isinstance(option, Branch) and path in params_of(node, option):
            option_place = f"{place}.{node.kind}" if node.kind == "constant" else f"{place}.{node.kind}.{i}"
            return f"{option_place}{path.removeprefix(node.path)}"
    return place


def searched_values(path: str, space: SearchSpace) -> list[tuple[str, Any]]:
    """The options that a search has for a path, each with its place in the file; ranges have none."""
    found: list[tuple[str, Any]] = []
    for node in providers(path, space.nodes):
        for place, option in _trial_values(node, space) if node.kind not in NUMBERS else ():
            values = params_of(node, option)
            if path in values:
                found.append((f"{place}{path.removeprefix(node.path)}", values[path]))
    return found


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


def _path_message(path: str, node: SpaceNode, view: View) -> str | None:
    """Why a path cannot be searched at all."""
    section = path.split(".", maxsplit=1)[0]
    leaves = settable_paths()
    if path == "seed" and node.kind == "grid" and view.get("search.algorithm") == "grid":
        return None
    if any(path.startswith(f"{part}.") for part in READ_BY_RUNS) and path in leaves:
        return None
    if section in FIXED and (path in leaves or find(path, {}) is not None or path.startswith("data.sources.")):
        return f"stays fixed during a search: {FIXED[section]}"
    if path in leaves:
        return None
    below = leaves_below(path, leaves)
    if below:
        return f"a whole section: expected one of {', '.join(below)}"
    return f"unknown path{path_hint(path, leaves)}"


def _loss_keys(node: SpaceNode) -> list[str]:
    """Parameters of a loss, ``name`` left out, that the node sets."""
    return [path.removeprefix("loss.") for path in node.provides if path.startswith("loss.") and path != "loss.name"]


def _lacking_message(node: SpaceNode, space: SearchSpace, view: View) -> str | None:
    """Losses that can be drawn together with this loss parameter but do not have it."""
    keys = _loss_keys(node)
    if not keys or "loss.name" in node.provides:
        return None
    key, variants = keys[0], loss_variants()
    drawn = [name for name in _loss_names(node, space, view) if name in variants]
    lacking = [name for name in drawn if key not in variants[name]]
    if not lacking:
        return None
    owners = [name for name in drawn if key in variants[name]] or [name for name in variants if key in variants[name]]
    needed = owners[0] if len(owners) == 1 else f"[{', '.join(owners)}]"
    found = f"loss {listed(lacking)} {'has' if len(lacking) == 1 else 'have'} no {key!r}"
    if not providers("loss.name", space.nodes):
        return f"{found}; expected loss.name {listed(owners, 'or')}, fixed or searched"
    return f"{found}; add when: {{loss.name: {needed}}}"


def _loss_names(node: SpaceNode, space: SearchSpace, view: View) -> list[Any]:
    """Losses under which the parameter exists."""
    fixed, searched = view.get("loss.name"), providers("loss.name", space.nodes)
    if not searched:
        return [fixed]
    names: list[Any] = []
    for one in searched:
        names += [plain(value) for value in (one.choices if one.path == "loss.name" else values_at(one, "loss.name"))]
    if all(one.when or one.inside for one in searched) and fixed not in names:
        names.append(fixed)
    for path, values in _conditions(node, space):
        if path == "loss.name":
            names = [name for name in names if name in values]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _conditions(node: SpaceNode, space: SearchSpace) -> Iterator[tuple[str, Sequence[Any]]]:
    """Conditions of the parameter, of its parents, and of theirs; an option that brings it counts as one."""
    waiting, seen = [node], {node.key}
    while waiting:
        here = waiting.pop()
        parents: list[SpaceNode] = []
        if here.inside is not None:
            owner = space.at(here.inside[0])
            yield from ((path, [value]) for path, value in params_of(owner, owner.choices[here.inside[1]]).items())
            parents.append(owner)
        for condition in here.when:
            yield condition.path, condition.values
            parents += providers(condition.path, space.nodes)
        for parent in parents:
            if parent.key not in seen:
                seen.add(parent.key)
                waiting.append(parent)


def _given(node: SpaceNode, space: SearchSpace) -> Mapping[str, Any]:
    """Values of the parents under which the parameter exists."""
    given: dict[str, Any] = {}
    for path, values in _conditions(node, space):
        owner = next(iter(providers(path, space.nodes)), None)
        branches = [option for option in owner.choices if isinstance(option, Branch)] if owner else []
        fitting = [found for option in branches if (found := params_of(owner, option)).get(path) == values[0]]  # type: ignore[arg-type]  # there is an owner
        given = {**(fitting[0] if fitting else {}), path: values[0], **given}
    return given


def _trial_values(node: SpaceNode, space: SearchSpace) -> list[tuple[str, Any]]:
    """Values that stand for all of them, each with its place: every choice, both ends, the first step of an int."""
    place = f"{place_of(node, space)}.{node.kind}"
    if node.kind == "constant":
        return [(place, node.choices[0])]
    if node.kind not in NUMBERS:
        return [(f"{place}.{i}", value) for i, value in enumerate(node.choices)]
    ends: list[tuple[str, Any]] = [(f"{place}.0", node.low), (f"{place}.1", node.high)]
    second = node.low + (node.step or 1)
    return [*ends, (place, second)] if node.kind == "int" and second < node.high else ends


def _value_faults(node: SpaceNode, space: SearchSpace, view: View) -> Iterator[Fault]:
    place = place_of(node, space)
    for spot, value in _trial_values(node, space):
        if isinstance(value, Branch):
            yield from _branch_faults(node, value, spot, fixed=view.get("loss.name"))
            continue
        message = _first_message(node.path, plain(value), _losses_with(node, space, view))
        if message and node.kind == "float" and "a whole number" in message:
            low, high = f"{node.low:g}", f"{node.high:g}"
            yield Fault(f"{place}.float", f"{node.path} takes whole numbers; use int: [{low}, {high}]")
            return
        if message:
            yield Fault(spot, message)


def _branch_faults(node: SpaceNode, branch: Branch, place: str, *, fixed: Any) -> Iterator[Fault]:
    """Faults of the values of one option; those of a loss are judged as its own parameters."""
    values, variants = params_of(node, branch), loss_variants()
    name = values.get("loss.name", fixed)
    if name not in variants:
        spot = f"{place}.{'loss.name'.removeprefix(node.path + '.')}"
        yield Fault(spot, value_fault("loss.name", name) or "unknown loss")
        return
    for path, value in values.items():
        key = path.removeprefix("loss.") if path.startswith("loss.") else "name"
        if key != "name" and key not in variants[name]:
            message: str | None = f"loss {name} has no {key!r}"
        else:
            message = value_fault(path, value, loss=name if key != "name" else None)
        if message:
            yield Fault(f"{place}{path.removeprefix(node.path)}", message)


def _first_message(path: str, value: Any, losses: Sequence[str | None]) -> str | None:
    for loss in losses:
        message = value_fault(path, value, loss=loss)
        if message:
            return f"{message} (loss {loss})" if len(losses) > 1 else message
    return None


def _losses_with(node: SpaceNode, space: SearchSpace, view: View) -> Sequence[str | None]:
    """Losses whose parameter this is and under which it is drawn; ``None`` alone when it is no loss parameter."""
    keys = _loss_keys(node)
    if not keys or "loss.name" in node.provides:
        return [None]
    owners = [name for name, params in loss_variants().items() if keys[0] in params]
    drawn = _loss_names(node, space, view)
    return [name for name in owners if name in drawn] or owners


def _as_seen_from(place: str, node: SpaceNode, fault: Fault) -> Fault:
    own = (node.path, *node.provides)
    return Fault(place, fault.message if fault.path in own else f"then {fault.path}: {fault.message}")
