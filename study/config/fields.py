"""Kinds of values in the study file: bounds and forms that several fields share, with what was expected in words."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from study.config.names import NUMBER_COLUMNS, SEGMENT_COLUMNS, SPLITS
from study.space import SearchSpace, check_space
from study.space.options import point_leaves
from study.space.spelling import hint, show

SOURCE_RULES: Final = (*SPLITS, "official")


BINNED = "{column: age, bins: [50, 60]}"


def expected(text: str) -> PydanticCustomError:
    """A fault of one field in our own words; ``text`` says what was expected."""
    return PydanticCustomError("expected", "{text}", {"text": text})


def said(text: str) -> PydanticCustomError:
    """A fault of one field whose whole message is ``text``."""
    return PydanticCustomError("said", "{text}", {"text": text})


def inside(faults: Sequence[tuple[str, str]]) -> PydanticCustomError:
    """Faults, as pairs of path and message, inside a value that checks itself."""
    return PydanticCustomError("inside", "{faults}", {"faults": list(faults)})


def _as_slug(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text):
        return text
    raise expected("1 to 64 letters, digits, '-' or '_', the first a letter or digit")


def _as_short_slug(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", text):
        return text
    raise expected("1 to 32 letters, digits, '-' or '_', the first a letter or digit")


def _as_text(text: str) -> str:
    if text.strip() == text and text and text.isprintable():
        return text
    raise expected("printable text without blanks around it")


def _as_every(text: str) -> str:
    if checkpoint_interval(text) is not None:
        return text
    raise expected("a time as '10 minutes', a number as '500 steps', or 'epoch'")


def checkpoint_interval(text: str) -> tuple[float, int] | None:
    """Seconds and steps of ``10 minutes``, ``500 steps`` or ``epoch``, one of them 0; None for any other text."""
    if text == "epoch":
        return 0.0, 0
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) minutes?|(\d{1,9}) steps?", text)
    if found is None:
        return None
    seconds, steps = 60 * float(found[1] or 0), int(found[2] or 0)
    return (seconds, steps) if seconds or steps else None


def _as_span(text: str) -> str:
    if span_seconds(text) is not None:
        return text
    raise expected("a time as '90 seconds', '10 minutes' or '2 hours'")


def span_seconds(text: str) -> float | None:
    """Seconds of ``90 seconds``, ``10 minutes`` or ``2 hours``, more than 0; None for any other text."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) (second|minute|hour)s?", text)
    seconds = float(found[1]) * {"second": 1, "minute": 60, "hour": 3600}[found[2]] if found else 0.0
    return seconds or None


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _as_distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise said(f"{show(twice[0])} stands there twice; expected distinct values")
    return values


def _as_not_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if values:
        return values
    raise said("empty: expected at least one entry")


def _as_segment(value: object) -> str | dict[str, Any]:
    """A column of words, or a column of numbers with the bounds at which it is cut."""
    if isinstance(value, str) and value in SEGMENT_COLUMNS:
        return value
    if isinstance(value, Mapping):
        return _as_binned(value)
    near = hint(value, SEGMENT_COLUMNS) if isinstance(value, str) else ""
    raise expected(f"one of {', '.join(SEGMENT_COLUMNS)}, or as {BINNED}{near}")


def _as_binned(value: Mapping[Any, Any]) -> dict[str, Any]:
    column, bins = value.get("column"), value.get("bins")
    if set(value) != {"column", "bins"} or column not in NUMBER_COLUMNS:
        raise expected(f"{BINNED}, the column one of {', '.join(NUMBER_COLUMNS)}")
    numbers = list(bins) if isinstance(bins, list | tuple) else []
    if not numbers or not all(map(_is_number, numbers)) or any(low >= high for low, high in pairwise(numbers)):
        raise expected(f"{BINNED}, with bins that ascend")
    return {"column": column, "bins": numbers}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_weights(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, str) and value):
        return value
    raise expected("true, false, or the path or URI of a weights file")


def _as_concurrent(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise expected("auto or a whole number of at least 1")


def _as_workers(value: object) -> object:
    """A number of workers, or the fewest and the most."""
    if _is_count(value):
        return value
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_count, value)):
        raise expected("a whole number of at least 1, or the fewest and the most, as in [1, 4]")
    fewest, most = value
    if fewest > most or most % fewest:
        raise expected("the fewest and the most workers, as in [1, 4], of which the first divides the second")
    return fewest if fewest == most else (fewest, most)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _as_space(value: object) -> SearchSpace:
    if isinstance(value, SearchSpace):
        return value
    space, faults = check_space(value)
    if faults:
        raise inside([(fault.path, fault.message) for fault in faults])
    return space


def _as_metrics(value: object) -> str | tuple[str, ...]:
    """One metric, or several without repetition; a list of one is that one."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not value or not all(isinstance(name, str) for name in value):
        raise expected("a metric, as in val/auroc_macro, or a list of metrics")
    names = _as_distinct(tuple(value))
    return names[0] if len(names) == 1 else names


def _metrics_to_raw(value: str | tuple[str, ...]) -> str | list[str]:
    return value if isinstance(value, str) else list(value)


def _as_constraints(value: object) -> dict[str, dict[str, float]]:
    """Bounds of metrics: ``{val/segment_gap_auroc: {max: 0.05}}``."""
    if not isinstance(value, Mapping):
        raise expected("a mapping of metrics to bounds, as in {val/segment_gap_auroc: {max: 0.05}}")
    faults = [fault for name, bounds in value.items() for fault in _bound_faults(str(name), bounds)]
    if faults:
        raise inside(faults)
    return {str(name): {end: float(bound) for end, bound in bounds.items()} for name, bounds in value.items()}


def _bound_faults(name: str, bounds: object) -> list[tuple[str, str]]:
    if not isinstance(bounds, Mapping) or not bounds:
        return [(name, f"{show(bounds)}: expected {{max: NUMBER}}, {{min: NUMBER}} or both")]
    faults = []
    for end, bound in bounds.items():
        if end not in ("min", "max"):
            faults.append((f"{name}.{end}", f"unknown key{hint(str(end), ('min', 'max')) or '; expected min or max'}"))
        elif not _is_number(bound):
            faults.append((f"{name}.{end}", f"{show(bound)}: expected a number"))
    if not faults and "min" in bounds and "max" in bounds and bounds["min"] > bounds["max"]:
        faults.append((name, f"min {bounds['min']:g} lies above max {bounds['max']:g}"))
    return faults


def _as_point(value: object) -> dict[str, Any]:
    """A point of the search space by dotted path; groups are taken apart."""
    if not isinstance(value, Mapping) or not value:
        raise expected("a mapping of parameters to values, as in {optim.lr: 0.001}")
    return dict(point_leaves(value))


def _as_class_name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_. -]{0,62}[A-Za-z0-9_-])?", text):
        return text
    raise expected("1 to 64 letters, digits, blanks, '.', '-' or '_', the first a letter or digit")


def _as_source_rules(value: object) -> dict[str, Any]:
    """What becomes of each source: a split, ``official``, or shares of its patients."""
    if not isinstance(value, Mapping):
        raise expected("a mapping of source names to train, val, test, official, or shares of the three")
    faults = [fault for name, rule in value.items() for fault in _rule_faults(str(name), rule)]
    if faults:
        raise inside(faults)
    return {name: dict(rule) if isinstance(rule, Mapping) else rule for name, rule in value.items()}


def _rule_faults(name: str, rule: object) -> list[tuple[str, str]]:
    if not isinstance(rule, Mapping):
        if rule in SOURCE_RULES:
            return []
        wanted = f"{', '.join(SOURCE_RULES)}, or shares of the patients"
        return [(name, f"{show(rule)}: expected one of {wanted}{hint(str(rule), SOURCE_RULES)}")]
    faults = []
    for split, share in rule.items():
        if split not in SPLITS:
            near = hint(str(split), SPLITS) or f"; expected one of {', '.join(SPLITS)}"
            faults.append((f"{name}.{split}", f"unknown key{near}"))
        elif isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            faults.append((f"{name}.{split}", f"{show(share)}: expected a number from 0 to 1"))
    if not faults and abs(sum(rule.values()) - 1) > 1e-6:
        found = ", ".join(f"{split} {share:g}" for split, share in rule.items()) or "no shares"
        faults.append((name, f"{found} make {sum(rule.values()):g}: expected 1 together"))
    return faults


Slug = Annotated[str, AfterValidator(_as_slug)]
Every = Annotated[str, AfterValidator(_as_every)]
Span = Annotated[str, AfterValidator(_as_span)]
Text = Annotated[str, AfterValidator(_as_text)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1)]
Times = Annotated[int, Field(ge=0, le=100_000)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
ClassWeights = Literal["none", "balanced", "inv_sum1", "inv_meanK", "sqrt_inv", "effective_number"]
CountSource = Literal["sampled", "raw"]
WeightPlace = Literal["rows", "columns"]
Treatment = Literal["drop", "normal", "benign", "malignant"]
Task = Literal["birads3", "birads", "acr", "binary", "density", "view", "classes"]
ClassName = Annotated[str, AfterValidator(_as_class_name)]
SourceRules = Annotated[dict[str, Any], PlainValidator(_as_source_rules)]
Space = Annotated[SearchSpace, PlainValidator(_as_space), PlainSerializer(SearchSpace.to_raw)]
Metrics = Annotated[str | tuple[str, ...], PlainValidator(_as_metrics), PlainSerializer(_metrics_to_raw)]
Constraints = Annotated[dict[str, dict[str, float]], PlainValidator(_as_constraints)]
Point = Annotated[dict[str, Any], PlainValidator(_as_point)]
ShortSlug = Annotated[str, AfterValidator(_as_short_slug)]
Segment = Annotated[Any, PlainValidator(_as_segment)]
Vendor = Literal["Alpha", "Beta", "Gamma", "Delta"]
Weights = Annotated[bool | str, BeforeValidator(_as_weights)]
Concurrent = Annotated[Literal["auto"] | int, BeforeValidator(_as_concurrent)]
Workers = Annotated[int | tuple[int, int], BeforeValidator(_as_workers)]
AsTuple = BeforeValidator(_as_tuple)
NotEmpty = AfterValidator(_as_not_empty)
Distinct = AfterValidator(_as_distinct)
