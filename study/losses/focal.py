"""Focal loss on softmax."""

import torch
from torch import Tensor

from study.losses.base import AdditiveCriterion
from study.losses.checks import check_between, check_number
from study.losses.setup import Setup


class Focal(AdditiveCriterion):
    """Focal loss on softmax: one row gives ``w_y alpha (1 - p_y)^gamma (-log p_y)`` (Lin et al. 2017, by classes).

    ``log(1 - p_y)`` is the log of the other classes' total probability, never of a difference, so the gradient is
    finite for every gamma, also between 0 and 1 with a saturated row. The class weight stays outside ``p``.

    Args:
        setup: classes, weights and divisor.
        gamma: focusing exponent >= 0; 0 is cross-entropy.
        alpha: factor on the whole loss, from 0.01 to 1.

    Raises:
        InputError: an argument outside these ranges.
    """

    takes_soft_targets = False

    def __init__(self, setup: Setup, *, gamma: float = 2.0, alpha: float = 1.0) -> None:
        super().__init__(setup)
        self.gamma = check_number("gamma", gamma)
        self.alpha = check_between("alpha", alpha, low=0.01, high=1.0)

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Focal loss, shape [N, 1]."""
        log_prob_nk = torch.log_softmax(logits_no, dim=1)
        log_true_n = (target_nk * log_prob_nk).sum(dim=1)
        log_rest_n = log_prob_nk.masked_fill(target_nk > 0, -torch.inf).logsumexp(dim=1)
        return (self.alpha * torch.exp(self.gamma * log_rest_n) * -log_true_n)[:, None]
