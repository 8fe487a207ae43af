"""Operating points against scikit-learn, by hand, and by their properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference
from sklearn.metrics import matthews_corrcoef, recall_score

from study.errors import InputError
from study.stats import (
    best_mcc_point,
    operating_points,
    proportion_interval,
    synchronisation,
    triage_point,
)

SCORES = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
LABELS = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1])


def scored(seed, *, rows=60):
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=rows)
    labels[:2] = [0, 1]
    return np.round(1 / (1 + np.exp(-2 * labels + 1 - rng.normal(size=rows))), 2), labels


def test_points_by_hand():
    """Nine cases counted by hand; a score at the threshold is called positive."""
    low, middle = operating_points(SCORES, LABELS, thresholds=(0.2, 0.6))
    assert (low.true_positives, low.false_positives, low.true_negatives, low.false_negatives) == (4, 4, 1, 0)
    assert (low.sensitivity, low.specificity) == (1, pytest.approx(1 / 5))
    assert (low.ruled_out, low.safely_ruled_out) == (pytest.approx(1 / 9), pytest.approx(1 / 9))
    assert (middle.sensitivity, middle.specificity) == (pytest.approx(3 / 4), pytest.approx(4 / 5))
    assert (middle.ruled_out, middle.safely_ruled_out) == (pytest.approx(5 / 9), pytest.approx(4 / 9))
    assert middle.mcc == pytest.approx((3 * 4 - 1 * 1) / math.sqrt(4 * 5 * 4 * 5))
    assert [point.threshold for point in operating_points(SCORES, LABELS)] == [0.2, 0.4, 0.6, 0.8]


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_points_equal_scikit_learn(seed):
    """Sensitivity, specificity and correlation equal scikit-learn's, and a higher threshold only trades one for the
    other.
    """
    scores, labels = scored(seed)
    points = operating_points(scores, labels, thresholds=np.arange(0.2, 0.81, 0.1).tolist())
    for point in points:
        called = scores >= point.threshold
        assert point.sensitivity == pytest.approx(recall_score(labels, called))
        assert point.specificity == pytest.approx(recall_score(labels, called, pos_label=0))
        if 0 < called.sum() < len(called):
            assert point.mcc == pytest.approx(matthews_corrcoef(labels, called))
        else:
            assert math.isnan(point.mcc)
    assert np.all(np.diff([point.sensitivity for point in points]) <= 0)
    assert np.all(np.diff([point.specificity for point in points]) >= 0)


def test_triage_by_hand():
    """Of 20 positives 19 must be found for 95 %: the point sits at the second lowest positive, not at the lowest."""
    scores = np.concatenate([np.linspace(0.30, 0.49, 20), [0.1, 0.2, 0.305, 0.4]])
    labels = np.repeat([1, 0], [20, 4])
    point = triage_point(scores, labels)
    assert point.threshold == pytest.approx(0.31)
    assert (point.sensitivity, point.specificity) == (pytest.approx(0.95), pytest.approx(3 / 4))
    assert (point.ruled_out, point.safely_ruled_out) == (pytest.approx(4 / 24), pytest.approx(3 / 24))
    assert triage_point(scores, labels, sensitivity=1).threshold == pytest.approx(0.30)
    # 0.55 * 100 is 55.00000000000001 in floats; 55 of 100 are enough all the same.
    hundred = triage_point(np.arange(101), np.arange(101) > 0, sensitivity=0.55)
    assert hundred.true_positives == 55


@given(seed=st.integers(0, 1000), sensitivity=st.sampled_from([0.5, 0.8, 0.95, 1.0]))
@settings(max_examples=40, deadline=None)
def test_triage_is_the_highest_safe_threshold(seed, sensitivity):
    """The point finds enough positives, and the next higher score would not."""
    scores, labels = scored(seed)
    point = triage_point(scores, labels, sensitivity=sensitivity)
    assert point.sensitivity >= sensitivity - 1e-9
    higher = np.unique(scores[scores > point.threshold])
    if len(higher):
        assert operating_points(scores, labels, thresholds=[higher[0]])[0].sensitivity < sensitivity - 1e-9


@given(seed=st.integers(0, 1000), rows=st.integers(4, 60))
@settings(max_examples=30, deadline=None)
def test_best_mcc_by_brute_force(seed, rows):
    """No score is a better threshold, and among equally good ones the highest is taken."""
    scores, labels = scored(seed, rows=rows)
    point = best_mcc_point(scores, labels)
    candidates = np.unique(scores)[1:]
    found = np.array([matthews_corrcoef(labels, scores >= threshold) for threshold in candidates])
    assert point.mcc == pytest.approx(found.max(), abs=1e-12)
    assert point.threshold == candidates[np.flatnonzero(found >= found.max() - 1e-9)[-1]]


def test_equally_good_thresholds():
    """Of two thresholds with one correlation, the higher is taken."""
    point = best_mcc_point([1, 2, 3, 4], [0, 1, 0, 1])
    assert point.threshold == 4
    assert point.mcc == pytest.approx(operating_points([1, 2, 3, 4], [0, 1, 0, 1], thresholds=[2])[0].mcc)


@given(total=st.integers(1, 80), share=st.floats(0, 1), level=st.sampled_from([0.9, 0.95]))
@settings(max_examples=40, deadline=None)
def test_proportion_interval_equals_scipy(total, share, level):
    """The interval equals scipy's Wilson interval and lies in [0, 1]."""
    hits = round(share * total)
    found = proportion_interval(hits, total, level=level)
    theirs = reference.binomtest(hits, total).proportion_ci(level, method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= found.low <= found.value == hits / total <= found.high <= 1


def test_undefined_says_why():
    """Without a class, or without a threshold between scores, ratios are NaN, and the reason is told."""
    (point,) = operating_points([0.3, 0.7], [0, 0], thresholds=[0.5])
    assert math.isnan(point.sensitivity)
    assert math.isnan(point.mcc)
    assert point.specificity == 0.5
    assert "class 1" in point.reason
    assert "class 1" in triage_point([0.3, 0.7], [0, 0]).reason
    assert math.isnan(triage_point([0.3, 0.7], [0, 0]).threshold)
    assert "class 0" in best_mcc_point([0.3, 0.7], [1, 1]).reason
    assert "equal" in best_mcc_point([0.5, 0.5], [0, 1]).reason
    assert math.isnan(best_mcc_point([0.5, 0.5], [0, 1]).ruled_out)
    assert math.isnan(proportion_interval(0, 0).low)
    assert "no case" in proportion_interval(0, 0).reason


class TestSynchronisation:
    """Whether one threshold means the same in all segments."""

    def test_by_hand(self):
        """Segment b is segment a shifted up by 0.4: at 0.6 they lie (0.5, 0.5) apart, far below at 0.2 and 0.0."""
        scores = np.array([0.1, 0.3, 0.5, 0.7, 0.5, 0.7, 0.9, 1.1])
        labels = np.array([0, 0, 1, 1, 0, 0, 1, 1])
        found = synchronisation(scores, labels, list("aaaabbbb"), thresholds=(0.0, 0.6))
        assert found.sensitivity_spread == (0, 0.5)
        assert found.specificity_spread == (0, 0.5)
        assert found.distance == pytest.approx((0, math.sqrt(0.5)))
        assert found.mean_distance == pytest.approx(math.sqrt(0.5) / 2)
        assert found.points["a"][1].sensitivity == 0.5
        assert found.points["b"][1].specificity == 0.5

    def test_a_shift_is_seen_and_a_copy_is_not(self):
        """Equal segments are synchronised; the further scores of one are shifted, the further apart they lie."""
        scores, labels = scored(2, rows=400)
        segments = np.repeat(["a", "b"], 400)
        distances = []
        for shift in (0, 0.1, 0.3):
            both = np.concatenate([scores, scores - shift])
            distances.append(synchronisation(both, np.tile(labels, 2), segments).mean_distance)
        assert distances[0] == 0
        assert distances[0] < distances[1] < distances[2]

    def test_segments_without_a_class_do_not_count(self):
        """A segment without positives has points, but no sensitivity to compare; one usable segment is too few."""
        found = synchronisation(SCORES, LABELS, ["a"] * 2 + ["b"] * 7)
        assert "1 of 2 segments" in found.reason
        assert math.isnan(found.mean_distance)
        assert math.isnan(found.points["a"][0].sensitivity)
        three = synchronisation(np.tile(SCORES, 2), np.tile(LABELS, 2), ["a"] * 2 + ["b"] * 7 + ["c"] * 9)
        assert three.reason == ""
        assert math.isfinite(three.mean_distance)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: operating_points(np.ones((2, 2)), [0, 1]), "one class against the rest"),
        (lambda: triage_point([0.1, 0.2], [0, 1], sensitivity=95), "at most 1"),
        (lambda: proportion_interval(3, 2), "3 of 2"),
        (lambda: synchronisation([0.1, 0.2], [0, 1], ["a"]), "segments have shape"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
