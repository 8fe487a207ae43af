"""Welch's test and intervals of means against scipy and by hand."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from study.errors import InputError
from study.stats import hedges_g, mean_interval, welch, welch_from_summary


def two_samples(seed, *, shift=0.5):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, rng.integers(2, 12)), rng.normal(shift, 2, rng.integers(2, 12))


@given(seed=st.integers(0, 10_000), level=st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=40, deadline=None)
def test_welch_equals_scipy(seed, level):
    """Statistic, degrees of freedom, p-value and interval equal scipy's, from samples and from summaries."""
    a, b = two_samples(seed)
    theirs = reference.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(level)
    summaries = {"mean_b": b.mean(), "sd_b": b.std(ddof=1), "n_b": len(b)}
    for ours in (
        welch(a, b, level=level),
        welch_from_summary(a.mean(), a.std(ddof=1), len(a), **summaries, level=level),
    ):
        assert (ours.t, ours.df, ours.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue), rel=1e-9)
        assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-12)
        assert ours.difference == pytest.approx(a.mean() - b.mean())


def test_welch_by_hand():
    """Two samples of five worked by hand: t = -3, eight degrees of freedom."""
    found = welch_from_summary(1.0, 1.0, 5, mean_b=1 + 3 * math.sqrt(0.4), sd_b=1.0, n_b=5)
    assert (found.t, found.df) == (pytest.approx(-3), pytest.approx(8))
    assert found.p == pytest.approx(0.017072, abs=1e-6)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_interval_and_p_value_agree(seed):
    """The 95 % interval of the difference excludes 0 exactly when p < 0.05, and swapping the samples flips signs."""
    a, b = two_samples(seed, shift=2.5)
    found, swapped = welch(a, b), welch(b, a)
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)
    assert (swapped.t, swapped.p, swapped.low) == pytest.approx((-found.t, found.p, -found.high))


@pytest.mark.parametrize(
    ("a", "b"),
    [([1.0], [2.0, 3.0]), ([], [1.0, 2.0]), ([0.1] * 3, [0.1] * 3), ([0.1] * 3, [0.3] * 4), ([1, np.nan], [1, 2])],
)
def test_undefined_welch(a, b):
    """Too few values, no spread or a NaN give NaN instead of an exception, a warning, or p = 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = welch(a, b)
        effect = hedges_g(a, b)
    assert all(math.isnan(value) for value in (found.t, found.df, found.p, found.low, found.high, effect))
    assert found.reason


def test_spread_on_one_side_is_enough():
    """A sample without spread can be compared with one that has some."""
    found = welch([1.0, 1.0, 1.0], [2.0, 3.0, 4.0])
    assert found.df == pytest.approx(2)
    assert 0 < found.p < 1


@given(seed=st.integers(0, 1000), level=st.sampled_from([0.8, 0.95]))
@settings(max_examples=20, deadline=None)
def test_mean_interval_equals_scipy(seed, level):
    """Mean, SD and interval equal scipy's."""
    sample, _ = two_samples(seed)
    found = mean_interval(sample, level)
    low, high = reference.t.interval(level, len(sample) - 1, loc=sample.mean(), scale=reference.sem(sample))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)
    assert (found.mean, found.sd, found.n) == (
        pytest.approx(sample.mean()),
        pytest.approx(sample.std(ddof=1)),
        len(sample),
    )


def test_mean_interval_at_the_edges():
    """One value has no interval, none has no mean, equal values have one of no width, NaN gives NaN."""
    one, none, equal, broken = (mean_interval(values) for values in ([0.7], [], [0.1] * 3, [1.0, math.nan]))
    assert one.mean == 0.7
    assert ("single" in one.reason, "no value" in none.reason, "not finite" in broken.reason) == (True, True, True)
    assert equal.reason == ""
    assert all(math.isnan(value) for value in (one.sd, one.low, one.high, none.mean, none.low, broken.mean, broken.sd))
    assert (equal.mean, equal.sd, equal.low, equal.high) == (0.1, 0.0, 0.1, 0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sd_a": 0.1, "n_a": 1}, "fewer than two"),
        ({"sd_a": math.nan, "n_a": 5}, "not finite"),
        ({"sd_a": 0.0, "n_a": 5, "sd_b": 0.0}, "spread"),
    ],
)
def test_why_a_summary_has_no_test(arguments, words):
    """A summary that cannot be tested says why, instead of a p-value of 1 or 0."""
    values = {"mean_a": 1.0, "mean_b": 2.0, "sd_b": 0.1, "n_b": 5, **arguments}
    found = welch_from_summary(**values)
    assert words in found.reason
    assert math.isnan(found.p)
    assert found.difference == -1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: welch([[1.0]], [1.0]), "one dimension"),
        (lambda: welch([1.0, 2], [1.0, 2], level=95), "between 0 and 1"),
        (lambda: welch_from_summary(1, -1, 5, mean_b=1, sd_b=1, n_b=5), "expected numbers >= 0"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
