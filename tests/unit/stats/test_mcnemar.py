"""McNemar's test against scipy, by hand and by its level."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from study.errors import InputError
from study.stats import mcnemar, mcnemar_from_counts


def test_exact_by_hand():
    """One case against seven: twice the chance of at most one head in eight throws, 2 * 9 / 256."""
    assert mcnemar_from_counts(1, 7).p == pytest.approx(18 / 256)
    assert mcnemar_from_counts(4, 4).p == 1
    assert mcnemar_from_counts(0, 1).p == 1


def test_corrected_by_hand():
    """Ten against 30: (20 - 1)^2 / 40 = 9.025, p 0.00266."""
    found = mcnemar_from_counts(10, 30, method="chi2")
    assert found.statistic == pytest.approx(9.025)
    assert found.p == pytest.approx(0.002663, abs=1e-6)
    assert (mcnemar_from_counts(9, 9, method="chi2").statistic, mcnemar_from_counts(9, 9, method="chi2").p) == (0, 1)


@given(only_a=st.integers(0, 60), only_b=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_counts_against_scipy(only_a, only_b):
    """The exact test is scipy's binomial test, the other near it, and both are symmetric in the models."""
    total = only_a + only_b
    exact, corrected = (mcnemar_from_counts(only_a, only_b, method=method) for method in ("exact", "chi2"))
    if total == 0:
        assert math.isnan(exact.p)
        assert "same cases" in exact.reason
        return
    assert exact.p == pytest.approx(reference.binomtest(only_a, total, 0.5).pvalue, abs=1e-12)
    assert corrected.p == pytest.approx(reference.chi2.sf(corrected.statistic, 1), abs=1e-12)
    assert mcnemar_from_counts(only_b, only_a).p == exact.p
    if total >= 25:
        assert corrected.p == pytest.approx(exact.p, abs=0.025)


def test_outcomes_are_counted():
    """Only cases on which the models differ count, whichever kind of true and false they are given as."""
    a, b = np.array([1, 1, 1, 0, 0, 1, 1]), np.array([1, 0, 0, 1, 0, 0, 1])
    for first, second in ((a, b), (a.astype(bool), b.astype(bool)), (a.tolist(), b.tolist())):
        found = mcnemar(first, second)
        assert (found.only_a, found.only_b) == (3, 1)
        assert found.p == mcnemar_from_counts(3, 1).p


def test_level():
    """Two equally good models differ with p < 0.05 in at most 5 % of 1000 data sets, a little less being discrete."""
    rng = np.random.default_rng(0)
    rejected = sum(mcnemar(rng.random(80) < 0.7, rng.random(80) < 0.7).p < 0.05 for _ in range(1000))
    assert 5 <= rejected <= 60


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mcnemar([1, 0], [1]), "shapes"),
        (lambda: mcnemar([0.3, 0.7], [1, 0]), "neither true nor false"),
        (lambda: mcnemar_from_counts(-1, 2), ">= 0"),
        (lambda: mcnemar_from_counts(1, 2, method="mid"), "'exact' or 'chi2'"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
