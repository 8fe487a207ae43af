"""``--set path=value``: one value of the study file from the command line."""

from collections.abc import Sequence
from typing import Any, Final

from study.config.faults import path_hint
from study.config.paths import find, known_paths
from study.config.searching import loss_variants, value_fault
from study.config.yamlfile import Document, read_yaml
from study.errors import ConfigError
from study.space import Fault
from study.space.spelling import show

SPACE: Final = "search.space."
AFTER_THE_FILE: Final = 1 << 29


def apply_overrides(document: Document, overrides: Sequence[str]) -> list[Fault]:
    """Write ``path=value`` texts into a document in order; faults of those that cannot be written.

    Another ``loss.name`` than the file's leaves behind the file's parameters that the new loss does not have or take.
    """
    faults: list[Fault] = []
    pairs = [(text, *text.partition("=")) for text in overrides]
    for number, (text, name, equals, value_text) in enumerate(sorted(pairs, key=lambda pair: pair[1] != "loss.name")):
        path = name.strip()
        document.places.setdefault(path, (AFTER_THE_FILE, number))
        if not equals or not path:
            faults.append(Fault("--set", f"{show(text)}: expected PATH=VALUE, as in optim.lr=0.001"))
            continue
        try:
            parsed = read_yaml(value_text, name="value")
        except ConfigError:
            faults.append(Fault(f"--set {path}", f"{show(value_text)}: expected a value in YAML"))
            continue
        if parsed.faults:
            faults += [Fault(f"--set {path}", fault.message) for fault in parsed.faults]
            continue
        message = write_value(document.value, path, parsed.value)
        if message:
            faults.append(Fault(f"--set {path}", message))
    return faults


def carried_over(loss: dict[str, Any], name: str) -> dict[str, Any]:
    """Parameters of a loss that another loss, ``name``, has too and whose values it takes; with the new name."""
    own = loss_variants().get(name, ())
    kept = {
        key: value for key, value in loss.items() if key in own and value_fault(f"loss.{key}", value, loss=name) is None
    }
    return {"name": name, **kept}


def write_value(raw: dict[str, Any], path: str, value: Any) -> str | None:
    """Set one value in plain data; a message when the path does not lead anywhere.

    Another ``loss.name`` leaves behind the parameters that the new loss does not have or take.
    """
    if find_settable(path, raw) is None:
        return f"unknown path{path_hint(path, known_paths(raw))}"
    loss = raw.get("loss")
    is_loss = isinstance(value, str) and value in loss_variants()
    if path == "loss.name" and isinstance(loss, dict) and loss.get("name") != value and is_loss:
        raw["loss"] = carried_over(loss, value)
        return None
    head, dot, tail = path.partition(SPACE) if path.startswith(SPACE) else ("", "", "")
    keys = ["search", "space", tail] if dot and not head else path.split(".")
    return _descend_and_set(raw, keys, value)


def find_settable(path: str, raw: Any) -> object | None:
    """Whether the schema has the path, sections and entries of lists included; None when not."""
    if path.startswith(SPACE) and len(path) > len(SPACE):
        return path
    return find(path, raw) or find(path, {})


def _descend_and_set(raw: dict[str, Any], keys: list[str], value: Any) -> str | None:
    here: Any = raw
    for i, key in enumerate(keys[:-1]):
        above = ".".join(keys[: i + 1])
        if isinstance(here, list):
            if not key.isdecimal() or int(key) >= len(here):
                return _index_message(".".join(keys[:i]), here)
            here = here[int(key)]
        else:
            if here.get(key) is None:
                here[key] = {}
            here = here[key]
        if not isinstance(here, dict | list):
            return f"{above} is {show(here)} in the file; expected a mapping or list there"
    return _set(here, keys, value)


def _set(here: Any, keys: list[str], value: Any) -> str | None:
    last = keys[-1]
    if isinstance(here, dict):
        here[last] = value
    elif last.isdecimal() and int(last) < len(here):
        here[int(last)] = value
    else:
        return _index_message(".".join(keys[:-1]), here)
    return None


def _index_message(path: str, entries: list[Any]) -> str:
    count = f"{len(entries)} entry" if len(entries) == 1 else f"{len(entries)} entries"
    return f"{path} has {count} in the file; the first is 0"
