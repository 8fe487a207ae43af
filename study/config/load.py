"""Reading a study file: text, overrides, environment, schema, rules, search space; every fault at once."""

import copy
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError

from study.config.comparators import EvaluateConfig, PseudoConfig
from study.config.data import DataConfig
from study.config.faults import in_file_order, raise_faults, translate
from study.config.losses import LossConfig
from study.config.overrides import apply_overrides
from study.config.paths import with_defaults
from study.config.resources import ResourcesConfig
from study.config.rules import View, advice, rule_faults
from study.config.scales import asked_faults, is_set, scaled, seen_from, take_scales
from study.config.schema import (
    AugmentConfig,
    ConfirmConfig,
    ModelConfig,
    OptimConfig,
    SamplerConfig,
    SearchConfig,
    StudyConfig,
    TrainConfig,
)
from study.config.search_rules import space_advice, with_space_faults
from study.config.searching import space_faults
from study.config.tags import with_right_tags
from study.config.tasks import TasksConfig
from study.config.yamlfile import join, read_yaml
from study.errors import ConfigError
from study.space import Fault, check_space
from study.space.spelling import listed, nearest, show

MAX_BYTES: Final = 1 << 20
FROM_ENVIRONMENT: Final = ("prepared", "root", "table", "masks", "pretrained")
VARIABLE: Final = re.compile(r"\$\{([^}]*)\}?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialStudy:
    """What could be read of a study file: sections in ``valid`` are whole, the others None.

    ``config`` is there only when the file has no fault at all; ``warnings`` are sentences about settings that work;
    ``places`` has line and column of every path in the file, for ``raise_faults``.
    """

    valid: frozenset[str]
    config: StudyConfig | None = None
    warnings: tuple[str, ...] = ()
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False)
    study: str | None = None
    seed: int | None = None
    strict: bool | None = None
    data: DataConfig | None = None
    model: ModelConfig | None = None
    loss: LossConfig | None = None
    tasks: TasksConfig | None = None
    sampler: SamplerConfig | None = None
    augment: AugmentConfig | None = None
    optim: OptimConfig | None = None
    train: TrainConfig | None = None
    pseudo: PseudoConfig | None = None
    evaluate: EvaluateConfig | None = None
    search: SearchConfig | None = None
    confirm: ConfirmConfig | None = None
    resources: ResourcesConfig | None = None


def load_config(path: Path | str, overrides: Sequence[str] = (), *, scale: str | None = None) -> StudyConfig:
    """The study file, at one of its scales where one is named, with its ``--set`` overrides, checked as a whole.

    Raises:
        ConfigError: the file cannot be read, or has faults; all of them at once, in file order.
    """
    partial, faults = check_study_file(path, overrides, scale=scale)
    raise_faults(path, faults)
    if partial.config is None:
        raise ConfigError(f"{path}: no study could be read", "start from a file of search_spaces/")
    return partial.config


def check_study_file(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    scale: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[PartialStudy, list[Fault]]:
    """All faults of a study file in file order, and every section that is valid on its own.

    ``overrides`` are texts ``path=value``, the value in YAML, the last one of a path counts; they come after the values
    of ``scale``. The file's other scales are checked, too. Of a scale that the file does not have no section is valid,
    since nobody knows what was meant. ``environ`` defaults to the variables of the process.

    Raises:
        ConfigError: the file is missing, too large, not YAML, or not a mapping.
    """
    document = read_yaml(_read_text(Path(path)), name=str(path))
    if not isinstance(document.value, dict):
        raise_faults(path, document.faults)
        found = "empty" if document.value is None else show(document.value)
        raise ConfigError(f"{path}: {found}: expected a mapping with study and data", "start from search_spaces/")
    variables = os.environ if environ is None else environ
    base: dict[str, Any] = document.value
    scales, faults = take_scales(base)
    faults = [*document.faults, *faults, *asked_faults(scale, scales, faults)]
    for name, values in scales.items():
        if name != scale:
            faults += _other_scale_faults(base, name, values, environ=variables)
    values = scales.get(scale or "", {})
    if values:
        document.value, scale_faults = scaled(base, str(scale), values)
        faults += scale_faults
    faults += apply_overrides(document, overrides)
    partial, faults = check_raw(document.value, [*faults, *_expand(document.value, "", variables)])
    faults = [seen_from(str(scale), values, fault) if is_set(fault, values, overrides) else fault for fault in faults]
    is_known = scale is None or scale in scales
    partial = replace(partial, places=document.places) if is_known else PartialStudy(valid=frozenset())
    return partial, in_file_order(faults, document.places)


def check_raw(raw: dict[str, Any], known: Sequence[Fault] = ()) -> tuple[PartialStudy, list[Fault]]:
    """Like ``check_study_file`` for plain data; places of ``known`` faults, found before, are not judged again."""
    repaired, faults = with_right_tags(raw)
    errors: Sequence[Any] = ()
    config = None
    try:
        config = StudyConfig.model_validate(repaired)
    except ValidationError as error:
        errors = error.errors()
    faults += _elsewhere(translate(errors, repaired), known)
    broken = {fault.path for fault in (*known, *faults)}
    view = View(with_defaults(repaired), broken)
    faults = [*known, *faults, *rule_faults(view)]
    search = repaired.get("search")
    if isinstance(search, Mapping) and isinstance(search.get("space"), Mapping):
        space, grammar = check_space(search["space"])
        found = space_faults(space, view, broken)
        found += [] if grammar else with_space_faults(space, view)
        faults += [fault for fault in found if fault.path not in broken]
    if faults or config is None:
        return _partial(repaired, faults), faults
    sections = {name: getattr(config, name) for name in StudyConfig.model_fields}
    return PartialStudy(
        valid=frozenset(sections), config=config, warnings=tuple(config_warnings(config)), **sections
    ), []


def config_warnings(config: StudyConfig) -> list[str]:
    """Sentences about settings that work but hardly mean what they say (class weights beside a balancing sampler)."""
    view = View(config.model_dump(mode="json"))
    return [*advice(view), *(space_advice(config.search.space, view) if config.search else ())]


def _other_scale_faults(
    base: Mapping[str, Any], name: str, values: Mapping[str, Any], *, environ: Mapping[str, str]
) -> list[Fault]:
    """Faults that the file has at a scale that nobody asked for, and does not have without it.

    Its environment variables need not be set.
    """
    at_scale, faults = scaled(base, name, values)
    there = _faults_with_any_variable(at_scale, environ)
    known = set(_faults_with_any_variable(copy.deepcopy(dict(base)), environ)) if there else set()
    found = [seen_from(name, values, fault) for fault in there if is_set(fault, values) or fault not in known]
    return [*faults, *_elsewhere(found, faults)]


def _faults_with_any_variable(raw: dict[str, Any], environ: Mapping[str, str]) -> list[Fault]:
    named = dict.fromkeys(VARIABLE.findall(str(raw)), "unset")
    return check_raw(raw, list(_expand(raw, "", {**named, **{key: value for key, value in environ.items() if value}})))[
        1
    ]


def _read_text(path: Path) -> str:
    name = str(path)
    try:
        if path.is_dir():
            raise ConfigError(f"{name}: a directory; expected a study file", "name a YAML file, as in search_spaces/")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a device has no size, and may have no end
        if len(content) > MAX_BYTES:
            raise ConfigError(
                f"{name}: larger than 1 MiB; expected a study file", "name a YAML file of a few kilobytes"
            )
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except FileNotFoundError as error:
        near = nearest(path.name, _yaml_names(path.parent))
        fix = f"did you mean {path.parent / near}?" if near else "check the path; examples are in search_spaces/"
        raise ConfigError(f"{name}: no such file", fix) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not text in UTF-8; expected a study file", "save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror})", "check its permissions") from error


def _yaml_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.glob("*.y*ml")) if folder.is_dir() else []


def _expand(value: Any, path: str, environ: Mapping[str, str]) -> Iterator[Fault]:
    """Replace environment variables in place; yield those that are unknown or stand where none is read."""
    entries = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, child in entries:
        place = join(path, key)
        if not isinstance(child, str):
            yield from _expand(child, place, environ)
        elif "${" in child:
            message = _variable_message(child, str(key), environ)
            if message:
                yield Fault(place, message)
            else:
                value[key] = VARIABLE.sub(lambda match: environ[match[1]], child)


def _variable_message(text: str, key: str, environ: Mapping[str, str]) -> str | None:
    if key not in FROM_ENVIRONMENT:
        return f"{show(text)}: environment variables are read only in {listed(FROM_ENVIRONMENT)}"
    for match in VARIABLE.finditer(text):
        name = match[1]
        if not match[0].endswith("}") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            return f"{show(text)}: expected ${{NAME}} with the name of an environment variable"
        if not environ.get(name):
            return f"environment variable {name} is not set"
        if "${" in environ[name]:
            return f"environment variable {name} holds another variable; expected its value"
    return None


def _elsewhere(faults: Sequence[Fault], known: Sequence[Fault]) -> list[Fault]:
    """The faults at places without a known one."""
    places = {fault.path for fault in known}
    return [fault for fault in faults if fault.path not in places]


def _adapter(name: str) -> TypeAdapter[Any]:
    info = StudyConfig.model_fields[name]
    field: Any = Annotated[info.annotation, info]
    return TypeAdapter(field)


def _partial(raw: Mapping[str, Any], faults: Sequence[Fault]) -> PartialStudy:
    """Sections without a fault of their own, each validated alone."""
    faulty = {fault.path.split(".", maxsplit=1)[0] for fault in faults}
    sections: dict[str, Any] = {}
    for name, info in StudyConfig.model_fields.items():
        if name in faulty:
            continue
        if name in raw:
            sections[name] = _adapter(name).validate_python(raw[name])
        elif not info.is_required():
            sections[name] = info.get_default(call_default_factory=True, validated_data={})
    return PartialStudy(valid=frozenset(sections), **sections)
