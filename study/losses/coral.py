"""Rank-consistent ordinal regression (CORAL)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.errors import InputError
from study.losses.base import AdditiveCriterion
from study.losses.checks import check_number
from study.losses.corn import reached_shares
from study.losses.heads import CoralHead
from study.losses.links import cumulative_probabilities, rank_violations
from study.losses.setup import Setup


class Coral(AdditiveCriterion):
    """CORAL (Cao, Mirjalili and Raschka 2020): K - 1 yes/no tasks "above k?" that share one weight vector.

    One row gives ``sum_k lambda_k (softplus(z_k) - P(y > k) z_k)`` with ``P(y > k) = [y > k]`` for hard targets. The
    order of the biases is proved at the optimum but not enforced before it, so ``probabilities`` mends what is out of
    order and counts it in ``num_violations``.

    Args:
        setup: classes, weights and divisor.
        importance_weights: lambda_k >= 0 of each of the K - 1 thresholds; these are no class weights. None means 1.

    Raises:
        InputError: an argument outside these ranges, or not K - 1 importance weights.
    """

    head = "coral"
    importance_o: Tensor

    def __init__(self, setup: Setup, *, importance_weights: Sequence[float] | None = None) -> None:
        thresholds = setup.num_classes - 1
        super().__init__(setup, num_outputs=thresholds)
        weights: object = [1.0] * thresholds if importance_weights is None else importance_weights
        if not isinstance(weights, list | tuple):
            raise InputError(
                f"importance_weights is {weights!r}; expected {thresholds} numbers, one per threshold",
                "leave importance_weights out, or give a list of numbers",
            )
        if len(weights) != thresholds:
            raise InputError(
                f"importance_weights has {len(weights)} numbers; expected {thresholds}, one per threshold",
                "leave importance_weights out, or give one number less than there are classes",
            )
        checked = [check_number("importance_weights", weight) for weight in weights]
        self.register_buffer("importance_o", torch.tensor(checked), persistent=False)

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Loss of each threshold, shape [N, K - 1]."""
        above_no = reached_shares(target_nk)[:, 1:]
        return self.importance_o.to(logits_no) * (
            -above_no * F.logsigmoid(logits_no) - (1 - above_no) * F.logsigmoid(-logits_no)
        )

    def make_head(self, in_features: int) -> nn.Module:
        """One shared weight vector and K - 1 biases."""
        return CoralHead(in_features, num_classes=self.num_classes)

    def probabilities(self, logits_no: Tensor) -> Tensor:
        """Class probabilities, shape [N, K - 1] to [N, K], after making ``P(y > k)`` fall with k."""
        self.num_violations += rank_violations(logits_no)
        return cumulative_probabilities(logits_no)

    def decode(self, logits_no: Tensor) -> Tensor:
        """The predicted class: how many ``P(y > k)`` exceed 0.5; shape [N], int64."""
        return (logits_no > 0).sum(dim=1)
