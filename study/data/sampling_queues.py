"""Endless shuffled queues behind a cyclic pattern, all in closed form.

The row of draw ``t`` follows from (seed, t) alone: the pattern gives the lane, the number of earlier turns of that lane
gives the label, the number of earlier turns of that label gives the cursor into its queue, and each pass of a queue is
a permutation keyed by (seed, queue, pass). So a plan needs no state, can start anywhere, and can be cut for any rank.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from study.data.sampling_pattern import Floats, Ints

SHUFFLE_BLOCK: Final = 4096  # small queues are shuffled for many passes at once: one generator per about so many draws
CHUNK_DRAWS: Final = 1 << 20  # bounds the memory of a long plan
_PHASE_STREAM: Final = 1
_QUEUE_STREAM: Final = 2


def stream_of(seed: int, *path: int) -> np.random.Generator:
    """An independent generator for (seed, path); counter-based, so that it is cheap to make."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *path])))


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
        rows_q: the rows of each queue, Q arrays of int64.
        seed: key of all permutations.
    """

    pattern_l: Ints
    turn_l: Ints
    turns_m: Ints
    queues_m: Ints
    first_m: Ints
    phases_m: Ints
    rows_q: tuple[Ints, ...]
    seed: int

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
        edges_q = np.searchsorted(queue_t[order_t], np.arange(len(self.rows_q) + 1))
        out_t = np.empty(len(draws_t), dtype=np.int64)
        for queue in range(len(self.rows_q)):
            places = order_t[edges_q[queue] : edges_q[queue + 1]]
            out_t[places] = self._take(queue, cursor_t[places])
        return out_t

    def _take(self, queue: int, cursors: Ints) -> Ints:
        """Rows under ascending cursors of one queue."""
        rows = self.rows_q[queue]
        span = len(rows) * _passes_per_block(len(rows))
        block_of = cursors // span
        out = np.empty(len(cursors), dtype=np.int64)
        starts = np.flatnonzero(np.diff(block_of, prepend=-1))
        for start, stop in zip(starts, np.append(starts, len(cursors))[1:], strict=True):
            block = int(block_of[start])
            out[start:stop] = self._shuffled(queue, block)[cursors[start:stop] - block * span]
        return out

    def _shuffled(self, queue: int, block: int) -> Ints:
        """All passes of one block of a queue, one independent permutation after the other."""
        rows = self.rows_q[queue]
        passes = np.tile(rows, (_passes_per_block(len(rows)), 1))
        generator = stream_of(self.seed, _QUEUE_STREAM, queue, block)
        return generator.permuted(passes, axis=1).reshape(-1)

    def queue_totals(self, num_draws: int) -> Ints:
        """How many of the first ``num_draws`` draws each queue gives, int64 [Q]."""
        cycles, rest = divmod(num_draws, len(self.pattern_l))
        turns_m = cycles * self.turns_m + np.bincount(self.pattern_l[:rest], minlength=len(self.turns_m))
        totals_q = np.empty(len(self.rows_q), dtype=np.int64)
        for lane, (width, first) in enumerate(zip(self.queues_m, self.first_m, strict=True)):
            full, extra = divmod(int(turns_m[lane]), int(width))
            place_k = (np.arange(width) - self.phases_m[lane]) % width
            totals_q[first : first + width] = full + (place_k < extra)
        return totals_q

    def queue_shares(self) -> Floats:
        """Long-run share of each queue in the draws, [Q], exact."""
        return np.repeat(self.turns_m / (len(self.pattern_l) * self.queues_m), self.queues_m)

    def repeats(self, num_draws: int, num_rows: int) -> Ints:
        """How often the first ``num_draws`` draws give each row, int64 [num_rows], without listing the draws."""
        repeats_n = np.zeros(num_rows, dtype=np.int64)
        for queue, total in enumerate(self.queue_totals(num_draws)):
            rows = self.rows_q[queue]
            full, extra = divmod(int(total), len(rows))
            repeats_n[rows] = full
            if extra:
                repeats_n[self._take(queue, np.arange(full * len(rows), total, dtype=np.int64))] += 1
        return repeats_n


def make_cycle(pattern_l: Ints, lanes: list[list[Ints]], *, seed: int) -> Cycle:
    """Build the cycle of ``lanes``: per lane the rows of its queues; every starting queue is drawn from the seed."""
    counts_m = np.bincount(pattern_l, minlength=len(lanes)).astype(np.int64)
    turn_l = np.empty(len(pattern_l), dtype=np.int64)
    for lane, count in enumerate(counts_m):
        turn_l[pattern_l == lane] = np.arange(count)
    queues_m = np.array([len(lane) for lane in lanes], dtype=np.int64)
    return Cycle(
        pattern_l=pattern_l,
        turn_l=turn_l,
        turns_m=counts_m,
        queues_m=queues_m,
        first_m=np.cumsum(queues_m) - queues_m,
        phases_m=stream_of(seed, _PHASE_STREAM).integers(queues_m),
        rows_q=tuple(queue for lane in lanes for queue in lane),
        seed=seed,
    )


def _passes_per_block(num_rows: int) -> int:
    return max(1, SHUFFLE_BLOCK // num_rows)
