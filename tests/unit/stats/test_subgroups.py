"""Metrics of parts against a plain loop, with counts that add up and reasons where a part has no number."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from study.errors import InputError
from study.metrics import classification_metrics
from study.stats import (
    age_bins,
    best_mcc_point,
    binary_metrics,
    delong_interval,
    operating_points,
    subgroup_metrics,
    triage_point,
)


@pytest.fixture
def table():
    """A set with segments, views, densities that are partly missing, and ages."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    return pd.DataFrame(
        {
            "label": labels,
            "score": 1 / (1 + np.exp(-2 * labels + 1 - rng.normal(size=200))),
            "segment": rng.choice(["a", "b"], 200),
            "view": rng.choice(["CC", "MLO"], 200),
            "density": rng.choice(np.array(["A", "B", None], dtype=object), 200),
            "age": age_bins(rng.integers(30, 90, size=200)),
        }
    )


def test_parts_equal_a_plain_loop(table):
    """Every part has the area of its rows, and the parts of each column add up to the set, class by class."""
    scores, labels = table["score"].to_numpy(), table["label"].to_numpy()
    columns = ["segment", "view", "density", "age"]
    found = subgroup_metrics(lambda rows: binary_metrics(scores[rows], labels[rows]), labels, dict(table[columns]))
    assert (found[0].column, found[0].value, found[0].num_rows) == ("all", "all", 200)
    for part in found[1:]:
        inside = table[table[part.column].fillna("unknown") == part.value]
        assert part.metrics["auc"] == pytest.approx(roc_auc_score(inside["label"], inside["score"]))
        assert part.class_counts == ((inside["label"] == 0).sum(), (inside["label"] == 1).sum())
        assert part.reason == ""
    for column in columns:
        counts = np.array([part.class_counts for part in found if part.column == column])
        assert counts.sum(axis=0).tolist() == list(found[0].class_counts)
    assert [part.value for part in found if part.column == "density"] == ["A", "B", "unknown"]


def test_any_metric_of_any_number_of_classes(table):
    """The metrics of training work per part; a part without a class has NaN, not a neutral value, and says so."""
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=90)
    segments = np.where(labels == 2, "b", np.where(np.arange(90) % 2, "a", "b"))
    probs = rng.dirichlet(np.ones(3), size=90)
    found = subgroup_metrics(
        lambda rows: classification_metrics(probs[rows], labels[rows]), labels, {"segment": segments}, num_classes=3
    )
    whole, without, complete = found
    assert without.class_counts[2] == 0
    assert math.isnan(without.metrics["auroc_macro"])
    assert without.reason == "no row of class 2"
    assert (whole.reason, complete.reason) == ("", "")
    assert complete.metrics["auroc_macro"] == pytest.approx(
        np.mean([roc_auc_score(labels[segments == "b"] == k, probs[segments == "b", k]) for k in range(3)])
    )


def test_undefined_metrics_are_named():
    """A number that is NaN though all classes are there is named in the reason."""
    (whole,) = subgroup_metrics(lambda rows: {"odd": math.nan, "even": 1.0}, [0, 1], {})
    assert whole.reason == "undefined: odd"
    (empty,) = subgroup_metrics(lambda rows: {"odd": math.nan}, [], {})
    assert empty.reason == "no row of class 0 and 1"
    assert empty.metrics == {}


def test_binary_metrics(table):
    """The numbers are those of the functions they stand for; thresholds from validation go in by name."""
    scores, labels = table["score"].to_numpy(), table["label"].to_numpy()
    triage = triage_point(scores[:100], labels[:100])
    found = binary_metrics(scores, labels, thresholds=(0.2, 0.8), chosen={"triage": triage.threshold})
    low, high, chosen = operating_points(scores, labels, thresholds=(0.2, 0.8, triage.threshold))
    area = delong_interval(scores, labels)
    assert (found["auc"], found["auc_low"], found["auc_high"]) == (area.value, area.low, area.high)
    assert (found["sensitivity@0.2"], found["specificity@0.8"]) == (low.sensitivity, high.specificity)
    assert (found["mcc@triage"], found["safely_ruled_out@triage"]) == (chosen.mcc, chosen.safely_ruled_out)
    assert found["best_mcc"] == best_mcc_point(scores, labels).mcc
    assert 0 <= found["ece"] <= 1
    one_class = binary_metrics(scores[labels == 0], labels[labels == 0])
    assert math.isnan(one_class["auc"])
    assert math.isnan(one_class["sensitivity@0.4"])
    assert math.isfinite(one_class["specificity@0.4"])


def test_age_bins():
    """An age at an edge belongs to the upper bin; what is not a number is unknown, not old."""
    found = age_bins([39.9, 40, 49.9, 50, 70, 101, math.nan])
    assert found.tolist() == ["<40", "40-49", "40-49", "50-59", ">=70", ">=70", "unknown"]
    assert age_bins([30, 60], edges=[50]).tolist() == ["<50", ">=50"]
    assert age_bins([]).tolist() == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: subgroup_metrics(lambda rows: {}, [0, 2], {}), "not all among 0 to 1"),
        (lambda: subgroup_metrics(lambda rows: {}, [0, 1], {"view": ["CC"]}), "column view have shape"),
        (lambda: age_bins([40], edges=[50, 40]), "rising"),
        (lambda: age_bins([[40]]), "one age per row"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
