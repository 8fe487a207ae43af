"""Class distance weighted cross-entropy."""

import math

import torch
from torch import Tensor

from study.losses.base import AdditiveCriterion
from study.losses.checks import check_between, check_flag, check_number
from study.losses.setup import Setup


class CdwCe(AdditiveCriterion):
    """CDW-CE (Polat et al. 2022): one row gives ``-sum_c |c - y|^alpha log(min(1 - p_c + margin, 1))``.

    ``log(1 - p_c)`` is the log of the other classes' total probability, so neither huge logits nor a row that is
    confidently wrong lose value or gradient. Soft targets give the expectation over y. For two classes it is
    cross-entropy.

    Args:
        setup: classes, weights and divisor.
        alpha: how much more a farther class costs, from 0.1 to 10.
        margin: added to ``1 - p_c``, in [0, 1); 0.025 to 0.1 is usual.
        normalise_distance: divide by the mean of ``|c - y|^alpha`` over all pairs of classes, so that alpha does not
            change the size of the loss.

    Raises:
        InputError: an argument outside these ranges.
    """

    cost_kk: Tensor

    def __init__(
        self, setup: Setup, *, alpha: float = 0.5, margin: float = 0.0, normalise_distance: bool = False
    ) -> None:
        super().__init__(setup)
        alpha = check_between("alpha", alpha, low=0.1, high=10.0)
        self.margin = check_number("margin", margin, below=1.0)
        grades_k = torch.arange(setup.num_classes, dtype=torch.float64)
        cost_kk = (grades_k[:, None] - grades_k).abs() ** alpha
        if check_flag("normalise_distance", normalise_distance):
            cost_kk = cost_kk / cost_kk.mean()
        self.register_buffer("cost_kk", cost_kk.float(), persistent=False)

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Cost of the probability of each class, shape [N, K]."""
        log_rest_nk = log_of_others(logits_no)
        if self.margin > 0:
            log_rest_nk = torch.log(torch.exp(log_rest_nk) + self.margin).clamp(max=0.0)
        return -(target_nk @ self.cost_kk.to(logits_no)) * log_rest_nk


def log_of_others(logits_nk: Tensor) -> Tensor:
    """``log(1 - p_c)`` of softmax without a difference, shape [N, K] in and out."""
    is_same_kk = torch.eye(logits_nk.shape[1], dtype=torch.bool, device=logits_nk.device)
    others_nk = logits_nk[:, None, :].masked_fill(is_same_kk, -math.inf).logsumexp(dim=2)
    return others_nk - logits_nk.logsumexp(dim=1, keepdim=True)
