"""Squared earth mover's distance between class distributions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from study.losses.base import Criterion
from study.losses.class_weights import class_weights_from_counts


class SquaredEmd(Criterion):
    """Squared earth mover's distance on softmax, also called ranked probability score.

    One row gives ``sum_k (P(class <= k) - [y <= k])^2`` in [0, K - 1], without division by K (Hou, Yu and Samaras
    2016). For two classes it is the Brier score of one of them.

    Args:
        num_classes: K >= 2; the head has K outputs.
        class_counts: K training counts, needed unless ``class_weights`` is ``none``.
        class_weights: ``none``, ``balanced``, ``inv_sum1``, ``inv_meanK`` or ``sqrt_inv``.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(
        self, *, num_classes: int, class_counts: Sequence[float] | None = None, class_weights: str = "none"
    ) -> None:
        weight_k = class_weights_from_counts(class_weights, num_classes=num_classes, class_counts=class_counts)
        super().__init__(class_weight_k=weight_k, num_outputs=num_classes)

    def terms(self, logits_no: Tensor, target_n: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted squared distance and class weight of each row, two tensors of shape [N]."""
        error_nk = torch.softmax(logits_no, dim=1) - F.one_hot(target_n, self.num_classes)
        distance_n = error_nk.cumsum(dim=1)[:, :-1].square().sum(dim=1)
        weight_n = self.class_weight_of(target_n)
        return weight_n * distance_n, weight_n
