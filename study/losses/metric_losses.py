"""Losses that are soft metrics of the whole batch: macro F1, Matthews correlation, and both beside cross-entropy."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from study.losses.base import BatchCriterion
from study.losses.checks import check_choice, check_number, check_positive, check_whole
from study.losses.cross_entropy import CrossEntropy
from study.losses.setup import Setup

ABSENT = ("skip", "zero")
KINDS = ("rk", "ovr")
FLOOR = 1e-6


class ConfusionCriterion(BatchCriterion):
    """The base of losses on ``TP_k``, ``P_k`` and ``T_k``: weighted sums of p Y, of p and of Y over the batch."""

    def statistics(self, logits_no: Tensor, target_nk: Tensor, weight_n: Tensor) -> Tensor:
        """n, TP_k, P_k and T_k, shape [1 + 3K]."""
        prob_nk = torch.softmax(logits_no, dim=1).double()
        target_nk, weight_n = target_nk.double(), weight_n.double()
        if self.class_weight_on == "rows":
            weight_n = weight_n * self.row_weight(target_nk)
        cells = torch.cat([prob_nk * target_nk, prob_nk, target_nk], dim=1)
        return torch.cat([weight_n.sum()[None], (weight_n[:, None] * cells).sum(dim=0)])

    def parts(self, sums_s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """n, TP_k, P_k and T_k again; counts a batch of one class."""
        hits_k, predicted_k, labelled_k = sums_s[1:].view(3, self.num_classes)
        self.note_degenerate((labelled_k > 0).sum() == 1)
        return sums_s[0], hits_k, predicted_k, labelled_k


class SoftF1(ConfusionCriterion):
    """One minus the macro F1 of soft predictions (paper imbalance): ``F1_k = 2 TP_k / (P_k + T_k)``, in [0, 1].

    Its gradient vanishes where the network is certain, right or wrong.

    Args:
        setup: classes and weights; with ``class_weight_on: columns`` they weigh the mean over classes instead of rows.
        absent: a class without images in the batch is left out of the mean (``skip``), or counts as F1 = 0 (``zero``,
            as published).
        positive: the one class whose F1 counts; None means the mean over classes.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(self, setup: Setup, *, absent: str = "skip", positive: int | None = None) -> None:
        super().__init__(setup)
        check_choice("absent", absent, ABSENT)
        self.skips_absent = absent == "skip"
        last = setup.num_classes - 1
        self.positive = None if positive is None else check_whole("positive", positive, low=0, high=last)

    def value(self, sums_s: Tensor) -> Tensor:
        """One minus the mean F1 of the classes that count."""
        _, hits_k, predicted_k, labelled_k = self.parts(sums_s)
        f1_k = 2 * hits_k / (predicted_k + labelled_k).clamp(min=1e-12)
        share_k = self.class_weight_k.double() if self.class_weight_on == "columns" else torch.ones_like(f1_k)
        if self.skips_absent:
            share_k = share_k * (labelled_k > 0)
        if self.positive is not None:
            share_k = share_k * (torch.arange(self.num_classes, device=share_k.device) == self.positive)
        total = share_k.sum()
        return 1 - (share_k * f1_k).sum() / torch.where(total > 0, total, 1.0)


class SoftMcc(ConfusionCriterion):
    """One minus the Matthews correlation of soft predictions (paper imbalance), in [0, 2].

    ``rk`` is the correlation over all classes (Gorodkin 2004), which the paper's code uses: ``(c n - sum_k P_k T_k) /
    sqrt((n^2 - sum P_k^2) (n^2 - sum T_k^2))``, c being the sum of ``TP_k``. ``ovr`` is the mean of the two-class
    formula over classes. Both roots are kept above 1e-6 of ``n^2`` inside, so that a batch of one class, of one row or
    of collapsed predictions has the value 1 or near it and a finite gradient.

    Args:
        setup: classes and weights.
        kind: ``rk`` or ``ovr``.
        absent: for ``ovr``, a class without images is left out (``skip``) or counts as 0 (``zero``).

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(self, setup: Setup, *, kind: str = "rk", absent: str = "skip") -> None:
        super().__init__(setup)
        check_choice("kind", kind, KINDS)
        check_choice("absent", absent, ABSENT)
        self.is_rk = kind == "rk"
        self.skips_absent = absent == "skip"

    def value(self, sums_s: Tensor) -> Tensor:
        """One minus the correlation."""
        total, hits_k, predicted_k, labelled_k = self.parts(sums_s)
        square = torch.where(total > 0, total, 1.0).square()
        if self.is_rk:
            covariance = total * hits_k.sum() - (predicted_k * labelled_k).sum()
            spreads = [square - sums_k.square().sum() for sums_k in (predicted_k, labelled_k)]
            return 1 - covariance / _root_of_product(*spreads, floor=FLOOR * square)
        covariance_k = total * hits_k - predicted_k * labelled_k
        spreads = [sums_k * (total - sums_k) for sums_k in (predicted_k, labelled_k)]
        mcc_k = covariance_k / _root_of_product(*spreads, floor=FLOOR * square)
        counts_k = labelled_k > 0 if self.skips_absent else torch.ones_like(labelled_k, dtype=torch.bool)
        return 1 - (mcc_k * counts_k).sum() / counts_k.sum().clamp(min=1)


def _root_of_product(left: Tensor, right: Tensor, *, floor: Tensor) -> Tensor:
    return torch.sqrt(torch.maximum(left, floor) * torch.maximum(right, floor))


class _CePlus(BatchCriterion):
    """``ce_weight`` times cross-entropy plus ``metric_weight`` times a metric loss."""

    normalisers: ClassVar[tuple[str, ...]] = CrossEntropy.normalisers

    def __init__(
        self, setup: Setup, metric: ConfusionCriterion, *, ce_weight: float, metric_weight: float, metric_weighting: str
    ) -> None:
        super().__init__(setup)
        self.ce_weight = check_positive("ce_weight", ce_weight)
        self.metric_weight = check_number("metric_weight", metric_weight)
        check_choice("metric_weighting", metric_weighting, ("rows", "scale"))
        self.scales_metric = metric_weighting == "scale"
        self.ce = CrossEntropy(setup)
        self.metric = metric

    def statistics(self, logits_no: Tensor, target_nk: Tensor, weight_n: Tensor) -> Tensor:
        """Sum of all weights, those of cross-entropy, those of the metric; shape [4 + 3K]."""
        own_1 = (weight_n * self.row_weight(target_nk)).double().sum()[None]
        ce_2 = self.ce.statistics(logits_no, target_nk, weight_n)
        if self.scales_metric:
            weight_n = (weight_n > 0).to(weight_n)
        return torch.cat([own_1, ce_2, self.metric.statistics(logits_no, target_nk, weight_n)])

    def value(self, sums_s: Tensor) -> Tensor:
        """The mixture of both values."""
        self.note_degenerate((sums_s[-self.num_classes :] > 0).sum() == 1)
        metric = self.metric.value(sums_s[3:])
        if self.scales_metric:
            metric = metric * sums_s[0] / torch.where(sums_s[2] > 0, sums_s[2], 1.0)
        return self.ce_weight * self.ce.value(sums_s[1:3]) + self.metric_weight * metric


class CeF1(_CePlus):
    """Cross-entropy plus soft macro F1 (paper imbalance).

    Args:
        setup: classes, weights and the divisor of cross-entropy.
        ce_weight: factor of cross-entropy, > 0.
        metric_weight: factor of the F1 loss, >= 0.
        metric_weighting: ``rows``: weights enter the metric's sums, too; ``scale``: the metric is that of unweighted
            rows, times the mean weight (the sum of weights over the divisor), as the paper's code does.
        absent: see ``SoftF1``.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        ce_weight: float = 1.0,
        metric_weight: float = 1.0,
        metric_weighting: str = "rows",
        absent: str = "skip",
    ) -> None:
        metric = SoftF1(_for_metric(setup, metric_weighting), absent=absent)
        super().__init__(
            setup, metric, ce_weight=ce_weight, metric_weight=metric_weight, metric_weighting=metric_weighting
        )


class CeMcc(_CePlus):
    """Cross-entropy plus soft Matthews correlation (paper imbalance).

    Args:
        setup: classes, weights and the divisor of cross-entropy.
        ce_weight: factor of cross-entropy, > 0.
        metric_weight: factor of the correlation loss, >= 0.
        metric_weighting: see ``CeF1``.
        kind: see ``SoftMcc``.
        absent: see ``SoftMcc``.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        ce_weight: float = 1.0,
        metric_weight: float = 1.0,
        metric_weighting: str = "rows",
        kind: str = "rk",
        absent: str = "skip",
    ) -> None:
        metric = SoftMcc(_for_metric(setup, metric_weighting), kind=kind, absent=absent)
        super().__init__(
            setup, metric, ce_weight=ce_weight, metric_weight=metric_weight, metric_weighting=metric_weighting
        )


def _for_metric(setup: Setup, metric_weighting: str) -> Setup:
    """The metric sees class weights only where they belong into its sums."""
    return replace(setup, class_weight_k=torch.ones(setup.num_classes)) if metric_weighting == "scale" else setup
