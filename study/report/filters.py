"""Conditions on trials as people type them: ``loss.name=emd``, ``optim.lr<0.001``, ``val/qwk>=0.6``."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from study.errors import InputError
from study.space.spelling import hint
from study.types import TrialRow

FORM: Final = re.compile(r"\s*([A-Za-z][\w./\[\]-]*)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*")
WORDS: Final = ("trial", "state", "value", "epochs", "seconds", "device_seconds", "images")
EQUAL: Final = ("=", "==", "!=")


def filtered(rows: Sequence[TrialRow], conditions: Sequence[str], fixed: Mapping[str, Any]) -> list[TrialRow]:
    """The trials that meet every condition, in their order.

    A name is a parameter (searched, or ``fixed`` by the study file), a metric, or one of trial, state, value, epochs,
    seconds, device_seconds, images. Numbers compare as numbers; one without the value meets none but ``!=``.

    Raises:
        InputError: a condition cannot be read, or nothing has its name.
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
    if operator not in EQUAL and _number(value) is None:
        raise InputError(f"--where {condition!r}: {value!r} is no number", "compare text with = or !=")
    return name, operator, value


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
    if found is None or isinstance(found, bool):
        return wanted.lower() == {None: "null", True: "true", False: "false"}[found]
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
