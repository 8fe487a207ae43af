"""How doubtful a label is, by where it came from; paper multitask, section 2.1: its loss counts 1 - u."""

from collections.abc import Mapping
from typing import Final

import pandas as pd

from study.errors import InputError

NO_LABEL: Final = ("missing", "left_out")
ORIGINS: Final = ("reader", "biopsy", "synthetic", "flipped", *NO_LABEL)
USUAL: Final[Mapping[str, float]] = {"reader": 0.0, "biopsy": 0.0, "synthetic": 0.5}


def uncertainty_of(origins: pd.Series, given: Mapping[str, float]) -> pd.Series:
    """Uncertainty from 0 (certain) to 1 (counts nothing) of each label by its origin; 1 where there is no label.

    ``given`` overrides the usual values. Call it before labels are flipped: a flipped one keeps what it had, unless
    ``given`` has a value for ``flipped``.

    Raises:
        InputError: an origin that is not known, or a value outside 0 to 1.
    """
    for origin, value in given.items():
        if origin not in (*USUAL, "flipped"):
            raise InputError(
                f"labels.uncertainty names {origin!r}; expected {', '.join((*USUAL, 'flipped'))}", "correct the name"
            )
        if not 0 <= value <= 1:
            raise InputError(
                f"labels.uncertainty.{origin} is {value:g}; expected a number from 0 to 1", "correct the number"
            )
    by_origin = {**USUAL, **given, **dict.fromkeys(NO_LABEL, 1.0)}
    return origins.map(by_origin).astype("float64")
