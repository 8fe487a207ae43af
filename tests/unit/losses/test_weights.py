"""Class weights, where they come from, and targets that are probabilities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from study.errors import InputError
from study.losses import LOSS_PARAMS, LOSSES, make_criterion
from study.losses.class_weights import class_weights_from_counts
from tests.unit.losses.cases import IDS, VARIANTS, criterion_for, number, random_batch

HARD_ONLY = {"focal", "slace", "ldam"}
COUNTS = [180000, 40000, 6000]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 1, 1]),
        ("balanced", [0.418519, 1.883333, 12.555556]),
        ("inv_sum1", [0.028169, 0.126761, 0.845070]),
        ("inv_meanK", [0.084507, 0.380282, 2.535211]),
        ("sqrt_inv", [3 / math.sqrt(n) / sum(1 / math.sqrt(m) for m in COUNTS) for n in COUNTS]),
        ("effective_number", [0.71, 0.72, 1.57]),
    ],
)
def test_class_weights(name, expected):
    """A formula does not give the values worked for 180000, 40000 and 6000 images."""
    weights = class_weights_from_counts(name, num_classes=3, class_counts=COUNTS)
    assert weights.tolist() == pytest.approx(expected, rel=1e-4 if name != "effective_number" else 0.01)


@pytest.mark.parametrize(("beta", "expected"), [(0.0, [1, 1, 1]), (0.999, [1, 1, 1]), (0.99999, [0.17, 0.43, 2.41])])
def test_effective_number(beta, expected):
    """The effective number of images follows another curve than the published one, or loses its digits near 1."""
    weights = class_weights_from_counts("effective_number", num_classes=3, class_counts=COUNTS, beta=beta)
    assert weights.tolist() == pytest.approx(expected, abs=0.01)
    nearly_one = class_weights_from_counts("effective_number", num_classes=3, class_counts=COUNTS, beta=1 - 1e-12)
    inverse = class_weights_from_counts("inv_meanK", num_classes=3, class_counts=COUNTS)
    torch.testing.assert_close(nearly_one, inverse, atol=1e-4, rtol=1e-3)


def test_scale_of_class_weights():
    """With division by the weights, three formulas that differ in scale alone give different losses."""
    logits, target = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
    values = [
        make_criterion("cross_entropy", num_classes=3, class_counts=[100, 10, 1], class_weights=weights)(logits, target)
        for weights in ("balanced", "inv_sum1", "inv_meanK")
    ]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])


@pytest.mark.parametrize("name", [name for name, params in LOSS_PARAMS.items() if "class_weight_source" in params])
def test_source_of_counts(name):
    """Class weights come from the raw counts when those of the sampler were asked for, or the other way round."""
    options = {"cb": {"beta": 0.99}, "ldam": {"drw": True}}.get(name, {"class_weights": "balanced"})
    made = {
        source: make_criterion(
            name,
            num_classes=3,
            class_counts=[40, 40, 40],
            raw_class_counts=[100, 15, 5],
            class_weight_source=source,
            **options,
        )
        for source in ("sampled", "raw")
    }
    for source, criterion in made.items():
        criterion.start_epoch(9, 10)
        is_flat = bool((criterion.class_weight_k - 1).abs().max() < 1e-6)
        assert is_flat == (source == "sampled")


def test_margins_come_from_the_data():
    """LDAM's margins become equal under a balancing sampler, which would make it another method."""
    criterion = make_criterion("ldam", num_classes=3, class_counts=[7, 7, 7], raw_class_counts=[1000, 200, 20])
    assert criterion.margin_k.tolist() == pytest.approx([0.188, 0.281, 0.5], abs=5e-4)


def test_deferred_weights():
    """Deferred re-weighting starts elsewhere than at its share of training, or does not end when a run begins anew."""
    criterion = make_criterion("ldam", num_classes=3, class_counts=[1000, 200, 20], drw=True)
    weights = []
    for epoch in (0, 159, 160, 199, 0):
        criterion.start_epoch(epoch, 200)
        weights.append(criterion.class_weight_k.tolist())
    assert weights[0] == weights[1] == weights[4] == [1.0, 1.0, 1.0]
    assert weights[2] == weights[3] == pytest.approx([0.056143, 0.269817, 2.674040], rel=1e-4)
    criterion.to("meta")
    criterion.start_epoch(0, 200)
    assert criterion.class_weight_k.device.type == "meta"


@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=IDS)
def test_certain_soft_targets_are_hard_targets(name, params):
    """One-hot probabilities as targets give another loss than the class indices, or a loss refuses them silently."""
    criterion = criterion_for(name, params)
    logits, target = random_batch(criterion, seed=1)
    soft = F.one_hot(target, 3).double()
    if name in HARD_ONLY or not criterion.takes_soft_targets:
        with pytest.raises(InputError, match="defined on the true class alone"):
            criterion(logits, soft)
        assert name in HARD_ONLY
        return
    torch.testing.assert_close(criterion(logits, soft), criterion(logits, target))


@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_soft_targets_are_expectations(seed):
    """A soft target is not the mean of the hard ones, in a loss that is linear in its target."""
    linear = ("cross_entropy", "coral", "cdw_ce", "bce", "asl", "alpa", "soft_label_binomial", "cb")
    for name in linear:
        criterion = criterion_for(name, {})
        logits, _ = random_batch(criterion, seed=seed, rows=1)
        soft = torch.softmax(torch.randn(1, 3, generator=torch.Generator().manual_seed(seed)).double(), dim=1)
        if name == "cb":
            criterion = criterion_for(name, {"beta": 0.0})
        hard = torch.stack([criterion(logits, torch.tensor([label])) for label in range(3)])
        torch.testing.assert_close(criterion(logits, soft), (soft[0] * hard).sum(), atol=1e-6, rtol=1e-5)


def test_soft_targets_of_corn():
    """CORN on soft targets does not weigh each task by the share that reaches it."""
    criterion = make_criterion("corn", num_classes=3)
    logits, soft = torch.tensor([[0.3, -0.7]], dtype=torch.float64), torch.tensor([[0.2, 0.5, 0.3]]).double()
    first = -(0.8 * F.logsigmoid(logits[0, 0]) + 0.2 * F.logsigmoid(-logits[0, 0]))
    second = -(0.3 * F.logsigmoid(logits[0, 1]) + 0.5 * F.logsigmoid(-logits[0, 1]))
    torch.testing.assert_close(criterion(logits, soft), (first + second) / 1.8)


@pytest.mark.parametrize("rows", [[[0.5, 0.6, -0.1]], [[0.2, 0.2, 0.2]], [[math.nan, 0.5, 0.5]], [[1.2, 0.0, 0.0]]])
def test_wrong_soft_targets(rows):
    """Targets that are no probabilities train a network without a word."""
    with pytest.raises(InputError, match="soft target"):
        make_criterion("emd", num_classes=3)(torch.zeros(1, 3), torch.tensor(rows))


def test_several_positives():
    """One-versus-rest losses refuse rows with several positive classes, or with none."""
    criterion = make_criterion("bce", num_classes=3, normaliser="sum")
    value = criterion(torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert number(value) == pytest.approx(6 * math.log(2))


def test_masked_rows_may_hold_anything():
    """A soft target that is missing spoils the rows that have one."""
    logits = torch.zeros(2, 3)
    soft = torch.tensor([[0.2, 0.3, 0.5], [math.nan, math.nan, math.nan]])
    for name, make in LOSSES.items():
        if not make.takes_soft_targets:
            continue
        criterion = make_criterion(name, num_classes=3, class_counts=[3, 2, 1])
        value = criterion(logits[:, : criterion.num_outputs], soft, torch.tensor([1.0, 0.0]))
        assert bool(value.isfinite())


def test_scaled_metric():
    """Cross-entropy plus metric with scaled weights is not the mean of ``w (CE + metric)``, as it was published."""
    logits, target = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])
    weight = torch.tensor([1.0, 0.5, 0.25, 0.75, 1.0, 0.25])
    for name, metric in (("ce_f1", "soft_f1"), ("ce_mcc", "soft_mcc")):
        criterion = make_criterion(name, num_classes=3, metric_weighting="scale", normaliser="batch")
        alone = make_criterion(metric, num_classes=3)(logits, target)
        expected = (weight * (F.cross_entropy(logits, target, reduction="none") + alone)).mean()
        torch.testing.assert_close(criterion(logits, target, weight), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_soft_targets_of_half_precision(dtype):
    """Probabilities that half precision has rounded are refused, or wrong ones pass because of it."""
    criterion = make_criterion("cross_entropy", num_classes=20)
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    soft = torch.softmax(3 * logits, dim=1).to(dtype)
    assert bool(criterion(logits, soft).isfinite())
    with pytest.raises(InputError, match="sum to 1"):
        criterion(logits, (0.97 * soft.float()).to(dtype))
