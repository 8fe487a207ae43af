"""Pooling of views against pandas, by hand and by its properties."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from study.errors import InputError
from study.stats import auc, bootstrap_auc, joint_names, pool_probabilities, pool_scores, resampling


def test_breasts_by_hand():
    """Two exams, three breasts: a breast is positive when any view is, and takes the mean or the highest score."""
    exams, sides = ["e2", "e1", "e1", "e1", "e2"], ["L", "L", "R", "L", "L"]
    breasts = joint_names(exams, sides)
    scores, labels = [0.9, 0.2, 0.5, 0.4, 0.1], [0, 0, 0, 1, 0]
    mean, highest = (pool_scores(scores, labels, breasts, pooling=pooling) for pooling in ("mean", "max"))
    assert mean.scores.tolist() == pytest.approx([0.3, 0.5, 0.5])  # e1 L, e1 R, e2 L
    assert highest.scores.tolist() == [0.4, 0.5, 0.9]
    assert mean.labels.tolist() == [True, False, False]
    assert mean.num_images.tolist() == [2, 1, 2]
    assert mean.first_row.tolist() == [1, 2, 0]
    assert auc(mean.scores, mean.labels) == 0
    per_exam = pool_scores(scores, labels, exams)
    assert per_exam.groups.tolist() == ["e1", "e2"]


@given(seed=st.integers(0, 1000), pooling=st.sampled_from(["max", "mean"]))
@settings(max_examples=20, deadline=None)
def test_pooling_equals_pandas(seed, pooling):
    """Scores and labels equal a group-by, and their area scikit-learn's."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"group": rng.integers(12, size=50), "score": rng.random(50), "label": rng.random(50) < 0.2})
    table.loc[0, "label"] = True
    found = pool_scores(table["score"], table["label"], table["group"], pooling=pooling)
    expected = table.groupby(table["group"].astype(str)).agg({"score": pooling, "label": "max"})
    assert found.groups.tolist() == expected.index.tolist()
    assert found.scores.tolist() == pytest.approx(expected["score"].tolist())
    assert found.labels.tolist() == expected["label"].tolist()
    if 0 < found.labels.sum() < len(found.labels):
        assert auc(found.scores, found.labels) == pytest.approx(roc_auc_score(expected["label"], expected["score"]))


def test_single_images_stay_as_they_are():
    """Groups of one image give the image-wise area."""
    rng = np.random.default_rng(0)
    scores, labels = rng.random(30), rng.integers(2, size=30)
    found = pool_scores(scores, labels, np.arange(30), pooling="max")
    assert auc(found.scores, found.labels) == pytest.approx(auc(scores, labels))


def test_patients_of_breasts():
    """The first row leads from breasts to their patients, so that breasts can be resampled by patient."""
    patients = np.repeat(["p1", "p2", "p3", "p4"], 4)
    breasts = joint_names(patients, ["L", "L", "R", "R"] * 4)
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 0, 0, 1, 0, 0, 1], 2)
    found = pool_scores(labels + rng.normal(size=16), labels, breasts)
    rows = resampling(len(found.groups), groups=patients[found.first_row])
    assert (rows.num_rows, rows.num_groups) == (8, 4)
    assert bootstrap_auc(found.scores, found.labels, rows=rows, resamples=50).resamples > 0


def test_joint_names_do_not_collide():
    """Exam 1 with side 12 is another breast than exam 11 with side 2; a missing part makes the name unknown."""
    names = joint_names(["1", "11", None, "1"], ["12", "2", "2", "12"])
    assert len(set(names.tolist())) == 3
    assert names[0] == names[3]
    assert names[2] == "unknown"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pool_scores([0.1, 0.2], [0, 1], ["a", None]), "no group"),
        (lambda: pool_scores([0.1, 0.2], [0, 1], ["a"]), "groups have shape"),
        (lambda: pool_scores([0.1, 0.2], [0, 1], ["a", "b"], pooling="median"), "'max' or 'mean'"),
        (joint_names, "at least one"),
        (lambda: joint_names(["a"], ["b", "c"]), "columns have shape"),
    ],
)
def test_wrong_input(call, words):
    """Input that does not fit is refused with what was found."""
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)


def test_classes_by_hand():
    """Three classes, two breasts: the worst class of any view counts, and the mean or the most suspicious view."""
    probs = [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.9, 0.1, 0.0]]
    labels, breasts = [0, 2, 1, 0], ["b", "a", "a", "b"]
    mean, highest = (pool_probabilities(probs, labels, breasts, pooling=pooling) for pooling in ("mean", "max"))
    assert mean.groups.tolist() == highest.groups.tolist() == ["a", "b"]
    np.testing.assert_allclose(mean.probs_gk, [[0.15, 0.5, 0.35], [0.75, 0.2, 0.05]])
    np.testing.assert_allclose(highest.probs_gk, [probs[1], probs[0]])  # expected classes 1.4 of 1.0, 0.5 of 0.1
    assert mean.labels_g.tolist() == highest.labels_g.tolist() == [2, 0]
    assert (mean.predicted_g.tolist(), highest.predicted_g.tolist()) == ([1, 0], [2, 0])
    assert mean.first_row.tolist() == [1, 0]
    assert mean.num_images.tolist() == [2, 2]


@given(seed=st.integers(0, 1000), pooling=st.sampled_from(["max", "mean"]), rows=st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_two_classes_are_pooled_scores(seed, pooling, rows):
    """With two classes the pooled probability is another one than the pooled score, or rows do not sum to 1."""
    rng = np.random.default_rng(seed)
    score, labels, groups = rng.random(rows), rng.integers(2, size=rows), rng.integers(8, size=rows)
    found = pool_probabilities(np.stack([1 - score, score], axis=1), labels, groups, pooling=pooling)
    assert found.probs_gk.sum(axis=1).tolist() == pytest.approx([1.0] * len(found.groups))
    if rows:
        single = pool_scores(score, labels, groups, pooling=pooling)
        assert found.groups.tolist() == single.groups.tolist()
        assert found.probs_gk[:, 1].tolist() == pytest.approx(single.scores.tolist())
        assert found.labels_g.tolist() == single.labels.astype(int).tolist()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[0.5, 0.5]], [0], ["a"], "median"), "pooling is 'median'"),
        (([0.5, 0.5], [0, 1], ["a", "b"], "mean"), "expected [N, K]"),
        (([[0.5, 0.5]], [0, 1], ["a"], "mean"), "expected [N, K]"),
        (([[0.5, 0.5]], [0], [None], "mean"), "a row has no group"),
    ],
)
def test_wrong_classes(arguments, words):
    """Arguments that do not fit give numbers instead of an error."""
    probs, labels, groups, pooling = arguments
    with pytest.raises(InputError) as error:
        pool_probabilities(probs, labels, groups, pooling=pooling)
    assert words in error.value.message
