"""What every loss of the table promises."""

import inspect
import itertools

import pytest
import torch

from study.losses import LOSS_PARAMS, LOSSES, make_criterion
from study.losses.base import Criterion

ROWS = 12


SHARED = {"class_weights", "class_weight_source", "class_weight_beta", "class_weight_on", "normaliser"}


def make(name, num_classes):
    return make_criterion(name, num_classes=num_classes, class_counts=[9.0 - k for k in range(num_classes)])


@pytest.fixture(
    params=[(name, k) for name in LOSSES for k in (2, 3, 5) if (name, k) != ("soft_label_beta", 2)],
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def criterion(request):
    return make(*request.param)


def number(tensor):
    return tensor.detach().item()


def batch(criterion, *, scale=2.0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(7)
    logits = scale * torch.randn(ROWS, criterion.num_outputs, generator=rng, dtype=torch.float64)
    if criterion.head == "cosine" and scale <= 2:
        logits = torch.tanh(logits / 4)
    target = torch.randint(criterion.num_classes, (ROWS,), generator=rng)
    return logits.to(dtype).requires_grad_(), target


def test_parameter_table():
    """The table of parameters does not name exactly the arguments that a loss takes."""
    assert LOSS_PARAMS.keys() == LOSSES.keys()
    for name, kind in LOSSES.items():
        arguments = set(inspect.signature(kind).parameters) - {"setup", "num_outputs"}
        assert arguments == set(LOSS_PARAMS[name]) - SHARED
        assert ("normaliser" in LOSS_PARAMS[name]) == bool(kind.normalisers)
        for normaliser in kind.normalisers:
            make_criterion(name, num_classes=3, class_counts=[3, 2, 1], normaliser=normaliser)


def test_is_a_module_with_a_head_size(criterion):
    """A criterion is a module, has no weights to train and says how many outputs the head has."""
    assert isinstance(criterion, Criterion)
    assert isinstance(criterion, torch.nn.Module)
    assert not list(criterion.parameters())
    assert criterion.num_outputs in (criterion.num_classes, criterion.num_classes - 1)


def test_finite(criterion):
    """Value and gradient are finite at extreme logits, and the value is not negative."""
    for scale in (0.0, 1.0, 100.0, 1e4):
        logits, target = batch(criterion, scale=scale)
        value = criterion(logits, target)
        value.backward()
        assert value.shape == ()
        assert number(value) >= 0
        assert bool(value.isfinite())
        assert bool(logits.grad.isfinite().all())


def test_order_of_rows_changes_nothing(criterion):
    """Permuting the batch changes neither the value nor any row's gradient."""
    logits, target = batch(criterion)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    value, moved = criterion(logits, target), criterion(logits[order], target[order])
    torch.testing.assert_close(value, moved, atol=1e-7, rtol=1e-6)
    (grad,), (moved_grad,) = torch.autograd.grad(value, logits), torch.autograd.grad(moved, logits)
    torch.testing.assert_close(grad, moved_grad, atol=1e-7, rtol=1e-5)


def test_absent_classes_are_fine(criterion):
    """A batch of one class, or of one row, has no finite value or gradient, or teaches nothing and is not counted."""
    logits, _ = batch(criterion)
    for label in range(criterion.num_classes):
        for rows in (1, ROWS):
            value = criterion(logits[:rows], torch.full((rows,), label))
            (grad,) = torch.autograd.grad(value, logits)
            assert bool(value.isfinite())
            assert bool(grad.isfinite().all())
            if not criterion.is_batch_level:
                assert number(grad[:rows].norm()) > 0
    if criterion.is_batch_level:
        assert int(criterion.num_degenerate) == 2 * criterion.num_classes


def test_float32_equals_float64(criterion):
    """float32 gives the float64 value to 1e-5."""
    single, target = batch(criterion)
    double, _ = batch(criterion, dtype=torch.float64)
    assert number(criterion(single, target)) == pytest.approx(number(criterion(double, target)), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_the_rounding_of_the_input_alone(criterion, dtype):
    """Half-precision logits, under autocast, give the float32 loss of the same rounded numbers."""
    logits, target = batch(criterion, dtype=dtype)
    with torch.autocast("cpu", dtype=dtype):
        value = criterion(logits, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, criterion(logits.float(), target), atol=0, rtol=0)


def test_gradient_pushes_towards_the_label(criterion):
    """Twenty steps of gradient descent on the logits lower the loss."""
    logits, target = batch(criterion)
    first = number(criterion(logits, target))
    for _ in range(20):
        (grad,) = torch.autograd.grad(criterion(logits, target), logits)
        logits = (logits - grad * 2).detach().requires_grad_()
    assert number(criterion(logits, target)) < first


def test_rows_without_weight_are_left_out(criterion):
    """A row of weight 0 adds nothing, not even when its logits are NaN and its target is missing."""
    logits, target = batch(criterion)
    weight = torch.ones(ROWS)
    weight[:5] = 0
    poisoned = logits.detach().clone()
    poisoned[:5] = torch.nan
    poisoned.requires_grad_()
    missing = target.clone()
    missing[:5] = -1
    value = criterion(poisoned, missing, weight)
    value.backward()
    share = 7 / ROWS if getattr(criterion, "normaliser", "") == "batch" else 1.0
    torch.testing.assert_close(value, share * criterion(logits[5:], target[5:]), atol=1e-7, rtol=1e-6)
    assert number(poisoned.grad[:5].abs().sum()) == 0
    assert bool(poisoned.grad.isfinite().all())


def test_nothing_to_learn_from_is_zero(criterion):
    """An empty batch and a batch without weight give 0 with a zero gradient, and are counted."""
    logits, target = batch(criterion)
    value = criterion(logits, target, torch.zeros(ROWS)) + criterion(logits[:0], target[:0])
    value.backward()
    assert number(value) == 0
    assert number(logits.grad.abs().sum()) == 0
    assert int(criterion.num_empty) == 2


def test_scale_of_sample_weights_changes_nothing(criterion):
    """Doubling all sample weights changes a loss that divides by them."""
    if getattr(criterion, "normaliser", "") == "batch":
        pytest.skip("divides by the number of rows")
    logits, target = batch(criterion)
    weight = torch.rand(ROWS, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(criterion(logits, target, weight), criterion(logits, target, 2 * weight))


def test_probabilities(criterion):
    """Probabilities have K columns, are not negative and sum to 1; decoded classes lie in 0..K-1."""
    for scale, dtype in itertools.product((0.0, 3.0, 1e4), (torch.float32, torch.bfloat16, torch.float16)):
        logits, _ = batch(criterion, scale=scale, dtype=dtype)
        probs = criterion.probabilities(logits)
        assert probs.shape == (ROWS, criterion.num_classes)
        assert probs.dtype == torch.float32
        assert bool((probs >= 0).all())
        torch.testing.assert_close(probs.sum(1), torch.ones(ROWS), atol=1e-5, rtol=0)
        classes = criterion.decode(logits)
        assert classes.dtype == torch.int64
        assert classes.shape == (ROWS,)
        assert set(classes.tolist()) <= set(range(criterion.num_classes))


def confident_logits(criterion, label):
    """One row that is sure of a class, for any link."""
    logits = torch.full((1, criterion.num_outputs), -9.0)
    if criterion.num_outputs == criterion.num_classes:
        logits[0, label] = 9.0
    else:
        logits[0, :label] = 9.0
    return logits


def test_confident_logits_decode_to_their_class(criterion):
    """The labels that make the loss lowest are not those that are decoded, with probability near 1."""
    rows = torch.cat([confident_logits(criterion, label) for label in range(criterion.num_classes)])
    labels = torch.arange(criterion.num_classes)
    assert criterion.decode(rows).tolist() == labels.tolist()
    assert bool((criterion.probabilities(rows).diagonal() > 0.99).all())
    losses = [number(criterion(rows, labels.roll(shift))) for shift in range(criterion.num_classes)]
    assert losses.index(min(losses)) == 0
    if not criterion.is_batch_level:
        for label in range(criterion.num_classes):
            alone = [number(criterion(rows[label : label + 1], other[None])) for other in labels]
            assert alone.index(min(alone)) == label


def test_state_moves(criterion):
    """All tensors of a criterion are buffers, so that ``.to()`` moves them."""
    moved = criterion.to("meta")
    assert all(buffer.device.type == "meta" for buffer in moved.buffers())
    plain = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert not plain


def test_works_on_another_device(criterion):
    """A constant of the loss stays on the CPU when the criterion moves, which stops the first step on a GPU."""
    moved = criterion.to("meta")
    logits = torch.zeros(ROWS, moved.num_outputs, device="meta", requires_grad=True)
    target = torch.zeros(ROWS, moved.num_classes, device="meta")
    value = moved.value(moved.statistics(logits, target, torch.zeros(ROWS, device="meta")))
    value.backward()
    assert {each.device.type for each in (value, logits.grad, moved.probabilities(logits))} == {"meta"}
    assert moved.decode(logits).device.type == "meta"
