"""The alarm for shortcuts: it goes off for a network that recognises the segment, and hardly ever otherwise."""

import math

import numpy as np
import pytest

from study.errors import InputError
from study.metrics import segment_metrics
from study.stats import auc, resampling, shortcut_alarm


def two_segments(seed, *, skill, shift, rows=(600, 1400), shares=(0.35, 0.02)):
    """Scores with some skill inside segments and a shift between them; many positives in one, few in the other."""
    rng = np.random.default_rng(seed)
    segments = np.repeat(["rich", "poor"], rows)
    labels = (rng.random(sum(rows)) < np.repeat(shares, rows)).astype(int)
    return skill * labels + shift * (segments == "rich") + rng.normal(size=sum(rows)), labels, segments


def test_pure_shortcut_by_hand():
    """A network that tells only the segments has 0.5 inside them, and above it what the counts of the pairs give."""
    segments = np.repeat(["rich", "poor"], 10)
    labels = np.array([1] * 5 + [0] * 5 + [1] * 1 + [0] * 9)
    found = shortcut_alarm((segments == "rich") * 1.0, labels, segments, resamples=200)
    # 6 * 14 pairs: 5 * 9 right, 1 * 5 wrong, 5 * 5 + 1 * 9 ties.
    assert found.pooled == pytest.approx((45 + 34 / 2) / 84)
    assert found.local == {"poor": 0.5, "rich": 0.5}
    assert found.class_counts == {"poor": (9, 1), "rich": (5, 5)}
    assert found.difference == pytest.approx(found.pooled - 0.5)


def test_difference_is_the_metric_of_training():
    """The difference equals ``pooled_minus_local_auroc`` of the same predictions."""
    scores, labels, segments = two_segments(0, skill=1, shift=1)
    probs = 1 / (1 + np.exp(-scores))
    found = shortcut_alarm(probs, labels, segments, resamples=100)
    theirs = segment_metrics(np.stack([1 - probs, probs], axis=1), labels, segments)
    assert found.difference == pytest.approx(theirs["pooled_minus_local_auroc"])
    assert found.pooled == pytest.approx(auc(scores, labels))
    assert found.low < found.difference < found.high


@pytest.mark.parametrize(("shift", "state"), [(2.0, "raised"), (0.0, "quiet"), (-0.5, "quiet")])
def test_states(shift, state):
    """The alarm goes off for a strong shortcut, not for skill alone, and not when pooling makes things worse."""
    scores, labels, segments = two_segments(1, skill=1.2, shift=shift)
    found = shortcut_alarm(scores, labels, segments, resamples=200)
    assert (found.state, found.reason) == (state, "")


@pytest.mark.parametrize("skill", [0.0, 1.0, 1.5, 2.5])
def test_weak_and_strong_networks_alike(skill):
    """From a shift of half a SD between segments on the alarm goes off, however good the network is inside them.

    With a fixed threshold of 0.05 a good network, whose areas lie near 1, could never raise it.
    """
    for shift, state in ((0.1, "quiet"), (0.7, "raised"), (3.0, "raised")):
        scores, labels, segments = two_segments(3, skill=skill, shift=shift, rows=(10_000, 10_000), shares=(0.35, 0.02))
        found = shortcut_alarm(scores, labels, segments, resamples=40)
        assert (shift, found.state) == (shift, state)
        assert found.threshold == pytest.approx(min(0.05, 0.2 * (1 - found.local_mean)))


def test_false_alarms_are_rare():
    """Without a shortcut at most 2 % of 100 sets raise the alarm, large or small; with one, nearly all large ones."""
    for rows, shift, least, most in (((300, 700), 0.0, 0, 2), ((60, 140), 0.0, 0, 2), ((600, 1400), 2.0, 95, 100)):
        raised = 0
        for seed in range(100):
            scores, labels, segments = two_segments(seed, skill=1.2, shift=shift, rows=rows, shares=(0.35, 0.05))
            raised += shortcut_alarm(scores, labels, segments, resamples=60).state == "raised"
        assert least <= raised <= most


def test_small_sets_do_not_cry_wolf():
    """A difference above the margin is quiet when its interval reaches down to 0."""
    scores, labels, segments = two_segments(1, skill=1.0, shift=1.0, rows=(20, 30), shares=(0.4, 0.1))
    found = shortcut_alarm(scores, labels, segments, margin=0.0, resamples=200)
    assert found.difference > 0
    assert found.low < 0
    assert found.state == "quiet"


def test_patients_are_drawn_together():
    """Four images per patient make the interval wider than images taken as independent."""
    scores, labels, segments = two_segments(2, skill=1, shift=1, rows=(150, 350))
    four = [np.repeat(column, 4) for column in (scores, labels, segments)]
    patients = np.repeat(np.arange(500), 4)
    by_image = shortcut_alarm(*four, resamples=200)
    by_patient = shortcut_alarm(*four, rows=resampling(2000, groups=patients), resamples=200)
    assert by_patient.difference == pytest.approx(by_image.difference)
    assert by_patient.high - by_patient.low > 1.5 * (by_image.high - by_image.low)


def test_segments_without_a_class():
    """A segment of negatives alone has no area of its own, but its cases still count in the pooled one."""
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.1, 0.1])
    labels, segments = np.array([1, 0, 1, 0, 0, 0, 0]), np.array(list("aaaabbb"))
    found = shortcut_alarm(scores, labels, segments, resamples=50)
    assert math.isnan(found.local["b"])
    assert found.local_mean == 0.75
    assert found.pooled == pytest.approx(9 / 10)


def test_undefined_says_why():
    """One segment, no segment with both classes, or no rows: the alarm is undefined, not quiet."""
    for segments, labels, words in (
        (["a", "a"], [0, 1], "fewer than two segments"),
        (["a", "b"], [0, 1], "no segment has both"),
        ([], [], "fewer than two segments"),
    ):
        found = shortcut_alarm(np.arange(len(labels), dtype=float), labels, segments, resamples=10)
        assert found.state == "undefined"
        assert words in found.reason
        assert math.isnan(found.difference)


def test_wrong_input():
    """Segments of another length, and class probabilities, are refused."""
    with pytest.raises(InputError, match="segments have shape"):
        shortcut_alarm([0.1, 0.2], [0, 1], ["a"])
    with pytest.raises(InputError, match="one class against the rest"):
        shortcut_alarm(np.ones((2, 2)), [0, 1], ["a", "b"])
