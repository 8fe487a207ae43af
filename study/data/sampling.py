"""Index plans: which image stands at which place of which batch, as a pure function of the data and the seed.

One engine serves every sampler: a cyclic pattern over lanes, label alternation inside a lane, endless shuffled queues.

- ``none``: one lane, one queue of all images; raw shares.
- ``label``: one lane, a queue per class; classes equal, segments raw inside a class.
- ``source``: segments in turn, a queue of all images of each; segments equal, classes raw inside each.
- ``source_label``: segments in turn, a queue per class present; every non-empty cell of a segment equal.
- ``periodic``: segments by ``periodic_pattern``, a queue per class present; a segment's share follows its rarest class,
  every non-empty cell of a segment equal.

The first four are the modes of paper ordinal (section 2.3; "dataset" there is the segment here), ``source_label`` is
also the balanced-segments comparator of paper periodic, and ``periodic`` is its Algorithms 1 and 2.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from study.data.sampling_pattern import Floats, Ints, periodic_pattern, round_robin
from study.data.sampling_queues import Cycle, make_cycle
from study.data.sampling_table import Census, summarise, take_census, warnings_for
from study.errors import InputError

Lanes = list[list[Ints]]


def _none(census: Census) -> tuple[Ints, Lanes]:
    return round_robin(1), [[census.labelled]]


def _label(census: Census) -> tuple[Ints, Lanes]:
    labels = np.flatnonzero(census.counts_mk.sum(axis=0))
    return round_robin(1), [[np.flatnonzero(census.labels_n == label) for label in labels]]


def _source(census: Census) -> tuple[Ints, Lanes]:
    known = census.labels_n >= 0
    lanes = [[np.flatnonzero(known & (census.codes_n == segment))] for segment in census.present_segments]
    return round_robin(len(lanes)), lanes


def _source_label(census: Census) -> tuple[Ints, Lanes]:
    lanes = _cells(census)
    return round_robin(len(lanes)), lanes


def _periodic(census: Census) -> tuple[Ints, Lanes]:
    return periodic_pattern(census.rarest_m[census.present_segments].tolist()), _cells(census)


def _cells(census: Census) -> Lanes:
    return [[census.cell(seg, label) for label in census.labels_of(seg)] for seg in census.present_segments]


SAMPLERS: Final[dict[str, Callable[[Census], tuple[Ints, Lanes]]]] = {
    "none": _none,
    "label": _label,
    "source": _source,
    "source_label": _source_label,
    "periodic": _periodic,
}
_BY_CELL: Final = frozenset({"source_label", "periodic"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole sequence of rows of a run; rows are positions in the arrays given to :func:`make_plan`.

    Attributes:
        batch_size: images per global batch.
        num_steps: steps of the plan; draws beyond it belong to no batch.
        warnings: what the data does not allow the sampler to do, in sentences.
    """

    name: str
    batch_size: int
    num_steps: int
    seed: int
    warnings: tuple[str, ...]
    _cycle: Cycle
    _census: Census

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
        return self._cycle.rows(draws.reshape(-1)).reshape(len(first_s), width)

    @property
    def natural_draws(self) -> int:
        """Draws of one epoch when nobody asks for another number (see :func:`steps_per_epoch`)."""
        if self.name == "periodic":
            return len(self._cycle.pattern_l) * int(self._cycle.queues_m.max())
        return len(self._census.labelled)

    def summary(self) -> pd.DataFrame:
        """Realised shares and repeats of the whole plan, one line per non-empty segment and class.

        Columns: segment, label, share, images, repeats_min, repeats_median, repeats_max, never_seen.
        """
        return summarise(self._census, self._repeats())

    def class_counts(self) -> Ints:
        """How often the plan draws each class, int64 [K] (the "sampled" counts for class weights)."""
        known = self._census.labelled
        counts = np.bincount(
            self._census.labels_n[known], weights=self._repeats()[known], minlength=self._census.counts_mk.shape[1]
        )
        return counts.astype(np.int64)

    def _repeats(self) -> Ints:
        return self._cycle.repeats(self.num_steps * self.batch_size, len(self._census.labels_n))


def make_plan(name: str, *, labels: Any, segments: Any, batch_size: int, num_steps: int, seed: int) -> Plan:
    """Plan ``num_steps`` global batches with the named sampler.

    Args:
        name: one of ``SAMPLERS``.
        labels: class of each image from 0, [N]; negative, NaN or NA means missing, and such a row is never drawn.
        segments: segment name of each image, [N] (data source, vendor, ...).
        batch_size: images per global batch, over all workers.
        num_steps: steps of the whole run, over all epochs.
        seed: >= 0; equal seeds give equal plans.

    Raises:
        InputError: unknown name, sizes that make no plan, or labels and segments that do not fit together.
    """
    lanes_of = SAMPLERS.get(name)
    if lanes_of is None:
        near = difflib.get_close_matches(name, SAMPLERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"sampler is {name!r}; expected one of {', '.join(SAMPLERS)}{hint}", "edit sampler.name")
    if batch_size < 1 or num_steps < 0 or seed < 0:
        raise InputError(
            f"batch size {batch_size}, {num_steps} steps, seed {seed}; expected at least 1, 0 and 0",
            "edit train.batch_size, train.epochs or the seed",
        )
    census = take_census(labels, segments)
    cycle = make_cycle(*lanes_of(census), seed=seed)
    shares_k = _class_shares(cycle, census)
    found = warnings_for(census, name, by_cell=name in _BY_CELL, queues=cycle.rows_q, class_shares=shares_k)
    return Plan(
        name=name,
        batch_size=batch_size,
        num_steps=num_steps,
        seed=seed,
        warnings=tuple(found),
        _cycle=cycle,
        _census=census,
    )


def _class_shares(cycle: Cycle, census: Census) -> Floats:
    """Long-run share of each class in the draws of a cycle, [K]."""
    shares_k = np.zeros(census.counts_mk.shape[1])
    for rows, share in zip(cycle.rows_q, cycle.queue_shares(), strict=True):
        shares_k += np.bincount(census.labels_n[rows], minlength=len(shares_k)) * (share / len(rows))
    return shares_k


def steps_per_epoch(name: str, *, labels: Any, segments: Any, batch_size: int, epoch_draws: int | None) -> int:
    """Steps of one epoch, at least 1: the draws of an epoch rounded up to whole batches.

    Without ``epoch_draws`` an epoch has as many draws as there are labelled images; for ``periodic`` it is as many
    passes over the pattern as the richest segment has classes, the fewest that show a rarest class completely.

    Raises:
        InputError: as :func:`make_plan`, or ``epoch_draws`` below 1.
    """
    if epoch_draws is not None and epoch_draws < 1:
        raise InputError(f"sampler.epoch_draws is {epoch_draws}; expected at least 1", "leave it out for the default")
    plan = make_plan(name, labels=labels, segments=segments, batch_size=batch_size, num_steps=0, seed=0)
    return -(-(epoch_draws or plan.natural_draws) // batch_size)
