"""From logits to probabilities and classes, and the last layers that losses ask for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from study.losses import make_criterion
from tests.unit.losses.cases import ORACLES, VARIANTS, criterion_for

DECODE = ORACLES["decode"]
SIGMOIDS = ("bce", "focal_sigmoid", "asl", "alpa", "hill", "ral")


@pytest.mark.parametrize("key", [key for key in DECODE if key.startswith("corn")])
def test_corn(key):
    """CORN's class probabilities, its count rule or its most probable class are not the stored ones."""
    stored = DECODE[key]
    logits = torch.tensor(stored["logits"])
    criterion = make_criterion("corn", num_classes=logits.shape[1] + 1)
    probs = criterion.probabilities(logits)
    torch.testing.assert_close(probs, torch.tensor(stored["class_probs"]), atol=1e-6, rtol=0)
    assert criterion.decode(logits).tolist() == stored["rank_label"]
    assert probs.argmax(1).tolist() == stored["argmax_label"]


@pytest.mark.parametrize("key", [key for key in DECODE if key.startswith("coral")])
def test_coral(key):
    """CORAL gives negative probabilities, loses count of them, or decides otherwise than its authors."""
    stored = DECODE[key]
    logits, raw = torch.tensor(stored["logits"]), torch.tensor(stored["class_probs_raw"])
    criterion = make_criterion("coral", num_classes=logits.shape[1] + 1)
    probs = criterion.probabilities(logits)
    assert bool((probs >= 0).all())
    torch.testing.assert_close(probs.sum(1), torch.ones(len(logits)))
    assert int(criterion.num_violations) == stored["negative_entries"] == int((raw < 0).sum())
    is_ordered = (raw >= 0).all(dim=1)
    torch.testing.assert_close(probs[is_ordered], raw[is_ordered], atol=1e-6, rtol=0)
    assert criterion.decode(logits).tolist() == stored["rank_label"]


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 3.0, 100.0, 1e4]), num_classes=st.integers(3, 7))
@settings(max_examples=15, deadline=None)
def test_probabilities(seed, scale, num_classes):
    """Some loss gives probabilities below 0, or rows that do not sum to 1, for some logits."""
    rng = torch.Generator().manual_seed(seed)
    for name, params in VARIANTS:
        criterion = criterion_for(name, params, num_classes=num_classes)
        logits = scale * torch.randn(5, criterion.num_outputs, generator=rng)
        for half in (logits, logits.to(torch.bfloat16), logits.clamp(-6e4, 6e4).half()):
            probs = criterion.probabilities(half)
            assert probs.dtype == torch.float32
            assert probs.shape == (5, num_classes)
            assert bool((probs >= 0).all())
            torch.testing.assert_close(probs.sum(1), torch.ones(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SIGMOIDS)
def test_sigmoid_families_decide_by_the_largest_logit(name):
    """A class whose sigmoid is below 0.5 cannot win, or its probability is not its share of all sigmoids."""
    criterion = make_criterion(name, num_classes=3)
    logits = torch.tensor([[-3.0, -1.0, -2.0], [2.0, 3.0, 2.5], [-1e4, -2e4, -1e4 - 1]])
    assert criterion.decode(logits).tolist() == [1, 1, 0]
    scores = torch.sigmoid(logits[:2])
    torch.testing.assert_close(criterion.probabilities(logits)[:2], scores / scores.sum(1, keepdim=True))


def test_ldam_predicts_from_scaled_cosines():
    """LDAM's probabilities are those of bare cosines, which are all nearly alike, or contain its margins."""
    criterion = make_criterion("ldam", num_classes=3, class_counts=[100, 10, 1])
    cosines = torch.tensor([[0.5, 0.4, -0.2]])
    torch.testing.assert_close(criterion.probabilities(cosines), torch.softmax(30 * cosines, dim=1))


@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(VARIANTS)])
def test_heads(name, params):
    """The head that a loss asks for does not fit its outputs, or a loss that wants its own gets a linear one."""
    criterion = criterion_for(name, params, num_classes=4)
    head = criterion.make_head(6)
    assert (head is not None) == (name in ("coral", "ldam") or params.get("kind") in ("sigmoid", "focal"))
    if head is not None:
        logits = head(torch.randn(5, 6))
        assert logits.shape == (5, criterion.num_outputs)
        assert all(parameter.requires_grad for parameter in head.parameters())


def test_coral_head():
    """CORAL's thresholds do not share one weight vector, or its biases do not start in order."""
    head = make_criterion("coral", num_classes=5).make_head(6)
    assert head.bias.tolist() == [1.0, 0.75, 0.5, 0.25]
    logits = head(torch.randn(7, 6))
    torch.testing.assert_close(logits - logits[:, :1], (head.bias - head.bias[0]).expand(7, 4))
    assert [parameter.ndim for parameter in head.parameters()] == [1, 2]


def test_cosine_head():
    """LDAM's head depends on the length of features or weights, has a bias, or is computed in half precision."""
    head = make_criterion("ldam", num_classes=3, class_counts=[4, 2, 1]).make_head(6)
    features = torch.randn(5, 6)
    cosines = head(features)
    assert float(cosines.detach().abs().max()) <= 1 + 1e-6
    torch.testing.assert_close(head(3 * features), cosines)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(features.to(torch.bfloat16))
    assert inside.dtype == torch.float32
    expected = nn.functional.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(cosines, expected)


def test_sigmoid_head_of_cb():
    """The sigmoids of the class-balanced loss do not start at the rate of one class in K."""
    head = make_criterion("cb", num_classes=5, class_counts=[5, 4, 3, 2, 1], kind="sigmoid").make_head(6)
    assert head.bias.tolist() == pytest.approx([-math.log(4)] * 5)
    assert torch.sigmoid(head.bias[0]).item() == pytest.approx(1 / 5)
