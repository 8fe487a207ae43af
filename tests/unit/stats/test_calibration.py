"""Calibration against scikit-learn and the study's own metric, by hand, and on data of known temperature."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.calibration import calibration_curve as reference_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from study.errors import InputError
from study.metrics import classification_metrics
from study.stats import calibration_curve, fit_temperature, log_probs


class Network(ClassifierMixin, BaseEstimator):
    """A classifier for scikit-learn whose logits are its input."""

    def __init__(self, num_classes=2):
        self.num_classes = num_classes

    @property
    def classes_(self):
        return np.arange(self.num_classes)

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def decision_function(self, X):
        return X[:, 0] if self.num_classes == 2 else X

    def predict(self, X):
        return self.decision_function(X).argmax(axis=1)


def heated(seed, *, temperature, rows=400, classes=3):
    """Logits that are right on average after division by the temperature, and labels drawn accordingly."""
    rng = np.random.default_rng(seed)
    honest = 1.5 * rng.normal(size=(rows, classes))
    labels = (special.log_softmax(honest, axis=1) + rng.gumbel(size=honest.shape)).argmax(axis=1)
    return temperature * honest, labels


def test_curve_by_hand():
    """Six rows in two bins: 0.1, 0.2, 0.3 with one positive, 0.5, 0.9, 1.0 with two; a bin holds its lower edge."""
    found = calibration_curve([0.1, 0.2, 0.3, 0.5, 0.9, 1.0], [0, 1, 0, 1, 0, 1], bins=2)
    assert found.counts == (3, 3)
    assert found.edges == (0, 0.5, 1)
    assert found.predicted == pytest.approx((0.2, 0.8))
    assert found.observed == pytest.approx((1 / 3, 2 / 3))
    assert found.expected_error == pytest.approx((1 / 3 - 0.2) / 2 + (0.8 - 2 / 3) / 2)
    assert found.maximum_error == pytest.approx(2 / 15)


@given(seed=st.integers(0, 1000), binning=st.sampled_from(["uniform", "quantile"]))
@settings(max_examples=20, deadline=None)
def test_curve_equals_scikit_learn(seed, binning):
    """Means of bins equal those of scikit-learn, which leaves out empty ones; no row lies on an edge here."""
    rng = np.random.default_rng(seed)
    probs = rng.random(100) ** 2
    labels = (rng.random(100) < probs).astype(int)
    found = calibration_curve(probs, labels, bins=8, binning=binning)
    observed, predicted = reference_curve(labels, probs, n_bins=8, strategy=binning)
    used = np.array(found.counts) > 0
    assert np.array(found.observed)[used].tolist() == pytest.approx(observed.tolist())
    assert np.array(found.predicted)[used].tolist() == pytest.approx(predicted.tolist())
    assert np.isnan(np.array(found.observed)[~used]).all()
    assert sum(found.counts) == 100


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_error_is_that_of_the_metric(seed):
    """The expected error of class probabilities is the metric ``ece`` of training, to the last digits."""
    logits, labels = heated(seed, temperature=2, rows=60)
    probs = special.softmax(logits, axis=1)
    found = calibration_curve(probs, labels)
    assert found.expected_error == pytest.approx(classification_metrics(probs, labels)["ece"], abs=1e-12)
    assert found.maximum_error >= found.expected_error


def test_quantile_bins_of_equal_probabilities():
    """When most probabilities are equal there are fewer bins, none of them empty."""
    found = calibration_curve([0.1] * 8 + [0.5, 0.9], [0] * 8 + [1, 1], bins=5, binning="quantile")
    assert min(found.counts) > 0
    assert sum(found.counts) == 10
    constant = calibration_curve([0.2] * 5, [0, 0, 0, 0, 1], bins=5, binning="quantile")
    assert constant.counts == (5,)
    assert constant.expected_error == pytest.approx(0)


def test_temperature_by_hand():
    """Log odds of 2 that are right in 3 of 4 rows mean log 3: the temperature is 2 / log 3."""
    found = fit_temperature([2.0, 2, 2, 2, -2, -2, -2, -2], [1, 1, 1, 0, 0, 0, 0, 1])
    assert found.value == pytest.approx(2 / math.log(3))
    assert found.log_loss_before == pytest.approx(math.log1p(math.exp(-2)) + 2 / 4)
    assert found.log_loss_after == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert found.apply([2.0, -2.0]).tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("classes", [2, 3])
def test_temperature_equals_scikit_learn(classes):
    """Calibrated probabilities of new rows equal those of scikit-learn's temperature scaling."""
    logits, labels = heated(0, temperature=2.5, classes=classes)
    new, _ = heated(1, temperature=2.5, classes=classes, rows=20)
    if classes == 2:
        logits, new = (values[:, 1:] - values[:, :1] for values in (logits, new))
    theirs = CalibratedClassifierCV(FrozenEstimator(Network(classes)), method="temperature").fit(logits, labels)
    ours = fit_temperature(logits[:, 0] if classes == 2 else logits, labels)
    probs = ours.apply(new[:, 0] if classes == 2 else new)
    expected = theirs.predict_proba(new)
    assert probs == pytest.approx(expected[:, 1] if classes == 2 else expected, abs=1e-4)
    assert ours.log_loss_after <= log_loss(labels, theirs.predict_proba(logits)) + 1e-9


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_known_temperatures_are_found(temperature):
    """A temperature put into the data comes out of validation rows, and makes test rows honest."""
    logits, labels = heated(2, temperature=temperature, rows=6000)
    found = fit_temperature(logits, labels)
    assert found.value == pytest.approx(temperature, rel=0.08)
    assert found.log_loss_after <= found.log_loss_before
    new, truth = heated(3, temperature=temperature, rows=6000)
    assert calibration_curve(found.apply(new), truth).expected_error < 0.02
    assert (found.apply(new).argmax(axis=1) == new.argmax(axis=1)).all()


@given(seed=st.integers(0, 1000), factor=st.floats(0.5, 3))
@settings(max_examples=20, deadline=None)
def test_temperature_properties(seed, factor):
    """Hotter logits have a hotter temperature and the same result, and no other temperature fits better."""
    logits, labels = heated(seed, temperature=2, rows=150)
    found, hotter = fit_temperature(logits, labels), fit_temperature(factor * logits, labels)
    assert hotter.value == pytest.approx(factor * found.value, rel=1e-6)
    for value in (0.9 * found.value, 1.1 * found.value):
        worse = log_loss(labels, special.softmax(logits / value, axis=1), labels=[0, 1, 2])
        assert worse >= found.log_loss_after - 1e-12


def test_probabilities_serve_as_logits():
    """Log probabilities of any head give the temperature of its logits, of one class and of all."""
    logits, labels = heated(4, temperature=2)
    probs = special.softmax(logits, axis=1)
    by_probs, by_logits = fit_temperature(log_probs(probs), labels), fit_temperature(logits, labels)
    assert by_probs.value == pytest.approx(by_logits.value, rel=1e-6)
    assert by_probs.apply(log_probs(probs)) == pytest.approx(by_logits.apply(logits), abs=1e-6)
    odds = logits[:, 1] - logits[:, 0]
    binary = fit_temperature(log_probs(special.expit(odds)), labels == 1)
    assert binary.value == pytest.approx(fit_temperature(odds, labels == 1).value, rel=1e-4)
    assert np.isfinite(log_probs([0.0, 1.0])).all()


def test_undefined_says_why():
    """No rows, logits that tell nothing, and rows that are all right have no temperature, and it cannot be applied."""
    none = fit_temperature(np.empty((0, 3)), [])
    wrong = fit_temperature([2.0, -2.0], [0, 1])
    perfect = fit_temperature([2.0, -2.0], [1, 0])
    for found, words in ((none, "no row"), (wrong, "no better than chance"), (perfect, "every row is right")):
        assert math.isnan(found.value)
        assert words in found.reason
        with pytest.raises(InputError, match="undefined"):
            found.apply([1.0])
    empty = calibration_curve([], [])
    assert math.isnan(empty.expected_error)
    assert "no row" in empty.reason


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: calibration_curve([-1.0, 2.0], [0, 1]), "not logits"),
        (lambda: calibration_curve([0.1, 0.2], [0, 1], bins=0), "at least 1"),
        (lambda: calibration_curve([0.1, 0.2], [0, 1], binning="equal"), "'uniform' or 'quantile'"),
        (lambda: fit_temperature([math.nan, 1.0], [0, 1]), "not finite"),
        (lambda: log_probs([1.5]), "in [0, 1]"),
        (lambda: fit_temperature([2.0, 1, -1, 2], [1, 1, 0, 0]).apply(np.ones((1, 1, 1))), "one row per image"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
