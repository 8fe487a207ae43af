"""Conditions on trials as people type them: ``loss.name=emd``, ``optim.lr<0.001``, ``val/qwk>=0.6``."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from study.errors import InputError
from study.space.spelling import hint
from study.types import TrialRow

FORM: Final = re.compile(r"\s*([A-Za-z][\w./\[\]-]*)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*")
WORDS: Final = ("trial", "state", "value", "sd", "epochs", "seconds", "device_seconds", "images")
EQUAL: Final = ("=", "==", "!=")
ABSENT: Final = ("null", "nan")  # how a value is called that a trial does not have, or that is undefined
BOOLEANS: Final = {True: "true", False: "false"}


def filtered(rows: Sequence[TrialRow], conditions: Sequence[str], fixed: Mapping[str, Any]) -> list[TrialRow]:
    """The trials that meet every condition, in their order.

    A name is a parameter (searched, or ``fixed`` by the study file), a metric, or one of trial, state, value, sd,
    epochs, seconds, device_seconds, images. Numbers compare as numbers. A trial without the value, such as one whose
    other parameters switch it off, meets only ``!=`` and ``=null``.

    Raises:
        InputError: a condition cannot be read, nothing has its name, or all values of that name are of another kind.
    """
    parsed = [_parse(condition, rows, fixed) for condition in conditions]
    return [row for row in rows if all(_meets(row, parts, fixed) for parts in parsed)]


def _parse(condition: str, rows: Sequence[TrialRow], fixed: Mapping[str, Any]) -> tuple[str, str, str]:
    matched = FORM.fullmatch(condition)
    if matched is None or not matched[3]:
        raise InputError(
            f"--where {condition!r}: expected NAME=VALUE, with =, !=, <, <=, > or >=", 'write it as "loss.name=emd"'
        )
    name, operator, value = matched[1], matched[2], matched[3]
    known = {*WORDS, *fixed, *(key for row in rows for key in (*row.params, *row.metrics))}
    if name not in known:
        raise InputError(f"--where {condition!r}: no trial has {name!r}{hint(name, known)}", "correct the name")
    number = _number(value)
    if operator not in EQUAL and (number is None or math.isnan(number)):
        raise InputError(f"--where {condition!r}: {value!r} is no number", "compare text with = or !=")
    _check_kind(condition, operator, value, found=[_value(row, name, fixed) for row in rows])
    return name, operator, value


def _check_kind(condition: str, operator: str, wanted: str, *, found: Sequence[Any]) -> None:
    """Refuse a comparison that no value of this kind can meet; it would filter everything away in silence."""
    present = [value for value in found if value is not None]
    if not present or (operator in EQUAL and wanted.lower() in ABSENT):
        return
    if all(isinstance(value, bool) for value in present):
        if operator not in EQUAL or wanted.lower() not in BOOLEANS.values():
            raise InputError(f"--where {condition!r}: the value is true or false", "compare it with =true or =false")
    elif all(_number(value) is not None for value in present):
        if _number(wanted) is None:
            raise InputError(f"--where {condition!r}: the value is a number, {wanted!r} is none", "name a number")
    elif operator not in EQUAL and not any(_number(value) is not None for value in present):
        known = ", ".join(sorted({str(value) for value in present})[:5])
        raise InputError(f"--where {condition!r}: the value is text ({known})", "compare text with = or !=")


def _meets(row: TrialRow, parts: tuple[str, str, str], fixed: Mapping[str, Any]) -> bool:
    name, operator, wanted = parts
    found = _value(row, name, fixed)
    if operator in EQUAL:
        return _is_equal(found, wanted) != (operator == "!=")
    left, right = _number(found), _number(wanted)
    if left is None or right is None:
        return False
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]


def _value(row: TrialRow, name: str, fixed: Mapping[str, Any]) -> Any:
    if name in WORDS:
        return getattr(row, name)
    for values in (row.params, row.metrics, fixed):
        if name in values:
            return values[name]
    return None


def _is_equal(found: Any, wanted: str) -> bool:
    if found is None or (isinstance(found, float) and math.isnan(found)):
        return wanted.lower() in ABSENT
    if isinstance(found, bool):
        return wanted.lower() == BOOLEANS[found]
    left, right = _number(found), _number(wanted)
    if left is not None and right is not None:
        return abs(left - right) <= 1e-9 * max(abs(left), abs(right))
    return str(found) == wanted.strip("\"'")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
