"""What the tests of the losses share: the stored references, one criterion per variant, and a batch."""

import json
from pathlib import Path

import torch

from study.losses import make_criterion
from study.losses.base import Criterion

ORACLES = json.loads((Path(__file__).parents[2] / "golden" / "loss_oracles.json").read_text())
STRESS = ORACLES["stress"]

# Every loss, with every option that changes what it computes.
VARIANTS = [
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("cross_entropy", {"class_weights": "balanced"}),
    ("cross_entropy", {"class_weights": "inv_sum1", "normaliser": "batch", "label_smoothing": 0.1}),
    ("cross_entropy", {"class_weights": "effective_number", "class_weight_beta": 0.99, "normaliser": "labelled"}),
    ("focal", {}),
    ("focal", {"gamma": 0.5, "class_weights": "sqrt_inv"}),
    ("coral", {}),
    ("coral", {"class_weights": "balanced", "normaliser": "batch"}),
    ("corn", {}),
    ("corn", {"normaliser": "batch", "class_weights": "balanced"}),
    ("cdw_ce", {}),
    ("cdw_ce", {"alpha": 5.0, "margin": 0.05, "normalise_distance": True}),
    ("emd", {"class_weights": "inv_meanK"}),
    ("wk", {}),
    ("wk", {"penalty": "linear", "class_weights": "balanced"}),
    ("wk", {"log": True}),
    ("wk", {"class_weights": "balanced", "class_weight_on": "columns"}),
    ("wk", {"legacy_pred_norm": True}),
    ("mce", {"class_weights": "balanced", "class_weight_on": "columns"}),
    ("mce_wk", {"kappa_share": 0.35}),
    ("mce_wk", {"class_weights": "balanced", "penalty": "linear"}),
    ("soft_label_beta", {}),
    ("soft_label_binomial", {"eta": 0.5}),
    ("soft_label_exponential", {"exponent": 1.5, "tau": 0.7}),
    ("soft_label_geometric", {"class_weights": "balanced"}),
    ("soft_label_poisson", {}),
    ("soft_label_triangular", {"class_weights": "balanced", "class_weight_on": "columns"}),
    ("slace", {}),
    ("soft_f1", {}),
    ("soft_f1", {"absent": "zero", "class_weights": "balanced"}),
    ("soft_f1", {"class_weights": "balanced", "class_weight_on": "columns"}),
    ("soft_f1", {"positive": 1}),
    ("soft_mcc", {}),
    ("soft_mcc", {"kind": "ovr", "class_weights": "balanced"}),
    ("soft_mcc", {"kind": "ovr", "absent": "zero"}),
    ("ce_f1", {"metric_weight": 0.5}),
    ("ce_f1", {"metric_weighting": "scale", "class_weights": "balanced", "normaliser": "batch"}),
    ("ce_mcc", {"ce_weight": 0.5, "class_weights": "balanced"}),
    ("ce_mcc", {"kind": "ovr", "metric_weighting": "scale"}),
    ("bce", {}),
    ("bce", {"normaliser": "sum"}),
    ("focal_sigmoid", {"gamma": 0.5}),
    ("focal_sigmoid", {"alpha": None, "class_weights": "balanced", "class_weight_on": "columns"}),
    ("asl", {}),
    ("asl", {"detach": False, "gamma_neg": 0.5, "gamma_pos": 0.5}),
    ("asl", {"detach": False, "gamma_neg": 0.5, "clip": 0.0}),
    ("asl", {"link": "softmax", "label_smoothing": 0.1, "gamma_pos": 0.5, "gamma_neg": 0.5}),
    ("alpa", {"preset": "v1"}),
    ("alpa", {"normaliser": "sum"}),
    ("alpa", {"preset": "v3", "class_weights": "balanced"}),
    ("alpa", {"gamma_neg": 0.5, "gamma_pos": 0.5}),
    ("alpa", {"gamma_neg": 0.5, "gamma_pos": 0.5, "clip": 0.0}),
    ("hill", {}),
    ("ral", {}),
    ("ral", {"gamma_neg": 0.5, "gamma_pos": 0.5, "clip": 0.0}),
    ("cb", {}),
    ("cb", {"kind": "sigmoid", "beta": 0.99}),
    ("cb", {"kind": "focal", "gamma": 0.5, "normaliser": "weight"}),
    ("ldam", {}),
    ("ldam", {"drw": True, "drw_start": 0.0}),
]
IDS = [f"{index}-{name}" for index, (name, _) in enumerate(VARIANTS)]


def criterion_for(name: str, params: dict, *, num_classes: int = 3) -> Criterion:
    """A criterion with class counts that fall by half; in its last phase where it has one."""
    counts = [2.0 ** (num_classes + 2 - k) for k in range(num_classes)]
    criterion = make_criterion(name, num_classes=num_classes, class_counts=counts, **params)
    criterion.start_epoch(9, 10)
    return criterion


def number(tensor: torch.Tensor) -> float:
    return tensor.detach().item()


def random_batch(criterion: Criterion, *, seed: int, rows: int = 8, scale: float = 2.0):
    """Logits and hard targets in float64; logits of ldam are cosines."""
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, criterion.num_outputs, generator=rng, dtype=torch.float64)
    if criterion.head == "cosine":
        logits = torch.tanh(logits)
    return logits, torch.randint(criterion.num_classes, (rows,), generator=rng)


def set_class_weight(criterion: Criterion, weight: list[float]) -> None:
    """Class weights as a reference takes them, in all parts of a criterion."""
    for part in criterion.modules():
        if isinstance(part, Criterion):
            part.class_weight_k = torch.tensor(weight)


def value_and_grad(criterion: Criterion, logits, target, weight=None):
    """Loss and its gradient by the logits."""
    logits = logits.detach().clone().requires_grad_()
    value = criterion(logits, target, weight)
    (grad,) = torch.autograd.grad(value, logits)
    return value, grad
