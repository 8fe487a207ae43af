"""Numbers that papers print, recomputed from what else they print."""

import math

import pytest
from scipy import optimize

from study.stats import OperatingPoint, p_from_interval, welch_from_summary

# Every difference of areas in tables 2, 3 and 4 of the periodic-sampling paper: value, interval, printed p-value.
PERIODIC = [
    (-1.55, -2.61, -0.45, 0.0048),
    (-1.19, -2.26, -0.06, 0.0340),
    (0.66, -0.24, 1.57, 0.1500),
    (-1.18, -2.21, -0.11, 0.0280),
    (-1.89, -3.02, -0.70, 0.0015),
    (0.92, 0.15, 1.69, 0.0190),
    (-2.18, -9.37, 6.24, 0.6000),
    (-1.44, -10.58, 7.37, 0.7700),
    (3.06, -3.14, 10.94, 0.4000),
    (-1.34, -4.99, 2.40, 0.4900),
    (-3.55, -6.79, -0.46, 0.0280),
    (-0.45, -2.19, 1.64, 0.6600),
    (-3.27, -7.43, 0.62, 0.1100),
    (-0.03, -4.05, 3.80, 0.9900),
    (1.96, -1.20, 5.11, 0.2300),
]
# Area of EMD and of cross-entropy on VinDr in the text of the ordinal paper (section 3.3): means of five seeds.
EMD, CROSS_ENTROPY, SEEDS, PRINTED_P = 0.7694, 0.7628, 5, 0.03


@pytest.mark.parametrize(("difference", "low", "high", "printed"), PERIODIC)
def test_p_values_of_the_periodic_paper(difference, low, high, printed):
    """The p-values printed for its comparisons follow from its intervals, up to the rounding of these."""
    assert p_from_interval(difference, low, high) == pytest.approx(printed, rel=0.08)


@pytest.mark.parametrize(("difference", "low", "high"), [(8.39, 7.33, 9.54), (6.69, 5.61, 7.75), (9.84, 8.79, 10.88)])
def test_very_small_p_values_of_the_periodic_paper(difference, low, high):
    """The three comparisons printed as p < 0.0001 are."""
    assert p_from_interval(difference, low, high) < 1e-4


@pytest.mark.parametrize(
    ("sensitivity", "specificity", "printed"),
    [
        (0.51, 0.9452, 0.53),  # multi-task, its best correlation
        (0.53, 0.8806, 0.43),  # baseline, its best correlation
        (0.44, 0.9161, 0.41),  # comparator, its best correlation
        (0.95, 0.2903, 0.24),  # multi-task, triage
        (0.95, 0.0645, 0.03),  # baseline, triage
    ],
)
def test_operating_points_of_the_multitask_paper(sensitivity, specificity, printed):
    """Its Matthews correlations follow from its sensitivities and specificities.

    The paper does not print how many breasts INBreast gave; its percentages are whole shares of 100 and of 310.
    """
    true_positives, true_negatives = round(100 * sensitivity), round(310 * specificity)
    assert true_negatives / 310 == pytest.approx(specificity, abs=5e-5)
    point = OperatingPoint(
        threshold=math.nan,
        true_positives=true_positives,
        false_negatives=100 - true_positives,
        true_negatives=true_negatives,
        false_positives=310 - true_negatives,
    )
    assert round(point.mcc, 2) == printed
    assert (point.sensitivity, point.specificity) == (
        pytest.approx(sensitivity),
        pytest.approx(specificity, abs=5e-5),
    )


def welch_p(sd_emd, sd_cross_entropy):
    return welch_from_summary(EMD, sd_emd, SEEDS, mean_b=CROSS_ENTROPY, sd_b=sd_cross_entropy, n_b=SEEDS).p


def test_what_the_ordinal_paper_implies_for_vindr():
    """Its p of about 0.03 for EMD on VinDr asks for a seed SD near 0.004; a SD of 0.01 would make it 0.33.

    The text gives both means and n, but no SD, so the p-value itself cannot be recomputed: what can be said is which
    SDs it needs, and these are stated in ``docs/statistics.md``.
    """
    equal = optimize.brentq(lambda sd: welch_p(sd, sd) - PRINTED_P, 1e-4, 0.05)
    assert equal == pytest.approx(0.00396, abs=1e-5)
    one_sided = optimize.brentq(lambda sd: welch_p(sd, 0.0) - PRINTED_P, 1e-4, 0.05)
    assert one_sided == pytest.approx(0.00448, abs=2e-5)
    assert welch_p(0.01, 0.01) == pytest.approx(0.33, abs=0.01)
    found = welch_from_summary(EMD, equal, SEEDS, mean_b=CROSS_ENTROPY, sd_b=equal, n_b=SEEDS)
    assert found.difference == pytest.approx(0.0066)
    assert (found.low, found.high) == (pytest.approx(0.0008, abs=1e-4), pytest.approx(0.0124, abs=1e-4))
