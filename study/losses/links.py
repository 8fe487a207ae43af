"""From logits to class probabilities; a loss names its link, a network knows of none."""

import torch
from torch import Tensor
from torch.nn import functional as F


def as_single(logits_no: Tensor) -> Tensor:
    """The logits in float32, or in float64 where they come so."""
    return logits_no.to(torch.promote_types(logits_no.dtype, torch.float32))


def softmax_probabilities(logits_nk: Tensor) -> Tensor:
    """Softmax; shape [N, K] in and out."""
    return torch.softmax(as_single(logits_nk), dim=1)


def sigmoid_probabilities(logits_nk: Tensor) -> Tensor:
    """``sigmoid(z_k) / sum sigmoid(z)`` of one-versus-rest logits; shape [N, K] in and out.

    Their order within a row is right, their size is not calibrated. In logarithms, so that a row whose sigmoids all
    underflow still sums to 1.
    """
    return torch.softmax(F.logsigmoid(as_single(logits_nk)), dim=1)


def cumulative_probabilities(logits_no: Tensor) -> Tensor:
    """Class probabilities from logits of ``P(y > k)``, shape [N, K - 1] to [N, K].

    Nothing makes such logits fall with k, so differences may be negative. Their running minimum falls; its differences
    are >= 0 and sum to 1.
    """
    above_no = torch.sigmoid(as_single(logits_no).cummin(dim=1).values)
    return F.pad(above_no, (1, 0), value=1.0) - F.pad(above_no, (0, 1), value=0.0)


def rank_violations(logits_no: Tensor) -> Tensor:
    """How many class probabilities would be negative: places where ``P(y > k)`` rises with k; a scalar int64."""
    return (logits_no[:, 1:] > logits_no[:, :-1]).sum()


def conditional_probabilities(logits_no: Tensor) -> Tensor:
    """Class probabilities from logits of ``P(y > k | y >= k)``, shape [N, K - 1] to [N, K], by the running product.

    ``P(y = k) = P(y > k - 1) (1 - P(y > k | y >= k))``: rows are >= 0 and sum to 1 for any logits.
    """
    logits_no = as_single(logits_no)
    reached_nk = F.pad(torch.sigmoid(logits_no).cumprod(dim=1), (1, 0), value=1.0)
    stays_nk = F.pad(torch.sigmoid(-logits_no), (0, 1), value=1.0)
    return reached_nk * stays_nk
