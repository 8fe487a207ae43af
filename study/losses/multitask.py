"""Several tasks on one network (paper multitask): a criterion for each, added up with its weight.

``L = sum_t f_t L_t(outputs_t, labels_t, w_t) + f_rec L_rec`` is equation 3 of the paper: ``L_t`` is any criterion,
``w`` the weight 1 - u of a label or 0 where there is none (equation 2), and the factors ``f`` are all 1 there. The
network gives the outputs of all tasks side by side; one that reconstructs its input adds a last column, its squared
error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from study.errors import InputError
from study.losses.base import Criterion
from study.losses.checks import check_number, check_positive
from study.losses.links import as_single
from study.losses.ranks import sum_over_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task: its criterion, its factor > 0 in the sum, and its columns among the network's outputs."""

    name: str
    criterion: Criterion
    weight: float
    start: int

    @property
    def columns(self) -> slice:
        """Where the task's outputs stand among those of the network."""
        return slice(self.start, self.start + self.criterion.num_outputs)


class TaskHeads(nn.Module):
    """One last layer for each task, from the same features; their outputs stand side by side."""

    def __init__(self, heads: Sequence[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.names = tuple(name for name, _ in heads)
        self.layers = nn.ModuleDict({f"task_{name}": head for name, head in heads})

    def forward(self, features_nf: Tensor) -> Tensor:
        """Features [N, F] to outputs [N, O], O being the sum over tasks."""
        return torch.cat([layer(features_nf) for layer in self.layers.values()], dim=1)


class MultiTask(nn.Module):
    """Criteria of several tasks as one; it is called like a ``Criterion``, with a column of labels for each task.

    Probabilities and decisions are those of the first task, the one that decides; ``tasks`` has them all.

    Args:
        criteria: name, criterion and factor > 0 of each task, the deciding one first.
        reconstruction: factor of the squared error in the last column of outputs; 0 when the network has no such
            column.

    Attributes:
        tasks: the tasks by name, in order.
        num_outputs: sum of the tasks' outputs, without the column of the reconstruction.
        reconstruction: as given.

    Raises:
        InputError: no task, a name twice, or a factor outside its range.
    """

    def __init__(self, criteria: Sequence[tuple[str, Criterion, float]], *, reconstruction: float = 0.0) -> None:
        super().__init__()
        names = [name for name, _, _ in criteria]
        if not names or len(set(names)) < len(names):
            raise InputError(f"the tasks are {names}; expected at least one, each once", "correct data.labels")
        self.reconstruction = check_number("tasks.reconstruction.weight", reconstruction)
        self.tasks: dict[str, Task] = {}
        start = 0
        for name, criterion, factor in criteria:
            weight = check_positive(f"tasks.{name}.weight", factor)
            self.tasks[name] = Task(name=name, criterion=criterion, weight=weight, start=start)
            start += criterion.num_outputs
        self.num_outputs = start
        self.criteria = nn.ModuleDict({f"task_{name}": criterion for name, criterion, _ in criteria})

    @property
    def deciding(self) -> Task:
        """The first task."""
        return next(iter(self.tasks.values()))

    @property
    def num_classes(self) -> int:
        """Classes of the task that decides."""
        return self.deciding.criterion.num_classes

    def counts(self) -> dict[str, float]:
        """What the criteria of all tasks counted together; see ``Criterion.counts``."""
        found: dict[str, float] = {}
        for task in self.tasks.values():
            found |= {name: found.get(name, 0.0) + count for name, count in task.criterion.counts().items()}
        return found

    def set_counts(self, counts: Mapping[str, float]) -> None:
        """Go on counting from here, in the task that decides; the others begin at 0."""
        for number, task in enumerate(self.tasks.values()):
            task.criterion.set_counts({} if number else counts)

    def forward(self, outputs_no: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The sum of all tasks' losses over the global batch (all ranks together), by one collective.

        Args:
            outputs_no: all outputs of the network, [N, num_outputs], and one column more with a reconstruction.
            target: class indices, [N, T], or [N] with one task; any number where the weight is 0.
            sample_weight: weights >= 0 of the same shape; None means 1 for all.

        Returns:
            A scalar; its gradient is that of ``Criterion.forward``.

        Raises:
            InputError: a shape, a target or a weight that does not fit.
        """
        return self.total(self.losses(outputs_no, target, sample_weight))

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The sum of the ``losses`` with their factors, a scalar."""
        total = torch.stack([task.weight * losses[name] for name, task in self.tasks.items()]).sum()
        return total + self.reconstruction * losses["reconstruction"] if self.reconstruction else total

    def losses(self, outputs_no: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of each task by its name, without its factor, and ``reconstruction``; arguments as ``forward``."""
        self._check_shapes(outputs_no, target, sample_weight)
        target_nt = target.reshape(len(target), len(self.tasks))
        weight_nt = None if sample_weight is None else sample_weight.reshape(target_nt.shape)
        with torch.autocast(outputs_no.device.type, enabled=False):
            outputs_no = as_single(outputs_no)
            parts = [
                task.criterion.local_sums(
                    outputs_no[:, task.columns], target_nt[:, t], None if weight_nt is None else weight_nt[:, t]
                )
                for t, task in enumerate(self.tasks.values())
            ]
            if self.reconstruction:
                error_n = outputs_no[:, -1].double()
                parts.append(torch.stack([error_n.new_full((), float(len(error_n))), error_n.sum()]))
            sums = torch.split(sum_over_ranks(torch.cat(parts)), [len(part) for part in parts])
            found = {name: task.criterion.loss_from(sums[t]) for t, (name, task) in enumerate(self.tasks.items())}
            if self.reconstruction:
                found["reconstruction"] = sums[-1][1] / sums[-1][0].clamp(min=1)
            return {name: loss.to(outputs_no.dtype) for name, loss in found.items()}

    def probabilities(self, outputs_no: Tensor) -> Tensor:
        """Class probabilities of the task that decides, [N, O] to [N, K]."""
        return self.deciding.criterion.probabilities(outputs_no[:, self.deciding.columns])

    def decode(self, outputs_no: Tensor) -> Tensor:
        """Predicted classes of the task that decides, [N, O] to [N]."""
        return self.deciding.criterion.decode(outputs_no[:, self.deciding.columns])

    def make_head(self, in_features: int) -> nn.Module:
        """One last layer per task: the one that its criterion wants, or a linear one that starts by Xavier's rule."""
        heads = []
        for name, task in self.tasks.items():
            own = task.criterion.make_head(in_features)
            heads.append((name, own or _linear(in_features, task.criterion.num_outputs)))
        return TaskHeads(heads)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Tell every criterion how far training is."""
        for task in self.tasks.values():
            task.criterion.start_epoch(epoch, epochs)

    def _check_shapes(self, outputs_no: Tensor, target: Tensor, sample_weight: Tensor | None) -> None:
        columns = self.num_outputs + bool(self.reconstruction)
        if outputs_no.ndim != 2 or outputs_no.shape[1] != columns:
            raise InputError(
                f"outputs have shape {tuple(outputs_no.shape)}; expected [N, {columns}]",
                "build the network with this criterion's num_outputs and make_head",
            )
        count = len(self.tasks)
        shapes = [(len(outputs_no), count), *([(len(outputs_no),)] if count == 1 else [])]
        for name, found in (("targets", target), ("sample weights", sample_weight)):
            if found is not None and tuple(found.shape) not in shapes:
                raise InputError(
                    f"{name} have shape {tuple(found.shape)}; expected {shapes[0]}: one column per task",
                    f"pass a column for each of {', '.join(self.tasks)}",
                )


def _linear(in_features: int, num_outputs: int) -> nn.Linear:
    head = nn.Linear(in_features, num_outputs)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return head
