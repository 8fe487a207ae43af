"""Permutation tests against scipy, by hand and by their level."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from study.errors import InputError
from study.stats import auc, midranks, permutation_paired, permutation_unpaired


def test_unpaired_by_hand():
    """Three values above three others: 2 of the 20 divisions differ as much."""
    found = permutation_unpaired([4, 5, 6], [1, 2, 3])
    assert (found.difference, found.p, found.permutations, found.is_exact) == (3, pytest.approx(0.1), 20, True)


def test_paired_by_hand():
    """Five seeds that all gain: 2 of the 32 sign patterns differ as much; one pattern and its mirror are one."""
    found = permutation_paired([0.81, 0.82, 0.83, 0.84, 0.85], [0.80, 0.80, 0.80, 0.80, 0.80])
    assert found.difference == pytest.approx(0.03)
    assert (found.p, found.permutations, found.is_exact) == (pytest.approx(2 / 32), 16, True)


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["mean", "median"]))
@settings(max_examples=10, deadline=None)
def test_exact_tests_equal_scipy(seed, kind):
    """With few values every relabelling is tried, and p equals scipy's, for any statistic."""
    rng = np.random.default_rng(seed)
    a, b = np.round(rng.normal(0.5, 1, 5), 1), np.round(rng.normal(0, 1, 5), 1)
    statistic = {"mean": np.mean, "median": np.median}[kind]

    def gap(x, y):
        return statistic(x) - statistic(y)

    for ours, how in ((permutation_unpaired, "independent"), (permutation_paired, "samples")):
        theirs = reference.permutation_test((a, b), gap, permutation_type=how, vectorized=False, n_resamples=np.inf)
        found = ours(a, b, statistic=statistic)
        assert found.is_exact
        # Scipy doubles the smaller tail; for the mean of equal samples that is the two-sided share.
        if kind == "mean":
            assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
        assert found.difference == pytest.approx(theirs.statistic)
        assert found.p == pytest.approx(
            np.mean(np.abs(theirs.null_distribution) >= abs(theirs.statistic) - 1e-9), abs=1e-12
        )


def test_drawn_tests_come_near_the_exact_ones():
    """With fewer draws than relabellings p is close to the exact one, is never 0, and depends on the seed alone."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.6, 1, 11), rng.normal(0, 1, 11)
    for test in (permutation_paired, permutation_unpaired):
        drawn = test(a, b, permutations=1000, seed=1)
        exact = test(a, b, permutations=10**6) if test is permutation_paired else None
        assert not drawn.is_exact
        assert drawn == test(a, b, permutations=1000, seed=1)
        assert drawn.p != test(a, b, permutations=1000, seed=2).p
        expected = exact.p if exact else reference.ttest_ind(a, b).pvalue
        assert drawn.p == pytest.approx(expected, abs=0.04)
    assert permutation_unpaired(a + 100, b, permutations=99).p == pytest.approx(1 / 100)


def test_areas_of_two_models():
    """A better model has a small p-value, the same model none below 1; patients are swapped as a whole."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 50)
    truth = labels + rng.normal(0, 0.6, 100)
    good, poor = midranks(truth), midranks(truth + rng.normal(0, 2, 100))

    def area(scores):
        return auc(scores, labels)

    found = permutation_paired(good, poor, statistic=area, permutations=199)
    assert found.difference == pytest.approx(auc(good, labels) - auc(poor, labels))
    assert found.p == pytest.approx(1 / 200)
    assert permutation_paired(good, good, statistic=area, permutations=49).p == 1
    two = permutation_paired(good, poor, statistic=area, groups=np.arange(100) % 2, permutations=199)
    assert (two.permutations, two.is_exact) == (2, True)


def test_rows_of_probabilities_are_swapped_whole():
    """With class probabilities a case's whole row changes sides, so rows still sum to 1."""
    rng = np.random.default_rng(4)
    a, b = rng.dirichlet(np.ones(3), size=6), rng.dirichlet(np.ones(3), size=6)
    seen = []

    def watched(rows):
        seen.append(rows.sum(axis=1))
        return rows[:, 0].mean()

    assert permutation_paired(a, b, statistic=watched).is_exact
    assert np.allclose(seen, 1)


def test_level():
    """Samples of the same kind differ with p < 0.05 in 1 to 9 % of 200 pairs."""
    rng = np.random.default_rng(5)
    pairs = [(rng.exponential(size=6), rng.exponential(size=6)) for _ in range(200)]
    for test in (permutation_paired, permutation_unpaired):
        assert 2 <= sum(test(a, b, permutations=99).p < 0.05 for a, b in pairs) <= 18


def test_undefined_says_why():
    """Nothing to compare, and a statistic that is NaN somewhere, give NaN with the reason."""
    empty = permutation_paired([], [])
    assert "no case" in empty.reason
    assert math.isnan(empty.p)
    assert "empty" in permutation_unpaired([], [1.0]).reason
    broken = permutation_unpaired([1.0, math.nan], [1.0, 2.0])
    assert "undefined" in broken.reason
    assert math.isnan(broken.p)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: permutation_paired([1, 2], [1]), "shapes"),
        (lambda: permutation_paired([1, 2], [1, 3], groups=[1]), "groups have shape"),
        (lambda: permutation_unpaired([[1, 2]], [1]), "one dimension"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
