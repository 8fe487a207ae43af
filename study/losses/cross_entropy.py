"""Cross-entropy on softmax, with class weights and label smoothing."""

import torch
from torch import Tensor

from study.losses.base import AdditiveCriterion
from study.losses.checks import check_number
from study.losses.setup import Setup


class CrossEntropy(AdditiveCriterion):
    """Weighted cross-entropy with label smoothing, as in ``torch.nn.functional.cross_entropy``.

    One row gives ``(1 - eps) w_y (-log p_y) + (eps / K) sum_c w_c (-log p_c)``: the true class keeps ``1 - eps + eps /
    K``. Soft targets q give ``sum_c q_c w_c (-log p_c)`` in the first part.

    Args:
        setup: classes, weights and divisor: the sum of weights (``weight``), the number of rows (``batch``, as Keras
            does) or of labelled rows (``labelled``).
        label_smoothing: eps in [0, 1).

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(self, setup: Setup, *, label_smoothing: float = 0.0) -> None:
        super().__init__(setup)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, below=1.0)

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Smoothed cross-entropy by class, shape [N, K]."""
        surprise_nk = -torch.log_softmax(logits_no, dim=1)
        smooth_nk = (1 - self.label_smoothing) * target_nk + self.label_smoothing / self.num_classes
        return smooth_nk * surprise_nk

    def row_values(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Smoothed cross-entropy of each row, each class with its own weight, shape [N]."""
        cells_nk = self.cells(logits_no, target_nk)
        return (cells_nk * self.class_weight_k.to(cells_nk)).sum(dim=1)
