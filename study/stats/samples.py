"""Statistics of repeated runs: Welch's test and intervals of means."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from study.errors import InputError

Floats = NDArray[np.float64]
NAN: Final = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class WelchResult:
    """Welch's test: mean of a minus mean of b, its interval, statistic, degrees of freedom and two-sided p-value.

    ``reason`` says why numbers are NaN; it is empty when all are defined.
    """

    difference: float
    low: float
    high: float
    t: float
    df: float
    p: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanInterval:
    """Mean and sample SD of n values, with the t interval of the mean; ``reason`` says why numbers are NaN."""

    mean: float
    sd: float
    n: int
    low: float
    high: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its interval; ``reason`` says why numbers are NaN."""

    value: float
    low: float
    high: float
    reason: str = ""


def welch(a: ArrayLike, b: ArrayLike, *, level: float = 0.95) -> WelchResult:
    """Welch's t-test of two samples with unequal variances (Welch 1947).

    Args:
        a: first sample, shape [n_a].
        b: second sample, shape [n_b].
        level: coverage of the interval of the difference, between 0 and 1.

    Returns:
        All but ``difference`` is NaN when a sample has fewer than two values or when both have no spread, since
        the standard error is then unknown or zero; all is NaN when a value is not finite.

    Raises:
        InputError: a sample with more than one dimension, or a level outside (0, 1).
    """
    first, second = mean_interval(a), mean_interval(b)
    return welch_from_summary(
        first.mean, first.sd, first.n, mean_b=second.mean, sd_b=second.sd, n_b=second.n, level=level
    )


def welch_from_summary(
    mean_a: float, sd_a: float, n_a: int, *, mean_b: float, sd_b: float, n_b: int, level: float = 0.95
) -> WelchResult:
    """Welch's t-test from means, sample SDs and counts, as printed in papers; see ``welch``.

    Raises:
        InputError: a negative SD, or a level outside (0, 1).
    """
    check_level(level)
    check_sds(sd_a, sd_b)
    difference = float(mean_a - mean_b)
    variance = sd_a**2 / n_a + sd_b**2 / n_b if min(n_a, n_b) > 1 else NAN
    reason = ""
    if min(n_a, n_b) < 2:
        reason = "a sample has fewer than two values"
    elif not (np.isfinite(difference) and np.isfinite(variance)):
        reason = "a value is not finite"
    elif variance == 0:
        reason = "neither sample has any spread"
    if reason:
        return WelchResult(difference=difference, low=NAN, high=NAN, t=NAN, df=NAN, p=NAN, reason=reason)
    share = sd_a**2 / n_a / variance
    df = 1 / (share**2 / (n_a - 1) + (1 - share) ** 2 / (n_b - 1))
    error = variance**0.5
    t = difference / error
    margin = error * float(special.stdtrit(df, (1 + level) / 2))
    return WelchResult(
        difference=difference,
        low=difference - margin,
        high=difference + margin,
        t=t,
        df=df,
        p=2 * float(special.stdtr(df, -abs(t))),
    )


def mean_interval(values: ArrayLike, level: float = 0.95) -> MeanInterval:
    """Mean, sample SD and the interval of the mean by Student's t.

    Args:
        values: shape [n].
        level: coverage, between 0 and 1.

    Returns:
        ``sd``, ``low`` and ``high`` are NaN for one value, all numbers are NaN for none or when a value is not finite.
        Equal values have SD 0 and an interval without width.

    Raises:
        InputError: more than one dimension, or a level outside (0, 1).
    """
    check_level(level)
    sample = as_vector(values)
    n = len(sample)
    if n == 0 or not np.isfinite(sample).all():
        reason = "a value is not finite" if n else "there is no value"
        return MeanInterval(mean=NAN, sd=NAN, n=n, low=NAN, high=NAN, reason=reason)
    mean = float(sample[0]) if np.ptp(sample) == 0 else float(sample.mean())
    if n == 1:
        return MeanInterval(mean=mean, sd=NAN, n=n, low=NAN, high=NAN, reason="a single value has no spread")
    sd = sample_variance(sample) ** 0.5
    margin = sd / n**0.5 * float(special.stdtrit(n - 1, (1 + level) / 2))
    return MeanInterval(mean=mean, sd=sd, n=n, low=mean - margin, high=mean + margin)


def sample_variance(sample: Floats) -> float:
    """Sample variance of at least two values, shape [n]; exactly 0 for equal values."""
    return 0.0 if np.ptp(sample) == 0 else float(sample.var(ddof=1))


def as_vector(values: ArrayLike) -> Floats:
    """A sample as numbers, shape [n].

    Raises:
        InputError: more or fewer dimensions than one.
    """
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise InputError(f"a sample has shape {vector.shape}; expected one dimension", "pass a flat list of numbers")
    return vector


def check_level(level: float) -> None:
    """Refuse a coverage outside (0, 1).

    Raises:
        InputError: with the level.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a number between 0 and 1", "use 0.95 for a 95 % interval")


def check_sds(*sds: float) -> None:
    """Refuse negative standard deviations.

    Raises:
        InputError: with the values.
    """
    if min(sds) < 0:
        found = " and ".join(f"{sd:g}" for sd in sds)
        raise InputError(f"SDs are {found}; expected numbers >= 0", "pass standard deviations")
