"""Efron's bootstrap of any metric, and of differences between two models on the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy import special

from study.errors import InputError
from study.stats.resampling import Counts, Metric, Resampling
from study.stats.samples import NAN, Floats, check_level, sample_variance

IntervalKind = Literal["percentile", "bca"]
RESAMPLES: Final = 2000
MANY_UNDEFINED: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapInterval:
    """A value of the whole set with its interval; ``resamples`` counts those in which the metric was defined.

    ``reason`` says why numbers are NaN, or that many resamples were left out; it is empty otherwise.
    """

    value: float
    low: float
    high: float
    standard_error: float
    resamples: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Value of a minus value of b on the same rows, with interval, standard error and two-sided p-value.

    ``resamples`` is 0 where a formula gave the error. ``reason`` as in ``BootstrapInterval``.
    """

    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    standard_error: float
    p: float
    resamples: int = 0
    reason: str = ""


def bootstrap_draws(
    metrics: Sequence[Metric], rows: Resampling, *, resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Several metrics on the same resamples, shape [R, M]; NaN where one is undefined.

    All models, classes and metrics that are to be compared should be read from one call: drawing costs as much as an
    area. One resample at a time stays in the processor's cache, which is faster than many at once.
    """
    rng = np.random.default_rng(seed)
    draws = np.full((resamples, len(metrics)), np.nan)
    for index in range(resamples if rows.num_groups else 0):
        count_n = rows.draw(rng)
        draws[index] = [metric(count_n) for metric in metrics]
    return draws


def bootstrap(
    metric: Metric,
    rows: Resampling,
    *,
    interval: IntervalKind = "percentile",
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """A metric with its bootstrap interval.

    Args:
        metric: from how often each row is in the set, integers [N], to a number, NaN where undefined: a weighted metric
            takes the counts as weights; ``of_rows`` wraps one that takes row numbers.
        rows: what is drawn, from ``resampling``.
        interval: ``percentile``, or ``bca`` (Efron 1987), which corrects bias and skewness and evaluates the metric
            once more per group.
        resamples: how many; those in which the metric is undefined are left out and not counted in the result.
        level: coverage, between 0 and 1.
        seed: of the draws; equal seeds give equal results.

    Raises:
        InputError: a level outside (0, 1).
    """
    check_level(level)
    value = float(metric(rows.once()))
    draws = bootstrap_draws([metric], rows, resamples=resamples, seed=seed)[:, 0]
    low, high, reason = _interval(metric, rows, draws=draws, value=value, interval=interval, level=level)
    kept = draws[np.isfinite(draws)]
    return BootstrapInterval(
        value=value,
        low=low,
        high=high,
        standard_error=_standard_error(kept),
        resamples=len(kept),
        reason=reason,
    )


def bootstrap_difference(
    metric_a: Metric,
    metric_b: Metric,
    rows: Resampling,
    *,
    interval: IntervalKind = "percentile",
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Difference of two metrics on the same rows, both read from each resample; arguments as in ``bootstrap``.

    The p-value is that of ``p_from_interval``, as in the periodic-sampling paper (2022).

    Raises:
        InputError: a level outside (0, 1).
    """
    check_level(level)

    def gap(count_n: Counts) -> float:
        return metric_a(count_n) - metric_b(count_n)

    value_a, value_b = float(metric_a(rows.once())), float(metric_b(rows.once()))
    difference = value_a - value_b
    draws = bootstrap_draws([gap], rows, resamples=resamples, seed=seed)[:, 0]
    low, high, reason = _interval(gap, rows, draws=draws, value=difference, interval=interval, level=level)
    kept = draws[np.isfinite(draws)]
    p = p_from_interval(difference, low, high, level=level)
    return PairedDifference(
        value_a=value_a,
        value_b=value_b,
        difference=difference,
        low=low,
        high=high,
        standard_error=_standard_error(kept),
        p=p,
        resamples=len(kept),
        reason=reason or ("" if np.isfinite(p) else "all resamples differ alike, so the interval has no width"),
    )


def p_from_interval(value: float, low: float, high: float, *, level: float = 0.95) -> float:
    """Two-sided p-value of "the value is 0" from its interval, taken as normal (Altman and Bland 2011).

    Returns:
        NaN when the interval has no width or is NaN.
    """
    error = (high - low) / (2 * float(special.ndtri((1 + level) / 2)))
    return 2 * float(special.ndtr(-abs(value) / error)) if error > 0 else NAN


def _interval(
    metric: Metric, rows: Resampling, *, draws: Floats, value: float, interval: IntervalKind, level: float
) -> tuple[float, float, str]:
    """Bounds, and in words why there are none or that many resamples were left out."""
    kept = draws[np.isfinite(draws)]
    if not np.isfinite(value):
        return NAN, NAN, "the metric is undefined on the whole set"
    if len(kept) < 2:
        return NAN, NAN, f"the metric is defined in {len(kept)} of {len(draws)} resamples"
    left_out = len(draws) - len(kept)
    reason = ""
    if left_out > MANY_UNDEFINED * len(draws):
        reason = f"the metric is undefined in {left_out} of {len(draws)} resamples, which were left out"
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if interval == "bca":
        tails, trouble = _bca_tails(metric, rows, kept=kept, value=value, tails=tails)
        reason = trouble or reason
    elif interval != "percentile":
        raise InputError(f"interval is {interval!r}; expected 'percentile' or 'bca'", "choose one of them")
    if np.isnan(tails).any():
        return NAN, NAN, reason
    low, high = np.quantile(kept, tails)
    return float(low), float(high), reason


def _bca_tails(metric: Metric, rows: Resampling, *, kept: Floats, value: float, tails: Floats) -> tuple[Floats, str]:
    """The quantiles to read instead of the plain ones (Efron 1987; acceleration by the jackknife over groups)."""
    share_below = float((np.count_nonzero(kept < value) + np.count_nonzero(kept <= value)) / (2 * len(kept)))
    if (kept == value).all():
        return tails, ""
    if not 0 < share_below < 1:
        return np.full(2, NAN), "the value lies outside all resamples, so its bias cannot be corrected"
    left_out = np.array([metric(rows.without(group)) for group in range(rows.num_groups)])
    pull = left_out.mean() - left_out
    if not np.isfinite(pull).all():
        return np.full(2, NAN), "the metric is undefined without one of the groups"
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    bias = float(special.ndtri(share_below))
    shifted = bias + special.ndtri(tails)
    corrected: Floats = special.ndtr(bias + shifted / (1 - acceleration * shifted))
    return corrected, ""


def _standard_error(kept: Floats) -> float:
    return sample_variance(kept) ** 0.5 if len(kept) > 1 else NAN
