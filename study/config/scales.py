"""``scales``: named sets of values in a study file, each of which makes another size of the same study of it.

The section is no part of a study: it is taken out of the file, and the values of the scale that is asked for take the
place of the file's before anything is checked.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from study.config.overrides import write_value
from study.config.searching import READ_BY_RUNS
from study.space import Fault
from study.space.spelling import hint, show

SCALES: Final = "scales"
OPTION: Final = "--scale"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")

Scales = dict[str, dict[str, Any]]


def take_scales(raw: dict[str, Any]) -> tuple[Scales, list[Fault]]:
    """Take the section out of a study file as plain data: the values of each scale by dotted path, and faults."""
    section = raw.pop(SCALES, None)
    if section is None:
        return {}, []
    if not isinstance(section, dict):
        return {}, [Fault(SCALES, f"{show(section)}: expected a mapping, as in {{small: {{train.epochs: 2}}}}")]
    faults = [fault for name, values in section.items() for fault in _form_faults(name, values)]
    refused = {fault.path for fault in faults}
    scales = {name: values for name, values in section.items() if f"{SCALES}.{name}" not in refused}
    return scales, faults


def asked_faults(name: str | None, scales: Mapping[str, Any], known: Sequence[Fault]) -> list[Fault]:
    """The fault of a scale that is asked for and that the file does not have; none where ``known`` faults tell why."""
    if name is None or name in scales or any(fault.path in (SCALES, f"{SCALES}.{name}") for fault in known):
        return []
    if not scales:
        return [Fault(OPTION, f"{show(name)}: the file has no section {SCALES}")]
    return [Fault(OPTION, f"{show(name)}: expected one of {', '.join(scales)}{hint(name, list(scales))}")]


def scaled(raw: Mapping[str, Any], name: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """A study file at one scale, with the scale in its name, and faults of values that cannot be written.

    A value takes the place of the file's as with ``--set``: a section or a list as a whole.
    """
    found = copy.deepcopy(dict(raw))
    faults = []
    for path, value in sorted(values.items(), key=lambda item: item[0] != "loss.name"):
        place = f"{SCALES}.{name}.{path}"
        if path == "study":
            faults.append(
                Fault(place, f"a study at scale {name} is called as the file says, and -{name}; leave it out")
            )
            continue
        message = write_value(found, path, copy.deepcopy(value))
        if message:
            faults.append(Fault(place, message))
    if isinstance(found.get("study"), str):
        found["study"] = f"{found['study']}-{name}"
    message = _prepared_message(raw, values, found)
    return found, [*faults, Fault(f"{SCALES}.{name}", message)] if message else faults


def seen_from(name: str, values: Mapping[str, Any], fault: Fault) -> Fault:
    """A fault of the study at a scale, told for its place in the section, or as what follows from the scale."""
    if is_set(fault, values):
        return Fault(f"{SCALES}.{name}.{fault.path}", fault.message)
    return Fault(f"{SCALES}.{name}", f"then {fault.path}: {fault.message}")


def is_set(fault: Fault, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> bool:
    """Whether a fault lies at a value that a scale has set, and that no ``--set`` replaced."""
    replaced = [text.partition("=")[0].strip() for text in overrides]
    return _lies_in(fault.path, values) and not _lies_in(fault.path, replaced)


def _lies_in(path: str, above: Iterable[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in above)


def _form_faults(name: str, values: Any) -> Iterator[Fault]:
    place = f"{SCALES}.{name}"
    if not NAME.fullmatch(name):
        yield Fault(place, f"{show(name)}: expected 1 to 32 letters, digits, '-' or '_', the first a letter or digit")
    elif not isinstance(values, dict) or not values:
        text = "empty" if values in ({}, None) else show(values)
        yield Fault(place, f"{text}: expected values by dotted path, as in {{train.epochs: 2}}")


def _prepared_message(raw: Mapping[str, Any], values: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """A prepared dataset belongs to one kind of data, so other data need another one."""
    before, after = raw.get("data"), found.get("data")
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return None
    changed = [path for path in values if _lies_in(path, ["data"]) and not _lies_in(path, READ_BY_RUNS)]
    if not changed or before.get("prepared") != after.get("prepared"):
        return None
    return f"{changed[0]} is another one, and so is the prepared dataset; expected a data.prepared of its own"
