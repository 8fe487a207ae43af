"""Asymmetric loss with a linear (Padé) approximation of the logarithm: ALPA."""

from typing import Final

import torch
from torch import Tensor

from study.losses.checks import check_choice, check_flag, check_number, check_positive
from study.losses.setup import Setup
from study.losses.sigmoid import OneVersusRest, power, power_of_sigmoid, shifted_negative

ALPA_PRESETS: Final[dict[str, dict[str, float]]] = {
    "v1": {"alpha": 1.0, "beta": 1.0, "gamma_pos": 0.0, "gamma_neg": 4.0, "hill": False},
    "v2": {"alpha": 0.875, "beta": 1.625, "gamma_pos": 0.0, "gamma_neg": 4.0, "hill": False},
    "v3": {"alpha": 1.25, "beta": 2.0, "gamma_pos": 3.0, "gamma_neg": 2.0, "hill": True},
}


class Alpa(OneVersusRest):
    """ALPA on K sigmoids (paper alpa, equations 8 to 11), with the sign and the clip of its code.

    With ``t = (s - clip)_+``, positives cost ``1.5 alpha min(1 - s + clip, 1)^g+ (1 - s)^(g+ + 1)`` and negatives
    ``beta s^g- t^(g- + 1)``: the focusing power enters twice. Equation 11 as printed has the opposite sign and would
    train backwards. The gradient of a confidently wrong positive vanishes.

    Args:
        setup: classes, weights and divisor; the code adds up over rows and classes (``sum``).
        preset: ``v1``, ``v2`` (what the paper calls ALPA) or ``v3``: what holds where a parameter is None.
        alpha: factor of positives, > 0; the paper searches 0.5 to 2.
        beta: factor of negatives, > 0; the paper searches 0.5 to 2.
        gamma_pos: exponent of positives >= 0; the paper searches 0 to 5.
        gamma_neg: exponent of negatives >= 0; the paper searches 0 to 5.
        clip: shift of negatives in [0, 1); in the code, not in the equations.
        hill: multiply negatives by ``hill_lambda - s``. Our reading of the one sentence on v3, whose code was not
            published.
        hill_lambda: lambda >= 1.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(  # noqa: PLR0913 - the published loss has so many numbers, each searchable
        self,
        setup: Setup,
        *,
        preset: str = "v2",
        alpha: float | None = None,
        beta: float | None = None,
        gamma_pos: float | None = None,
        gamma_neg: float | None = None,
        clip: float = 0.05,
        hill: bool | None = None,
        hill_lambda: float = 1.5,
    ) -> None:
        super().__init__(setup)
        check_choice("preset", preset, ALPA_PRESETS)
        published = ALPA_PRESETS[preset]
        self.alpha = check_positive("alpha", published["alpha"] if alpha is None else alpha)
        self.beta = check_positive("beta", published["beta"] if beta is None else beta)
        self.gamma_pos = check_number("gamma_pos", published["gamma_pos"] if gamma_pos is None else gamma_pos)
        self.gamma_neg = check_number("gamma_neg", published["gamma_neg"] if gamma_neg is None else gamma_neg)
        self.clip = check_number("clip", clip, below=1.0)
        self.has_hill = check_flag("hill", published["hill"] if hill is None else hill)
        self.hill_lambda = check_number("hill_lambda", hill_lambda, low=1.0)

    def costs(self, logits_nk: Tensor) -> tuple[Tensor, Tensor]:
        """The two polynomials."""
        score_nk, miss_nk = torch.sigmoid(logits_nk), torch.sigmoid(-logits_nk)
        if self.clip:
            focus_nk = power((miss_nk + self.clip).clamp(max=1), self.gamma_pos)
        else:
            focus_nk = power_of_sigmoid(-logits_nk, self.gamma_pos)
        positive_nk = 1.5 * self.alpha * focus_nk * power_of_sigmoid(-logits_nk, self.gamma_pos + 1)
        shifted_nk, _ = shifted_negative(logits_nk, clip=self.clip)
        negative_nk = self.beta * power_of_sigmoid(logits_nk, self.gamma_neg) * shifted_nk ** (self.gamma_neg + 1)
        if self.has_hill:
            negative_nk = negative_nk * (self.hill_lambda - score_nk)
        return positive_nk, negative_nk
