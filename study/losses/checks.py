"""Checks of a loss's arguments, made when it is built."""

import math
from collections.abc import Collection
from numbers import Integral, Real

from study.errors import InputError


def check_choice(param: str, value: object, choices: Collection[str]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        InputError: with the parameter, the value and all choices.
    """
    if not isinstance(value, str) or value not in choices:
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


def is_number(value: object) -> bool:
    """Whether a value is a number, infinite and undefined ones and numpy's included."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_whole(param: str, value: object, *, low: int, high: int | None = None) -> int:
    """Refuse what is not a whole number from ``low`` to ``high``.

    Raises:
        InputError: with the parameter, the value and the range.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or int(value) < low or (high is not None and int(value) > high):  # type: ignore[call-overload]
        wanted = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{param} is {value!r}; expected a whole number {wanted}", f"change {param}")
    return int(value)  # type: ignore[call-overload, no-any-return]  # it is a whole number


def _finite(value: object) -> float | None:
    """The value as a float; None for what is no finite number, numpy's numbers included."""
    if not is_number(value):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # it is a number
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
