"""Other configurations from one: with a trial's parameters, without its search, as text, compared."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from study.config.faults import path_hint, raise_faults, translate
from study.config.overrides import carried_over
from study.config.paths import settable_paths
from study.config.rules import View, rule_faults
from study.config.schema import StudyConfig
from study.config.searching import loss_variants
from study.config.tags import with_right_tags
from study.config.yamlfile import join, write_yaml
from study.space import Fault

BUDGET: Final = ("search.trials", "search.budget", "search.retries", "search.max_failures", "confirm", "resources")


def apply_params(config: StudyConfig, params: Mapping[str, Any]) -> StudyConfig:
    """The configuration of one trial: dotted paths replaced by the trial's values, checked again.

    Parameters of another loss than the chosen one are dropped. When the loss changes, those of its parameters that were
    fixed in the file stay where the new loss has them and takes their values.

    Raises:
        ConfigError: a path that no configuration has, or values that the schema or the rules refuse; all at once.
    """
    raw = config.model_dump(mode="json")
    leaves = settable_paths()
    unknown = [Fault(path, f"unknown path{path_hint(path, leaves)}") for path in params if path not in leaves]
    raise_faults("params", unknown)
    name = params.get("loss.name", config.loss.name)
    if name != config.loss.name and isinstance(name, str):
        raw["loss"] = carried_over(config.loss.model_dump(mode="json", exclude_defaults=True), name)
    own = {f"loss.{key}" for key in ("name", *loss_variants().get(str(name), ()))}
    for path, value in params.items():
        if not path.startswith("loss.") or path in own:
            _replace(raw, path, value)
    return _validated(raw)


def without_search(config: StudyConfig, params: Mapping[str, Any]) -> StudyConfig:
    """The configuration of one trial as a study of its own: parameters fixed, nothing searched or confirmed.

    Raises:
        ConfigError: see ``apply_params``.
    """
    raw = apply_params(config, params).model_dump(mode="json")
    raw["train"]["metric"] = config.metric
    return _validated({**raw, "search": None, "confirm": None})


def config_yaml(config: StudyConfig) -> str:
    """The complete study file, every default written out, in schema order; ``load_config`` gives an equal one back."""
    raw = config.model_dump(mode="json")
    absent = [section for section in ("pseudo", "search", "confirm") if raw[section] is None]
    return write_yaml({key: value for key, value in raw.items() if key not in absent})


def changed_paths(old: StudyConfig, new: StudyConfig) -> list[str]:
    """Dotted path of every value that differs, in schema order; lists of unlike length count as one value."""
    return list(_differences(old.model_dump(mode="json"), new.model_dump(mode="json"), ""))


def flat_values(config: StudyConfig) -> dict[str, Any]:
    """Every value of the file by its dotted path, lists as one value; the search itself left out."""
    raw = config.model_dump(mode="json", exclude={"search", "confirm"})
    return dict(_flat(raw, ""))


def given_values(config: StudyConfig) -> dict[str, Any]:
    """What a trial has beside its own parameters: the file's values by path, None at every path that is searched.

    A searched parameter that a trial does not have was switched off there by others, whatever the file says.
    """
    nodes = config.search.space.nodes if config.search is not None else ()
    return flat_values(config) | dict.fromkeys(path for node in nodes for path in node.provides)


def _flat(raw: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_budget(path: str) -> bool:
    """Whether a value may change when a study is resumed: its trials, its confirmation, its resources."""
    return any(path == budget or path.startswith(f"{budget}.") for budget in BUDGET)


def _validated(raw: dict[str, Any]) -> StudyConfig:
    repaired, faults = with_right_tags(raw)
    try:
        config = StudyConfig.model_validate(repaired)
    except ValidationError as error:
        faults += translate(error.errors(), repaired)
        broken = {fault.path for fault in faults}
        raise_faults("params", [*faults, *rule_faults(View(raw, broken))])
        raise
    raise_faults("params", faults)
    return config


def _replace(raw: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    here = raw
    for key in above:
        here[key] = {} if here.get(key) is None else here[key]
        here = here[key]
    here[last] = value


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _differences(old.get(key), new.get(key), join(path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _differences(left, right, join(path, i))
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield path
