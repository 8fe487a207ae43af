"""Checks of a loss's arguments, made when it is built."""

import math
from collections.abc import Collection

from study.errors import InputError


def check_choice(param: str, value: object, choices: Collection[str]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        InputError: with the parameter, the value and all choices.
    """
    if value not in choices:
        raise InputError(f"{param} is {value!r}; expected one of {', '.join(choices)}", f"choose one for {param}")


def check_number(param: str, value: object, *, low: float = 0.0, below: float = math.inf) -> float:
    """Refuse what is not a finite number in [low, below).

    Raises:
        InputError: with the parameter, the value and the range.
    """
    number = _finite(value)
    if number is None or not low <= number < below:
        upper = "" if below == math.inf else f" and < {below:g}"
        raise InputError(f"{param} is {value!r}; expected a number >= {low:g}{upper}", f"change {param}")
    return number


def check_between(param: str, value: object, *, low: float, high: float) -> float:
    """Refuse what is not a finite number in [low, high].

    Raises:
        InputError: with the parameter, the value and the range.
    """
    number = _finite(value)
    if number is None or not low <= number <= high:
        raise InputError(f"{param} is {value!r}; expected a number from {low:g} to {high:g}", f"change {param}")
    return number


def check_positive(param: str, value: object, *, below: float = math.inf) -> float:
    """Refuse what is not a finite number in (0, below).

    Raises:
        InputError: with the parameter, the value and the range.
    """
    number = _finite(value)
    if number is None or not 0 < number < below:
        upper = "" if below == math.inf else f" and < {below:g}"
        raise InputError(f"{param} is {value!r}; expected a number > 0{upper}", f"change {param}")
    return number


def check_flag(param: str, value: object) -> bool:
    """Refuse what is neither true nor false.

    Raises:
        InputError: with the parameter and the value.
    """
    if not isinstance(value, bool):
        raise InputError(f"{param} is {value!r}; expected true or false", f"change {param}")
    return value


def _finite(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(float(value)) else None  # type: ignore[arg-type]
