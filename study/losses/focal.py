"""Focal loss on softmax."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from study.losses.base import Criterion
from study.losses.class_weights import check_number, class_weights_from_counts


class Focal(Criterion):
    """Focal loss on softmax: one row gives ``w_y (1 - p_y)^gamma (-log p_y)`` (Lin et al. 2017, multi-class form).

    ``log(1 - p_y)`` is the log of the other classes' total probability, never of a difference, so the gradient is
    finite for every gamma, also between 0 and 1 with a saturated row. The class weight stays outside ``p``. The divisor
    is the sum of weights.

    Args:
        num_classes: K >= 2; the head has K outputs.
        class_counts: K training counts, needed unless ``class_weights`` is ``none``.
        gamma: focusing exponent >= 0; 0 is cross-entropy.
        class_weights: ``none``, ``balanced``, ``inv_sum1``, ``inv_meanK`` or ``sqrt_inv``.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        class_counts: Sequence[float] | None = None,
        gamma: float = 2.0,
        class_weights: str = "none",
    ) -> None:
        weight_k = class_weights_from_counts(class_weights, num_classes=num_classes, class_counts=class_counts)
        super().__init__(class_weight_k=weight_k, num_outputs=num_classes)
        self.gamma = check_number("gamma", gamma)

    def terms(self, logits_no: Tensor, target_n: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted focal loss and class weight of each row, two tensors of shape [N]."""
        log_prob_nk = torch.log_softmax(logits_no, dim=1)
        is_true_nk = F.one_hot(target_n, self.num_classes).bool()
        log_true_n = log_prob_nk.gather(1, target_n[:, None])[:, 0]
        log_rest_n = log_prob_nk.masked_fill(is_true_nk, -torch.inf).logsumexp(dim=1)
        weight_n = self.class_weight_of(target_n)
        return weight_n * torch.exp(self.gamma * log_rest_n) * -log_true_n, weight_n
