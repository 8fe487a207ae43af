"""Losses on the confusion of classes: weighted kappa, mean squared error by class, and both together."""

import torch
from torch import Tensor

from study.losses.base import AdditiveCriterion, BatchCriterion
from study.losses.checks import check_between, check_choice, check_flag
from study.losses.setup import Setup

PENALTIES = ("quadratic", "linear")
EPSILON = 1e-10


class WeightedKappa(BatchCriterion):
    """One minus the weighted kappa of soft predictions (de la Torre, Puig and Valls 2018; paper ordinal).

    With the cost W of a pair of classes: observed ``O = sum_i a_i w_i sum_c p_ic W_{c, y_i}``, expected by chance ``E =
    sum_cd P_c W_cd T_d / n`` from the column sums P of predictions and T of labels. The loss is ``O / E`` in [0, 2], 1
    being chance, or ``log(O / E)``. A batch of one class has the value 1 (or 0) and no gradient.

    Args:
        setup: classes and weights; with ``class_weight_on: columns`` they multiply W by true class, as dlordinal does.
        penalty: cost W by distance, ``quadratic`` or ``linear``, scaled to at most 1.
        log: take the logarithm.
        legacy_pred_norm: what dlordinal computed up to 2.4.1: the quadratic cost always, and for ``quadratic``
            predictions squared and scaled to sum 1.

    Raises:
        InputError: an argument outside these ranges.
    """

    cost_kk: Tensor

    def __init__(
        self, setup: Setup, *, penalty: str = "quadratic", log: bool = False, legacy_pred_norm: bool = False
    ) -> None:
        super().__init__(setup)
        check_choice("penalty", penalty, PENALTIES)
        self.takes_log = check_flag("log", log)
        is_legacy = check_flag("legacy_pred_norm", legacy_pred_norm)
        # The square of a softmax, scaled to sum 1, is the softmax of twice the logits.
        self.sharpness = 2.0 if is_legacy and penalty == "quadratic" else 1.0
        grades_k = torch.arange(setup.num_classes, dtype=torch.float64) / (setup.num_classes - 1)
        distance_kk = (grades_k[:, None] - grades_k).abs()
        cost_kk = distance_kk if penalty == "linear" and not is_legacy else distance_kk.square()
        self.register_buffer("cost_kk", cost_kk, persistent=False)

    def statistics(self, logits_no: Tensor, target_nk: Tensor, weight_n: Tensor) -> Tensor:
        """O, n, P_k and T_k, shape [2 + 2K]."""
        prob_nk = torch.softmax(self.sharpness * logits_no, dim=1).double()
        target_nk, weight_n = target_nk.double(), weight_n.double()
        if self.class_weight_on == "rows":
            weight_n = weight_n * self.row_weight(target_nk)
        observed_n = (prob_nk * (target_nk @ self._cost().T)).sum(dim=1)
        sums_nk = weight_n[:, None] * torch.cat([prob_nk, target_nk], dim=1)
        return torch.cat([torch.stack([(weight_n * observed_n).sum(), weight_n.sum()]), sums_nk.sum(dim=0)])

    def value(self, sums_s: Tensor) -> Tensor:
        """``O / E``, or its logarithm."""
        observed, total = sums_s[0], sums_s[1]
        predicted_k, labelled_k = sums_s[2:].view(2, self.num_classes)
        self.note_degenerate((labelled_k > 0).sum() == 1)
        expected = (predicted_k @ self._cost() @ labelled_k) / torch.where(total > 0, total, 1.0)
        ratio = observed / (expected + EPSILON)
        return torch.log(ratio + EPSILON) if self.takes_log else ratio

    def _cost(self) -> Tensor:
        if self.class_weight_on == "rows":
            return self.cost_kk
        return self.cost_kk * self.class_weight_k.double()


class Mce(AdditiveCriterion):
    """Mean squared error of the probabilities by class: ``(1/K) sum_c mean_i (Y_ic - p_ic)^2`` (paper ordinal).

    For hard predictions it is 2/K of the error rate.

    Args:
        setup: classes, weights and divisor; with ``class_weight_on: columns`` the weights multiply the error of each
            output, as in dlordinal.

    Raises:
        InputError: an argument outside these ranges.
    """

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Squared error of each class over K, shape [N, K]."""
        return (torch.softmax(logits_no, dim=1) - target_nk).square() / self.num_classes


class MceWk(BatchCriterion):
    """``c WK + (1 - c) MCE`` with c the ``kappa_share`` (paper ordinal; dlordinal 2.4.3 and later).

    Args:
        setup: classes, weights and the divisor of MCE; ``class_weight_on: columns`` gives dlordinal's two meanings.
        kappa_share: share of the weighted kappa, from 0 to 1.
        penalty: cost of the weighted kappa, ``quadratic`` or ``linear``.
        legacy_pred_norm: see ``WeightedKappa``.

    Raises:
        InputError: an argument outside these ranges.
    """

    normalisers = Mce.normalisers

    def __init__(
        self, setup: Setup, *, kappa_share: float = 0.5, penalty: str = "quadratic", legacy_pred_norm: bool = False
    ) -> None:
        super().__init__(setup)
        self.kappa_share = check_between("kappa_share", kappa_share, low=0.0, high=1.0)
        self.kappa = WeightedKappa(setup, penalty=penalty, legacy_pred_norm=legacy_pred_norm)
        self.mce = Mce(setup)

    def statistics(self, logits_no: Tensor, target_nk: Tensor, weight_n: Tensor) -> Tensor:
        """Those of MCE, then those of the kappa, shape [4 + 2K]."""
        parts = [part.statistics(logits_no, target_nk, weight_n) for part in (self.mce, self.kappa)]
        return torch.cat(parts)

    def value(self, sums_s: Tensor) -> Tensor:
        """The mixture of both values."""
        self.note_degenerate((sums_s[-self.num_classes :] > 0).sum() == 1)
        return self.kappa_share * self.kappa.value(sums_s[2:]) + (1 - self.kappa_share) * self.mce.value(sums_s[:2])
