"""Identities between losses and with metrics, on random inputs, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, matthews_corrcoef, mean_absolute_error
from torch.nn import functional as F

from study.losses import make_criterion
from study.losses.setup import NORMALISERS
from tests.unit.losses.cases import IDS, VARIANTS, criterion_for, random_batch, set_class_weight, value_and_grad

SEEDS = st.integers(0, 100_000)
FEW = settings(max_examples=15, deadline=None)
PARTS = (slice(0, 3), slice(3, 4), slice(4, 8))
SOFTMAX = [
    pair
    for pair in VARIANTS
    if pair[0] not in ("coral", "corn", "bce", "focal_sigmoid", "alpa", "hill", "ral", "cb", "asl")
    or pair[1].get("link") == "softmax"
]


def close(left, right, *, atol=1e-10):
    torch.testing.assert_close(left, torch.as_tensor(right, dtype=left.dtype), atol=atol, rtol=1e-9)


def batch(seed, *, num_classes, rows=9):
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, num_classes, generator=rng, dtype=torch.float64)
    return logits, torch.randint(num_classes, (rows,), generator=rng)


def loss(name, logits, target, **params):
    num_classes = params.pop("num_classes", logits.shape[1])
    counts = [2.0 ** (num_classes - k) for k in range(num_classes)]
    return make_criterion(name, num_classes=num_classes, class_counts=counts, **params)(logits, target)


@given(seed=SEEDS, num_classes=st.integers(2, 6))
@FEW
def test_hard_predictions_give_the_metrics(seed, num_classes):
    """A loss named after a metric is not that metric when the network is certain."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=8)])
    guess = np.concatenate([rng.permutation(num_classes), rng.integers(num_classes, size=8)])
    logits, target = 200 * F.one_hot(torch.as_tensor(guess), num_classes).double(), torch.as_tensor(truth)
    close(loss("soft_f1", logits, target), 1 - f1_score(truth, guess, average="macro"))
    close(loss("soft_mcc", logits, target), 1 - matthews_corrcoef(truth, guess), atol=1e-8)
    for penalty in ("linear", "quadratic"):
        kappa = cohen_kappa_score(truth, guess, weights=penalty)
        close(loss("wk", logits, target, penalty=penalty), 1 - kappa, atol=1e-8)
    close(loss("emd", logits, target), mean_absolute_error(truth, guess))
    close(loss("mce", logits, target), 2 / num_classes * (1 - accuracy_score(truth, guess)))


@given(seed=SEEDS, alpha=st.floats(0.1, 10))
@FEW
def test_two_classes(seed, alpha):
    """With two classes an ordinal loss is something else than its binary counterpart."""
    logits, target = batch(seed, num_classes=2)
    cross_entropy = F.cross_entropy(logits, target)
    close(loss("cdw_ce", logits, target, alpha=alpha), cross_entropy)
    close(loss("emd", logits, target), (logits.softmax(1)[:, 1] - target).square().mean())
    narrow = logits[:, :1]
    bce = F.binary_cross_entropy_with_logits(narrow[:, 0], target.double())
    close(loss("corn", narrow, target, num_classes=2), bce)
    close(loss("coral", narrow, target, num_classes=2), bce)


@given(seed=SEEDS, num_classes=st.integers(2, 6), gamma=st.floats(0, 5))
@FEW
def test_focal_family(seed, num_classes, gamma):
    """Focal losses without focusing are not the cross-entropies, or ASL's single-label form is a method of its own."""
    logits, target = batch(seed, num_classes=num_classes)
    close(loss("focal", logits, target, gamma=0.0), F.cross_entropy(logits, target))
    single = loss("asl", logits, target, link="softmax", gamma_pos=gamma, gamma_neg=3.0)
    close(single, loss("focal", logits, target, gamma=gamma), atol=1e-5)
    summed = F.binary_cross_entropy_with_logits(logits, F.one_hot(target, num_classes).double(), reduction="sum")
    zeros = {"gamma_neg": 0.0, "gamma_pos": 0.0, "clip": 0.0, "normaliser": "sum"}
    close(loss("asl", logits, target, **zeros), summed)
    close(loss("bce", logits, target, normaliser="sum"), summed)
    close(loss("focal_sigmoid", logits, target, gamma=0.0, alpha=None, normaliser="sum"), summed)


@given(seed=SEEDS, num_classes=st.integers(2, 6))
@FEW
def test_limits_of_other_losses(seed, num_classes):
    """LDAM without margins, ALPA without focusing, or CB without weights is not its plain form."""
    logits, target = batch(seed, num_classes=num_classes)
    cross_entropy = F.cross_entropy(logits, target)
    close(loss("ldam", logits, target, max_m=0.0, scale=1.0), cross_entropy)
    close(loss("cb", logits, target, beta=0.0), cross_entropy)
    close(loss("cross_entropy", logits, target, class_weights="effective_number", class_weight_beta=0.0), cross_entropy)
    positives, scores = F.one_hot(target, num_classes), torch.sigmoid(logits)
    plain = (1.5 * (1 - scores) * positives + scores * (1 - positives)).sum()
    zeros = {"gamma_neg": 0.0, "gamma_pos": 0.0, "clip": 0.0, "preset": "v1", "normaliser": "sum"}
    close(loss("alpa", logits, target, **zeros), plain)


@given(seed=SEEDS, num_classes=st.integers(3, 6), tau=st.floats(0.2, 5))
@FEW
def test_soft_labels(seed, num_classes, tau):
    """Soft labels with share 0 are not the labels, or the exponential ones are not SORD's."""
    logits, target = batch(seed, num_classes=num_classes)
    for name in ("beta", "binomial", "exponential", "geometric", "poisson", "triangular"):
        close(loss(f"soft_label_{name}", logits, target, eta=0.0), F.cross_entropy(logits, target))
    distance = (torch.arange(num_classes)[:, None] - torch.arange(num_classes)).abs().double()
    sord = F.cross_entropy(logits, torch.softmax(-distance / tau, dim=1)[target])
    close(loss("soft_label_exponential", logits, target, tau=tau), sord, atol=3e-7)


@given(seed=SEEDS, shift=st.floats(-50, 50))
@FEW
def test_shifting_all_logits_changes_nothing(seed, shift):
    """A softmax loss sees a constant that is added to all logits of a row."""
    for name, params in SOFTMAX:
        criterion = criterion_for(name, params, num_classes=4)
        logits, target = random_batch(criterion, seed=seed)
        close(criterion(logits + shift, target), criterion(logits, target), atol=2e-5)


@given(seed=SEEDS)
@settings(max_examples=4, deadline=None)
def test_whole_weights_are_repetitions(seed):
    """A sample weight of n is not what n copies of the row are, in one of the losses."""
    copies = torch.tensor([1, 0, 3, 2, 0, 1, 1, 2])
    for name, params in VARIANTS:
        criterion = criterion_for(name, params, num_classes=4)
        if params.get("metric_weighting") == "scale":
            continue  # there the metric does not see the weights, as published
        logits, target = random_batch(criterion, seed=seed)
        weighted = criterion(logits, target, copies)
        repeated = criterion(logits.repeat_interleave(copies, 0), target.repeat_interleave(copies))
        rows = {"batch": len(copies), "labelled": int((copies > 0).sum())}.get(getattr(criterion, "normaliser", ""))
        close(weighted, repeated * (1 if rows is None else int(copies.sum()) / rows), atol=1e-7)


@given(seed=SEEDS, normaliser=st.sampled_from(NORMALISERS))
@FEW
def test_class_weights_are_sample_weights(seed, normaliser):
    """A class weight is not the same as that weight on each row of the class."""
    for name, params in VARIANTS:
        if params.get("class_weight_on") == "columns" or name in ("cb", "ldam") or "label_smoothing" in params:
            continue
        if normaliser != "weight" and name not in ("cross_entropy", "emd", "coral", "bce"):
            continue
        own = {key: value for key, value in params.items() if not key.startswith(("class_weight", "norm", "metric_w"))}
        shared = {"normaliser": normaliser} if normaliser != "weight" else {}
        by_class = criterion_for(name, own | shared, num_classes=4)
        set_class_weight(by_class, [0.5, 1.0, 2.0, 3.0])
        logits, target = random_batch(by_class, seed=seed)
        weight = torch.tensor([0.5, 1.0, 2.0, 3.0])[target]
        by_row = criterion_for(name, own | shared, num_classes=4)
        close(by_class(logits, target), by_row(logits, target, weight), atol=1e-7)


@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=IDS)
def test_gradient_is_right(name, params):
    """The gradient is not the derivative of the value (finite differences in float64)."""
    if name == "asl" and criterion_for(name, params).detaches:
        return  # by intention: the modulators carry no gradient
    criterion = criterion_for(name, params)
    logits, _ = random_batch(criterion, seed=3, rows=4, scale=1.0)
    target, weight = torch.tensor([0, 1, 2, 1]), torch.tensor([1.0, 0.5, 2.0, 0.0])
    assert torch.autograd.gradcheck(lambda z: criterion(z, target, weight), logits.requires_grad_())


@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=IDS)
def test_parts_of_a_batch(name, params):
    """Accumulated gradients of parts are not those of the whole batch, or a loss that forbids it does not say so."""
    criterion = criterion_for(name, params)
    logits, target = random_batch(criterion, seed=5, rows=8)
    weight = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 0.0, 3.0, 0.25])
    target[3] = -1
    if criterion.is_batch_level:
        assert criterion.why_no_accumulation
        assert not hasattr(criterion, "accumulation_factors")
        return
    assert not criterion.why_no_accumulation
    whole, whole_grad = value_and_grad(criterion, logits, target, weight)
    factors = criterion.accumulation_factors([(target[part], weight[part]) for part in PARTS])
    pieces = [value_and_grad(criterion, logits[part], target[part], weight[part]) for part in PARTS]
    close(sum(factor * value for factor, (value, _) in zip(factors, pieces, strict=True)), whole, atol=2e-6)
    close(torch.cat([factor * grad for factor, (_, grad) in zip(factors, pieces, strict=True)]), whole_grad, atol=2e-6)
