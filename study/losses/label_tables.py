"""Tables of ordinal soft labels: row y holds what the target of class y gives to each class.

Formulas of the papers named at each function; computed once, in float64. None has torch operations to differentiate.
"""

import math
from typing import Final

import torch
from torch import Tensor

from study.errors import InputError

BETA_SHAPES: Final[dict[int, tuple[tuple[int, int], ...]]] = {
    3: ((1, 4), (4, 4)),
    4: ((1, 6), (6, 10)),
    5: ((1, 8), (6, 14), (12, 12)),
    6: ((1, 10), (7, 20), (15, 20)),
    7: ((1, 12), (7, 26), (16, 28), (24, 24)),
    8: ((1, 14), (7, 31), (17, 37), (27, 35)),
    9: ((1, 16), (8, 40), (18, 47), (30, 47), (40, 40)),
    10: ((1, 18), (8, 45), (19, 57), (32, 59), (45, 55)),
    11: ((1, 21), (8, 51), (20, 68), (34, 73), (48, 69), (60, 60)),
    12: ((1, 23), (8, 56), (20, 76), (35, 85), (51, 85), (65, 77)),
    13: ((1, 25), (8, 61), (20, 84), (36, 98), (53, 100), (70, 95), (84, 84)),
    14: ((1, 27), (2, 17), (5, 23), (9, 27), (13, 28), (18, 28), (23, 27)),
}  # the lower half; the upper one is its mirror image, p and q exchanged


def beta_table(num_classes: int) -> Tensor:
    """Mass of a beta distribution in K equal intervals, with published shapes (Vargas et al. 2022).

    Raises:
        InputError: no shapes are published for this K.
    """
    if num_classes not in BETA_SHAPES:
        raise InputError(
            f"soft_label_beta has no shapes for {num_classes} classes; they are published for 3 to 14",
            "take soft_label_binomial or soft_label_exponential",
        )
    lower = BETA_SHAPES[num_classes]
    upper = [(q, p) for p, q in reversed(lower[: num_classes // 2])]
    edges = [k / num_classes for k in range(num_classes + 1)]
    shares = [[_beta_share(p, q, edge=edge) for edge in edges] for p, q in (*lower, *upper)]
    return torch.tensor(shares, dtype=torch.float64).diff(dim=1).clamp(min=0)


def binomial_table(num_classes: int) -> Tensor:
    """Binomial distribution of K - 1 draws whose chance runs from 0.1 to 0.9 (Liu et al. 2020)."""
    chances = torch.linspace(0.1, 0.9, num_classes, dtype=torch.float64)
    ways_k = torch.tensor([math.comb(num_classes - 1, k) for k in range(num_classes)], dtype=torch.float64)
    ones_k = torch.arange(num_classes)
    return ways_k * chances[:, None] ** ones_k * (1 - chances[:, None]) ** (num_classes - 1 - ones_k)


def poisson_table(num_classes: int) -> Tensor:
    """Softmax of Poisson masses with mean y + 1 (Liu et al. 2020): nearly flat, and y ties with y + 1."""
    ones_k = torch.arange(num_classes, dtype=torch.float64)
    mean_k1 = (ones_k + 1)[:, None]
    return torch.softmax(torch.exp(ones_k * mean_k1.log() - mean_k1 - torch.lgamma(ones_k + 1)), dim=1)


def exponential_table(num_classes: int, *, exponent: float, tau: float) -> Tensor:
    """Softmax of ``-|c - y|^exponent / tau`` (Vargas et al. 2023); with exponent 1 it is SORD with alpha = 1 / tau."""
    return torch.softmax(-(_distances(num_classes) ** exponent) / tau, dim=1)


def geometric_table(num_classes: int, *, alpha: float) -> Tensor:
    """``1 - alpha`` for the true class, the rest in proportion to ``alpha^|c - y|`` (Haas and Hüllermeier 2023)."""
    decay_kk = alpha ** _distances(num_classes)
    decay_kk.fill_diagonal_(0.0)
    return alpha * decay_kk / decay_kk.sum(dim=1, keepdim=True) + (1 - alpha) * torch.eye(num_classes).double()


def triangular_table(num_classes: int, *, alpha2: float) -> Tensor:
    """Mass of triangular distributions in K equal intervals (Vargas et al. 2023).

    Each inner triangle is centred on its interval and leaves ``alpha2`` on either side. The two outer ones have their
    top at the border of [0, 1]; their feet follow the paper, whose first and last class are no mirror images.
    """
    edges = torch.linspace(0, 1, num_classes + 1, dtype=torch.float64)
    reach = math.sqrt(2 * alpha2)
    rows = [_outer_row(edges, spill=_spill(alpha2, reach, shrink=1.0))]
    # The foot of an inner triangle lies so far outside its interval that the tail there has the mass alpha2.
    outside = (reach + 2 * alpha2) / (2 * num_classes * (1 - 2 * alpha2))
    for label in range(1, num_classes - 1):
        left, right = float(edges[label]) - outside, float(edges[label + 1]) + outside
        rows.append(_triangle_cdf(edges, left=left, top=(left + right) / 2, right=right).diff())
    last = _outer_row(edges, spill=_spill(alpha2, reach, shrink=(num_classes - 1) / num_classes))
    return torch.stack([*rows, last.flip(0)])


def _beta_share(p: int, q: int, *, edge: float) -> float:
    """Mass of a beta distribution of whole shapes below ``edge``: the upper tail of a binomial distribution."""
    draws = p + q - 1
    return sum(math.comb(draws, hits) * edge**hits * (1 - edge) ** (draws - hits) for hits in range(p, draws + 1))


def _distances(num_classes: int) -> Tensor:
    grades_k = torch.arange(num_classes, dtype=torch.float64)
    return (grades_k[:, None] - grades_k).abs()


def _spill(alpha2: float, reach: float, *, shrink: float) -> float:
    """Root of the mass that the first or last class leaves to its neighbour."""
    inner = shrink**2 * (1 - 2 * alpha2) * (2 * alpha2 - reach)
    return (math.sqrt(1 - 4 * inner) - 1) / 2


def _outer_row(edges: Tensor, *, spill: float) -> Tensor:
    """The first class: a triangle that falls from 0 to its foot behind the first interval."""
    foot = float(edges[1]) / (1 - spill)
    return (1 - ((foot - edges).clamp(min=0) / foot).square()).diff()


def _triangle_cdf(edges: Tensor, *, left: float, top: float, right: float) -> Tensor:
    rising = (edges - left).clamp(min=0).square() / ((right - left) * (top - left))
    falling = 1 - (right - edges).clamp(min=0).square() / ((right - left) * (right - top))
    return torch.where(edges < top, rising, falling)
