"""Cross-entropy on softmax, with class weights and label smoothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from study.losses.base import Criterion
from study.losses.class_weights import check_choice, check_number, class_weights_from_counts


class CrossEntropy(Criterion):
    """Weighted cross-entropy with label smoothing, as in ``torch.nn.functional.cross_entropy``.

    One row gives ``(1 - eps) w_y (-log p_y) + (eps / K) sum_c w_c (-log p_c)``: the true class keeps ``1 - eps + eps /
    K``.

    Args:
        num_classes: K >= 2; the head has K outputs.
        class_counts: K training counts, needed unless ``class_weights`` is ``none``.
        class_weights: ``none``, ``balanced``, ``inv_sum1``, ``inv_meanK`` or ``sqrt_inv``.
        normaliser: divide by the sum of weights (``weight``) or by the number of rows (``batch``, as Keras does).
        label_smoothing: eps in [0, 1).

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        class_counts: Sequence[float] | None = None,
        class_weights: str = "none",
        normaliser: str = "weight",
        label_smoothing: float = 0.0,
    ) -> None:
        weight_k = class_weights_from_counts(class_weights, num_classes=num_classes, class_counts=class_counts)
        check_choice("normaliser", normaliser, ("weight", "batch"))
        super().__init__(class_weight_k=weight_k, num_outputs=num_classes, divide_by_rows=normaliser == "batch")
        self.label_smoothing = check_number("label_smoothing", label_smoothing, below=1.0)

    def terms(self, logits_no: Tensor, target_n: Tensor) -> tuple[Tensor, Tensor]:
        """Smoothed cross-entropy and class weight of each row, two tensors of shape [N]."""
        surprise_nk = -torch.log_softmax(logits_no, dim=1)
        weight_n = self.class_weight_of(target_n)
        value_n = weight_n * surprise_nk.gather(1, target_n[:, None])[:, 0]
        if self.label_smoothing > 0:
            uniform_n = (surprise_nk * self.class_weight_k).mean(dim=1)
            value_n = (1 - self.label_smoothing) * value_n + self.label_smoothing * uniform_n
        return value_n, weight_n
