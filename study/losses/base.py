"""What every loss shares: checks, precision, sample weights and exact sums over all ranks.

A loss is one ratio, ``sum_i a_i v_i / sum_i a_i m_i`` (or over the number of rows), with ``a_i`` the sample weight and
the terms ``v_i`` and ``m_i`` given by the subclass. Both sums are taken in float64 and over all ranks, so that the
value does not depend on how the global batch was cut into local ones.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, distributed, nn

from study.errors import InputError


def sum_over_ranks(sums_s: Tensor) -> Tensor:
    """Add small sums over all ranks, with a gradient for the local part alone.

    The other ranks' part enters as a constant. A loss built from the result has the global value on every rank; because
    DistributedDataParallel averages gradients, the caller multiplies the loss by the world size before ``backward``.
    Every rank has to call this at every step. One forward collective; without a process group the sums come back as
    they are.

    Args:
        sums_s: local sums, shape [S], float64.

    Returns:
        Global sums, shape [S], the same on every rank.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return sums_s
    local_s = sums_s.detach()
    total_s = local_s.clone()
    distributed.all_reduce(total_s)
    return sums_s + (total_s - local_s)


class Criterion(nn.Module, ABC):
    """A loss together with its link from logits to classes; the base of all losses.

    Subclasses say what one image adds (``terms``); the link is softmax unless they replace ``probabilities`` and
    ``decode``.

    Attributes:
        num_classes: K, the number of ordered classes.
        num_outputs: O, how many outputs the network's head must have.
        class_weight_k: weight of each class, shape [K]; moves with ``.to()``.
        num_empty: how many batches had no weight at all (their loss is 0), a scalar int64 tensor.
    """

    class_weight_k: Tensor
    num_empty: Tensor

    def __init__(self, *, class_weight_k: Tensor, num_outputs: int, divide_by_rows: bool = False) -> None:
        super().__init__()
        self.num_classes = len(class_weight_k)
        self.num_outputs = num_outputs
        self.divide_by_rows = divide_by_rows
        self.register_buffer("class_weight_k", class_weight_k, persistent=False)
        self.register_buffer("num_empty", torch.zeros((), dtype=torch.int64), persistent=False)

    @abstractmethod
    def terms(self, logits_no: Tensor, target_n: Tensor) -> tuple[Tensor, Tensor]:
        """What each row adds to the numerator and to the denominator, class weights included.

        Args:
            logits_no: shape [N, O], float32 or float64, outside autocast.
            target_n: class indices, shape [N], int64.

        Returns:
            Two tensors of shape [N].
        """

    def forward(self, logits_no: Tensor, target_n: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The loss of the global batch (all ranks together); see ``sum_over_ranks`` for its gradient.

        Half-precision logits are computed in float32, autocast or not. A row of weight 0 is left out altogether: its
        logits may be NaN and its target may be any number. A batch without any weight gives 0, still connected to the
        logits.

        Args:
            logits_no: output of the network, shape [N, O]; N may be 0.
            target_n: class indices 0..K-1, shape [N], any integer type.
            sample_weight: weight of each row, shape [N], >= 0; None means 1 for all.

        Returns:
            A scalar tensor, at least float32.

        Raises:
            InputError: a shape, a type, a target or a weight that does not fit (values are looked at on the CPU only).
        """
        self._check_shapes(logits_no, target_n, sample_weight)
        with torch.autocast(logits_no.device.type, enabled=False):
            logits_no = logits_no.to(torch.promote_types(logits_no.dtype, torch.float32))
            target_n = target_n.long()
            weight_n = logits_no.new_ones(len(logits_no))
            if sample_weight is not None:
                weight_n = sample_weight.detach().to(logits_no)
                has_weight_n = weight_n != 0
                logits_no = torch.where(has_weight_n[:, None], logits_no, 0.0)
                target_n = torch.where(has_weight_n, target_n, 0)
            self._check_values(target_n, weight_n)
            value_n, mass_n = self.terms(logits_no, target_n)
            mass_n = torch.ones_like(weight_n) if self.divide_by_rows else weight_n * mass_n
            sums = torch.stack([(weight_n * value_n).double().sum(), mass_n.double().sum()])
            numerator, denominator = sum_over_ranks(sums)
            has_mass = denominator > 0
            self.num_empty += ~has_mass
            loss: Tensor = numerator / torch.where(has_mass, denominator, 1.0)
            return loss.to(logits_no.dtype)

    def probabilities(self, logits_no: Tensor) -> Tensor:
        """Class probabilities of softmax.

        Args:
            logits_no: shape [N, O].

        Returns:
            Shape [N, K], at least float32; rows are >= 0 and sum to 1.
        """
        return torch.softmax(logits_no.to(torch.promote_types(logits_no.dtype, torch.float32)), dim=1)

    def decode(self, logits_no: Tensor) -> Tensor:
        """The predicted class: the most probable one.

        Args:
            logits_no: shape [N, O].

        Returns:
            Class indices, shape [N], int64.
        """
        return logits_no.argmax(dim=1)

    def class_weight_of(self, target_n: Tensor) -> Tensor:
        """Class weight of each row, shape [N]."""
        return self.class_weight_k.index_select(0, target_n)

    def _check_shapes(self, logits_no: Tensor, target_n: Tensor, sample_weight: Tensor | None) -> None:
        if logits_no.ndim != 2 or logits_no.shape[1] != self.num_outputs:
            raise InputError(
                f"logits have shape {tuple(logits_no.shape)}; expected [N, {self.num_outputs}]",
                "build the model with num_outputs=criterion.num_outputs",
            )
        if target_n.shape != logits_no.shape[:1] or target_n.is_floating_point():
            raise InputError(
                f"targets have shape {tuple(target_n.shape)} and type {target_n.dtype}; "
                f"expected [{len(logits_no)}] integers",
                "pass one class index per row of logits",
            )
        if sample_weight is not None and sample_weight.shape != target_n.shape:
            raise InputError(
                f"sample weights have shape {tuple(sample_weight.shape)}; expected {tuple(target_n.shape)}",
                "pass one weight per row of logits",
            )

    def _check_values(self, target_n: Tensor, weight_n: Tensor) -> None:
        """Looking at values would make an accelerator wait, so this is for the CPU."""
        if target_n.device.type != "cpu" or len(target_n) == 0:
            return
        low, high = int(target_n.min()), int(target_n.max())
        if low < 0 or high >= self.num_classes:
            raise InputError(
                f"targets range from {low} to {high}; expected 0 to {self.num_classes - 1}",
                "give rows without a label the sample weight 0",
            )
        if not bool(((weight_n >= 0) & weight_n.isfinite()).all()):
            raise InputError(
                "a sample weight is negative or not finite; expected numbers >= 0", "use weight 0 to leave a row out"
            )
