"""One-versus-rest losses on K sigmoids: binary cross-entropy, focal, asymmetric (ASL), Hill and robust asymmetric.

Every loss here is ``sum_c [Y_c cost+(z_c) + (1 - Y_c) cost-(z_c)]`` of one row. The sigmoids are no probabilities
of classes: their level depends on the loss, so a class is the largest logit, never a logit above 0.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from study.losses.base import AdditiveCriterion
from study.losses.checks import check_between, check_choice, check_flag, check_number
from study.losses.links import sigmoid_probabilities, softmax_probabilities
from study.losses.setup import NORMALISERS, Setup

TINY = 1e-6


class OneVersusRest(AdditiveCriterion):
    """The base of losses on K sigmoids.

    The published form of most of them adds up over rows and classes: ``normaliser: sum``.
    """

    targets_sum_to_one: ClassVar[bool] = False
    normalisers: ClassVar[tuple[str, ...]] = (*NORMALISERS, "sum")

    @abstractmethod
    def costs(self, logits_nk: Tensor) -> tuple[Tensor, Tensor]:
        """What each logit costs as a positive and as a negative, two tensors of shape [N, K], both >= 0."""

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Loss by class, shape [N, K]."""
        positive_nk, negative_nk = self.costs(logits_no)
        return target_nk * positive_nk + (1 - target_nk) * negative_nk

    def probabilities(self, logits_no: Tensor) -> Tensor:
        """Sigmoids scaled to sum 1, shape [N, K]: their order is right, their size is not calibrated."""
        return sigmoid_probabilities(logits_no)


def power_of_sigmoid(logits_nk: Tensor, exponent: float) -> Tensor:
    """``sigmoid(z)^exponent`` with a finite gradient for exponents between 0 and 1, too."""
    return torch.exp(exponent * F.logsigmoid(logits_nk))


def power(base_nk: Tensor, exponent: float) -> Tensor:
    """``base^exponent`` with a finite gradient for exponents between 0 and 1, where it is flat below 1e-6."""
    return torch.ones_like(base_nk) if exponent == 0 else base_nk.clamp(min=TINY) ** exponent


def shifted_negative(logits_nk: Tensor, *, clip: float) -> tuple[Tensor, Tensor]:
    """``(s - clip)_+`` and ``log(1 - (s - clip)_+)`` of s = sigmoid(z), without differences where clip is 0."""
    if clip == 0:
        return torch.sigmoid(logits_nk), F.logsigmoid(-logits_nk)
    shifted_nk = (torch.sigmoid(logits_nk) - clip).clamp(min=0)
    return shifted_nk, torch.log((torch.sigmoid(-logits_nk) + clip).clamp(max=1))


class Bce(OneVersusRest):
    """Binary cross-entropy of each class against the rest: positives ``-log s``, negatives ``-log(1 - s)``.

    Args:
        setup: classes, weights and divisor.

    Raises:
        InputError: an argument outside its range.
    """

    def costs(self, logits_nk: Tensor) -> tuple[Tensor, Tensor]:
        """``-log s`` and ``-log(1 - s)``."""
        return -F.logsigmoid(logits_nk), -F.logsigmoid(-logits_nk)


class FocalSigmoid(OneVersusRest):
    """Focal loss on sigmoids (Lin et al. 2017, equation 5): ``-alpha (1 - s)^gamma log s`` for positives.

    Negatives cost ``-(1 - alpha) s^gamma log(1 - s)``.

    Args:
        setup: classes, weights and divisor.
        gamma: focusing exponent >= 0.
        alpha: share of positives, from 0 to 1; None weighs both sides with 1.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(self, setup: Setup, *, gamma: float = 2.0, alpha: float | None = 0.25) -> None:
        super().__init__(setup)
        self.gamma = check_number("gamma", gamma)
        alpha = None if alpha is None else check_between("alpha", alpha, low=0.0, high=1.0)
        self.sides = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def costs(self, logits_nk: Tensor) -> tuple[Tensor, Tensor]:
        """Modulated cross-entropies, times their side's share."""
        positive_nk = power_of_sigmoid(-logits_nk, self.gamma) * -F.logsigmoid(logits_nk)
        negative_nk = power_of_sigmoid(logits_nk, self.gamma) * -F.logsigmoid(-logits_nk)
        return self.sides[0] * positive_nk, self.sides[1] * negative_nk


ASL_PRESETS: dict[str, dict[str, float]] = {
    "default": {"gamma_neg": 4.0, "gamma_pos": 1.0, "clip": 0.05},
    "coco": {"gamma_neg": 4.0, "gamma_pos": 0.0, "clip": 0.05},
}


class Asl(OneVersusRest):
    """Asymmetric loss (Ridnik et al. 2021): positives ``-(1 - s)^g+ log s``, negatives ``-t^g- log(1 - t)``.

    ``t = (s - clip)_+``, so a negative below ``clip`` costs nothing. With both exponents and clip 0 it is binary
    cross-entropy. ``link: softmax`` is the authors' single-label form, ``(1 - p_y)^g+ (-log p_y)`` on smoothed targets;
    without smoothing that is the focal loss, and ``gamma_neg`` means nothing.

    Args:
        setup: classes, weights and divisor.
        preset: ``default`` (4, 1, 0.05) or ``coco`` (4, 0, 0.05): what holds where a parameter is None.
        gamma_neg: exponent of negatives >= 0.
        gamma_pos: exponent of positives >= 0.
        clip: shift of negatives in [0, 1); sigmoid link alone.
        detach: no gradient through the modulators, as in the published training.
        link: ``sigmoid`` or ``softmax``.
        label_smoothing: in [0, 1); softmax link alone.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        preset: str = "default",
        gamma_neg: float | None = None,
        gamma_pos: float | None = None,
        clip: float | None = None,
        detach: bool | None = None,
        link: str = "sigmoid",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(setup)
        check_choice("preset", preset, ASL_PRESETS)
        check_choice("link", link, ("sigmoid", "softmax"))
        published = ASL_PRESETS[preset]
        self.gamma_neg = check_number("gamma_neg", published["gamma_neg"] if gamma_neg is None else gamma_neg)
        self.gamma_pos = check_number("gamma_pos", published["gamma_pos"] if gamma_pos is None else gamma_pos)
        self.clip = check_number("clip", published["clip"] if clip is None else clip, below=1.0)
        self.is_softmax = link == "softmax"
        # The single-label form of the authors has no such switch: its modulators carry a gradient.
        self.detaches = not self.is_softmax if detach is None else check_flag("detach", detach)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, below=1.0)

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Loss by class, shape [N, K]."""
        if not self.is_softmax:
            return super().cells(logits_no, target_nk)
        log_prob_nk = torch.log_softmax(logits_no, dim=1)
        others_nk = torch.log1p(-torch.exp(log_prob_nk).clamp(max=1 - TINY))
        positive_nk = self._maybe_detached(torch.exp(self.gamma_pos * others_nk))
        negative_nk = self._maybe_detached(torch.exp(self.gamma_neg * log_prob_nk))
        modulator_nk = target_nk * positive_nk + (1 - target_nk) * negative_nk
        smooth_nk = (1 - self.label_smoothing) * target_nk + self.label_smoothing / self.num_classes
        return -smooth_nk * modulator_nk * log_prob_nk

    def costs(self, logits_nk: Tensor) -> tuple[Tensor, Tensor]:
        """Modulated cross-entropies."""
        shifted_nk, log_not_nk = shifted_negative(logits_nk, clip=self.clip)
        rising = power(shifted_nk, self.gamma_neg) if self.clip else power_of_sigmoid(logits_nk, self.gamma_neg)
        falling = power_of_sigmoid(-logits_nk, self.gamma_pos)
        return (
            -self._maybe_detached(falling) * F.logsigmoid(logits_nk),
            -self._maybe_detached(rising) * log_not_nk,
        )

    def probabilities(self, logits_no: Tensor) -> Tensor:
        """Softmax, or sigmoids scaled to sum 1; shape [N, K]."""
        return softmax_probabilities(logits_no) if self.is_softmax else sigmoid_probabilities(logits_no)

    def _maybe_detached(self, modulator: Tensor) -> Tensor:
        return modulator.detach() if self.detaches else modulator


class Hill(OneVersusRest):
    """Hill loss (Zhang et al. 2021): negatives cost ``(lambda - s) s^2``, which falls again for certain ones.

    Positives are focal on a shifted logit, ``-(1 - s')^gamma log s'`` with ``s' = sigmoid(z - margin)``.

    Args:
        setup: classes, weights and divisor.
        hill_lambda: lambda >= 1.
        margin: shift of the positives' logits >= 0.
        gamma: exponent of positives >= 0.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(self, setup: Setup, *, hill_lambda: float = 1.5, margin: float = 1.0, gamma: float = 2.0) -> None:
        super().__init__(setup)
        self.hill_lambda = check_number("hill_lambda", hill_lambda, low=1.0)
        self.margin = check_number("margin", margin)
        self.gamma = check_number("gamma", gamma)

    def costs(self, logits_nk: Tensor) -> tuple[Tensor, Tensor]:
        """Focal with a margin, and the hill."""
        shifted_nk = logits_nk - self.margin
        score_nk = torch.sigmoid(logits_nk)
        positive_nk = -power_of_sigmoid(-shifted_nk, self.gamma) * F.logsigmoid(shifted_nk)
        return positive_nk, (self.hill_lambda - score_nk) * score_nk.square()


class Ral(OneVersusRest):
    """Robust asymmetric loss (Park et al. 2023), as its authors' code computes it.

    Positives ``-(1 - s)^g+ (log s + e1 (1 - s) + e2 (1 - s)^2 / 2)``, negatives ``-t^g- log(1 - t) (lambda - s) s^2
    (lambda - 1 + t)`` with ``t = (s - clip)_+``.

    Args:
        setup: classes, weights and divisor.
        gamma_neg: exponent of negatives >= 0.
        gamma_pos: exponent of positives >= 0.
        clip: shift of negatives in [0, 1).
        hill_lambda: lambda >= 1.
        epsilon_pos: e1, first polynomial coefficient, from -1 to 1.
        epsilon_pos_pow: e2, second polynomial coefficient, from -10 to 0.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        hill_lambda: float = 1.5,
        epsilon_pos: float = 1.0,
        epsilon_pos_pow: float = -2.5,
    ) -> None:
        super().__init__(setup)
        self.gamma_neg = check_number("gamma_neg", gamma_neg)
        self.gamma_pos = check_number("gamma_pos", gamma_pos)
        self.clip = check_number("clip", clip, below=1.0)
        self.hill_lambda = check_number("hill_lambda", hill_lambda, low=1.0)
        self.epsilon_pos = check_between("epsilon_pos", epsilon_pos, low=-1.0, high=1.0)
        self.epsilon_pos_pow = check_between("epsilon_pos_pow", epsilon_pos_pow, low=-10.0, high=0.0)

    def costs(self, logits_nk: Tensor) -> tuple[Tensor, Tensor]:
        """The polynomial on positives and the doubled hill on negatives."""
        score_nk, miss_nk = torch.sigmoid(logits_nk), torch.sigmoid(-logits_nk)
        polynomial_nk = self.epsilon_pos * miss_nk + self.epsilon_pos_pow / 2 * miss_nk.square()
        positive_nk = -power_of_sigmoid(-logits_nk, self.gamma_pos) * (F.logsigmoid(logits_nk) + polynomial_nk)
        shifted_nk, log_not_nk = shifted_negative(logits_nk, clip=self.clip)
        hill_nk = (self.hill_lambda - score_nk) * score_nk.square() * (self.hill_lambda - 1 + shifted_nk)
        rising = power(shifted_nk, self.gamma_neg) if self.clip else power_of_sigmoid(logits_nk, self.gamma_neg)
        return positive_nk, -rising * log_not_nk * hill_nk
