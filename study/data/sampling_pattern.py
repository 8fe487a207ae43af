"""Lane patterns: which segment each draw of a cycle belongs to.

A *lane* is a group of rows that takes turns with the others; the pattern is the cyclic order of the turns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Strings = NDArray[Any]


def periodic_pattern(turns: Sequence[int]) -> Ints:
    """Spread the turns of every segment evenly over one cycle, the rarest segment first (paper periodic, Algorithm 1).

    Segments are placed by (turns ascending, number ascending). Turn ``j`` of a segment with ``n`` turns wants slot
    ``floor(j * L / n)`` and takes the first free slot at or after it, where ``L`` is the sum of all turns. The ideal
    slots of all segments together satisfy the parking condition (at most ``L - q`` of them lie at or after slot ``q``),
    so nobody ever runs past the end and no wrap-around is needed.

    Args:
        turns: turns of each segment per cycle, each >= 0; a segment with 0 turns does not appear.

    Returns:
        int64 [L], the segment number of each slot.

    Raises:
        InputError: a negative number of turns, or none at all.
    """
    counts = np.asarray(turns, dtype=np.int64)
    if counts.size == 0 or counts.min() < 0 or counts.sum() == 0:
        raise InputError(f"turns per segment are {counts.tolist()}; expected whole numbers >= 0, not all of them 0")
    length = int(counts.sum())
    pattern = np.full(length, -1, dtype=np.int64)
    for segment in np.argsort(counts, kind="stable"):
        turn = np.arange(counts[segment], dtype=np.int64)
        if turn.size == 0:
            continue
        free = np.flatnonzero(pattern < 0)
        wanted = np.searchsorted(free, turn * length // counts[segment])
        taken = np.maximum.accumulate(wanted - turn) + turn  # after a taken slot comes the next free one
        pattern[free[taken]] = segment
    return pattern


def round_robin(num_lanes: int) -> Ints:
    """The pattern that gives every lane one turn per cycle: int64 [num_lanes]."""
    return np.arange(num_lanes, dtype=np.int64)


def circular_gaps(pattern: Ints, segment: int) -> tuple[int, int]:
    """Smallest and largest distance between neighbouring turns of ``segment``, in slots, over the seam as well."""
    slots = np.flatnonzero(pattern == segment)
    gaps = np.diff(np.append(slots, slots[0] + len(pattern)))
    return int(gaps.min()), int(gaps.max())
