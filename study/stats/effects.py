"""How large a difference between two samples is, in units that do not depend on the metric."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from study.stats.samples import NAN, as_vector, check_sds, mean_interval


def hedges_g(a: ArrayLike, b: ArrayLike) -> float:
    """Standardised mean difference of a and b, corrected for small samples (Hedges 1981, exact factor).

    Args:
        a: first sample, shape [n_a].
        b: second sample, shape [n_b].

    Returns:
        In units of the pooled SD, positive when a is larger; NaN when a sample has fewer than two values, a value is
        not finite, or there is no spread.

    Raises:
        InputError: a sample with more than one dimension.
    """
    first, second = mean_interval(a), mean_interval(b)
    if not (np.isfinite(first.sd) and np.isfinite(second.sd)):
        return NAN
    return hedges_g_from_summary(first.mean, first.sd, first.n, mean_b=second.mean, sd_b=second.sd, n_b=second.n)


def hedges_g_from_summary(mean_a: float, sd_a: float, n_a: int, *, mean_b: float, sd_b: float, n_b: int) -> float:
    """Hedges' g from means, sample SDs and counts, as printed in papers; see ``hedges_g``.

    Raises:
        InputError: a negative SD.
    """
    check_sds(sd_a, sd_b)
    if min(n_a, n_b) < 2:
        return NAN
    df = n_a + n_b - 2
    pooled = (((n_a - 1) * sd_a**2 + (n_b - 1) * sd_b**2) / df) ** 0.5
    if not pooled > 0:
        return NAN
    factor = np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / (df / 2) ** 0.5
    return float(factor * (mean_a - mean_b) / pooled)


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """Chance that a value of a exceeds one of b, minus the reverse (Cliff 1993).

    Args:
        a: first sample, shape [n_a].
        b: second sample, shape [n_b].

    Returns:
        From -1 (all of a lie below all of b) to 1, 0 when neither tends to be larger; NaN when a sample is empty or a
        value is NaN.

    Raises:
        InputError: a sample with more than one dimension.
    """
    first, second = as_vector(a), np.sort(as_vector(b))
    if min(len(first), len(second)) == 0 or np.isnan(first).any() or np.isnan(second).any():
        return NAN
    num_below = np.searchsorted(second, first, side="left")
    num_above = len(second) - np.searchsorted(second, first, side="right")
    return float((num_below - num_above).mean() / len(second))
