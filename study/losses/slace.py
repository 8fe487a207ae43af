"""SLACE: cross-entropy on accumulated probabilities."""

import math

import torch
from torch import Tensor

from study.losses.base import AdditiveCriterion
from study.losses.checks import check_positive
from study.losses.setup import Setup


class Slace(AdditiveCriterion):
    """SLACE (Nachmani, Genossar and others 2025): one row gives ``-sum_c Q_yc log A_yc``.

    ``A_yc`` is the probability of all classes not farther from y than c; ``Q_y`` is the softmax of ``-alpha |c - y|``.
    Accumulated as logarithms, so that no constant has to be added inside the log.

    Args:
        setup: classes, weights and divisor.
        alpha: how fast the weights fall with distance, > 0.

    Raises:
        InputError: an argument outside its range.
    """

    takes_soft_targets = False
    weight_kk: Tensor
    is_nearer_kkk: Tensor

    def __init__(self, setup: Setup, *, alpha: float = 1.0) -> None:
        super().__init__(setup)
        alpha = check_positive("alpha", alpha)
        grades_k = torch.arange(setup.num_classes)
        distance_kk = (grades_k[:, None] - grades_k).abs()
        self.register_buffer("weight_kk", torch.softmax(-alpha * distance_kk.float(), dim=1), persistent=False)
        is_nearer_kkk = distance_kk[:, None, :] <= distance_kk[:, :, None]
        self.register_buffer("is_nearer_kkk", is_nearer_kkk, persistent=False)

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Cross-entropy by class, shape [N, K]."""
        target_n = target_nk.argmax(dim=1)
        log_prob_nk = torch.log_softmax(logits_no, dim=1)
        is_nearer_nkk = self.is_nearer_kkk.index_select(0, target_n)
        log_sum_nk = log_prob_nk[:, None, :].masked_fill(~is_nearer_nkk, -math.inf).logsumexp(dim=2)
        return -self.weight_kk.to(logits_no).index_select(0, target_n) * log_sum_nk
