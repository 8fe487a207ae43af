"""Lane patterns: which segment each draw of a cycle belongs to.

A *lane* is a group of rows that takes turns with the others; the pattern is the cyclic order of the turns.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from study.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Strings = NDArray[Any]

_RADIX: Final = 1 << 16  # numpy sorts 16-bit keys by counting, in linear time


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
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    pattern = np.full(length, -1, dtype=np.int64)
    towards = np.arange(length + 1, dtype=np.int64)  # a slot itself while it is free, else a later slot
    for segment in order[:-1]:
        count = int(counts[segment])
        wanted = np.arange(count, dtype=np.int64) * length // count
        while wanted.size:
            free = _next_free(towards, wanted)
            is_first = np.append(True, free[1:] != free[:-1])  # neighbours that want one slot: the others go on
            taken = free[is_first]
            pattern[taken] = segment
            towards[taken] = taken + 1
            wanted = free[~is_first]
    pattern[pattern < 0] = order[-1]  # the richest segment takes what is left
    return pattern


def _next_free(towards: Ints, slots: Ints) -> Ints:
    """First free slot at or after each slot; shortens the ways through ``towards``, so that no slot is passed often."""
    here = slots
    while True:
        there = towards[here]
        if np.array_equal(there, here):
            towards[slots] = here
            return here
        further = towards[there]
        towards[here] = further
        here = further


def round_robin(num_lanes: int) -> Ints:
    """The pattern that gives every lane one turn per cycle: int64 [num_lanes]."""
    return np.arange(num_lanes, dtype=np.int64)


def earlier_turns(pattern_l: Ints, num_lanes: int) -> Ints:
    """How often the lane of each slot had its turn earlier in the cycle, int64 [L]."""
    order = stable_order(pattern_l, num_lanes)
    counts_m = np.bincount(pattern_l, minlength=num_lanes)
    turn_l = np.empty(len(pattern_l), dtype=np.int64)
    turn_l[order] = np.arange(len(pattern_l)) - np.repeat(np.cumsum(counts_m) - counts_m, counts_m)
    return turn_l


def stable_order(keys_n: Ints, num_keys: int) -> Ints:
    """Positions in the order of their keys, which lie below ``num_keys``; equal keys as they stood: int64 [N]."""
    order = np.argsort((keys_n % _RADIX).astype(np.uint16), kind="stable")
    digit = _RADIX
    while digit < num_keys:
        upper = (keys_n[order] // digit % _RADIX).astype(np.uint16)
        order = order[np.argsort(upper, kind="stable")]
        digit *= _RADIX
    return order.astype(np.int64, copy=False)


def circular_gaps(pattern: Ints, segment: int) -> tuple[int, int]:
    """Smallest and largest distance between neighbouring turns of ``segment``, in slots, over the seam as well."""
    slots = np.flatnonzero(pattern == segment)
    gaps = np.diff(np.append(slots, slots[0] + len(pattern)))
    return int(gaps.min()), int(gaps.max())
