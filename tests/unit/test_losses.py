"""Losses against stored references, other packages, hand-worked values and identities."""

import json
import math
from pathlib import Path

import coral_pytorch.losses as coral
import pytest
import torch
from dlordinal.losses import CORNLoss, EMDLoss
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from study.errors import InputError
from study.losses import LOSSES, make_criterion
from study.losses.class_weights import class_weights_from_counts

ORACLES = json.loads((Path(__file__).parents[1] / "golden" / "loss_oracles.json").read_text())
OURS = {
    "ce": "cross_entropy",
    "weighted_ce": "cross_entropy",
    "label_smoothing_ce": "cross_entropy",
    "corn": "corn",
    "emd": "emd",
    "focal_softmax": "focal",
    "focal_softmax_weighted_BUG": "focal",
    "cb_softmax_BCE_BUG": "cross_entropy",
    "cb_softmax_ce": "cross_entropy",
}
GOOD = [(name, case) for name, cases in ORACLES["losses"].items() for case in cases if not name.endswith("_BUG")]
BUGS = [(name, case) for name, cases in ORACLES["losses"].items() for case in cases if name.endswith("_BUG")]
SOFTMAX_LOSSES = [
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("emd", {}),
    ("focal", {"gamma": 2.0}),
    ("focal", {"gamma": 0.5}),
]
ALL_LOSSES = [
    *SOFTMAX_LOSSES,
    ("corn", {}),
    ("corn", {"normaliser": "batch"}),
    ("cross_entropy", {"normaliser": "batch"}),
]


def number(tensor):
    return tensor.detach().item()


def identity(pair):
    name, case = pair
    return f"{name}-{case['case']}"


def criterion_of(name, case):
    """Our loss for an oracle's parameters; its class weights are set directly, as the references take them."""
    params, theirs = {}, case["params"]
    if "/N" in theirs.get("reduction", "") and OURS[name] == "cross_entropy":
        params["normaliser"] = "batch"
    params |= {key: theirs[key] for key in ("gamma", "label_smoothing") if key in theirs}
    num_classes = theirs.get("num_classes", len(case["logits"][0]))
    criterion = make_criterion(OURS[name], num_classes=num_classes, **params)
    if "class_weight" in theirs:
        criterion.class_weight_k = torch.tensor(theirs["class_weight"])
    return criterion


def run(criterion, case):
    logits = torch.tensor(case["logits"])[:, : criterion.num_outputs].clone().requires_grad_()
    weight = torch.tensor(case["params"]["sample_weight"]) if "sample_weight" in case["params"] else None
    value = criterion(logits, torch.tensor(case["targets"]), weight)
    (grad,) = torch.autograd.grad(value, logits)
    return value, grad


@pytest.mark.parametrize("pair", GOOD, ids=identity)
def test_stored_reference(pair):
    """Value and gradient equal those that the named reference gave."""
    name, case = pair
    criterion = criterion_of(name, case)
    value, grad = run(criterion, case)
    if name == "focal_softmax" and "class_weight" in case["params"]:
        # The reference divides by the number of rows, ours by the sum of weights.
        scale = criterion.class_weight_k[torch.tensor(case["targets"])].mean()
        value, grad = value * scale, grad * scale
    expected = torch.tensor(case["grad"])[:, : grad.shape[1]]
    torch.testing.assert_close(value, torch.tensor(case["value"]), atol=2e-6, rtol=0)
    torch.testing.assert_close(grad, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pair", BUGS, ids=identity)
def test_known_bug_is_not_reproduced(pair):
    """Our value differs from that of a reference known to be wrong."""
    name, case = pair
    loss = criterion_of(name, case)
    if name == "cb_softmax_BCE_BUG":
        right = next(other for other in ORACLES["losses"]["cb_softmax_ce"] if other["case"] == case["case"])
        loss.class_weight_k = torch.tensor(right["params"]["class_weight"])
    value, _ = run(loss, case)
    scale = loss.class_weight_k[torch.tensor(case["targets"])].mean()
    assert abs(number(value) - case["value"]) > 1e-3
    assert abs(number(value * scale) - case["value"]) > 1e-3


@pytest.mark.parametrize("key", ORACLES["decode"])
def test_corn_probabilities_and_decode(key):
    """CORN's class probabilities, count rule and most probable class equal the stored ones, and the rules disagree."""
    stored = ORACLES["decode"][key]
    logits = torch.tensor(stored["logits"])
    criterion = make_criterion("corn", num_classes=logits.shape[1] + 1)
    probs = criterion.probabilities(logits)
    torch.testing.assert_close(probs, torch.tensor(stored["class_probs"]), atol=1e-6, rtol=0)
    assert criterion.decode(logits).tolist() == stored["rank_label"]
    assert probs.argmax(1).tolist() == stored["argmax_label"]


@pytest.mark.parametrize(
    "column", range(len(ORACLES["stress"]["columns"])), ids=lambda i: ORACLES["stress"]["columns"][i]
)
@pytest.mark.parametrize("name", ORACLES["stress_values"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stress(name, dtype, column):
    """Extreme inputs give the references' value and gradient norm, or a finite one where theirs is NaN."""
    params = {"gamma": 0.5} if name == "focal_half" else {}
    criterion = make_criterion(name.removesuffix("_half"), num_classes=3, **params)
    logits = torch.tensor(ORACLES["stress"]["logits"][column])[:, : criterion.num_outputs].to(dtype).requires_grad_()
    target = torch.tensor(ORACLES["stress"]["targets"][column])
    with torch.autocast("cpu", dtype=torch.bfloat16 if dtype == torch.float32 else dtype):
        value = criterion(logits, target)
    (grad,) = torch.autograd.grad(value, logits)
    expected_value, expected_norm = ORACLES["stress_values"][name][ORACLES["stress"]["columns"][column]]
    assert value.dtype == torch.float32
    assert number(value) == pytest.approx(expected_value, rel=1e-4, abs=1e-6)
    assert bool(grad.isfinite().all())
    if expected_norm is not None:
        tolerance = {torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
        assert number(grad.float().norm()) == pytest.approx(expected_norm, rel=tolerance, abs=1e-6)


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 7), rows=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_live_references(seed, num_classes, rows):
    """EMD equals dlordinal's and CORN equals both dlordinal's and coral-pytorch's, with gradients, on random input."""
    rng = torch.Generator().manual_seed(seed)
    target = torch.randint(num_classes, (rows,), generator=rng)
    wide = (3 * torch.randn(rows, num_classes, generator=rng)).requires_grad_()
    narrow = wide[:, :-1]
    pairs = [
        (make_criterion("emd", num_classes=num_classes)(wide, target), EMDLoss(num_classes)(wide, target)),
        (make_criterion("corn", num_classes=num_classes)(narrow, target), CORNLoss(num_classes)(narrow, target)),
        (
            make_criterion("corn", num_classes=num_classes)(narrow, target),
            coral.corn_loss(narrow, target, num_classes),
        ),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-6)
        ours_grad, theirs_grad = (torch.autograd.grad(loss, wide, retain_graph=True)[0] for loss in (ours, theirs))
        torch.testing.assert_close(ours_grad, theirs_grad, atol=1e-6, rtol=1e-5)


@given(seed=st.integers(0, 10_000), eps=st.sampled_from([0.0, 0.05, 0.2]), num_classes=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_cross_entropy_equals_torch(seed, eps, num_classes):
    """Weighted, smoothed cross-entropy equals torch's, divided by the weights or by the rows."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, num_classes, generator=rng)
    target = torch.randint(num_classes, (9,), generator=rng)
    counts = (1 + 100 * torch.rand(num_classes, generator=rng)).tolist()
    weight = class_weights_from_counts("balanced", num_classes=num_classes, class_counts=counts)
    for normaliser in ("weight", "batch"):
        ours = make_criterion(
            "cross_entropy",
            num_classes=num_classes,
            class_counts=counts,
            class_weights="balanced",
            label_smoothing=eps,
            normaliser=normaliser,
        )(logits, target)
        theirs = F.cross_entropy(logits, target, weight=weight, label_smoothing=eps, reduction="sum")
        theirs = theirs / (weight[target].sum() if normaliser == "weight" else 9)
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


def test_by_hand():
    """Worked by hand: zero logits give log 2, log(2)/4, 2/9 + 2/9 and log 2 for CE, focal, EMD and CORN."""
    zeros = torch.zeros(1, 2)
    target = torch.tensor([0])
    assert number(make_criterion("cross_entropy", num_classes=2)(zeros, target)) == pytest.approx(math.log(2))
    assert number(make_criterion("focal", num_classes=2)(zeros, target)) == pytest.approx(math.log(2) / 4)
    # P(class <= 0) = 1/3, P(class <= 1) = 2/3; truth is class 1: (1/3 - 0)^2 + (2/3 - 1)^2.
    assert number(make_criterion("emd", num_classes=3)(torch.zeros(1, 3), torch.tensor([1]))) == pytest.approx(2 / 9)
    assert number(make_criterion("corn", num_classes=3)(torch.zeros(1, 2), torch.tensor([2]))) == pytest.approx(
        math.log(2)
    )
    by_rows = make_criterion("corn", num_classes=3, normaliser="batch")
    assert number(by_rows(torch.zeros(1, 2), torch.tensor([2]))) == pytest.approx(2 * math.log(2))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_two_class_identities(seed):
    """With two classes EMD is the Brier score, CORN binary cross-entropy, and focal with gamma 0 cross-entropy."""
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(8, 2, generator=rng, dtype=torch.float64)
    target = torch.randint(2, (8,), generator=rng)
    brier = (logits.softmax(1)[:, 1] - target).square().mean()
    torch.testing.assert_close(make_criterion("emd", num_classes=2)(logits, target), brier, atol=1e-12, rtol=0)
    bce = F.binary_cross_entropy_with_logits(logits[:, 0], target.double())
    torch.testing.assert_close(make_criterion("corn", num_classes=2)(logits[:, :1], target), bce, atol=1e-12, rtol=0)
    focal = make_criterion("focal", num_classes=2, gamma=0)(logits, target)
    torch.testing.assert_close(focal, F.cross_entropy(logits, target), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "params"), SOFTMAX_LOSSES)
@given(shift=st.floats(-50, 50), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_shifting_all_logits_changes_nothing(name, params, shift, seed):
    """Softmax losses do not see a constant added to all logits of a row."""
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    target = torch.tensor([0, 1, 2, 3, 0])
    criterion = make_criterion(name, num_classes=4, **params)
    torch.testing.assert_close(criterion(logits + shift, target), criterion(logits, target), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "params"), ALL_LOSSES)
@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_whole_weights_are_repetitions(name, params, seed):
    """A weight of n is the same as n copies of the row, wherever the loss divides by the weights."""
    rng = torch.Generator().manual_seed(seed)
    criterion = make_criterion(name, num_classes=4, **params)
    logits = torch.randn(6, criterion.num_outputs, generator=rng)
    target = torch.randint(4, (6,), generator=rng)
    copies = torch.tensor([1, 0, 3, 2, 0, 1])
    weighted = criterion(logits, target, copies)
    repeated = criterion(logits.repeat_interleave(copies, 0), target.repeat_interleave(copies))
    factor = copies.sum() / 6 if criterion.divide_by_rows else 1.0
    torch.testing.assert_close(weighted, repeated * factor, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "params"), ALL_LOSSES)
def test_gradient_is_right(name, params):
    """The gradient is the derivative of the value (finite differences in float64)."""
    criterion = make_criterion(name, num_classes=3, class_counts=[50, 20, 5], class_weights="balanced", **params)
    logits = torch.randn(4, criterion.num_outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    target, weight = torch.tensor([0, 1, 2, 1]), torch.tensor([1.0, 0.5, 2.0, 0.0])
    assert torch.autograd.gradcheck(lambda z: criterion(z, target, weight), logits.requires_grad_())


def test_focal_small_gamma_is_finite_at_huge_logits():
    """Focal with gamma 0.5 has finite gradients for logits up to 1e4, right and wrong."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    value = make_criterion("focal", num_classes=3, gamma=0.5)(logits, torch.tensor([0, 0, 1]))
    value.backward()
    assert bool(value.isfinite())
    assert bool(logits.grad.isfinite().all())
    assert number(logits.grad[1].norm()) > 0.1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 1, 1]),
        ("balanced", [0.418519, 1.883333, 12.555556]),
        ("inv_sum1", [0.028169, 0.126761, 0.845070]),
        ("inv_meanK", [0.084507, 0.380282, 2.535211]),
        ("sqrt_inv", [0.340402, 0.722102, 1.864459]),
    ],
)
def test_class_weights(name, expected):
    """The formulas give the values worked for 180000, 40000 and 6000 images."""
    if name == "sqrt_inv":
        roots = [1 / math.sqrt(n) for n in (180000, 40000, 6000)]
        expected = [3 * root / sum(roots) for root in roots]
    weights = class_weights_from_counts(name, num_classes=3, class_counts=[180000, 40000, 6000])
    assert weights.tolist() == pytest.approx(expected, rel=1e-4)


def test_equal_weights_whatever_the_scale():
    """With division by the weights, three formulas that differ in scale alone give the same loss."""
    logits, target = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
    values = [
        make_criterion("cross_entropy", num_classes=3, class_counts=[100, 10, 1], class_weights=weights)(logits, target)
        for weights in ("balanced", "inv_sum1", "inv_meanK")
    ]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("focall", {}, "did you mean 'focal'"),
        ("zzz", {}, "choose one of cross_entropy, emd"),
        ("focal", {"gama": 1.0}, "did you mean 'gamma'"),
        ("emd", {"normaliser": "batch"}, "unknown parameter of loss emd"),
        ("focal", {"gamma": -1}, "expected a number >= 0"),
        ("focal", {"gamma": math.nan}, "expected a number >= 0"),
        ("focal", {"gamma": True}, "expected a number >= 0"),
        ("cross_entropy", {"label_smoothing": 1.0}, "and < 1"),
        ("cross_entropy", {"label_smoothing": "0.1"}, "label_smoothing is '0.1'"),
        ("cross_entropy", {"normaliser": "pairs"}, "expected one of weight, batch"),
        ("corn", {"normaliser": "weight"}, "expected one of pairs, batch"),
        ("corn", {"class_weights": "effective"}, "expected one of none, balanced"),
        ("corn", {"class_weights": "balanced"}, "no class counts"),
        ("corn", {"class_weights": "balanced", "class_counts": [1, 2]}, "2 class counts were given; expected 3"),
        ("corn", {"class_weights": "balanced", "class_counts": [1, 0, 2]}, "class 1 has 0"),
        ("corn", {"num_classes": 1}, "num_classes is 1"),
    ],
)
def test_wrong_arguments(name, params, words):
    """A wrong name or value is refused at construction, with what was found and what to do."""
    with pytest.raises(InputError) as caught:
        make_criterion(name, **{"num_classes": 3, **params})
    assert words in str(caught.value)


@pytest.mark.parametrize("name", LOSSES)
def test_wrong_batches(name):
    """A batch whose shapes, targets or weights do not fit is refused."""
    criterion = make_criterion(name, num_classes=3)
    logits, target = torch.zeros(2, criterion.num_outputs), torch.tensor([0, 2])
    bad = [
        (torch.zeros(2, 9), target, None),
        (logits[0], target, None),
        (logits, target[:1], None),
        (logits, target.float(), None),
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
