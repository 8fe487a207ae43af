"""Losses where training goes wrong: one class, one row, saturated and collapsed predictions, half precision."""

import itertools
import math

import pytest
import torch

from tests.unit.losses.cases import IDS, ORACLES, STRESS, VARIANTS, criterion_for, number, value_and_grad

COLUMNS = STRESS["columns"]
HALVES = (torch.bfloat16, torch.float16)
# Stored (value, gradient norm) of references that are right at all places of the key, or at the columns named.
REFERENCES = {
    "CE": ("cross_entropy", {}, COLUMNS),
    "EMD dlordinal": ("emd", {}, COLUMNS),
    "CDW dlordinal a=2": ("cdw_ce", {"alpha": 2.0}, COLUMNS[:4]),
    "WK dlordinal": ("wk", {}, COLUMNS),
    "WK log dlordinal": ("wk", {"log": True}, COLUMNS),
    "MCEWK dlordinal": ("mce_wk", {}, COLUMNS),
    "SLACE dlordinal": ("slace", {}, COLUMNS[:4]),
    "CORAL": ("coral", {}, COLUMNS),
    "CORN": ("corn", {}, COLUMNS),
    "focal(LDAM repo) g=2": ("focal", {"gamma": 2.0}, COLUMNS),
    "focal(LDAM repo) g=0.5": ("focal", {"gamma": 0.5}, COLUMNS),
    "ASL": ("asl", {"normaliser": "sum"}, COLUMNS[:4]),
    "ASL optimized": ("asl", {"normaliser": "sum", "detach": False}, COLUMNS[:4]),
    "ASLSingle": ("asl", {"link": "softmax", "gamma_pos": 0.0, "label_smoothing": 0.1}, COLUMNS),
    "ALPA v2": ("alpa", {"normaliser": "sum"}, COLUMNS),
    "ALPA gn=0.5": ("alpa", {"normaliser": "sum", "gamma_neg": 0.5}, COLUMNS),
    "softF1 formula eps1e-7": ("soft_f1", {"absent": "zero"}, COLUMNS),
    "softMCC R_K repo": ("soft_mcc", {}, [*COLUMNS[:2], *COLUMNS[3:]]),
    "softMCC OvR (repo binary)": ("soft_mcc", {"kind": "ovr", "absent": "zero"}, COLUMNS),
}
BOUNDS = {
    "emd": (0.0, 2.0),
    "wk": (0.0, 2.0),
    "mce": (0.0, 2.0),
    "mce_wk": (0.0, 2.0),
    "soft_f1": (0.0, 1.0),
    "soft_mcc": (0.0, 2.0),
}


def stress_input(criterion, column, dtype):
    index = COLUMNS.index(column)
    logits = torch.tensor(STRESS["logits"][index])[:, : criterion.num_outputs]
    return logits.to(dtype), torch.tensor(STRESS["targets"][index])


def legal_range(name, params):
    if params.get("log"):
        return math.log(1e-10) - 1e-6, math.log(2.0) + 1e-6
    low, high = BOUNDS.get(name, (0.0, math.inf))
    return low - 1e-6, high + 1e-6


@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=IDS)
def test_finite_and_in_range(name, params):
    """A batch that occurs in practice stops a run with NaN, or gives a value that the loss cannot have."""
    criterion = criterion_for(name, params)
    low, high = legal_range(name, params)
    for column, dtype in itertools.product(COLUMNS, (torch.float32, *HALVES)):
        logits, target = stress_input(criterion, column, dtype)
        with torch.autocast("cpu", dtype=dtype if dtype in HALVES else torch.bfloat16):
            value, grad = value_and_grad(criterion, logits, target)
        assert value.dtype == torch.float32
        assert low <= number(value) <= high, (column, dtype)
        assert math.isfinite(number(value)), (column, dtype)
        assert bool(grad.isfinite().all()), (column, dtype)


@pytest.mark.parametrize("key", REFERENCES)
def test_stored_stress_values(key):
    """At extreme inputs the loss is another one than the reference's, where that one is right."""
    name, params, columns = REFERENCES[key]
    criterion = criterion_for(name, params)
    for column in columns:
        value, grad = value_and_grad(criterion, *stress_input(criterion, column, torch.float32))
        expected, norm = ORACLES["stress_values"][key][column]
        assert number(value) == pytest.approx(expected, rel=1e-4, abs=1e-6), column
        if norm is not None:
            assert number(grad.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-6), column


@pytest.mark.parametrize("name", ["soft_mcc", "wk"])
@pytest.mark.parametrize("column", ["one class only", "batch=1"])
def test_batch_of_one_class(name, column):
    """A batch of one class, which teaches nothing, pushes the network somewhere, or is not counted."""
    criterion = criterion_for(name, {})
    value, grad = value_and_grad(criterion, *stress_input(criterion, column, torch.float32))
    assert number(value) == pytest.approx(1.0, abs=1e-6)
    assert number(grad.norm()) < 1e-6
    assert int(criterion.num_degenerate) == 1


def test_confidently_wrong_rows_keep_a_gradient():
    """A network that begins certain and wrong cannot learn with the distance weighted loss."""
    criterion = criterion_for("cdw_ce", {"alpha": 2.0})
    _, grad = value_and_grad(criterion, *stress_input(criterion, "saturated wrong", torch.float32))
    assert 0.5 < number(grad.norm()) < 5.0


@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=IDS)
def test_huge_logits(name, params):
    """Logits of 1e4, right and wrong, give NaN."""
    criterion = criterion_for(name, params)
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 0.0, 0.0]])
    value, grad = value_and_grad(criterion, logits[:, : criterion.num_outputs], torch.tensor([0, 0, 2, 1]))
    assert bool(value.isfinite())
    assert bool(grad.isfinite().all())
