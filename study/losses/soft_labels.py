"""Cross-entropy against ordinal soft labels, by the distribution that spreads them."""

from typing import ClassVar

import torch
from torch import Tensor

from study.losses.base import AdditiveCriterion
from study.losses.checks import check_between, check_positive
from study.losses.label_tables import (
    beta_table,
    binomial_table,
    exponential_table,
    geometric_table,
    poisson_table,
    triangular_table,
)
from study.losses.setup import Setup


class SoftLabelCrossEntropy(AdditiveCriterion):
    """Cross-entropy against ``(1 - eta) one-hot + eta Q_y``, with Q a table of ordinal soft labels (paper ordinal).

    Class weights multiply rows by true class; with ``class_weight_on: columns`` they multiply the terms by predicted
    class, as torch and dlordinal do with soft targets. Soft targets q are spread by their expectation ``q Q``.

    Args:
        setup: classes, weights and divisor.
        table_kk: Q, shape [K, K], rows by true class.
        eta: share of Q, from 0 to ``max_eta``.

    Raises:
        InputError: an argument outside these ranges.
    """

    max_eta: ClassVar[float] = 1.0
    table_kk: Tensor

    def __init__(self, setup: Setup, *, table_kk: Tensor, eta: float) -> None:
        super().__init__(setup)
        eta = check_between("eta", eta, low=0.0, high=self.max_eta)
        mixed_kk = (1 - eta) * torch.eye(setup.num_classes, dtype=torch.float64) + eta * table_kk
        self.register_buffer("table_kk", mixed_kk.float(), persistent=False)

    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Cross-entropy by predicted class, shape [N, K]."""
        return -(target_nk @ self.table_kk.to(logits_no)) * torch.log_softmax(logits_no, dim=1)


class BetaLabels(SoftLabelCrossEntropy):
    """Soft labels from beta distributions, for 3 to 14 classes; see ``beta_table``."""

    def __init__(self, setup: Setup, *, eta: float = 1.0) -> None:
        super().__init__(setup, table_kk=beta_table(setup.num_classes), eta=eta)


class BinomialLabels(SoftLabelCrossEntropy):
    """Soft labels from binomial distributions; see ``binomial_table``."""

    def __init__(self, setup: Setup, *, eta: float = 1.0) -> None:
        super().__init__(setup, table_kk=binomial_table(setup.num_classes), eta=eta)


class PoissonLabels(SoftLabelCrossEntropy):
    """Soft labels from Poisson distributions; see ``poisson_table``. Above eta 0.5 the true class may not win."""

    max_eta = 0.5

    def __init__(self, setup: Setup, *, eta: float = 0.5) -> None:
        super().__init__(setup, table_kk=poisson_table(setup.num_classes), eta=eta)


class ExponentialLabels(SoftLabelCrossEntropy):
    """Soft labels that fall exponentially with distance; see ``exponential_table``.

    Args:
        setup: classes, weights and divisor.
        eta: share of the table, from 0 to 1.
        exponent: p, of the distance, from 0.1 to 10.
        tau: scale of the distance, > 0; with exponent 1 this is SORD with alpha = 1 / tau.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(self, setup: Setup, *, eta: float = 1.0, exponent: float = 1.0, tau: float = 1.0) -> None:
        exponent = check_between("exponent", exponent, low=0.1, high=10.0)
        tau = check_positive("tau", tau)
        super().__init__(setup, table_kk=exponential_table(setup.num_classes, exponent=exponent, tau=tau), eta=eta)


class GeometricLabels(SoftLabelCrossEntropy):
    """Soft labels that fall geometrically with distance; see ``geometric_table``.

    Args:
        setup: classes, weights and divisor.
        eta: share of the table, from 0 to 1.
        alpha: what the true class gives away, in (0, 1).

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(self, setup: Setup, *, eta: float = 1.0, alpha: float = 0.1) -> None:
        alpha = check_positive("alpha", alpha, below=1.0)
        super().__init__(setup, table_kk=geometric_table(setup.num_classes, alpha=alpha), eta=eta)


class TriangularLabels(SoftLabelCrossEntropy):
    """Soft labels from triangles; see ``triangular_table``.

    Args:
        setup: classes, weights and divisor.
        eta: share of the table, from 0 to 1.
        alpha2: what an inner class gives to each neighbour, from 0.001 to 0.25.

    Raises:
        InputError: an argument outside these ranges.
    """

    def __init__(self, setup: Setup, *, eta: float = 1.0, alpha2: float = 0.05) -> None:
        alpha2 = check_between("alpha2", alpha2, low=0.001, high=0.25)
        super().__init__(setup, table_kk=triangular_table(setup.num_classes, alpha2=alpha2), eta=eta)
