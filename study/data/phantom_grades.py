"""Phantoms with grades: how suspicious each breast truly is, 1 to 6 as in BI-RADS, and what its reader wrote down.

The picture follows the truth, as does the biopsy; label and assessment follow the reader, who may be one grade off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from study.errors import InputError

GRADES: Final = (1, 2, 3, 4, 5, 6)
CLASS_OF_GRADE: Final = {1: "normal", 2: "benign", 3: "benign", 4: "malignant", 5: "malignant", 6: "malignant"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """One breast: the true grade, the grade that was read, and the severity in 0 .. 1 that the picture shows."""

    true: int
    read: int
    severity: float


def check_grades(shares: Sequence[float] | None, reader_noise: float) -> None:
    """Refuse shares that are not six from 0 that add up to 1, and readers that cannot be.

    Raises:
        InputError: what was found and what was expected.
    """
    if not 0 <= reader_noise <= 1:
        raise InputError(f"phantom reader_noise is {reader_noise:g}; expected a share from 0 to 1")
    if shares is None:
        if reader_noise:
            raise InputError(f"phantom reader_noise is {reader_noise:g} without grades", "give the phantom grades")
        return
    if len(shares) != len(GRADES):
        raise InputError(f"phantom grades are {len(shares)} shares; expected {len(GRADES)}, for grades 1 to 6")
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"phantom grades are {list(shares)}; expected shares from 0 that add up to 1")


def graded(true: Sequence[int], reader_noise: float, rng: np.random.Generator) -> list[Graded]:
    """Severity and reading of each breast.

    Severity lies in the sixth of 0 .. 1 that belongs to the grade, anywhere in it with equal chance, so that
    neighbouring grades meet. The share of breasts that a reader puts one grade off is exact, to the nearest breast;
    up and down are equally likely, and the ends of the scale have one neighbour.

    Args:
        true: true grades, 1 to 6, of N breasts.
        reader_noise: share of them that is read one grade off.
        rng: decides which.
    """
    count = len(true)
    inside = rng.random(count)
    is_off = np.zeros(count, dtype=bool)
    is_off[rng.permutation(count)[: int(np.floor(reader_noise * count + 0.5))]] = True
    up = rng.random(count) < 0.5
    found = []
    for grade, place, off, upward in zip(true, inside, is_off, up, strict=True):
        step = 1 if grade == GRADES[0] or (upward and grade != GRADES[-1]) else -1
        severity = (grade - 1 + float(place)) / len(GRADES)
        found.append(Graded(true=grade, read=grade + step if off else grade, severity=severity))
    return found
