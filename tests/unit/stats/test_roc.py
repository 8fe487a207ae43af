"""Areas, their bootstrap and DeLong's test against scikit-learn, brute force and known coverage."""

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
    auc,
    bootstrap_auc,
    bootstrap_auc_difference,
    delong_interval,
    delong_test,
    midranks,
    resampling,
)


def scored(seed, *, rows=80, ties=True):
    """Labels and the scores of a good and a poorer model on the same rows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=rows)
    labels[:4] = [0, 1, 0, 1]
    good, poor = labels + rng.normal(0, 1, rows), labels + rng.normal(0, 2, rows)
    return (np.round(good, 1), np.round(poor, 1), labels) if ties else (good, poor, labels)


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
    assert found.value_a == pytest.approx(roc_auc_score(labels, scores))
    assert found.difference == pytest.approx(found.value_a - found.value_b)


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
    assert found.value_a == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
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
        assert math.isnan(delong_test(scores, scores, labels).value_a)
    few = delong_test([1.0, 2, 3], [3.0, 2, 1], [0, 0, 1])
    assert (few.value_a, few.value_b) == (1, 0)
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
    grouped = bootstrap_auc(scores[copies], labels[copies], rows=resampling(600, groups=names))
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


@given(seed=st.integers(0, 1000), ties=st.booleans())
@settings(max_examples=30, deadline=None)
def test_auc_equals_scikit_learn(seed, ties):
    """The area equals scikit-learn's with and without ties, and turning the scores round gives the rest to 1."""
    scores, _, labels = scored(seed, rows=40, ties=ties)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auc(-scores, labels) == pytest.approx(1 - auc(scores, labels), abs=1e-12)
    assert auc(np.exp(scores), labels == 1) == pytest.approx(auc(scores, labels), abs=1e-12)


def test_midranks():
    """Equal values share the mean of their ranks, as in scipy."""
    values = [3.0, 1, 3, 2, 3]
    assert midranks(values).tolist() == reference.rankdata(values).tolist() == [4, 1, 4, 2, 4]


def test_delong_interval():
    """The interval of one area has the matrix form's error on the logit scale, stays below 1, and is NaN at 1."""
    scores, _, labels = scored(9, rows=60)
    found = delong_interval(scores, labels)
    wins = (np.sign(scores[labels == 1][:, None] - scores[labels == 0][None, :]) + 1) / 2
    error = math.sqrt(
        wins.mean(axis=1).var(ddof=1) / (labels == 1).sum() + wins.mean(axis=0).var(ddof=1) / (labels == 0).sum()
    )
    value = auc(scores, labels)
    centre = math.log(value / (1 - value))
    expected = [1 / (1 + math.exp(-centre - sign * 1.959964 * error / value / (1 - value))) for sign in (-1, 1)]
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-6)
    separated = delong_interval([1.0, 2, 3, 4], [0, 0, 1, 1])
    assert separated.value == 1
    assert math.isnan(separated.low)
    assert "separated" in separated.reason
    assert "single row" in delong_interval([1.0, 3, 2], [0, 0, 1]).reason
    missing = delong_interval([1.0, 2], [0, 0])
    assert math.isnan(missing.value)
    assert "class 1" in missing.reason


def test_delong_interval_covers():
    """The 95 % interval covers the true area in 91 to 99 % of 400 data sets of 20 positives and 80 negatives."""
    truth = reference.norm.cdf(1.5 / math.sqrt(2))
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [80, 20])
    covered = 0
    for _ in range(400):
        found = delong_interval(1.5 * labels + rng.normal(size=100), labels)
        covered += found.low <= truth <= found.high
    assert 364 <= covered <= 396


def test_why_delong_has_no_p_value():
    """A missing class, a single positive and identical rankings are told apart."""
    assert "class 1" in delong_test([1.0, 2], [1.0, 2], [0, 0]).reason
    assert "single row" in delong_test([1.0, 2, 3], [3.0, 2, 1], [0, 0, 1]).reason
    assert "variance" in delong_test([1.0, 2, 3, 4], [2.0, 4, 6, 8], [0, 1, 0, 1]).reason
    assert delong_test([1.0, 2, 3, 4], [2.0, 1, 3, 4], [0, 1, 0, 1]).reason == ""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_auc([0, 1], [0.2, 0.8]), "scores first"),
        (lambda: bootstrap_auc([0.1, 0.2], [0, 1, 1]), "one label per row"),
        (lambda: bootstrap_auc([0.1, math.nan], [0, 1]), "not finite"),
        (lambda: bootstrap_auc([0.1, 0.2], [0, 1], rows=resampling(3)), "one row per score"),
        (lambda: delong_test(np.ones((2, 2)), np.ones((2, 2)), [0, 1]), "one class against the rest"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
