"""Squared earth mover's distance between class distributions."""

import torch
from torch import Tensor

from study.losses.base import AdditiveCriterion


class SquaredEmd(AdditiveCriterion):
    """Squared earth mover's distance on softmax, also called ranked probability score.

    One row gives ``sum_k (P(class <= k) - [y <= k])^2`` in [0, K - 1], without division by K (Hou, Yu and Samaras
    2016). For two classes it is the Brier score of one of them. Soft targets enter as their cumulative distribution.

    Args:
        setup: classes, weights and divisor.

    Raises:
        InputError: an argument outside its range.
    """

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Squared difference of the cumulative distributions, shape [N, K - 1]."""
        error_nk = torch.softmax(logits_no, dim=1) - target_nk
        return error_nk.cumsum(dim=1)[:, :-1].square()
