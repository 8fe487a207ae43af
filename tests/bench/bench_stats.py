"""How long the bootstrap of an AUC difference and DeLong's test take, against what people usually write.

Run with `make bench`. 20,000 images, 10 % positive, scores with ties, one thread. The rivals do less of the same work
(fewer resamples) and are scaled, so that the row takes seconds; all sides see the same draws.
"""

import statistics
import time

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from study.stats import bootstrap_auc_difference, delong_test

IMAGES = 20_000
RESAMPLES = 2000
REPEATS = 5


@pytest.fixture(scope="module")
def scored():
    """Scores of two models, and labels."""
    rng = np.random.default_rng(0)
    labels = (rng.random(IMAGES) < 0.1).astype(int)
    first, second = labels + rng.normal(0, 1, IMAGES), labels + rng.normal(0, 1.3, IMAGES)
    return np.round(first, 2), np.round(second, 2), labels


def area_by_ranks(scores, labels):
    """Mann and Whitney's U from scipy's ranks."""
    num_positive = int(labels.sum())
    ranks = rankdata(scores)[labels == 1].sum() - num_positive * (num_positive + 1) / 2
    return ranks / num_positive / (len(labels) - num_positive)


def loop(area, scored, resamples):
    """The bootstrap as it is usually written; differences of areas, with the draws of seed 0."""
    first, second, labels = scored
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(resamples):
        rows = rng.integers(IMAGES, size=IMAGES)
        draws.append(area(first[rows], labels[rows]) - area(second[rows], labels[rows]))
    return draws


def seconds(work):
    """Wall seconds, CPU seconds and the result. The limits are on CPU seconds: other work on the machine adds none."""
    begun, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - begun, time.process_time() - cpu, result


def show(name, taken, *, unit=1.0, scale=1.0, ours=None):
    """One line: medians of wall and CPU time, and the ratio of CPU times; returns the median of CPU seconds."""
    wall, cpu = (scale * statistics.median(values) for values in list(zip(*taken, strict=True))[:2])
    ratio = f", ratio {cpu / ours:6.1f}" if ours else ""
    print(f"  {name:18s}{wall * unit:8.2f} (CPU {cpu * unit:8.2f}){ratio}")
    return cpu


def test_bootstrap(scored):
    """2,000 resamples take at most a second, and at most a 35th of scikit-learn's loop."""
    rivals = {
        "scikit-learn loop": (lambda scores, labels: roc_auc_score(labels, scores), 20),
        "scipy rankdata loop": (area_by_ranks, 20),
    }
    ours, theirs = [], {name: [] for name in rivals}
    few = bootstrap_auc_difference(*scored, resamples=20)
    for _ in range(REPEATS):
        for name, (area, resamples) in rivals.items():
            theirs[name].append(seconds(lambda area=area, resamples=resamples: loop(area, scored, resamples)))
            assert (few.low, few.high) == pytest.approx(tuple(np.quantile(theirs[name][-1][2], [0.025, 0.975])))
        ours.append(seconds(lambda: bootstrap_auc_difference(*scored, resamples=RESAMPLES)))
    print(f"\nbootstrap of an AUC difference, {RESAMPLES} x {IMAGES} images, s, median of {REPEATS}")
    cpu = show("study.stats", ours)
    taken = {
        name: show(name, theirs[name], scale=RESAMPLES / resamples, ours=cpu) for name, (_, resamples) in rivals.items()
    }
    assert ours[0][2].resamples == RESAMPLES
    assert cpu <= 1.0
    assert taken["scikit-learn loop"] >= 35 * cpu


def placements_by_matrix(scores, labels):
    """DeLong's placements from all pairs of a positive and a negative."""
    positives, negatives = scores[labels == 1], scores[labels == 0]
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    return wins.mean(axis=1), wins.mean(axis=0)


def delong_by_matrix(scored):
    """Difference of areas and its standard error from the matrices of pairs."""
    first, second, labels = scored
    (above_a, below_a), (above_b, below_b) = (placements_by_matrix(scores, labels) for scores in (first, second))
    above, below = above_a - above_b, below_a - below_b
    return above.mean(), (above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)) ** 0.5


def test_delong(scored):
    """DeLong's test takes at most 10 ms, at most a 40th of the matrix form, and agrees with it to 1e-12."""
    ours, theirs = [], []
    for _ in range(REPEATS):
        theirs.append(seconds(lambda: delong_by_matrix(scored)))
        ours.append(seconds(lambda: delong_test(*scored)))
    print(f"\nDeLong's test, {IMAGES} images, ms, median of {REPEATS}")
    cpu = show("study.stats", ours, unit=1e3)
    matrix = show("matrix of pairs", theirs, unit=1e3, ours=cpu)
    found = ours[0][2]
    assert (found.difference, found.standard_error) == pytest.approx(theirs[0][2], abs=1e-12)
    assert cpu <= 0.010
    assert matrix >= 40 * cpu
