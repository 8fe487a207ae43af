"""What every loss shares: checks, precision, sample weights, soft targets, and exact sums over all ranks.

A loss is a function g of a few sums over rows (``statistics``, then ``value``). The sums are taken in float64 and over
all ranks, so that the value does not depend on how the global batch was cut into local ones. Most losses are additive:
g is the ratio ``sum_i a_i w_i l_i / D`` with the sample weight ``a_i`` and the class weight ``w_i`` of row i.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.errors import InputError
from study.losses.checks import check_choice
from study.losses.links import as_single, softmax_probabilities
from study.losses.ranks import sum_over_ranks
from study.losses.setup import NORMALISERS, Setup

SUM_TOLERANCE = 1e-3
COUNTED: Final = ("num_empty", "num_degenerate", "num_violations")


class Criterion(nn.Module, ABC):
    """A loss together with its link from logits to classes; the base of all losses.

    The link is softmax with the most probable class as decision, unless a subclass replaces ``probabilities`` and
    ``decode``.

    Attributes:
        is_batch_level: whether the loss is no mean over rows, so that parts of a batch cannot be added up.
        why_no_accumulation: for a batch-level loss, why gradients of parts must not be accumulated; else "".
        takes_soft_targets: whether targets may be class probabilities [N, K] instead of indices [N].
        targets_sum_to_one: whether the rows of soft targets have to sum to 1; one-versus-rest losses take any.
        head: which last layer the loss wants: ``linear`` (the network's own), or one that ``make_head`` builds.
        num_classes: K, the number of ordered classes.
        num_outputs: O, how many outputs the network's head must have.
        class_weight_k: weight of each class, shape [K]; moves with ``.to()``.
        num_empty: how many batches had no weight at all (their loss is 0), a scalar int64 tensor.
        num_degenerate: how many batches could not teach a batch-level loss anything, a scalar int64 tensor.
        num_violations: how many class probabilities had to be lifted to 0, a scalar int64 tensor; CORAL alone.
    """

    is_batch_level: ClassVar[bool] = False
    why_no_accumulation: ClassVar[str] = ""
    takes_soft_targets: ClassVar[bool] = True
    targets_sum_to_one: ClassVar[bool] = True
    normalisers: ClassVar[tuple[str, ...]] = ()
    head: ClassVar[str] = "linear"

    class_weight_k: Tensor
    num_empty: Tensor
    num_degenerate: Tensor
    num_violations: Tensor

    def __init__(self, setup: Setup, *, num_outputs: int | None = None) -> None:
        super().__init__()
        self.num_classes = setup.num_classes
        self.num_outputs = setup.num_classes if num_outputs is None else num_outputs
        self.class_weight_on = setup.class_weight_on
        self.register_buffer("class_weight_k", setup.class_weight_k.clone(), persistent=False)
        for name in COUNTED:
            self.register_buffer(name, torch.zeros((), dtype=torch.int64), persistent=False)

    @abstractmethod
    def statistics(self, logits_no: Tensor, target_nk: Tensor, weight_n: Tensor) -> Tensor:
        """The sums over this rank's rows that the loss is a function of.

        Args:
            logits_no: shape [N, O], float32 or float64, outside autocast.
            target_nk: class probabilities, shape [N, K]; one-hot for hard targets.
            weight_n: sample weights, shape [N].

        Returns:
            Shape [S], float64.
        """

    @abstractmethod
    def value(self, sums_s: Tensor) -> Tensor:
        """The loss from the sums over all rows of all ranks, shape [S] to a scalar; finite for sums of nothing."""

    def forward(self, logits_no: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The loss of the global batch (all ranks together); see ``sum_over_ranks`` for its gradient.

        Half-precision logits are computed in float32, autocast or not. A row of weight 0 is left out altogether: its
        logits may be NaN and its target may be any number. A batch without any weight gives 0, still connected to the
        logits.

        Args:
            logits_no: output of the network, shape [N, O]; N may be 0.
            target: class indices 0..K-1, shape [N], any integer type; or class probabilities, shape [N, K].
            sample_weight: weight of each row, shape [N], >= 0; None means 1 for all.

        Returns:
            A scalar tensor, at least float32.

        Raises:
            InputError: a shape, a type, a target or a weight that does not fit (values are looked at on the CPU only).
        """
        with torch.autocast(logits_no.device.type, enabled=False):
            loss = self.loss_from(sum_over_ranks(self.local_sums(logits_no, target, sample_weight)))
            return loss.to(as_single(logits_no).dtype)

    def local_sums(self, logits_no: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """What ``forward`` adds up over ranks, for a caller who adds up several losses at once, outside autocast.

        Returns:
            The sum of the weights and the ``statistics``, shape [1 + S], float64.
        """
        self._check_shapes(logits_no, target, sample_weight)
        logits_no = as_single(logits_no)
        weight_n = logits_no.new_ones(len(logits_no))
        if sample_weight is not None:
            weight_n = sample_weight.detach().to(logits_no)
            has_weight_n = weight_n != 0
            logits_no = torch.where(has_weight_n[:, None], logits_no, 0.0)
            target = masked_target(target, weight_n)
        self._check_values(target, weight_n)
        target_nk = target.to(logits_no) if target.ndim == 2 else self._one_hot(target, like=logits_no)
        weight_1 = weight_n.double().sum(dim=0, keepdim=True)
        return torch.cat([weight_1, self.statistics(logits_no, target_nk, weight_n)])

    def loss_from(self, sums: Tensor) -> Tensor:
        """The loss from ``local_sums`` of all ranks together, a float64 scalar; 0 without any weight."""
        has_weight = sums[0] > 0
        self.num_empty += ~has_weight
        return torch.where(has_weight, self.value(sums[1:]), 0.0 * sums.sum())

    def probabilities(self, logits_no: Tensor) -> Tensor:
        """Class probabilities.

        Args:
            logits_no: shape [N, O].

        Returns:
            Shape [N, K], at least float32; rows are >= 0 and sum to 1.
        """
        return softmax_probabilities(logits_no)

    def decode(self, logits_no: Tensor) -> Tensor:
        """The predicted class: the one with the largest logit.

        Args:
            logits_no: shape [N, O].

        Returns:
            Class indices, shape [N], int64.
        """
        return logits_no.argmax(dim=1)

    def make_head(self, in_features: int) -> nn.Module | None:
        """The last layer that the loss wants, from pooled features [N, in_features] to logits [N, O].

        Returns:
            None when the network's own linear layer with ``num_outputs`` outputs is right.
        """
        return None

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Hear, on every rank before the first step of an epoch (from 0) and after a resume, how far training is."""

    def counts(self) -> dict[str, float]:
        """What was counted since ``set_counts``: ``num_empty``, and what else can occur with this loss."""
        can_be = {"num_empty": True, "num_degenerate": self.is_batch_level, "num_violations": self.head == "coral"}
        return {name: float(getattr(self, name)) for name in COUNTED if can_be[name]}

    def set_counts(self, counts: Mapping[str, float]) -> None:
        """Go on counting from here; what is not given begins at 0."""
        for name in COUNTED:
            getattr(self, name).fill_(int(counts.get(name, 0)))

    def row_weight(self, target_nk: Tensor) -> Tensor:
        """Class weight of each row, shape [N]; the expected one for soft targets."""
        return target_nk @ self.class_weight_k.to(target_nk)

    def _one_hot(self, target_n: Tensor, *, like: Tensor) -> Tensor:
        return F.one_hot(target_n.long(), self.num_classes).to(like)

    def _check_shapes(self, logits_no: Tensor, target: Tensor, sample_weight: Tensor | None) -> None:
        if logits_no.ndim != 2 or logits_no.shape[1] != self.num_outputs:
            raise InputError(
                f"logits have shape {tuple(logits_no.shape)}; expected [N, {self.num_outputs}]",
                "build the model with num_outputs=criterion.num_outputs",
            )
        is_soft = target.ndim == 2 and target.is_floating_point()
        if is_soft and not self.takes_soft_targets:
            raise InputError(
                f"{type(self).__name__} got class probabilities as targets; it is defined on the true class alone",
                "pass class indices, or take a loss with soft targets (docs/losses.md lists them)",
            )
        shape = (len(logits_no), self.num_classes) if is_soft else tuple(logits_no.shape[:1])
        if tuple(target.shape) != shape or (target.is_floating_point() and not is_soft):
            raise InputError(
                f"targets have shape {tuple(target.shape)} and type {target.dtype}; "
                f"expected [{len(logits_no)}] integers or [{len(logits_no)}, {self.num_classes}] probabilities",
                "pass one class index, or one row of class probabilities, per row of logits",
            )
        if sample_weight is not None and sample_weight.shape != logits_no.shape[:1]:
            raise InputError(
                f"sample weights have shape {tuple(sample_weight.shape)}; expected {tuple(logits_no.shape[:1])}",
                "pass one weight per row of logits",
            )

    def _check_values(self, target: Tensor, weight_n: Tensor) -> None:
        """Looking at values would make an accelerator wait, so this is for the CPU."""
        if target.device.type != "cpu" or len(target) == 0:
            return
        if not bool(((weight_n >= 0) & weight_n.isfinite()).all()):
            raise InputError(
                "a sample weight is negative or not finite; expected numbers >= 0", "use weight 0 to leave a row out"
            )
        if target.ndim == 2:
            self._check_soft(target[weight_n != 0])
            return
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= self.num_classes:
            raise InputError(
                f"targets range from {low} to {high}; expected 0 to {self.num_classes - 1}",
                "give rows without a label the sample weight 0",
            )

    def _check_soft(self, target_nk: Tensor) -> None:
        if not bool(((target_nk >= 0) & (target_nk <= 1)).all()):
            raise InputError(
                "a soft target is below 0, above 1 or not a number", "pass class probabilities from 0 to 1"
            )
        sums_n = target_nk.double().sum(dim=1)
        # Probabilities rounded to half precision add up to 1 only as nearly as that can tell.
        tolerance = max(SUM_TOLERANCE, torch.finfo(target_nk.dtype).eps)
        if self.targets_sum_to_one and not bool(((sums_n - 1).abs() <= tolerance).all()):
            raise InputError("a row of soft targets does not sum to 1", "pass class probabilities")


def masked_target(target: Tensor, weight_n: Tensor) -> Tensor:
    """The targets, with 0 where a row has no weight and its target may be anything; shape as given."""
    has_weight_n = weight_n != 0
    return torch.where(has_weight_n[:, None] if target.ndim == 2 else has_weight_n, target, 0)


class AdditiveCriterion(Criterion):
    """A loss that adds up over rows: ``sum_i a_i v_i / D``.

    ``D`` by normaliser: ``weight`` the sum of ``a_i m_i`` (the row's class weight, or what a subclass says); ``batch``
    the number of rows; ``labelled`` the number of rows that have any weight; ``sum`` 1. The first of ``normalisers`` is
    the loss's own.
    """

    normalisers: ClassVar[tuple[str, ...]] = NORMALISERS

    def __init__(self, setup: Setup, *, num_outputs: int | None = None) -> None:
        super().__init__(setup, num_outputs=num_outputs)
        self.normaliser = setup.normaliser or self.normalisers[0]
        check_choice("normaliser", self.normaliser, self.normalisers)

    @abstractmethod
    def cells(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """Loss of each row, split over some columns without class weights; shape [N, any number]."""

    def row_values(self, logits_no: Tensor, target_nk: Tensor) -> Tensor:
        """What each row adds to the numerator, class weights included, shape [N]."""
        cells = self.cells(logits_no, target_nk)
        if self.class_weight_on == "columns":
            return (cells * self.class_weight_k.to(cells)).sum(dim=1)
        return self.row_weight(target_nk) * cells.sum(dim=1)

    def row_masses(self, target_nk: Tensor) -> Tensor:
        """What each row adds to the divisor ``weight``, class weights included, shape [N]."""
        weight_n = self.row_weight(target_nk)
        return torch.ones_like(weight_n) if self.class_weight_on == "columns" else weight_n

    def statistics(self, logits_no: Tensor, target_nk: Tensor, weight_n: Tensor) -> Tensor:
        """Numerator and denominator, shape [2]."""
        value_n = weight_n * self.row_values(logits_no, target_nk)
        return torch.stack([value_n.double().sum(), self._divisor(target_nk, weight_n)])

    def accumulation_factors(self, parts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Factors with which the losses of a batch's parts add up to the loss of the whole batch.

        The mean of the parts' losses is not the loss of the whole where parts differ in size, labels or weights. Every
        rank has to call this with the same number of parts.

        Args:
            parts: targets and sample weights of each part, as ``forward`` takes them.

        Returns:
            Shape [P], float64, without gradient.
        """
        if self.normaliser == "sum":
            return torch.ones(len(parts), dtype=torch.float64, device=self.class_weight_k.device)
        divisor_p = sum_over_ranks(torch.stack([self._divisor_of(*part) for part in parts]))
        total = divisor_p.sum()
        return divisor_p / torch.where(total > 0, total, 1.0)

    def _divisor_of(self, target: Tensor, sample_weight: Tensor | None) -> Tensor:
        like = self.class_weight_k
        weight_n = like.new_ones(len(target)) if sample_weight is None else sample_weight.to(like)
        known = masked_target(target, weight_n)
        return self._divisor(known.to(like) if known.ndim == 2 else self._one_hot(known, like=like), weight_n)

    def _divisor(self, target_nk: Tensor, weight_n: Tensor) -> Tensor:
        if self.normaliser == "batch":
            return torch.ones_like(weight_n, dtype=torch.float64).sum()
        if self.normaliser == "labelled":
            return (weight_n > 0).double().sum()
        return (weight_n * self.row_masses(target_nk)).double().sum()

    def value(self, sums_s: Tensor) -> Tensor:
        """Their ratio, or the numerator alone."""
        numerator, denominator = sums_s.unbind()
        if self.normaliser == "sum":
            return numerator
        return numerator / torch.where(denominator > 0, denominator, 1.0)


class BatchCriterion(Criterion):
    """A loss of whole-batch sums, such as a confusion matrix: no sum of losses of its rows."""

    is_batch_level: ClassVar[bool] = True
    why_no_accumulation: ClassVar[str] = (
        "it is a function of sums over the whole batch, and the function of two halves is not that of their union"
    )

    def note_degenerate(self, is_degenerate: Tensor) -> None:
        """Count a batch that has no gradient whatever the network says."""
        self.num_degenerate += is_degenerate.to(torch.int64)
