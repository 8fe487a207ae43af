"""Statistics against scipy, published numbers, brute force and known coverage."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference
from sklearn.metrics import roc_auc_score

from study.errors import InputError
from study.stats import (
    bootstrap_auc,
    bootstrap_auc_difference,
    delong_test,
    hedges_g,
    holm,
    mean_interval,
    p_from_interval,
    welch,
    welch_from_summary,
)


def two_samples(seed, *, shift=0.5):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, rng.integers(2, 12)), rng.normal(shift, 2, rng.integers(2, 12))


def scored(seed, *, rows=80, ties=True):
    """Labels and the scores of a good and a poorer model on the same rows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=rows)
    labels[:4] = [0, 1, 0, 1]
    good, poor = labels + rng.normal(0, 1, rows), labels + rng.normal(0, 2, rows)
    return (np.round(good, 1), np.round(poor, 1), labels) if ties else (good, poor, labels)


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


def test_spread_on_one_side_is_enough():
    """A sample without spread can be compared with one that has some."""
    found = welch([1.0, 1.0, 1.0], [2.0, 3.0, 4.0])
    assert found.df == pytest.approx(2)
    assert 0 < found.p < 1


def test_holm():
    """A family worked by hand, in the order given; NaN does not count."""
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]).tolist() == [1.0, 1.0]
    with_nan = holm([0.01, math.nan, 0.04])
    assert with_nan[[0, 2]].tolist() == pytest.approx([0.02, 0.04])
    assert math.isnan(with_nan[1])
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_properties(pvalues):
    """Adjusted values lie between the raw ones and Bonferroni's, keep their order, and reject as stepping down does."""
    raw, adjusted = np.array(pvalues), holm(pvalues)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(raw * len(raw), 1) + 1e-15).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    rejected = 0
    while rejected < len(raw) and raw[order[rejected]] * (len(raw) - rejected) <= 0.05:
        rejected += 1
    assert np.count_nonzero(adjusted <= 0.05) == rejected


def test_hedges_g():
    """The effect equals Cohen's d times the exact correction (0.9027 for eight degrees of freedom), signed."""
    a, b = np.array([1, 2, 3, 4, 5.0]), np.array([3, 4, 5, 6, 7.0])
    cohen = -2 / math.sqrt(2.5)
    exact = math.gamma(4) / (math.sqrt(4) * math.gamma(3.5))
    assert exact == pytest.approx(0.902703, abs=1e-5)
    assert hedges_g(a, b) == pytest.approx(cohen * exact)
    assert hedges_g(b, a) == pytest.approx(-hedges_g(a, b))
    assert hedges_g(10 * a, 10 * b) == pytest.approx(hedges_g(a, b))


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
    assert all(math.isnan(value) for value in (one.sd, one.low, one.high, none.mean, none.low, broken.mean, broken.sd))
    assert (equal.mean, equal.sd, equal.low, equal.high) == (0.1, 0.0, 0.1, 0.1)


@given(seed=st.integers(0, 1000), ties=st.booleans())
@settings(max_examples=20, deadline=None)
def test_bootstrap_equals_a_plain_loop(seed, ties):
    """Every resampled area equals scikit-learn's on the same draw."""
    scores, other, labels = scored(seed, rows=30, ties=ties)
    found = bootstrap_auc_difference(scores, other, labels, resamples=20, seed=seed)
    rng, draws = np.random.default_rng(seed), []
    for _ in range(20):
        rows = rng.integers(30, size=30)
        draws.append(roc_auc_score(labels[rows], scores[rows]) - roc_auc_score(labels[rows], other[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.standard_error == pytest.approx(np.std(draws, ddof=1))
    assert found.auc_a == pytest.approx(roc_auc_score(labels, scores))
    assert found.difference == pytest.approx(found.auc_a - found.auc_b)


def test_bootstrap_and_delong_agree():
    """On 2000 rows the bootstrap's standard error, interval and p-value are close to DeLong's."""
    scores, other, labels = scored(0, rows=2000)
    by_bootstrap = bootstrap_auc_difference(scores, other, labels)
    by_formula = delong_test(scores, other, labels)
    assert by_bootstrap.difference == pytest.approx(by_formula.difference)
    assert by_bootstrap.standard_error == pytest.approx(by_formula.standard_error, rel=0.08)
    assert (by_bootstrap.low, by_bootstrap.high) == pytest.approx((by_formula.low, by_formula.high), abs=0.004)
    assert by_bootstrap.p < 1e-6
    assert by_formula.p < 1e-6


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_delong_equals_the_matrix_form(seed):
    """Areas, variance and p-value equal those from the full matrix of comparisons."""
    scores, other, labels = scored(seed, rows=30)
    positives, negatives = labels == 1, labels == 0
    wins = [(np.sign(column[positives][:, None] - column[negatives][None, :]) + 1) / 2 for column in (scores, other)]
    gap = wins[0] - wins[1]
    rows_gap, columns_gap = gap.mean(axis=1), gap.mean(axis=0)
    variance = rows_gap.var(ddof=1) / positives.sum() + columns_gap.var(ddof=1) / negatives.sum()
    found = delong_test(scores, other, labels)
    assert found.auc_a == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(variance), abs=1e-12)
    assert found.p == pytest.approx(2 * reference.norm.sf(abs(gap.mean()) / math.sqrt(variance)), abs=1e-12)


def test_delong_keeps_its_level():
    """Two equally good models differ significantly in about 5 % of 300 data sets."""
    rng = np.random.default_rng(1)
    rejected = 0
    for _ in range(300):
        labels = np.repeat([0, 1], 40)
        truth = labels + rng.normal(0, 0.5, 80)
        rejected += delong_test(truth + rng.normal(0, 1, 80), truth + rng.normal(0, 1, 80), labels).p < 0.05
    assert 5 <= rejected <= 28


@pytest.mark.parametrize(
    ("difference", "low", "high", "printed"),
    [(-1.55, -2.61, -0.45, 0.0048), (-1.19, -2.26, -0.06, 0.0340), (0.66, -0.24, 1.57, 0.15)],
)
def test_p_values_of_the_periodic_paper(difference, low, high, printed):
    """The p-values printed for the second table of the periodic-sampling paper follow from its intervals."""
    assert p_from_interval(difference, low, high) == pytest.approx(printed, rel=0.03)


def test_identical_rankings():
    """Two models with the same ranking differ by 0 with an interval of no width and no p-value, without a warning."""
    scores, _, labels = scored(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_bootstrap = bootstrap_auc_difference(scores, 3 * scores + 1, labels, resamples=50)
        by_formula = delong_test(scores, 3 * scores + 1, labels)
    assert (by_bootstrap.difference, by_bootstrap.low, by_bootstrap.high) == (0, 0, 0)
    assert (by_formula.difference, by_formula.standard_error) == (0, 0)
    assert math.isnan(by_bootstrap.p)
    assert math.isnan(by_formula.p)


def test_missing_class():
    """Without positives, or without rows, areas and intervals are NaN; one positive leaves DeLong without an error."""
    for labels in (np.zeros(5, dtype=int), np.empty(0, dtype=int)):
        scores = np.arange(len(labels), dtype=float)
        found = bootstrap_auc(scores, labels, resamples=10)
        assert math.isnan(found.value)
        assert math.isnan(found.low)
        assert found.resamples == 0
        assert math.isnan(bootstrap_auc_difference(scores, scores, labels, resamples=10).p)
        assert math.isnan(delong_test(scores, scores, labels).auc_a)
    few = delong_test([1.0, 2, 3], [3.0, 2, 1], [0, 0, 1])
    assert (few.auc_a, few.auc_b) == (1, 0)
    assert math.isnan(few.p)


def test_resamples_without_a_class_are_left_out():
    """With one positive among three rows about (2/3)^3 of the resamples lack it, and they are not counted."""
    found = bootstrap_auc([1.0, 2, 3], [0, 0, 1], resamples=1000)
    assert found.value == 1
    # Kept: neither without the positive, (2/3)^3, nor without a negative, (1/3)^3.
    assert found.resamples == pytest.approx(1000 * (1 - 8 / 27 - 1 / 27), abs=60)
    assert (found.low, found.high) == (1, 1)


def test_groups_are_drawn_together():
    """Ten copies of each row, grouped, have the interval of single rows; ungrouped they look too certain."""
    scores, _, labels = scored(4, rows=60)
    single = bootstrap_auc(scores, labels)
    copies = np.repeat(np.arange(60), 10)
    names = np.array([f"patient{index}" for index in copies])
    grouped = bootstrap_auc(scores[copies], labels[copies], groups=names)
    ungrouped = bootstrap_auc(scores[copies], labels[copies])
    assert grouped.standard_error == pytest.approx(single.standard_error, rel=0.1)
    assert ungrouped.standard_error < 0.5 * single.standard_error


def test_class_probabilities_give_the_macro_area():
    """With class probabilities the value is the mean of one-against-rest areas."""
    rng = np.random.default_rng(5)
    probs, labels = rng.dirichlet(np.ones(3), size=90), rng.integers(3, size=90)
    found = bootstrap_auc(probs, labels, resamples=200)
    expected = np.mean([roc_auc_score(labels == k, probs[:, k]) for k in range(3)])
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high


def test_equal_seeds_equal_results():
    """The result is a function of the seed."""
    scores, _, labels = scored(6)
    assert bootstrap_auc(scores, labels, seed=1, resamples=50) == bootstrap_auc(scores, labels, seed=1, resamples=50)
    assert bootstrap_auc(scores, labels, seed=1, resamples=50) != bootstrap_auc(scores, labels, seed=2, resamples=50)


def test_interval_covers():
    """The 95 % bootstrap interval covers the true area in 88 to 100 % of 100 data sets."""
    truth = reference.norm.cdf(1 / math.sqrt(2))
    covered = 0
    for seed in range(100):
        scores, _, labels = scored(seed, rows=100, ties=False)
        found = bootstrap_auc(scores, labels, resamples=200, seed=seed)
        covered += found.low <= truth <= found.high
    assert 88 <= covered <= 100


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: welch([[1.0]], [1.0]), "one dimension"),
        (lambda: welch([1.0, 2], [1.0, 2], level=95), "between 0 and 1"),
        (lambda: welch_from_summary(1, -1, 5, mean_b=1, sd_b=1, n_b=5), "expected numbers >= 0"),
        (lambda: holm([0.1, 1.2]), "expected 0 to 1"),
        (lambda: bootstrap_auc([0, 1], [0.2, 0.8]), "scores first"),
        (lambda: bootstrap_auc([0.1, 0.2], [0, 1, 1]), "one label per row"),
        (lambda: bootstrap_auc([0.1, math.nan], [0, 1]), "not finite"),
        (lambda: bootstrap_auc([0.1, 0.2], [0, 1], groups=[1]), "groups have shape"),
        (lambda: delong_test(np.ones((2, 2)), np.ones((2, 2)), [0, 1]), "one class against the rest"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
