"""Metrics against scikit-learn, by hand and where they are undefined."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from study.errors import InputError
from study.metrics import METRIC_MODE, METRIC_NAMES, classification_metrics, segment_metrics

ALL_CLASSES = ("auroc_macro", "f1_macro", "precision_macro", "recall_macro", "balanced_accuracy")
TWO_CLASSES = ("specificity_macro", "mcc", "qwk")


def fold(seed, *, rows=60, num_classes=3, ties=True):
    """Random probabilities (with ties), labels with every class, and weights."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num_classes), size=rows)
    if ties:
        probs = np.round(probs * 8 + 0.2)
        probs /= probs.sum(axis=1, keepdims=True)
    labels = rng.integers(num_classes, size=rows)
    labels[:num_classes] = np.arange(num_classes)
    return probs, labels, rng.uniform(0.1, 3, size=rows)


def sklearn_metrics(probs, labels, weight, predicted):
    """The same keys, from scikit-learn where it has them."""
    num_classes = probs.shape[1]
    hot = np.eye(num_classes)[labels]
    auroc = [reference.roc_auc_score(hot[:, k], probs[:, k], sample_weight=weight) for k in range(num_classes)]
    options = {"sample_weight": weight}
    macro = {"average": "macro", "zero_division": 0, "labels": range(num_classes)} | options
    balanced = np.array([1 / weight[labels == label].sum() for label in labels]) * weight
    clipped = np.clip(probs, np.finfo(np.float32).eps, 1)
    surprise = -np.log(clipped[np.arange(len(labels)), labels])
    return {
        "auroc_macro": np.mean(auroc),
        **{f"auroc_{k}": auroc[k] for k in range(num_classes)},
        "f1_macro": reference.f1_score(labels, predicted, **macro),
        "precision_macro": reference.precision_score(labels, predicted, **macro),
        "recall_macro": reference.recall_score(labels, predicted, **macro),
        "accuracy": reference.accuracy_score(labels, predicted, **options),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted, **options),
        "specificity_macro": np.mean(
            [reference.recall_score(labels != k, predicted != k, **options) for k in range(num_classes)]
        ),
        "mcc": reference.matthews_corrcoef(labels, predicted, **options),
        "qwk": reference.cohen_kappa_score(labels, predicted, weights="quadratic", **options),
        "grade_mae": reference.mean_absolute_error(labels, predicted, **options),
        "log_loss": np.average(surprise, weights=weight),
        "weighted_log_loss": np.average(surprise, weights=balanced),
        "brier": np.average(np.square(probs - hot).sum(axis=1), weights=weight),
    }


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 5), weighted=st.booleans(), own=st.booleans())
@settings(max_examples=40, deadline=None)
def test_equals_scikit_learn(seed, num_classes, weighted, own):
    """Every metric that scikit-learn has equals ours, weighted or not, with argmax or given predictions."""
    probs, labels, weight = fold(seed, num_classes=num_classes)
    predicted = np.random.default_rng(seed).integers(num_classes, size=len(labels)) if own else probs.argmax(axis=1)
    ours = classification_metrics(
        probs,
        labels,
        sample_weight=weight if weighted else None,
        predicted_n=predicted if own else None,
    )
    theirs = sklearn_metrics(probs, labels, weight if weighted else np.ones(len(labels)), predicted)
    assert ours.keys() == theirs.keys() | {"ece"}
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_log_loss_and_brier_equal_scikit_learn_functions():
    """Log-loss and the multi-class Brier score equal scikit-learn's own functions without ties or zeros."""
    probs, labels, weight = fold(1, ties=False)
    ours = classification_metrics(probs, labels, sample_weight=weight)
    assert ours["log_loss"] == pytest.approx(reference.log_loss(labels, probs, sample_weight=weight))
    assert ours["brier"] == pytest.approx(reference.brier_score_loss(labels, probs, sample_weight=weight))


def test_by_hand():
    """Four rows worked by hand."""
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    found = classification_metrics(probs, [0, 0, 1, 1])
    assert found["auroc_macro"] == found["auroc_0"] == found["auroc_1"] == 0.75
    assert found["accuracy"] == 0.75
    assert found["grade_mae"] == 0.25
    assert found["specificity_macro"] == 0.75
    assert found["f1_macro"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["mcc"] == pytest.approx(1 / math.sqrt(3))
    assert found["qwk"] == pytest.approx(0.5)
    assert found["brier"] == pytest.approx(2 * (0.01 + 0.16 + 0.49 + 0.04) / 4)
    # Four bins with one row each: |1 - 0.9|, |1 - 0.6|, |0 - 0.7|, |1 - 0.8|.
    assert found["ece"] == pytest.approx((0.1 + 0.4 + 0.7 + 0.2) / 4)
    unbalanced = classification_metrics(probs[:3], [0, 0, 1])
    assert unbalanced["weighted_log_loss"] == pytest.approx(((-math.log(0.9) - math.log(0.6)) / 2 - math.log(0.3)) / 2)


def test_grade_distance_counts():
    """Missing by two grades costs twice as much as by one, and kappa punishes it more."""
    near = classification_metrics(np.eye(3)[[1, 1, 2]], [0, 1, 2])
    far = classification_metrics(np.eye(3)[[2, 1, 2]], [0, 1, 2])
    assert (near["grade_mae"], far["grade_mae"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert near["qwk"] > far["qwk"]


def test_given_predictions_change_hard_metrics_alone():
    """Given predictions replace the most probable class in hard metrics and leave the others as they were."""
    probs, labels, _ = fold(2)
    plain, given_labels = (
        classification_metrics(probs, labels),
        classification_metrics(probs, labels, predicted_n=labels),
    )
    assert given_labels["accuracy"] == given_labels["qwk"] == given_labels["mcc"] == 1
    assert given_labels["grade_mae"] == 0
    for name in ("auroc_macro", "log_loss", "weighted_log_loss", "ece", "brier"):
        assert plain[name] == given_labels[name]


def nan_names(found):
    return {name for name, value in found.items() if math.isnan(value)}


def test_absent_class():
    """Without a class, its area and every mean over classes are NaN, and nothing else."""
    probs, labels, _ = fold(3)
    kept = labels != 1
    found = classification_metrics(probs[kept], labels[kept])
    assert nan_names(found) == {*ALL_CLASSES, "auroc_1"}


def test_one_class():
    """With one class, all that compares classes is NaN; accuracy, distance, log-loss and calibration are defined."""
    probs, _, _ = fold(4)
    found = classification_metrics(probs, np.ones(60, dtype=int))
    assert nan_names(found) == {*ALL_CLASSES, *TWO_CLASSES, "auroc_0", "auroc_1", "auroc_2"}
    assert found["accuracy"] == np.mean(probs.argmax(axis=1) == 1)


def test_nothing_and_not_finite():
    """Without a row, and with a probability that is not finite, everything is NaN."""
    nothing = classification_metrics(np.empty((0, 3)), np.empty(0, dtype=int))
    probs, labels, _ = fold(5)
    probs[7, 1] = np.nan
    broken = classification_metrics(probs, labels)
    for found in (nothing, broken):
        assert nan_names(found) == {*METRIC_NAMES, "auroc_0", "auroc_1", "auroc_2"}


def test_constant_predictions_are_defined():
    """A network that always says the same has AUROC 0.5 by ties, kappa and correlation 0, and no NaN."""
    labels = np.array([0, 0, 1, 2, 2])
    found = classification_metrics(np.tile([0.2, 0.5, 0.3], (5, 1)), labels, sample_weight=np.array([0.1] * 5))
    assert not nan_names(found)
    assert found["auroc_macro"] == pytest.approx(0.5)
    assert found["mcc"] == 0
    assert found["qwk"] == pytest.approx(0, abs=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)


def test_rows_of_weight_zero_are_left_out():
    """A row of weight 0 changes nothing, whatever its label and probabilities."""
    probs, labels, weight = fold(6)
    weight[:9] = 0
    poisoned, missing = probs.copy(), labels.copy()
    poisoned[:9], missing[:9] = np.nan, -1
    found = classification_metrics(poisoned, missing, sample_weight=weight)
    assert found == classification_metrics(probs[9:], labels[9:], sample_weight=weight[9:])


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_order_of_rows_changes_nothing(seed):
    """Permuting the rows changes no metric."""
    probs, labels, weight = fold(seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    first = classification_metrics(probs, labels, sample_weight=weight)
    second = classification_metrics(probs[order], labels[order], sample_weight=weight[order])
    assert first == pytest.approx(second, abs=1e-12)


def test_keys():
    """The keys are the promised ones, in a fixed order, with class names when given, and each has a direction."""
    probs, labels, _ = fold(7)
    names = ("normal", "benign", "malignant")
    found = classification_metrics(probs.astype(np.float32), labels, class_names=names)
    assert list(found) == [*METRIC_NAMES, *(f"auroc_{name}" for name in names)]
    assert all(type(value) is float for value in found.values())
    assert set(METRIC_MODE) == {*METRIC_NAMES, "segment_gap_auroc", "pooled_minus_local_auroc"}
    better = classification_metrics(np.eye(3)[labels] * 0.97 + 0.01, labels)
    for name in METRIC_NAMES:
        assert (better[name] > found[f"{name}"]) == (METRIC_MODE[name] == "max"), name


def test_segments():
    """Each segment has its own metrics, equal to those of its rows alone, and the gap is between the extremes."""
    probs, labels, weight = fold(8, rows=120)
    segments = np.array(["a", "b.x", "c"])[np.random.default_rng(0).integers(3, size=120)]
    found = segment_metrics(probs, labels, segments, class_names=("n", "b", "m"), sample_weight=weight)
    local = []
    for segment in ("a", "b.x", "c"):
        rows = segments == segment
        alone = classification_metrics(
            probs[rows], labels[rows], class_names=("n", "b", "m"), sample_weight=weight[rows]
        )
        assert {key: found[f"segment/{segment}/{key}"] for key in alone} == alone
        local.append(alone["auroc_macro"])
    pooled = classification_metrics(probs, labels, sample_weight=weight)["auroc_macro"]
    assert found["segment_gap_auroc"] == pytest.approx(max(local) - min(local))
    assert found["pooled_minus_local_auroc"] == pytest.approx(pooled - np.mean(local))


def test_shortcut_shows():
    """A score that knows the segment alone looks skilled on the pooled set and is worthless in each segment."""
    labels = np.array([0] * 45 + [1] * 5 + [0] * 5 + [1] * 45)
    segments = np.repeat(["a", "b"], 50)
    score = np.where(segments == "a", 0.1, 0.9)
    found = segment_metrics(np.column_stack([1 - score, score]), labels, segments)
    assert found["segment/a/auroc_macro"] == found["segment/b/auroc_macro"] == 0.5
    assert found["pooled_minus_local_auroc"] == pytest.approx(0.4)
    assert found["segment_gap_auroc"] == 0


def test_undefined_segments():
    """A segment without all classes has no area; with fewer than two areas there is no gap, with none no comparison."""
    probs, labels, _ = fold(9, rows=40, num_classes=2)
    segments = np.where(labels == 0, "a", "b")
    none = segment_metrics(probs, labels, segments)
    assert math.isnan(none["segment_gap_auroc"])
    assert math.isnan(none["pooled_minus_local_auroc"])
    assert math.isnan(none["segment/a/auroc_macro"])
    segments[:30] = "c"
    one = segment_metrics(probs, labels, segments)
    assert math.isnan(one["segment_gap_auroc"])
    assert math.isfinite(one["pooled_minus_local_auroc"])


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([0.5, 0.5], [0]), {}, "expected [N, K], K >= 2"),
        (([[1.0]], [0]), {}, "expected [N, K], K >= 2"),
        (([[0.5, 0.5]], [0, 1]), {}, "labels have shape (2,)"),
        (([[0.5, 0.5]], [2]), {}, "expected 0 to 1"),
        (([[0.5, 0.5]], [-1]), {}, "the weight 0"),
        (([[3.0, -2.0]], [0]), {}, "sum to 1"),
        (([[0.2, 0.2]], [0]), {}, "sum to 1"),
        (([[0.5, 0.5]], [0]), {"class_names": ["a"]}, "expected 2 different ones"),
        (([[0.5, 0.5]], [0]), {"class_names": ["a", "a"]}, "expected 2 different ones"),
        (([[0.5, 0.5]], [0]), {"sample_weight": [-1.0]}, "negative"),
        (([[0.5, 0.5]], [0]), {"sample_weight": [[1.0]]}, "weights have shape"),
        (([[0.5, 0.5]], [0]), {"predicted_n": [5]}, "predictions range from 5"),
    ],
)
def test_wrong_input(arguments, options, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        classification_metrics(*arguments, **options)
    assert words in str(caught.value)


def test_wrong_segments():
    """Another number of segments than rows is refused."""
    with pytest.raises(InputError, match="segments have shape"):
        segment_metrics([[0.5, 0.5]], [0], ["a", "b"])


def test_no_warnings_at_the_edges():
    """One row, one class and zero probabilities give numbers or NaN without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classification_metrics([[0.0, 1.0]], [0])
        segment_metrics([[0.0, 1.0], [1.0, 0.0]], [0, 1], ["a", "b"])
    assert found["log_loss"] == pytest.approx(-math.log(np.finfo(np.float32).eps))
