"""Index plans: which image stands at which place of which batch, as a pure function of the data and the seed.

One engine serves every sampler: a cyclic pattern over lanes, label alternation inside a lane, endless shuffled queues.

- ``none``: one lane, one queue of all images; raw shares.
- ``label``, ``bal_labels``, ``class_stratified``: one lane, a queue per class; classes equal in every batch to within
  one image, segments raw inside a class. They differ in ``queue="iid"`` alone, see :func:`make_plan`.
- ``source``, ``segment``: segments in turn, a queue of all images of each; segments equal, classes raw inside each.
- ``source_label``, ``bal_segments``: segments in turn, a queue per class present; every non-empty cell of a segment
  equal.
- ``periodic``: segments by ``periodic_pattern``, a queue per class present; a segment's share follows its rarest class,
  every non-empty cell of a segment equal.

``none``, ``label``, ``source`` and ``source_label`` are the modes of paper ordinal (section 2.3; "dataset" there is the
segment here), ``bal_labels``, ``bal_segments`` and ``periodic`` the strategies of paper periodic (its Algorithms 1 and
2), ``class_stratified`` is the oversampling of paper imbalance (section 3.2). What the segments are is the caller's
choice: the study file's ``source`` samplers balance the data source, all others ``data.segments``.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

import numpy as np
import pandas as pd

from study.data.sampling_iid import Independent
from study.data.sampling_lanes import (
    Lanes,
    cells_in_periods,
    cells_in_turn,
    lane_per_segment,
    one_queue,
    queue_per_label,
)
from study.data.sampling_pattern import Ints
from study.data.sampling_queues import Cycle, make_cycle, make_queues
from study.data.sampling_summary import Cell, PlanSummary
from study.data.sampling_table import Census, summarise, take_census
from study.data.sampling_warnings import Outcome, warnings_for
from study.errors import InputError

Queue = Literal["balanced", "iid"]

SAMPLERS: Final[dict[str, Callable[[Census], Lanes]]] = {
    "none": one_queue,
    "label": queue_per_label,
    "source": lane_per_segment,
    "source_label": cells_in_turn,
    "segment": lane_per_segment,
    "bal_labels": queue_per_label,
    "bal_segments": cells_in_turn,
    "periodic": cells_in_periods,
    "class_stratified": queue_per_label,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole sequence of rows of a run; rows are positions in the arrays given to :func:`make_plan`.

    Attributes:
        batch_size: images per global batch.
        num_steps: steps of the plan; draws beyond it belong to no batch.
        natural_draws: draws of one epoch when nobody asks for another number (see :func:`steps_per_epoch`).
        warnings: what the data does not allow the sampler to do, in sentences.
    """

    name: str
    batch_size: int
    num_steps: int
    seed: int
    natural_draws: int
    warnings: tuple[str, ...]
    _draws: Cycle | Independent
    _census: Census

    @property
    def queue(self) -> Queue:
        """How images follow each other: ``balanced`` or ``iid``."""
        return "balanced" if isinstance(self._draws, Cycle) else "iid"

    @property
    def unit(self) -> str:
        """What a draw picks: ``image`` or ``patient``."""
        return self._census.unit

    def indices(self, start_step: int = 0, stop_step: int | None = None) -> Ints:
        """Rows of every global batch, int64 [steps, batch]; those from step k on are the last rows of those from 0 on.

        Raises:
            InputError: the steps lie outside the plan.
        """
        return self.for_rank(0, 1, start_step=start_step, stop_step=stop_step)

    def for_rank(self, rank: int, world_size: int, start_step: int = 0, *, stop_step: int | None = None) -> Ints:
        """One rank's contiguous block of every global batch, int64 [stop_step - start_step, batch / world_size].

        Blocks and not strides: neighbours alternate in label, so a stride would give a rank one label only.

        Raises:
            InputError: the world size does not divide the batch, or rank or steps lie outside.
        """
        if world_size < 1 or self.batch_size % world_size or not 0 <= rank < world_size:
            raise InputError(
                f"batch of {self.batch_size} images for rank {rank} of {world_size} workers; "
                "expected a batch size that the number of workers divides",
                "change train.batch_size or resources.workers",
            )
        stop = self.num_steps if stop_step is None else stop_step
        if not 0 <= start_step <= stop <= self.num_steps:
            raise InputError(f"steps {start_step} to {stop} of a plan with {self.num_steps}; expected a part of it")
        width = self.batch_size // world_size
        first_s = np.arange(start_step, stop, dtype=np.int64) * self.batch_size + rank * width
        draws = first_s[:, None] + np.arange(width, dtype=np.int64)
        return self._draws.rows(draws.reshape(-1)).reshape(len(first_s), width)

    def steps_per_epoch(self, epoch_draws: int | None = None) -> int:
        """Steps of one epoch, at least 1: ``epoch_draws`` or the natural number, rounded up to whole batches.

        Raises:
            InputError: ``epoch_draws`` below 1.
        """
        if epoch_draws is not None and epoch_draws < 1:
            raise InputError(
                f"sampler.epoch_draws is {epoch_draws}; expected at least 1", "leave it out for the default"
            )
        return -(-(epoch_draws or self.natural_draws) // self.batch_size)

    def lasting(self, num_steps: int) -> Self:
        """The same sequence, cut after another number of steps.

        Raises:
            InputError: fewer than 0 steps.
        """
        if num_steps < 0:
            raise InputError(f"{num_steps} steps; expected at least 0")
        return replace(self, num_steps=num_steps)

    def summary(self) -> pd.DataFrame:
        """Realised shares and repeats of the whole plan, one line per non-empty segment and class.

        Columns: segment, label, share, images, repeats_min, repeats_median, repeats_max, never_seen.
        """
        return summarise(self._census, self.repeats())

    def describe(self, *, batches: int = 3) -> PlanSummary:
        """All that is worth a look before training: the summary, and the first batches place by place."""
        repeats_n = self.repeats()
        drawable = repeats_n[self._census.labels_n >= 0]
        first = self.indices(0, min(batches, self.num_steps))
        return PlanSummary(
            sampler=self.name,
            queue=self.queue,
            unit=self.unit,
            seed=self.seed,
            batch_size=self.batch_size,
            num_steps=self.num_steps,
            table=summarise(self._census, repeats_n),
            images=len(drawable),
            never_seen=int((drawable == 0).sum()),
            repeats=(int(drawable.min()), float(np.median(drawable)), int(drawable.max())),
            batches=tuple(tuple(self._cells(batch)) for batch in first),
            warnings=self.warnings,
        )

    def class_counts(self) -> Ints:
        """How often the plan draws each class, int64 [K] (the "sampled" counts for class weights)."""
        counts_k: Ints = np.rint(self._census.per_cell(self.repeats()).sum(axis=0)).astype(np.int64)
        return counts_k

    def repeats(self) -> Ints:
        """How often the plan draws each row, int64 [N].

        Costs no draws with balanced queues; with ``iid`` every draw of the plan is made once.
        """
        return self._draws.repeats(self.num_steps * self.batch_size, len(self._census.labels_n))

    def _cells(self, rows: Ints) -> list[Cell]:
        """Segment and class of some rows."""
        names = self._census.segments_m[self._census.codes_n[rows]]
        return list(zip(names.tolist(), self._census.labels_n[rows].tolist(), strict=True))


def make_plan(
    name: str,
    *,
    labels: Any,
    segments: Any,
    batch_size: int,
    num_steps: int,
    seed: int,
    queue: Queue = "balanced",
    patients: Any = None,
) -> Plan:
    """Plan ``num_steps`` global batches with the named sampler.

    Args:
        name: one of ``SAMPLERS``.
        labels: class of each image from 0, [N]; negative, NaN or NA means missing, and such a row is never drawn.
        segments: segment name of each image, [N] (data source, vendor, ...).
        batch_size: images per global batch, over all workers.
        num_steps: steps of the whole run, over all epochs.
        seed: >= 0; equal seeds give equal plans.
        queue: ``balanced``: pattern, alternation and shuffled queues, so that repeats are even and no image is missed;
            ``iid``: every draw independent and with replacement, with the same expected shares, except that
            ``class_stratified`` keeps its equal portions of a batch.
        patients: patient of each image, [N]: a draw then picks a patient of the segment and class, and shows
            their images there in turn, and ``periodic`` counts patients; None draws images.

    Raises:
        InputError: unknown name, sizes that make no plan, or columns that do not fit together.
    """
    _check(name, queue=queue, batch_size=batch_size, num_steps=num_steps, seed=seed)
    census = take_census(labels, segments, patients=patients)
    lanes = SAMPLERS[name](census)
    queues = make_queues(lanes.queue_n, int(lanes.queues_m.sum()), seed=seed, patients_n=census.patients_n)
    cycle = make_cycle(lanes.pattern_l, lanes.queues_m, queues=queues, seed=seed)
    outcome = Outcome(name=name, batch_size=batch_size, queues=queues, shares_q=cycle.queue_shares())
    return Plan(
        name=name,
        batch_size=batch_size,
        num_steps=num_steps,
        seed=seed,
        natural_draws=_natural_draws(name, lanes, census),
        warnings=tuple(warnings_for(census, outcome)),
        _draws=cycle if queue == "balanced" else Independent(cycle=cycle, keeps_turns=name == "class_stratified"),
        _census=census,
    )


def _check(name: str, *, queue: str, batch_size: int, num_steps: int, seed: int) -> None:
    if name not in SAMPLERS:
        near = difflib.get_close_matches(name, SAMPLERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"sampler is {name!r}; expected one of {', '.join(SAMPLERS)}{hint}", "edit sampler.name")
    if queue not in ("balanced", "iid"):
        raise InputError(f"queue is {queue!r}; expected balanced or iid", "edit sampler.queue")
    if batch_size < 1 or num_steps < 0 or seed < 0:
        raise InputError(
            f"batch size {batch_size}, {num_steps} steps, seed {seed}; expected at least 1, 0 and 0",
            "edit train.batch_size, train.epochs or the seed",
        )


def _natural_draws(name: str, lanes: Lanes, census: Census) -> int:
    """As many draws as there are labelled images; for ``periodic`` K passes over the pattern.

    K is the number of classes of the richest segment: a pass shows n / K images of the rarest class of n, so K passes
    are the fewest that show all of them.
    """
    if name == "periodic":
        return len(lanes.pattern_l) * int(lanes.queues_m.max())
    return census.num_labelled


def steps_per_epoch(
    name: str, *, labels: Any, segments: Any, batch_size: int, epoch_draws: int | None, patients: Any = None
) -> int:
    """Steps of one epoch of the plan that :func:`make_plan` makes of the same data; see :meth:`Plan.steps_per_epoch`.

    Without ``epoch_draws`` an epoch has as many draws as there are labelled images; for ``periodic`` it is as many
    passes over the pattern as the richest segment has classes, the fewest that show a rarest class completely.

    Raises:
        InputError: as :func:`make_plan`, or ``epoch_draws`` below 1.
    """
    plan = make_plan(
        name, labels=labels, segments=segments, batch_size=batch_size, num_steps=0, seed=0, patients=patients
    )
    return plan.steps_per_epoch(epoch_draws)
