"""The bootstrap of any metric against scipy and plain loops, by hand, and by coverage."""

import math
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from study.errors import InputError
from study.metrics import classification_metrics
from study.stats import (
    area_metric,
    bootstrap,
    bootstrap_auc,
    bootstrap_auc_difference,
    bootstrap_difference,
    bootstrap_draws,
    highest_in_group,
    of_rows,
    p_from_interval,
    resampling,
)


def graded(seed, *, rows=60):
    """Class probabilities of three grades, and the true ones."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=rows)
    logits = 1.5 * np.eye(3)[labels] + rng.normal(size=(rows, 3))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def mean_metric(values):
    return lambda count_n: float(count_n @ values / count_n.sum())


def test_any_metric_by_counts_and_by_rows():
    """A metric with weights and the same of row numbers have equal intervals, equal to a plain loop."""
    probs, labels = graded(0)
    rows = resampling(60)
    by_counts = bootstrap(
        lambda count_n: classification_metrics(probs, labels, sample_weight=count_n)["qwk"], rows, resamples=60
    )
    by_rows = bootstrap(
        of_rows(lambda rows_r: cohen_kappa_score(labels[rows_r], probs[rows_r].argmax(axis=1), weights="quadratic")),
        rows,
        resamples=60,
    )
    assert by_counts.value == pytest.approx(by_rows.value)
    assert (by_counts.low, by_counts.high) == pytest.approx((by_rows.low, by_rows.high), abs=1e-12)
    rng, draws = np.random.default_rng(0), []
    for _ in range(60):
        drawn = rng.integers(60, size=60)
        draws.append(classification_metrics(probs[drawn], labels[drawn])["qwk"])
    assert (by_counts.low, by_counts.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-12)


def test_several_metrics_share_their_resamples():
    """Two metrics read together give the numbers that each gives alone with the same seed."""
    probs, labels = graded(1)
    first, second = area_metric(probs[:, 2], labels == 2), area_metric(probs[:, 0], labels == 0)
    both = bootstrap_draws([first, second], resampling(60), resamples=20, seed=3)
    for column, metric in enumerate((first, second)):
        alone = bootstrap_draws([metric], resampling(60), resamples=20, seed=3)
        assert both[:, column].tolist() == alone[:, 0].tolist()


@given(seed=st.integers(0, 1000), level=st.sampled_from([0.9, 0.95]))
@settings(max_examples=5, deadline=None)
def test_bca_equals_scipy(seed, level):
    """On the same resamples the BCa interval of a variance and of an area equals scipy's."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, size=25)
    labels = np.arange(25) % 2

    def variance(rows_r):
        return values[rows_r].var()

    def area(rows_r):
        return roc_auc_score(labels[rows_r], values[rows_r] + labels[rows_r])

    for statistic in (variance, area):
        metric = of_rows(statistic)
        found = bootstrap(metric, resampling(25), interval="bca", resamples=200, level=level, seed=seed)
        draws = bootstrap_draws([metric], resampling(25), resamples=200, seed=seed)[:, 0]
        theirs = reference.bootstrap(
            (np.arange(25),),
            statistic,
            vectorized=False,
            n_resamples=0,
            confidence_level=level,
            method="BCa",
            bootstrap_result=types.SimpleNamespace(bootstrap_distribution=draws[np.isfinite(draws)]),
        ).confidence_interval
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_bca_of_the_spatial_test_data():
    """The 90 % BCa interval of a variance in Efron and Tibshirani (1993, chapter 14) is about (115.8, 259.6)."""
    a = [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41]
    values = np.array(a, dtype=float)
    found = bootstrap(
        lambda count_n: float(count_n @ values**2 / 26 - (count_n @ values / 26) ** 2),
        resampling(26),
        interval="bca",
        level=0.9,
        resamples=20_000,
    )
    assert found.value == pytest.approx(171.5, abs=0.05)
    assert (found.low, found.high) == (pytest.approx(115.8, rel=0.02), pytest.approx(259.6, rel=0.02))


def test_bca_of_a_symmetric_metric_is_the_percentile_interval():
    """Without bias and skewness both intervals agree; with skewness the corrected one moves towards the long tail."""
    rng = np.random.default_rng(4)
    half = rng.normal(size=100)
    symmetric, skewed = np.concatenate([half, -half]), rng.lognormal(0, 1, 100)
    for values, is_skewed in ((symmetric, False), (skewed, True)):
        rows = resampling(len(values))
        plain, corrected = (
            bootstrap(mean_metric(values), rows, interval=kind, resamples=4000) for kind in ("percentile", "bca")
        )
        shift = (corrected.high - plain.high) / plain.standard_error
        assert (shift > 0.1) if is_skewed else (abs(shift) < 0.1)


def test_bca_covers_skewed_means_better():
    """On samples of 20 skewed values the BCa interval misses the mean less often than the percentile interval."""
    rng = np.random.default_rng(5)
    misses = dict.fromkeys(("percentile", "bca"), 0)
    for seed in range(200):
        values = rng.exponential(size=20)
        for kind in misses:
            found = bootstrap(mean_metric(values), resampling(20), interval=kind, resamples=200, seed=seed)
            misses[kind] += not found.low <= 1 <= found.high
    assert misses["bca"] < misses["percentile"] < 40


def test_strata_keep_their_sizes():
    """With strata each resample has as many rows of each class as the set, so a rare class is never lost."""
    labels = np.array([1] + [0] * 9)
    rows, rng = resampling(10, strata=labels), np.random.default_rng(0)
    draws = [rows.draw(rng) for _ in range(50)]
    assert all(count_n[0] == 1 and count_n.sum() == 10 for count_n in draws)
    assert len({tuple(count_n) for count_n in draws}) > 40
    found = bootstrap_auc(np.arange(10.0), labels, rows=rows, resamples=50)
    assert found.resamples == 50
    assert bootstrap_auc(np.arange(10.0), labels, resamples=50).resamples < 50


def test_patients_within_strata():
    """Images of a patient are drawn together, and the number of patients with cancer stays the same."""
    patients = np.array(["c", "a", "b", "a", "c", "d", "d", "e"])
    labels = np.array([0, 1, 0, 0, 0, 0, 1, 0])
    per_patient = highest_in_group(labels, patients)
    assert per_patient.tolist() == [0, 1, 0, 1, 0, 1, 1, 0]
    rows, rng = resampling(8, groups=patients, strata=per_patient), np.random.default_rng(1)
    for _ in range(30):
        count_n = rows.draw(rng)
        assert all(len(set(count_n[patients == name])) == 1 for name in "abcde")
        first_of_each = count_n[[0, 1, 2, 5, 7]]
        assert first_of_each.sum() == 5
        assert first_of_each[[1, 3]].sum() == 2  # patients a and d
    assert rows.without(0).sum() in (6, 7)


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_stratified_draws_are_uniform_within_strata(seed):
    """Names, their order and the number of strata change no row's chance: the mean count of every row is 1."""
    rng = np.random.default_rng(seed)
    groups, strata_g = rng.permutation(np.repeat(np.arange(12), 2)), rng.integers(3, size=12)
    rows = resampling(24, groups=groups, strata=strata_g[groups])
    total = sum(rows.draw(rng) for _ in range(300)) / 300
    assert np.abs(total - 1).max() < 0.35
    assert len(rows.stratum_sizes) == len(set(strata_g.tolist()))


def test_differences_are_paired():
    """Two models that make the same mistakes differ with a narrow interval though each area is uncertain."""
    rng = np.random.default_rng(6)
    labels = rng.integers(2, size=100)
    scores = labels + rng.normal(size=100)
    almost = scores + 0.05 * rng.normal(size=100)
    alone = bootstrap_auc(scores, labels, resamples=300)
    paired = bootstrap_auc_difference(scores, almost, labels, resamples=300)
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)
    assert paired.resamples == 300
    assert paired.p == pytest.approx(p_from_interval(paired.difference, paired.low, paired.high))


def test_difference_of_any_metric():
    """A difference equals the metric of both models, and turns its sign with them."""
    probs, labels = graded(7)
    other, _ = graded(8)

    def accuracy(of):
        is_right = of.argmax(axis=1) == labels
        return lambda count_n: float(count_n @ is_right / count_n.sum())

    found = bootstrap_difference(accuracy(probs), accuracy(other), resampling(60), resamples=200)
    swapped = bootstrap_difference(accuracy(other), accuracy(probs), resampling(60), resamples=200)
    assert found.difference == pytest.approx(found.value_a - found.value_b)
    assert (swapped.difference, swapped.low, swapped.p) == pytest.approx((-found.difference, -found.high, found.p))
    bca = bootstrap_difference(accuracy(probs), accuracy(other), resampling(60), resamples=200, interval="bca")
    assert (bca.low, bca.high) == pytest.approx((found.low, found.high), abs=0.06)


def test_p_values_keep_their_level():
    """Two equally good models differ with p < 0.05 in 1 to 10 % of 200 data sets."""
    rng, rejected = np.random.default_rng(9), 0
    labels = np.repeat([0, 1], 60)
    for seed in range(200):
        truth = labels + rng.normal(0, 0.5, 120)
        a, b = truth + rng.normal(size=120), truth + rng.normal(size=120)
        rejected += bootstrap_auc_difference(a, b, labels, resamples=200, seed=seed).p < 0.05
    assert 2 <= rejected <= 20


def test_undefined_says_why():
    """A metric without a value, without resamples or without BCa's correction is NaN and says why."""
    undefined = bootstrap_auc([1.0, 2, 3], [0, 0, 0], resamples=20)
    assert "undefined on the whole set" in undefined.reason
    rare = bootstrap_auc(np.arange(20.0), np.arange(20) == 19, resamples=200)
    assert "left out" in rare.reason
    assert math.isfinite(rare.low)
    lonely = bootstrap_auc(np.arange(20.0), np.arange(20) == 10, interval="bca", resamples=200)
    assert "without one of the groups" in lonely.reason
    assert math.isnan(lonely.low)
    # No resample holds as many different rows as the set.
    outside = bootstrap(lambda count_n: float(np.count_nonzero(count_n)), resampling(30), interval="bca", resamples=50)
    assert "outside all resamples" in outside.reason
    assert math.isnan(outside.high)
    constant = bootstrap(mean_metric(np.ones(5)), resampling(5), interval="bca", resamples=20)
    assert (constant.low, constant.high, constant.reason) == (1, 1, "")
    same = bootstrap_difference(mean_metric(np.ones(5)), mean_metric(np.ones(5)), resampling(5), resamples=20)
    assert "no width" in same.reason
    assert math.isnan(same.p)
    nothing = bootstrap(mean_metric(np.ones(5)), resampling(5), resamples=1)
    assert "1 of 1" in nothing.reason


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: resampling(3, groups=[1, 2]), "groups have shape"),
        (lambda: resampling(3, strata=[1, 2]), "strata have shape"),
        (lambda: resampling(3, groups=["a", None, "b"]), "missing names"),
        (lambda: resampling(3, groups=[1, 1, 2], strata=[0, 1, 1]), "several strata"),
        (lambda: bootstrap(mean_metric(np.ones(3)), resampling(3), interval="basic"), "'percentile' or 'bca'"),
        (lambda: bootstrap(mean_metric(np.ones(3)), resampling(3), level=95), "between 0 and 1"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
