"""Do two models err on different cases (McNemar 1947)?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from study.errors import InputError
from study.stats.samples import NAN


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemarResult:
    """Cases that only one of two models got right, and the two-sided p-value of "both err equally often".

    ``statistic`` is the chi-square, NaN for the exact test; ``reason`` says why numbers are NaN.
    """

    only_a: int
    only_b: int
    statistic: float
    p: float
    reason: str = ""


def mcnemar(
    is_right_a: ArrayLike, is_right_b: ArrayLike, *, method: Literal["exact", "chi2"] = "exact"
) -> McNemarResult:
    """McNemar's test on the same cases.

    Args:
        is_right_a: whether the first model got each case right, shape [N]. Take only the positive cases to compare
            sensitivities, only the negative ones to compare specificities.
        is_right_b: the same of the second model.
        method: ``exact`` (binomial), or ``chi2`` with Edwards' correction of continuity (1948), which needs some 25
            cases on which the models differ.

    Returns:
        p is NaN when the models differ on no case.

    Raises:
        InputError: shapes that differ, or a value that is neither true nor false.
    """
    first, second = np.asarray(is_right_a), np.asarray(is_right_b)
    if first.ndim != 1 or first.shape != second.shape:
        raise InputError(
            f"outcomes have shapes {first.shape} and {second.shape}; expected [N] twice", "pass one per case"
        )
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        raise InputError("an outcome is neither true nor false", "pass predicted == label of each model")
    first, second = first.astype(bool), second.astype(bool)
    return mcnemar_from_counts(int((first & ~second).sum()), int((second & ~first).sum()), method=method)


def mcnemar_from_counts(only_a: int, only_b: int, *, method: Literal["exact", "chi2"] = "exact") -> McNemarResult:
    """McNemar's test from how many cases only one model got right; see ``mcnemar``.

    Raises:
        InputError: a negative count, or an unknown method.
    """
    if min(only_a, only_b) < 0:
        raise InputError(f"counts are {only_a} and {only_b}; expected numbers >= 0", "pass counts of cases")
    if method not in ("exact", "chi2"):
        raise InputError(f"method is {method!r}; expected 'exact' or 'chi2'", "choose one of them")
    num_differing = only_a + only_b
    if num_differing == 0:
        reason = "the models are right and wrong on the same cases"
        return McNemarResult(only_a=only_a, only_b=only_b, statistic=NAN, p=NAN, reason=reason)
    if method == "exact":
        p = min(1.0, 2 * float(special.bdtr(min(only_a, only_b), num_differing, 0.5)))
        return McNemarResult(only_a=only_a, only_b=only_b, statistic=NAN, p=p)
    # Equal counts are no evidence at all; the correction must not turn them into some.
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / num_differing
    return McNemarResult(only_a=only_a, only_b=only_b, statistic=statistic, p=float(special.chdtrc(1, statistic)))
