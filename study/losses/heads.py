"""Last layers that a loss needs instead of the network's own linear one."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CoralHead(nn.Module):
    """One score for all thresholds and K - 1 free biases (Cao, Mirjalili and Raschka 2020, section 3.2).

    The biases start in falling order, (K - 1)/(K - 1) to 1/(K - 1), as in coral-pytorch. They have one dimension, like
    all biases, by which an optimiser spares them the weight decay.

    Args:
        in_features: F, the size of the pooled features.
        num_classes: K >= 2.
    """

    def __init__(self, in_features: int, *, num_classes: int) -> None:
        super().__init__()
        self.score = nn.Linear(in_features, 1, bias=False)
        steps_o = torch.arange(num_classes - 1, 0, -1, dtype=torch.float32)
        self.bias = nn.Parameter(steps_o / (num_classes - 1))

    def forward(self, features_nf: Tensor) -> Tensor:
        """Logits of ``P(y > k)``, shape [N, F] to [N, K - 1]."""
        score_n1: Tensor = self.score(features_nf)
        return score_n1 + self.bias


class CosineHead(nn.Module):
    """Cosines between the features and one direction per class (Cao et al. 2019, LDAM; no bias, no scale).

    Computed outside autocast: LDAM multiplies by about 30, which would make half precision's rounding visible.

    Args:
        in_features: F, the size of the pooled features.
        num_classes: K >= 2.
    """

    def __init__(self, in_features: int, *, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, features_nf: Tensor) -> Tensor:
        """Cosines in [-1, 1], shape [N, F] to [N, K]."""
        with torch.autocast(features_nf.device.type, enabled=False):
            features_nf = features_nf.to(self.weight.dtype)
            return F.linear(F.normalize(features_nf, dim=1), F.normalize(self.weight, dim=1))


def rare_class_head(in_features: int, *, num_classes: int) -> nn.Linear:
    """A linear head whose sigmoids start near 1/K: bias -log(K - 1) (Cui et al. 2019, section 4.2).

    Args:
        in_features: F, the size of the pooled features.
        num_classes: K >= 2.
    """
    head = nn.Linear(in_features, num_classes)
    nn.init.constant_(head.bias, -math.log(num_classes - 1))
    return head
