"""Ordinal regression with conditional probabilities (CORN)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from study.losses.base import Criterion
from study.losses.class_weights import check_choice, class_weights_from_counts


class Corn(Criterion):
    """CORN (Shi, Cao and Raschka 2021): K - 1 yes/no tasks, task k asks "above k?" of the rows that reach k.

    Output k is the logit of ``P(y > k | y >= k)``; ``P(y > k)`` is the product of the first k + 1 conditional
    probabilities, so class probabilities are always valid. Row i takes part in the tasks 0 to min(y_i, K - 2).

    Args:
        num_classes: K >= 2; the head has K - 1 outputs.
        class_counts: K training counts, needed unless ``class_weights`` is ``none``.
        class_weights: ``none``, ``balanced``, ``inv_sum1``, ``inv_meanK`` or ``sqrt_inv``; weight of a row in all its
            tasks.
        normaliser: divide by the weighted number of (row, task) pairs (``pairs``, as coral-pytorch 1.3 and later) or by
            the number of rows (``batch``).

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        class_counts: Sequence[float] | None = None,
        class_weights: str = "none",
        normaliser: str = "pairs",
    ) -> None:
        weight_k = class_weights_from_counts(class_weights, num_classes=num_classes, class_counts=class_counts)
        check_choice("normaliser", normaliser, ("pairs", "batch"))
        super().__init__(class_weight_k=weight_k, num_outputs=num_classes - 1, divide_by_rows=normaliser == "batch")

    def terms(self, logits_no: Tensor, target_n: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum of the row's task losses and weighted number of its tasks, two tensors of shape [N]."""
        tasks_o = torch.arange(self.num_outputs, device=logits_no.device)
        takes_part_no = target_n[:, None] >= tasks_o
        is_above_no = target_n[:, None] > tasks_o
        surprise_no = -F.logsigmoid(torch.where(is_above_no, logits_no, -logits_no))
        weight_n = self.class_weight_of(target_n)
        return weight_n * (takes_part_no * surprise_no).sum(dim=1), weight_n * takes_part_no.sum(dim=1)

    def probabilities(self, logits_no: Tensor) -> Tensor:
        """Class probabilities: ``P(y = k) = P(y > k - 1) (1 - P(y > k | y >= k))``.

        Args:
            logits_no: shape [N, K - 1].

        Returns:
            Shape [N, K], at least float32; rows are >= 0 and sum to 1.
        """
        logits_no = logits_no.to(torch.promote_types(logits_no.dtype, torch.float32))
        above_no = torch.sigmoid(logits_no).cumprod(dim=1)
        reached_nk = F.pad(above_no, (1, 0), value=1.0)
        stays_nk = F.pad(torch.sigmoid(-logits_no), (0, 1), value=1.0)
        return reached_nk * stays_nk

    def decode(self, logits_no: Tensor) -> Tensor:
        """The predicted class: how many ``P(y > k)`` exceed 0.5.

        This is the median class; it may differ from the most probable one.

        Args:
            logits_no: shape [N, K - 1].

        Returns:
            Class indices, shape [N], int64.
        """
        logits_no = logits_no.to(torch.promote_types(logits_no.dtype, torch.float32))
        return (torch.sigmoid(logits_no).cumprod(dim=1) > 0.5).sum(dim=1)
