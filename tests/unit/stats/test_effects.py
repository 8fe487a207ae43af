"""Effect sizes by hand, against brute force and by their properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from study.errors import InputError
from study.stats import cliffs_delta, hedges_g, hedges_g_from_summary


def test_hedges_g():
    """The effect equals Cohen's d times the exact correction (0.9027 for eight degrees of freedom), signed."""
    a, b = np.array([1, 2, 3, 4, 5.0]), np.array([3, 4, 5, 6, 7.0])
    cohen = -2 / math.sqrt(2.5)
    exact = math.gamma(4) / (math.sqrt(4) * math.gamma(3.5))
    assert exact == pytest.approx(0.902703, abs=1e-5)
    assert hedges_g(a, b) == pytest.approx(cohen * exact)
    assert hedges_g(b, a) == pytest.approx(-hedges_g(a, b))
    assert hedges_g(10 * a, 10 * b) == pytest.approx(hedges_g(a, b))


def test_hedges_g_from_summary():
    """A published mean, SD and n give the effect of the values they came from, also with unequal n."""
    a, b = np.array([1, 2, 3, 4, 5.0]), np.array([3, 4, 9.0])
    summary = {"mean_b": b.mean(), "sd_b": b.std(ddof=1), "n_b": 3}
    assert hedges_g_from_summary(a.mean(), a.std(ddof=1), 5, **summary) == pytest.approx(hedges_g(a, b))
    assert math.isnan(hedges_g_from_summary(1.0, 0.1, 1, **summary))
    with pytest.raises(InputError, match="expected numbers >= 0"):
        hedges_g_from_summary(1.0, -0.1, 5, **summary)


def test_cliffs_delta_by_hand():
    """Of nine pairs four are won, three lost and two tied."""
    assert cliffs_delta([1, 3, 5], [1, 2, 5]) == pytest.approx((4 - 3) / 9)
    assert cliffs_delta([4, 5], [1, 2, 3]) == 1
    assert math.isnan(cliffs_delta([], [1.0]))
    assert math.isnan(cliffs_delta([math.nan], [1.0]))


@given(
    a=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    b=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    scale=st.floats(0.1, 10),
)
@settings(max_examples=50, deadline=None)
def test_cliffs_delta_counts_pairs(a, b, scale):
    """The effect is that of Mann and Whitney's U, changes sign with the order, and keeps under rescaling."""
    u = reference.mannwhitneyu(a, b, method="asymptotic").statistic
    found = cliffs_delta(a, b)
    assert found == pytest.approx(2 * u / (len(a) * len(b)) - 1, abs=1e-12)
    assert cliffs_delta(b, a) == pytest.approx(-found)
    assert cliffs_delta(scale * np.array(a), scale * np.array(b)) == pytest.approx(found)
