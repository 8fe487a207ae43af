"""Endless shuffled queues behind a cyclic pattern, all in closed form.

The row of draw ``t`` follows from (seed, t) alone: the pattern gives the lane, the number of earlier turns of that lane
gives the label, the number of earlier turns of that label gives the cursor into its queue, and each pass of a queue is
a permutation keyed by (seed, queue, pass). So a plan needs no state, can start anywhere, and can be cut for any rank.

What stands in a queue is a *unit*: an image, or a patient with images. A patient's images take turns from pass to pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from study.data.sampling_pattern import Floats, Ints, earlier_turns, stable_order

SHUFFLE_BLOCK: Final = 4096  # small queues are shuffled for many passes at once: one generator per about so many draws
CHUNK_DRAWS: Final = 1 << 20  # bounds the memory of a long plan
_PHASE_STREAM: Final = 1
_QUEUE_STREAM: Final = 2
_PATIENT_STREAM: Final = 3


def stream_of(seed: int, *path: int) -> np.random.Generator:
    """An independent generator for (seed, path); counter-based, so that it is cheap to make."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *path])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """The units of every queue and the images of every unit.

    Attributes:
        start_q: number of the first unit of each queue, and of all units at the end, int64 [Q + 1].
        images_i: rows of the images, unit after unit, int64.
        first_u: place in ``images_i`` of each unit's first image, and their number at the end, int64 [U + 1]; None
            where every unit is one image.
        phase_u: with which of its images each unit starts, int64 [U]; None where every unit is one image.
    """

    start_q: Ints
    images_i: Ints
    first_u: Ints | None = None
    phase_u: Ints | None = None

    @property
    def lengths_q(self) -> Ints:
        """Units of each queue, int64 [Q]."""
        return np.diff(self.start_q)

    def sizes(self, units: Ints) -> Ints:
        """Images of each of these units, int64."""
        if self.first_u is None:
            return np.ones(len(units), dtype=np.int64)
        return np.asarray(self.first_u[units + 1] - self.first_u[units])

    def rows(self, units: Ints, visits: Ints) -> Ints:
        """The row shown when a unit is drawn for the ``visits``-th time (from 0), int64."""
        if self.first_u is None or self.phase_u is None:
            return self.images_i[units]
        turn = (self.phase_u[units] + visits) % self.sizes(units)
        return self.images_i[self.first_u[units] + turn]

    def image_repeats(self, draws_u: Ints, num_rows: int) -> Ints:
        """How often each row is shown when its unit is drawn so often, int64 [num_rows]."""
        repeats_n = np.zeros(num_rows, dtype=np.int64)
        if self.first_u is None or self.phase_u is None:
            repeats_n[self.images_i] = draws_u
            return repeats_n
        size_u = np.diff(self.first_u)
        place_i = np.arange(len(self.images_i)) - np.repeat(self.first_u[:-1] + self.phase_u, size_u)
        size_i, draws_i = np.repeat(size_u, size_u), np.repeat(draws_u, size_u)
        repeats_n[self.images_i] = draws_i // size_i + (place_i % size_i < draws_i % size_i)
        return repeats_n

    def image_shares(self, shares_q: Floats) -> Floats:
        """Long-run share of each image of ``images_i`` when the queues have these shares."""
        share_u = np.repeat(shares_q / self.lengths_q, self.lengths_q)
        if self.first_u is None:
            return share_u
        size_u = np.diff(self.first_u)
        return np.repeat(share_u / size_u, size_u)


def make_queues(queue_n: Ints, num_queues: int, *, seed: int, patients_n: Ints | None = None) -> Queues:
    """Put every row into its queue; rows with queue -1 into none.

    Args:
        queue_n: queue of each row, int64 [N].
        num_queues: number of queues; none of them is empty.
        seed: key of the image with which each patient starts.
        patients_n: patient number of each row, from 0; the units are then a queue's patients, else its images.
    """
    if patients_n is None:
        sizes = np.bincount(queue_n + 1, minlength=num_queues + 1)
        images_i = stable_order(queue_n + 1, num_queues + 1)[sizes[0] :]
        return Queues(start_q=np.append(0, np.cumsum(sizes[1:])), images_i=images_i)
    order = stable_order(patients_n, int(patients_n.max(initial=0)) + 1)
    order = order[stable_order(queue_n[order] + 1, num_queues + 1)]
    images_i = order[np.count_nonzero(queue_n < 0) :]
    queue_i, patient_i = queue_n[images_i], patients_n[images_i]
    is_first = np.append(True, (queue_i[1:] != queue_i[:-1]) | (patient_i[1:] != patient_i[:-1]))
    first_u = np.append(np.flatnonzero(is_first), len(images_i))
    units_q = np.bincount(queue_i[is_first], minlength=num_queues)
    return Queues(
        start_q=np.append(0, np.cumsum(units_q)),
        images_i=images_i,
        first_u=first_u,
        phase_u=stream_of(seed, _PATIENT_STREAM).integers(np.diff(first_u)),
    )


class LastPasses:
    """The pass of each long queue that was used last: reading on costs no new shuffle; pickled, it is empty."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, Ints]] = {}

    def get(self, queue: int, block: int, *, make: Callable[[], Ints]) -> Ints:
        """The pass kept for (queue, block), or a new one that takes the queue's place."""
        kept = self._kept.get(queue)
        if kept is None or kept[0] != block:
            kept = (block, make())
            self._kept[queue] = kept
        return kept[1]

    def __reduce__(self) -> tuple[type["LastPasses"], tuple[()]]:
        return LastPasses, ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """Turn-taking of M lanes with K_m queues each.

    Attributes:
        pattern_l: lane of each slot of one cycle, int64 [L].
        turn_l: how often that lane had its turn earlier in the cycle, int64 [L].
        turns_m: turns of each lane per cycle, int64 [M].
        queues_m: number of queues K_m of each lane, int64 [M]; the lane cycles through them.
        first_m: number of each lane's first queue, int64 [M].
        phases_m: with which of its queues each lane starts, int64 [M].
        queues: what stands in the Q queues.
        seed: key of all permutations.
    """

    pattern_l: Ints
    turn_l: Ints
    turns_m: Ints
    queues_m: Ints
    first_m: Ints
    phases_m: Ints
    queues: Queues
    seed: int
    last_passes: LastPasses = field(default_factory=LastPasses, repr=False, compare=False)

    def locate(self, draws_t: Ints) -> tuple[Ints, Ints]:
        """Queue number and cursor (earlier draws from that queue) of each draw, two int64 [T]."""
        cycle_t = draws_t // len(self.pattern_l)
        slot_t = draws_t % len(self.pattern_l)
        lane_t = self.pattern_l[slot_t]
        earlier_t = cycle_t * self.turns_m[lane_t] + self.turn_l[slot_t]
        width_t = self.queues_m[lane_t]
        turn_t: Ints = np.remainder(self.phases_m[lane_t] + earlier_t, width_t)
        queue_t: Ints = np.add(self.first_m[lane_t], turn_t)
        return queue_t, earlier_t // width_t

    def rows(self, draws_t: Ints) -> Ints:
        """The row of each draw, int64 [T]; ``draws_t`` ascending draw numbers from 0."""
        out_t = np.empty(len(draws_t), dtype=np.int64)
        for start in range(0, len(draws_t), CHUNK_DRAWS):
            part = slice(start, start + CHUNK_DRAWS)
            out_t[part] = self._rows_of_chunk(draws_t[part])
        return out_t

    def _rows_of_chunk(self, draws_t: Ints) -> Ints:
        queue_t, cursor_t = self.locate(draws_t)
        order_t = np.argsort(queue_t, kind="stable")
        sorted_t = queue_t[order_t]
        starts = np.flatnonzero(np.append(True, sorted_t[1:] != sorted_t[:-1]))
        unit_t = np.empty(len(draws_t), dtype=np.int64)
        for start, stop in zip(starts, np.append(starts, len(draws_t))[1:], strict=True):
            places = order_t[start:stop]
            unit_t[places] = self._take(int(sorted_t[start]), cursor_t[places])
        return self.queues.rows(unit_t, cursor_t // self.queues.lengths_q[queue_t])

    def _take(self, queue: int, cursors: Ints) -> Ints:
        """Units under ascending cursors of one queue."""
        length = int(self.queues.start_q[queue + 1] - self.queues.start_q[queue])
        span = length * _passes_per_block(length)
        block_of = cursors // span
        out = np.empty(len(cursors), dtype=np.int64)
        starts = np.flatnonzero(np.diff(block_of, prepend=-1))
        for start, stop in zip(starts, np.append(starts, len(cursors))[1:], strict=True):
            block = int(block_of[start])
            inside = cursors[start:stop] - block * span
            passes = int(inside[-1]) // length + 1  # a block's passes are made in order; later ones are not needed
            out[start:stop] = self._shuffled(queue, block, shape=(passes, length))[inside]
        return out

    def _shuffled(self, queue: int, block: int, *, shape: tuple[int, int]) -> Ints:
        """The first passes of one block of a queue, one independent permutation after the other."""

        def make() -> Ints:
            units = np.arange(shape[1], dtype=np.int64) + self.queues.start_q[queue]
            passes = np.tile(units, (shape[0], 1))
            generator = stream_of(self.seed, _QUEUE_STREAM, queue, block)
            return generator.permuted(passes, axis=1, out=passes).reshape(-1)

        return make() if shape[1] < SHUFFLE_BLOCK else self.last_passes.get(queue, block, make=make)

    def queue_totals(self, num_draws: int) -> Ints:
        """How many of the first ``num_draws`` draws each queue gives, int64 [Q]."""
        cycles, rest = divmod(num_draws, len(self.pattern_l))
        turns_m = cycles * self.turns_m + np.bincount(self.pattern_l[:rest], minlength=len(self.turns_m))
        lane_q = np.repeat(np.arange(len(self.queues_m)), self.queues_m)
        width_q = self.queues_m[lane_q]
        place_q = (np.arange(len(lane_q)) - self.first_m[lane_q] - self.phases_m[lane_q]) % width_q
        turns_q = turns_m[lane_q]
        return np.asarray(turns_q // width_q + (place_q < turns_q % width_q), dtype=np.int64)

    def queue_shares(self) -> Floats:
        """Long-run share of each queue in the draws, [Q], exact."""
        return np.repeat(self.turns_m / (len(self.pattern_l) * self.queues_m), self.queues_m)

    def repeats(self, num_draws: int, num_rows: int) -> Ints:
        """How often the first ``num_draws`` draws give each row, int64 [num_rows], without listing the draws."""
        lengths_q, totals_q = self.queues.lengths_q, self.queue_totals(num_draws)
        draws_u = np.repeat(totals_q // lengths_q, lengths_q)
        for queue in np.flatnonzero(totals_q % lengths_q):
            total, length = int(totals_q[queue]), int(lengths_q[queue])
            draws_u[self._take(int(queue), np.arange(total - total % length, total, dtype=np.int64))] += 1
        return self.queues.image_repeats(draws_u, num_rows)


def make_cycle(pattern_l: Ints, queues_m: Ints, *, queues: Queues, seed: int) -> Cycle:
    """Build the cycle of lanes with ``queues_m`` queues each; every starting queue is drawn from the seed."""
    return Cycle(
        pattern_l=pattern_l,
        turn_l=earlier_turns(pattern_l, len(queues_m)),
        turns_m=np.bincount(pattern_l, minlength=len(queues_m)).astype(np.int64),
        queues_m=queues_m,
        first_m=np.cumsum(queues_m) - queues_m,
        phases_m=stream_of(seed, _PHASE_STREAM).integers(queues_m),
        queues=queues,
        seed=seed,
    )


def _passes_per_block(length: int) -> int:
    return max(1, SHUFFLE_BLOCK // length)
