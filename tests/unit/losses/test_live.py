"""Losses against other packages on random inputs; the packages are for tests alone."""

import coral_pytorch.losses as coral
import pytest
import torch
from coral_pytorch.dataset import levels_from_labelbatch
from dlordinal import losses as dlordinal
from dlordinal.soft_labelling import (
    get_beta_soft_labels,
    get_binomial_soft_labels,
    get_exponential_soft_labels,
    get_geometric_soft_labels,
    get_poisson_soft_labels,
    get_triangular_soft_labels,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from study.losses import make_criterion
from study.losses.class_weights import class_weights_from_counts
from study.losses.label_tables import (
    beta_table,
    binomial_table,
    exponential_table,
    geometric_table,
    poisson_table,
    triangular_table,
)

NARROW = ("corn", "coral")


def references(num_classes, weight, rng):
    """Name, our parameters, and the package's loss of (logits, target), with random parameters."""
    alpha = float(0.5 + 3 * torch.rand((), generator=rng))
    share = float(torch.rand((), generator=rng))
    eta = {"eta": share}
    columns = {"class_weights": "balanced", "class_weight_on": "columns"}
    base = nn.CrossEntropyLoss()
    pairs = [
        ("emd", {}, dlordinal.EMDLoss(num_classes)),
        ("corn", {}, dlordinal.CORNLoss(num_classes)),
        ("corn", {}, lambda z, y: coral.corn_loss(z, y, num_classes)),
        ("coral", {}, lambda z, y: coral.coral_loss(z, levels_from_labelbatch(y, num_classes))),
        ("cdw_ce", {"alpha": alpha}, dlordinal.CDWCELoss(num_classes, alpha=alpha)),
        ("cdw_ce", {"alpha": alpha, "margin": 0.05}, dlordinal.CDWCELoss(num_classes, alpha=alpha, margin=0.05)),
        ("slace", {"alpha": alpha}, dlordinal.SLACELoss(alpha=alpha, num_classes=num_classes)),
        ("mce", {}, dlordinal.MCELoss(num_classes, use_logits=True)),
        ("mce", columns, dlordinal.MCELoss(num_classes, weight=weight, use_logits=True)),
        ("soft_label_binomial", eta, dlordinal.BinomialLoss(base, num_classes, eta=share)),
        ("soft_label_exponential", eta, dlordinal.ExponentialLoss(base, num_classes, eta=share)),
        (
            "soft_label_geometric",
            eta | {"alpha": 0.2},
            dlordinal.GeometricLoss(base, num_classes, alphas=0.2, eta=share),
        ),
        ("soft_label_triangular", eta, dlordinal.TriangularLoss(base, num_classes, eta=share)),
    ]
    for penalty in ("linear", "quadratic"):
        kappa = {"penalization_type": penalty, "use_logits": True}
        ours = {"penalty": penalty}
        pairs += [
            ("wk", ours, dlordinal.WKLoss(num_classes, **kappa)),
            ("wk", ours | {"log": True}, dlordinal.WKLoss(num_classes, use_logarithm=True, **kappa)),
            ("wk", ours | columns, dlordinal.WKLoss(num_classes, weight=weight, **kappa)),
            (
                "mce_wk",
                ours | {"kappa_share": share},
                dlordinal.MCEAndWKLoss(num_classes, C=share, wk_penalization_type=penalty, use_logits=True),
            ),
        ]
    if num_classes > 2:
        pairs.append(("soft_label_beta", eta, dlordinal.BetaLoss(base, num_classes, eta=share)))
    return pairs


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 6), rows=st.integers(2, 20))
@settings(max_examples=20, deadline=None)
def test_live_references(seed, num_classes, rows):
    """A loss, or its gradient, is another one than the package's on ordinary inputs."""
    rng = torch.Generator().manual_seed(seed)
    target = torch.randint(num_classes, (rows,), generator=rng)
    target[0], target[1] = 0, num_classes - 1
    counts = (1 + 100 * torch.rand(num_classes, generator=rng)).tolist()
    weight = class_weights_from_counts("balanced", num_classes=num_classes, class_counts=counts)
    wide = (2 * torch.randn(rows, num_classes, generator=rng)).requires_grad_()
    for name, params, reference in references(num_classes, weight, rng):
        logits = wide[:, :-1] if name in NARROW else wide
        ours = make_criterion(name, num_classes=num_classes, class_counts=counts, **params)(logits, target)
        # In float32 dlordinal's difference of exponentials costs it some digits.
        theirs = reference(logits.double() if name == "cdw_ce" else logits, target)
        torch.testing.assert_close(
            ours, theirs.float(), atol=1e-5, rtol=1e-5, msg=lambda text, at=name: f"{at}: {text}"
        )
        ours_grad, theirs_grad = (torch.autograd.grad(part, wide, retain_graph=True)[0] for part in (ours, theirs))
        # dlordinal forms exp(z) and adds 1e-8 or 1e-9 inside its logarithms.
        torch.testing.assert_close(
            ours_grad, theirs_grad.float(), atol=2e-5, rtol=1e-4, msg=lambda text, at=name: f"{at}: {text}"
        )


@pytest.mark.parametrize("num_classes", range(2, 15))
def test_tables_of_soft_labels(num_classes):
    """A table of soft labels gives another share to some class than the package's, or rows that do not sum to 1."""
    pairs = [
        (binomial_table(num_classes), get_binomial_soft_labels(num_classes)),
        (poisson_table(num_classes), get_poisson_soft_labels(num_classes)),
        (exponential_table(num_classes, exponent=1.5, tau=0.7), get_exponential_soft_labels(num_classes, 1.5, 0.7)),
        (geometric_table(num_classes, alpha=0.3), get_geometric_soft_labels(num_classes, 0.3)),
        *((triangular_table(num_classes, alpha2=a), get_triangular_soft_labels(num_classes, a)) for a in (0.01, 0.2)),
    ]
    if num_classes > 2:
        pairs.append((beta_table(num_classes), get_beta_soft_labels(num_classes)))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, torch.as_tensor(theirs), atol=1e-7, rtol=0)
        torch.testing.assert_close(ours.sum(1), torch.ones(num_classes).double(), atol=1e-12, rtol=0)
        assert bool((ours >= 0).all())


@given(seed=st.integers(0, 10_000), eps=st.sampled_from([0.0, 0.05, 0.2]), num_classes=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_cross_entropy_equals_torch(seed, eps, num_classes):
    """Weighted, smoothed cross-entropy differs from torch's, with class indices or probabilities as targets."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, num_classes, generator=rng)
    target = torch.randint(num_classes, (9,), generator=rng)
    soft = torch.softmax(torch.randn(9, num_classes, generator=rng), dim=1)
    counts = (1 + 100 * torch.rand(num_classes, generator=rng)).tolist()
    weight = class_weights_from_counts("balanced", num_classes=num_classes, class_counts=counts)
    shared = {"class_weights": "balanced", "label_smoothing": eps}
    for normaliser in ("weight", "batch"):
        ours = make_criterion(
            "cross_entropy", num_classes=num_classes, class_counts=counts, normaliser=normaliser, **shared
        )
        theirs = F.cross_entropy(logits, target, weight=weight, label_smoothing=eps, reduction="sum")
        theirs = theirs / (weight[target].sum() if normaliser == "weight" else 9)
        torch.testing.assert_close(ours(logits, target), theirs, atol=2e-6, rtol=1e-5)
    on_soft = F.cross_entropy(logits, soft, weight=weight, label_smoothing=eps)
    torch.testing.assert_close(ours(logits, soft), on_soft, atol=2e-6, rtol=1e-5)
