"""p-values of several comparisons, adjusted for their number."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.errors import InputError
from study.stats.samples import Floats, as_vector


def holm(pvalues: ArrayLike) -> Floats:
    """Adjust p-values for their number (Holm 1979), which keeps the chance of any false finding below the level.

    Args:
        pvalues: shape [M], in [0, 1]; a NaN stays NaN and does not count.

    Returns:
        Adjusted p-values in the order given, shape [M].

    Raises:
        InputError: more than one dimension, or a number outside [0, 1].
    """
    values, is_known = _checked(pvalues)
    known = values[is_known]
    order = np.argsort(known, kind="stable")
    stepped = known[order] * np.arange(len(known), 0, -1)
    return _in_place(np.maximum.accumulate(stepped), order=order, is_known=is_known)


def benjamini_hochberg(pvalues: ArrayLike) -> Floats:
    """Adjust p-values for their number (Benjamini and Hochberg 1995), which bounds the share of false findings.

    Weaker than ``holm``: of the comparisons below 0.05 about 5 % are expected to be false, when the tests are
    independent or positively related.

    Args:
        pvalues: shape [M], in [0, 1]; a NaN stays NaN and does not count.

    Returns:
        Adjusted p-values in the order given, shape [M].

    Raises:
        InputError: more than one dimension, or a number outside [0, 1].
    """
    values, is_known = _checked(pvalues)
    known = values[is_known]
    order = np.argsort(known, kind="stable")
    stepped = known[order] * len(known) / np.arange(1, len(known) + 1)
    return _in_place(np.minimum.accumulate(stepped[::-1])[::-1], order=order, is_known=is_known)


def _checked(pvalues: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    values = as_vector(pvalues)
    is_known = ~np.isnan(values)
    known = values[is_known]
    if len(known) and not (known.min() >= 0 and known.max() <= 1):
        raise InputError(f"p-values range from {known.min():g} to {known.max():g}; expected 0 to 1", "pass p-values")
    return values, is_known


def _in_place(sorted_values: Floats, *, order: NDArray[np.int64], is_known: NDArray[np.bool_]) -> Floats:
    """Adjusted values in the order of the question, at most 1, with NaN where there was none."""
    adjusted = np.empty_like(sorted_values)
    adjusted[order] = np.minimum(sorted_values, 1.0)
    result = np.full(len(is_known), np.nan)
    result[is_known] = adjusted
    return result
