"""Corrections for many comparisons against scipy, by hand and by their properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from study.errors import InputError
from study.stats import benjamini_hochberg, holm


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


def test_benjamini_hochberg():
    """A family worked by hand, in the order given; NaN does not count."""
    # 0.005 * 4 / 1, 0.01 * 4 / 2, 0.03 * 4 / 3 = 0.04, 0.04 * 4 / 4: none above its successor.
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.02, 0.04, 0.04, 0.02])
    with_nan = benjamini_hochberg([0.01, math.nan, 0.04])
    assert with_nan[[0, 2]].tolist() == pytest.approx([0.02, 0.04])
    assert math.isnan(with_nan[1])
    assert benjamini_hochberg([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_benjamini_hochberg_equals_scipy(pvalues):
    """Adjusted values equal scipy's and lie between the raw ones and Holm's."""
    found = benjamini_hochberg(pvalues)
    assert found.tolist() == pytest.approx(reference.false_discovery_control(pvalues).tolist(), abs=1e-12)
    assert (found >= np.array(pvalues) - 1e-15).all()
    assert (found <= holm(pvalues) + 1e-12).all()


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_wrong_input(correct):
    """Numbers that are no p-values, and tables of them, are refused."""
    with pytest.raises(InputError, match="expected 0 to 1"):
        correct([0.1, 1.2])
    with pytest.raises(InputError, match="one dimension"):
        correct([[0.1, 0.2]])
