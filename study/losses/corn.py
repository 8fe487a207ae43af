"""Ordinal regression with conditional probabilities (CORN)."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from study.losses.base import AdditiveCriterion
from study.losses.links import as_single, conditional_probabilities
from study.losses.setup import Setup


def reached_shares(target_nk: Tensor) -> Tensor:
    """``P(y >= k)`` of targets for k = 0..K-1, shape [N, K] in and out."""
    return target_nk.flip(1).cumsum(dim=1).flip(1)


class Corn(AdditiveCriterion):
    """CORN (Shi, Cao and Raschka 2021): K - 1 yes/no tasks, task k asks "above k?" of the rows that reach k.

    Output k is the logit of ``P(y > k | y >= k)``; ``P(y > k)`` is the product of the first k + 1 conditional
    probabilities, so class probabilities are always valid. Row i takes part in the tasks 0 to min(y_i, K - 2); a soft
    target takes part in task k with its share ``P(y >= k)``.

    Args:
        setup: classes, weights and divisor: the weighted number of (row, task) pairs (``pairs``, as coral-pytorch 1.3
            and later), or the number of rows (``batch``) or of labelled rows (``labelled``).

    Raises:
        InputError: an argument outside these ranges.
    """

    normalisers: ClassVar[tuple[str, ...]] = ("pairs", "batch", "labelled")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, num_outputs=setup.num_classes - 1)

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Loss of each task, shape [N, K - 1]."""
        reached_nk = reached_shares(target_nk)
        above_no, stays_no = reached_nk[:, 1:], target_nk[:, :-1]
        return -above_no * F.logsigmoid(logits_no) - stays_no * F.logsigmoid(-logits_no)

    def row_masses(self, target_nk: Tensor) -> Tensor:
        """Weighted number of tasks of each row, shape [N]."""
        return self.row_weight(target_nk) * reached_shares(target_nk)[:, :-1].sum(dim=1)

    def probabilities(self, logits_no: Tensor) -> Tensor:
        """Class probabilities by the running product, shape [N, K - 1] to [N, K]."""
        return conditional_probabilities(logits_no)

    def decode(self, logits_no: Tensor) -> Tensor:
        """The predicted class: how many ``P(y > k)`` exceed 0.5.

        This is the median class; it may differ from the most probable one.

        Args:
            logits_no: shape [N, K - 1].

        Returns:
            Class indices, shape [N], int64.
        """
        return (torch.sigmoid(as_single(logits_no)).cumprod(dim=1) > 0.5).sum(dim=1)
