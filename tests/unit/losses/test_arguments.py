"""How losses are built and refused: names, parameters, presets, batches that do not fit; and numbers by hand."""

import math

import numpy as np
import pytest
import torch

from study.errors import InputError
from study.losses import LOSSES, make_criterion
from tests.unit.losses.cases import number, random_batch


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("focall", {}, "did you mean 'focal'"),
        ("zzz", {}, "choose one of cross_entropy, focal"),
        (None, {}, "unknown loss: None"),
        ("focal", {"gama": 1.0}, "did you mean 'gamma'"),
        ("focal", {"gamma": 10**400}, "expected a number >= 0"),
        ("wk", {"normaliser": "batch"}, "unknown parameter of loss wk"),
        ("focal", {"gamma": -1}, "expected a number >= 0"),
        ("focal", {"gamma": math.nan}, "expected a number >= 0"),
        ("focal", {"gamma": True}, "expected a number >= 0"),
        ("focal", {"alpha": 0.0}, "expected a number from 0.01 to 1"),
        ("cross_entropy", {"label_smoothing": 1.0}, "and < 1"),
        ("cross_entropy", {"label_smoothing": "0.1"}, "label_smoothing is '0.1'"),
        ("cross_entropy", {"normaliser": "pairs"}, "expected one of weight, batch, labelled"),
        ("cross_entropy", {"class_weight_source": "rawe"}, "expected one of sampled, raw"),
        ("corn", {"normaliser": "weight"}, "expected one of pairs, batch"),
        ("corn", {"class_weights": "effective"}, "expected one of none, balanced"),
        ("corn", {"class_weights": "balanced"}, "no class counts"),
        ("corn", {"class_weights": "balanced", "class_counts": [1, 2]}, "2 class counts were given; expected 3"),
        ("corn", {"class_weights": "balanced", "class_counts": [1, 0, 2]}, "class 1 has 0"),
        ("corn", {"class_weights": "balanced", "class_counts": [1, None, 2]}, "expected 3 numbers"),
        ("corn", {"class_weights": "balanced", "class_counts": "123"}, "expected 3 numbers"),
        ("corn", {"num_classes": 1}, "num_classes is 1"),
        ("corn", {"num_classes": "3"}, "num_classes is '3'"),
        ("corn", {"num_classes": 3.0}, "num_classes is 3.0"),
        ("coral", {"importance_weights": [1.0]}, "1 numbers; expected 2"),
        ("coral", {"importance_weights": [1.0, -1.0]}, "expected a number >= 0"),
        ("coral", {"importance_weights": 1.0}, "expected 2 numbers"),
        ("cdw_ce", {"alpha": 0}, "expected a number from 0.1 to 10"),
        ("cdw_ce", {"normalise_distance": 1}, "expected true or false"),
        ("wk", {"penalty": "cubic"}, "expected one of quadratic, linear"),
        ("wk", {"class_weight_on": "cells"}, "expected one of rows, columns"),
        ("mce_wk", {"kappa_share": 1.5}, "expected a number from 0 to 1"),
        ("soft_label_beta", {"num_classes": 2}, "published for 3 to 14"),
        ("soft_label_poisson", {"eta": 0.6}, "expected a number from 0 to 0.5"),
        ("soft_label_geometric", {"alpha": 1.0}, "expected a number > 0 and < 1"),
        ("soft_f1", {"positive": 3}, "expected a whole number from 0 to 2"),
        ("soft_f1", {"positive": True}, "expected a whole number from 0 to 2"),
        ("soft_mcc", {"kind": "pearson"}, "expected one of rk, ovr"),
        ("ce_f1", {"ce_weight": 0}, "expected a number > 0"),
        ("asl", {"preset": "v2"}, "expected one of default, coco"),
        ("asl", {"preset": ["coco"]}, "expected one of default, coco"),
        ("alpa", {"preset": "v4"}, "expected one of v1, v2, v3"),
        ("alpa", {"hill_lambda": 0.5}, "expected a number >= 1"),
        ("cb", {}, "no class counts"),
        ("cb", {"beta": 1.0, "class_counts": [3, 2, 1]}, "and < 1"),
        ("ldam", {"class_counts": [3, 0, 1]}, "class 1 has 0"),
        ("ldam", {"scale": 0, "class_counts": [3, 2, 1]}, "expected a number > 0"),
    ],
)
def test_wrong_arguments(name, params, words):
    """A wrong name or value reaches the first batch instead of being refused with what was found and what to do."""
    with pytest.raises(InputError) as caught:
        make_criterion(name, **{"num_classes": 3, **params})
    assert words in str(caught.value)


def test_numbers_of_numpy_are_numbers():
    """A parameter or count that comes out of an array is refused, although it is a number."""
    plain = make_criterion("cb", num_classes=3, beta=0.5, class_counts=[3, 2, 1])
    numpy = make_criterion(
        "cb", num_classes=np.int64(3), beta=np.float32(0.5), class_counts=np.array([3, 2, 1], dtype=np.int32)
    )
    assert numpy.class_weight_k.tolist() == plain.class_weight_k.tolist()


@pytest.mark.parametrize("name", LOSSES)
def test_wrong_batches(name):
    """A batch whose shapes, targets or weights do not fit is trained on."""
    criterion = make_criterion(name, num_classes=3, class_counts=[3, 2, 1])
    logits, target = torch.zeros(2, criterion.num_outputs), torch.tensor([0, 2])
    bad = [
        (torch.zeros(2, 9), target, None),
        (logits[0], target, None),
        (logits, target[:1], None),
        (logits, target.float(), None),
        (logits, torch.zeros(2, 3, dtype=torch.int64), None),
        (logits, torch.full((2, 4), 0.25), None),
        (logits, target, torch.ones(2, 1)),
        (logits, torch.tensor([0, 3]), None),
        (logits, torch.tensor([-1, 0]), None),
        (logits, target, torch.tensor([1.0, -1.0])),
        (logits, target, torch.tensor([1.0, math.nan])),
    ]
    for batch in bad:
        with pytest.raises(InputError):
            criterion(*batch)
    assert bool(criterion(logits, target).isfinite())


@pytest.mark.parametrize(
    ("preset", "numbers"),
    [("v1", (1.0, 1.0, 0.0, 4.0, False)), ("v2", (0.875, 1.625, 0.0, 4.0, False)), ("v3", (1.25, 2.0, 3.0, 2.0, True))],
)
def test_presets_of_alpa(preset, numbers):
    """A version of the paper has other numbers than those published, or an explicit parameter does not win."""
    criterion = make_criterion("alpa", num_classes=3, preset=preset)
    assert (criterion.alpha, criterion.beta, criterion.gamma_pos, criterion.gamma_neg, criterion.has_hill) == numbers
    keys = ("alpha", "beta", "gamma_pos", "gamma_neg", "hill")
    spelt = make_criterion("alpa", num_classes=3, preset="v1", **dict(zip(keys, numbers, strict=True)))
    logits, target = random_batch(criterion, seed=0)
    torch.testing.assert_close(criterion(logits, target), spelt(logits, target))
    assert make_criterion("alpa", num_classes=3, preset=preset, alpha=0.6).alpha == 0.6


def test_presets_of_asl():
    """``default`` and ``coco`` are not the published exponents, or zero does not override them."""
    made = [make_criterion("asl", num_classes=3, preset=preset) for preset in ("default", "coco")]
    assert [(each.gamma_neg, each.gamma_pos, each.clip, each.detaches) for each in made] == [
        (4.0, 1.0, 0.05, True),
        (4.0, 0.0, 0.05, True),
    ]
    plain = make_criterion("asl", num_classes=3, gamma_neg=0.0, gamma_pos=0.0, clip=0.0)
    logits, target = random_batch(plain, seed=0)
    torch.testing.assert_close(plain(logits, target), make_criterion("bce", num_classes=3)(logits, target))


def test_by_hand():
    """Zero logits give other values than those worked by hand."""
    zeros, target = torch.zeros(1, 2), torch.tensor([0])
    log2 = math.log(2)
    assert number(make_criterion("cross_entropy", num_classes=2)(zeros, target)) == pytest.approx(log2)
    assert number(make_criterion("focal", num_classes=2)(zeros, target)) == pytest.approx(log2 / 4)
    # P(class <= 0) = 1/3, P(class <= 1) = 2/3; truth is class 1: (1/3 - 0)^2 + (2/3 - 1)^2.
    three, middle = torch.zeros(1, 3), torch.tensor([1])
    assert number(make_criterion("emd", num_classes=3)(three, middle)) == pytest.approx(2 / 9)
    last = torch.tensor([2])
    assert number(make_criterion("corn", num_classes=3)(zeros, last)) == pytest.approx(log2)
    assert number(make_criterion("corn", num_classes=3, normaliser="batch")(zeros, last)) == pytest.approx(2 * log2)
    assert number(make_criterion("coral", num_classes=3)(zeros, last)) == pytest.approx(2 * log2)
    # -(1^2 log(1 - 1/3) + 2^2 log(1 - 1/3)) for truth class 0.
    cdw = make_criterion("cdw_ce", num_classes=3, alpha=2.0)
    assert number(cdw(three, target)) == pytest.approx(-5 * math.log(2 / 3))
    # One positive at s = 1/2 costs 1.5 alpha / 2, two negatives beta s^4 (s - clip)^5 each.
    alpa = make_criterion("alpa", num_classes=3)
    expected = 1.5 * 0.875 * 0.5 + 2 * 1.625 * 0.5**4 * 0.45**5
    assert number(alpa(three, target)) == pytest.approx(expected)
    balanced = torch.tensor([0, 1, 2])
    assert number(make_criterion("soft_f1", num_classes=3)(torch.zeros(3, 3), balanced)) == pytest.approx(2 / 3)
    assert number(make_criterion("wk", num_classes=3)(torch.zeros(3, 3), balanced)) == pytest.approx(1.0)


def test_distance_can_be_normalised():
    """Alpha changes the size of the distance weighted loss although the distance is to be normalised."""
    logits, target = torch.zeros(3, 3), torch.tensor([0, 1, 2])
    sizes = [
        number(make_criterion("cdw_ce", num_classes=3, alpha=alpha, normalise_distance=True)(logits, target))
        for alpha in (0.5, 2.0, 7.0)
    ]
    assert sizes == pytest.approx([sizes[0]] * 3)
