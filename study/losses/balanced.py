"""Class-balanced loss: weights by the effective number of images."""

from dataclasses import replace
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from study.losses.base import AdditiveCriterion
from study.losses.checks import check_choice, check_number
from study.losses.class_weights import checked_counts, class_weights_from_counts
from study.losses.heads import rare_class_head
from study.losses.links import sigmoid_probabilities, softmax_probabilities
from study.losses.setup import Setup
from study.losses.sigmoid import Bce, FocalSigmoid, OneVersusRest

KINDS: Final = ("softmax", "sigmoid", "focal")


class ClassBalanced(AdditiveCriterion):
    """Class-balanced loss (Cui et al. 2019): a base loss, each row weighted by ``w_y``.

    ``w_c`` is ``(1 - beta) / (1 - beta^n_c)``, scaled to mean 1, from the number n_c of images. The base is
    cross-entropy, or binary cross-entropy or focal loss on sigmoids, which add up over classes. The published form
    divides by the number of rows; code that passes the weights to torch divides by their sum.

    Args:
        setup: classes, counts and divisor.
        kind: ``softmax``, ``sigmoid`` or ``focal``.
        beta: in [0, 1): 0 weights nothing, towards 1 it becomes the inverse frequency.
        gamma: focusing exponent >= 0 of kind ``focal``.

    Raises:
        InputError: an argument outside these ranges, or counts that are missing or not > 0.
    """

    normalisers: ClassVar[tuple[str, ...]] = ("batch", "weight", "labelled")

    def __init__(self, setup: Setup, *, kind: str = "softmax", beta: float = 0.9999, gamma: float = 2.0) -> None:
        super().__init__(setup)
        check_choice("kind", kind, KINDS)
        beta, gamma = check_number("beta", beta, below=1.0), check_number("gamma", gamma)
        counts = checked_counts("cb", num_classes=setup.num_classes, class_counts=setup.counts)
        self.class_weight_k = class_weights_from_counts(
            "effective_number", num_classes=setup.num_classes, class_counts=counts, beta=beta
        )
        self.is_softmax = kind == "softmax"
        one_versus_rest = replace(setup, normaliser="")
        self.base: OneVersusRest = (
            Bce(one_versus_rest) if kind == "sigmoid" else FocalSigmoid(one_versus_rest, gamma=gamma, alpha=None)
        )

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Loss of the base by class, shape [N, K]."""
        if self.is_softmax:
            return -target_nk * torch.log_softmax(logits_no, dim=1)
        return self.base.cells(logits_no, target_nk)

    def make_head(self, in_features: int) -> nn.Module | None:
        """For sigmoids, a linear layer that starts at the rate of one class in K."""
        return None if self.is_softmax else rare_class_head(in_features, num_classes=self.num_classes)

    def probabilities(self, logits_no: Tensor) -> Tensor:
        """Softmax, or sigmoids scaled to sum 1; shape [N, K]."""
        return softmax_probabilities(logits_no) if self.is_softmax else sigmoid_probabilities(logits_no)
