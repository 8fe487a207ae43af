"""Losses against the stored numbers of other implementations, values and gradients, known bugs included."""

import pytest
import torch

from study.losses import LOSSES, make_criterion
from study.losses.label_tables import poisson_table
from tests.unit.losses.cases import ORACLES, number, set_class_weight, value_and_grad

LOSSES_OF = ORACLES["losses"]
SAME = {
    "ce": "cross_entropy",
    "weighted_ce": "cross_entropy",
    "label_smoothing_ce": "cross_entropy",
    "coral": "coral",
    "corn": "corn",
    "cdw_ce": "cdw_ce",
    "emd": "emd",
    "wk": "wk",
    "mce": "mce",
    "mce_wk": "mce_wk",
    "soft_label_beta": "soft_label_beta",
    "soft_label_binomial": "soft_label_binomial",
    "soft_label_exponential": "soft_label_exponential",
    "soft_label_geometric": "soft_label_geometric",
    "soft_label_triangular": "soft_label_triangular",
    "sord": "soft_label_exponential",
    "slace": "slace",
    "focal_softmax": "focal",
    "focal_softmax_weighted_BUG": "focal",
    "focal_sigmoid": "focal_sigmoid",
    "asl_sigmoid": "asl",
    "asl_softmax_single": "asl",
    "alpa": "alpa",
    "hill": "hill",
    "ral": "ral",
    "cb_softmax_ce": "cb",
    "cb_softmax_BCE_BUG": "cb",
    "cb_focal_sigmoid": "cb",
    "cb_sigmoid": "cb",
    "ldam": "ldam",
    "ldam_drw": "ldam",
    "soft_f1_multi": "soft_f1",
    "soft_f1_multi_torchrepo_BUG": "soft_f1",
    "soft_f1_binary": "soft_f1",
    "soft_mcc_multi": "soft_mcc",
    "soft_mcc_binary": "soft_mcc",
    "multitask_masked_ce": "cross_entropy",
    "ce_f1": "ce_f1",
    "ce_mcc": "ce_mcc",
}
# Parameters that a reference and ours call by different names.
RENAMED = {
    "C": "kappa_share",
    "penalization_type": "penalty",
    "wk_penalization_type": "penalty",
    "use_logarithm": "log",
    "s": "scale",
    "lamb": "hill_lambda",
    "lambda": "hill_lambda",
    "detach_focal_weight": "detach",
}
KEPT = (
    *("gamma", "label_smoothing", "alpha", "beta", "margin", "eta", "gamma_neg", "gamma_pos", "clip", "max_m"),
    *("epsilon_pos", "epsilon_pos_pow", "importance_weights"),
)
COLUMNS = ("wk", "mce_wk", "soft_label_beta")  # where the reference multiplies columns by class weights
SUMMED = ("focal_sigmoid", "asl_sigmoid", "alpa", "hill", "ral")
COMPOSED = ("soft_label_poisson", "mixmatch_semi")
CASES = [(name, case) for name, cases in LOSSES_OF.items() for case in cases]
GOOD = [(name, case) for name, case in CASES if not name.endswith("_BUG") and "pearson" not in case["case"]]
WRONG = [(name, case) for name, case in CASES if name.endswith("_BUG") or "pearson" in case["case"]]


def identity(pair):
    return f"{pair[0]}-{pair[1]['case']}"


def our_params(name, case):
    """Our parameters for a reference's."""
    theirs, label = case["params"], case["case"]
    params = {key: theirs[key] for key in KEPT if key in theirs}
    params |= {ours: theirs[key] for key, ours in RENAMED.items() if key in theirs}
    if name in SUMMED:
        params["normaliser"] = "sum"
    special = {
        "weighted_ce": {"normaliser": "batch" if "/N" in theirs.get("reduction", "") else "weight"},
        "ce": {"normaliser": "batch" if "/N" in theirs.get("reduction", "") else "weight"},
        "multitask_masked_ce": {"normaliser": {"A_B": "batch", "A_w": "weight", "A_m": "labelled"}.get(label)},
        "focal_softmax": {"normaliser": "batch" if "class_weight" in theirs else "weight"},
        "cdw_ce": {"normaliser": "batch" if "class_weight" in theirs else "weight"},
        "cb_softmax_ce": {"normaliser": "batch" if "/N" in theirs.get("reduction", "") else "weight"},
        "cb_focal_sigmoid": {"kind": "focal"},
        "cb_sigmoid": {"kind": "sigmoid"},
        "asl_softmax_single": {"link": "softmax", "label_smoothing": theirs.get("eps")},
        "alpa": {"hill": "lambda" in theirs},
        "ldam_drw": {"drw": True, "drw_beta": 0.9999},
        "soft_mcc_multi": {
            "kind": "ovr" if "ovr" in label else "rk",
            "absent": "zero" if label.endswith("ovr_formula") else "skip",
        },
        "soft_f1_multi": {"absent": "skip" if "present" in label else "zero"},
        "soft_f1_multi_torchrepo_BUG": {"absent": "zero"},
        "soft_f1_binary": {"positive": 0 if "minority" in label else 1, "absent": "zero"},
        "soft_mcc_binary": {"kind": "ovr", "absent": "zero"},
        "ce_f1": {"absent": "zero"},
    }
    if name == "sord":
        return {"tau": 1 / params["alpha"]}
    if name == "cdw_ce" and "sample_weight" in theirs:
        return {"alpha": 2.0}
    return params | special.get(name, {}) | ({"class_weight_on": "columns"} if name in COLUMNS else {})


def our_criterion(name, case):
    """Our loss for a stored case; class weights that a reference takes as numbers are set as numbers."""
    theirs = case["params"]
    num_classes = theirs.get("num_classes") or (len(case["logits"][0]) if isinstance(case["logits"][0], list) else 2)
    criterion = make_criterion(
        SAME[name], num_classes=num_classes, class_counts=theirs.get("counts"), **our_params(name, case)
    )
    criterion.start_epoch(160, 200)
    if "class_weight" in theirs and not name.startswith(("cb", "ldam")):
        weight = torch.tensor(theirs["class_weight"])
        set_class_weight(criterion, (weight / weight.sum() if name == "cdw_ce" else weight).tolist())
    return criterion


def run(name, case):
    """Our value and gradient, the latter in the shape of the reference's logits."""
    criterion, theirs = our_criterion(name, case), case["params"]
    logits = torch.tensor(case["logits"])
    if logits.ndim == 1:  # one sigmoid is a softmax whose other logit is 0
        value, grad = value_and_grad(criterion, F_pad(logits), torch.tensor(case["targets"]))
        return value, grad[:, 1]
    weight = torch.tensor(theirs["sample_weight"]) if "sample_weight" in theirs else None
    if "labelled" in theirs:
        weight = torch.tensor(theirs["labelled"]) * (1 - torch.tensor(theirs["u"]))
    value, grad = value_and_grad(criterion, logits[:, : criterion.num_outputs], torch.tensor(case["targets"]), weight)
    return value, torch.nn.functional.pad(grad, (0, logits.shape[1] - grad.shape[1]))


def F_pad(logits_n):
    return torch.stack([torch.zeros_like(logits_n), logits_n], dim=1)


def assert_same(value, grad, case):
    rounding_value, rounding_grad = case.get("rounding", (0.0, 0.0))
    relative = 1e-6 if abs(case["value"]) >= 10 else 0
    assert number(value) == pytest.approx(case["value"], abs=2e-6 + rounding_value, rel=relative)
    assert bool(grad.isfinite().all())
    if case["grad"] is not None:  # one reference has no finite gradient
        torch.testing.assert_close(grad, torch.tensor(case["grad"]), atol=1e-6 + rounding_grad, rtol=relative)


def test_every_stored_case_is_used():
    """A family of references has no counterpart here, or one of our losses has no reference at all."""
    assert {name for name, _ in CASES} == {*SAME, *COMPOSED}
    assert set(LOSSES) - set(SAME.values()) == {"soft_label_poisson", "bce"}
    assert len(CASES) == 190


@pytest.mark.parametrize("pair", [pair for pair in GOOD if pair[0] not in COMPOSED], ids=identity)
def test_stored_reference(pair):
    """The name in a study file is not the published method: another value or gradient than its reference's."""
    value, grad = run(*pair)
    assert_same(value, grad, pair[1])


@pytest.mark.parametrize("case", LOSSES_OF["soft_label_poisson"], ids=lambda case: case["case"])
def test_poisson_reference(case):
    """Poisson labels at full share, which no study may ask for, differ from their reference."""
    target = torch.tensor(case["targets"])
    table = poisson_table(len(case["logits"][0])).float()
    criterion = make_criterion("cross_entropy", num_classes=len(table))
    assert_same(*value_and_grad(criterion, torch.tensor(case["logits"]), table[target]), case)


@pytest.mark.parametrize("case", LOSSES_OF["mixmatch_semi"], ids=lambda case: case["case"])
def test_mixmatch_reference(case):
    """Cross-entropy and squared error on soft targets do not add up to MixMatch's loss."""
    theirs = case["params"]
    logits, guesses = torch.tensor(case["logits"]), torch.tensor(theirs["targets_u"])
    labelled = value_and_grad(make_criterion("cross_entropy", num_classes=3), logits, torch.tensor(case["targets"]))
    error = make_criterion("mce", num_classes=3)
    unlabelled = value_and_grad(error, torch.tensor(theirs["logits_u"]), guesses)
    assert_same(labelled[0] + theirs["weight_u"] * unlabelled[0], labelled[1], case)
    grad_u = torch.tensor(case["grad_u"])
    torch.testing.assert_close(theirs["weight_u"] * unlabelled[1], grad_u, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("pair", WRONG, ids=identity)
def test_known_bug_is_not_reproduced(pair):
    """A known wrong implementation gives the value that ours gives, whatever it is divided by."""
    name, case = pair
    value, _ = run(name, case)
    mean_weight = 1.0
    if "class_weight" in case["params"]:
        mean_weight = float(torch.tensor(case["params"]["class_weight"])[torch.tensor(case["targets"])].mean())
    for factor in (1.0, mean_weight):
        assert abs(factor * number(value) - case["value"]) > 1e-3


def test_older_definition_of_the_kappa():
    """``legacy_pred_norm`` is not what dlordinal computed before 2.4.2."""
    case = LOSSES_OF["wk"][0]
    logits, target = torch.tensor(case["logits"]), torch.tensor(case["targets"])
    for key, version, params in (
        ("wk_quadratic", "2.4.1", {}),
        ("wk_linear", "2.4.0", {"penalty": "linear"}),
    ):
        criterion = make_criterion("wk", num_classes=3, legacy_pred_norm=True, **params)
        assert number(criterion(logits, target)) == pytest.approx(ORACLES["versions"][key][version], abs=2e-6)
    mixed = make_criterion("mce_wk", num_classes=3, legacy_pred_norm=True)
    assert number(mixed(logits, target)) == pytest.approx(ORACLES["versions"]["mce_wk_C0.5"]["2.4.1"], abs=2e-6)
