"""Label-distribution-aware margins with deferred re-weighting."""

import torch
from torch import Tensor, nn

from study.losses.base import AdditiveCriterion
from study.losses.checks import check_between, check_flag, check_number, check_positive
from study.losses.class_weights import checked_counts, class_weights_from_counts
from study.losses.heads import CosineHead
from study.losses.links import as_single, softmax_probabilities
from study.losses.setup import Setup


class Ldam(AdditiveCriterion):
    """LDAM (Cao et al. 2019): cross-entropy of ``s (cos_c - m_c [c = y])`` on cosines.

    The margin ``m_c`` falls with ``n_c^(-1/4)`` of the training images of class c, the rarest class having ``max_m``.
    Predictions are softmax of ``s cos`` without margins. With ``drw`` the rows are weighted from ``drw_start`` of the
    epochs on, by effective numbers (as the authors' code does; the paper says inverse counts).

    Args:
        setup: classes, counts and divisor. Margins come from the raw counts; the deferred weights from those that
            ``class_weight_source`` names.
        max_m: margin of the rarest class, from 0 to 1.
        scale: s, of the cosines, > 0.
        drw: whether to re-weight in the last phase.
        drw_start: where in training that phase begins, from 0 to 1.
        drw_beta: beta of the effective number, in [0, 1).

    Raises:
        InputError: an argument outside these ranges, or counts that are missing or not > 0.
    """

    takes_soft_targets = False
    head = "cosine"
    margin_k: Tensor
    deferred_weight_k: Tensor

    def __init__(
        self,
        setup: Setup,
        *,
        max_m: float = 0.5,
        scale: float = 30.0,
        drw: bool = False,
        drw_start: float = 0.8,
        drw_beta: float = 0.9999,
    ) -> None:
        super().__init__(setup)
        max_m = check_between("max_m", max_m, low=0.0, high=1.0)
        self.scale = check_positive("scale", scale)
        self.reweights = check_flag("drw", drw)
        self.drw_start = check_between("drw_start", drw_start, low=0.0, high=1.0)
        drw_beta = check_number("drw_beta", drw_beta, below=1.0)
        counts = checked_counts("ldam", num_classes=setup.num_classes, class_counts=setup.raw_counts)
        rarity_k = torch.tensor(counts, dtype=torch.float64) ** -0.25
        self.register_buffer("margin_k", (max_m * rarity_k / rarity_k.max()).float(), persistent=False)
        weight_k = class_weights_from_counts(
            "effective_number" if self.reweights else "none",
            num_classes=setup.num_classes,
            class_counts=setup.counts,
            beta=drw_beta,
        )
        self.register_buffer("deferred_weight_k", weight_k, persistent=False)

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Cross-entropy with margins by class, shape [N, K]."""
        shifted_nk = logits_no - self.margin_k.to(logits_no) * target_nk
        return -target_nk * torch.log_softmax(self.scale * shifted_nk, dim=1)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Weight the classes from ``drw_start`` of the epochs on."""
        if self.reweights:
            is_last_phase = epoch >= self.drw_start * epochs
            self.class_weight_k = self.deferred_weight_k if is_last_phase else torch.ones_like(self.class_weight_k)

    def make_head(self, in_features: int) -> nn.Module:
        """Cosines between features and class directions."""
        return CosineHead(in_features, num_classes=self.num_classes)

    def probabilities(self, logits_no: Tensor) -> Tensor:
        """Softmax of the scaled cosines, shape [N, K]."""
        return softmax_probabilities(self.scale * as_single(logits_no))
