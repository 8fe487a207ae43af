"""Independent draws with replacement, in closed form: each block of draws has a generator keyed by (seed, block)."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from study.data.sampling_pattern import Floats, Ints
from study.data.sampling_queues import Cycle, stream_of

IID_BLOCK: Final = 4096
_IID_STREAM: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Independent:
    """Draws with the same long-run shares as a cycle, but each of them made without regard to the others.

    The slot of the pattern, the queue of its lane and the unit of the queue are uniform, so a batch fluctuates as with
    torch's ``WeightedRandomSampler``. With ``keeps_turns`` pattern and alternation stay, and units alone are random.
    """

    cycle: Cycle
    keeps_turns: bool

    def rows(self, draws_t: Ints) -> Ints:
        """The row of each draw, int64 [T]; ``draws_t`` ascending draw numbers from 0."""
        block_t = draws_t // IID_BLOCK
        out_t = np.empty(len(draws_t), dtype=np.int64)
        starts = np.flatnonzero(np.diff(block_t, prepend=-1))
        for start, stop in zip(starts, np.append(starts, len(draws_t))[1:], strict=True):
            block = int(block_t[start])
            out_t[start:stop] = self._block(block)[draws_t[start:stop] - block * IID_BLOCK]
        return out_t

    def _block(self, block: int) -> Ints:
        """Rows of all draws of one block, int64 [IID_BLOCK]."""
        cycle, queues = self.cycle, self.cycle.queues
        generator = stream_of(cycle.seed, _IID_STREAM, block)
        if self.keeps_turns:
            queue_t, _ = cycle.locate(np.arange(IID_BLOCK, dtype=np.int64) + block * IID_BLOCK)
        else:
            lane_t = cycle.pattern_l[generator.integers(len(cycle.pattern_l), size=IID_BLOCK)]
            queue_t = cycle.first_m[lane_t] + generator.integers(cycle.queues_m[lane_t])
        start_t = queues.start_q[queue_t]
        unit_t = start_t + generator.integers(queues.start_q[queue_t + 1] - start_t)
        return queues.rows(unit_t, generator.integers(queues.sizes(unit_t)))

    def queue_shares(self) -> Floats:
        """Expected share of each queue in the draws, [Q]."""
        return self.cycle.queue_shares()

    def repeats(self, num_draws: int, num_rows: int) -> Ints:
        """How often the first ``num_draws`` draws give each row, int64 [num_rows]; makes every draw once."""
        repeats_n = np.zeros(num_rows, dtype=np.int64)
        for start in range(0, num_draws, IID_BLOCK):
            rows = self._block(start // IID_BLOCK)[: num_draws - start]
            np.add.at(repeats_n, rows, 1)
        return repeats_n
