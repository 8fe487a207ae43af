"""Losses that bring a last layer of their own."""

import pytest
import torch

from study.errors import InputError
from study.losses import make_criterion
from study.losses.heads import CoralHead, CosineHead
from study.models import make_model
from study.models.heads import exchange_head, head_parameters

HEADS = [("coral", CoralHead), ("ldam", CosineHead), ("cross_entropy", torch.nn.Linear)]


@pytest.mark.parametrize(("loss", "kind"), HEADS)
def test_a_loss_gets_the_head_that_it_wants(loss, kind):
    """LDAM trains on plain logits, or CORAL on free thresholds, and neither is the published method."""
    criterion = make_criterion(loss, num_classes=3, class_counts=[50, 30, 20])
    network = make_model("test_efficientnet", num_outputs=criterion.num_outputs, make_head=criterion.make_head).eval()
    assert type(network.get_classifier()) is kind
    assert network(torch.rand(2, 1, 64, 64)).shape == (2, criterion.num_outputs)
    assert {id(p) for p in head_parameters(network)} == {id(p) for p in network.get_classifier().parameters()}


def test_a_network_whose_head_cannot_be_exchanged_is_refused():
    """A network with another end trains without the head that its loss needs."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 3))
    with pytest.raises(InputError, match="cannot be exchanged"):
        exchange_head(network, lambda features: torch.nn.Identity())
    exchange_head(network, lambda features: None)
