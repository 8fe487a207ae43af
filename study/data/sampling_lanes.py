"""What each sampler balances: the queue of every row, the lanes that the queues form, and whose turn it is when."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.data.sampling_pattern import Ints, periodic_pattern, round_robin
from study.data.sampling_table import Census


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """The rule of a sampler, applied to data.

    Attributes:
        pattern_l: lane of each slot of one cycle, int64 [L].
        queues_m: number of queues of each lane, int64 [M]; queues are numbered lane after lane.
        queue_n: queue of each row, int64 [N]; -1 for rows that are never drawn.
    """

    pattern_l: Ints
    queues_m: Ints
    queue_n: Ints


def one_queue(census: Census) -> Lanes:
    """One lane with one queue of all labelled rows."""
    return Lanes(
        pattern_l=round_robin(1),
        queues_m=np.ones(1, dtype=np.int64),
        queue_n=np.where(census.labels_n >= 0, 0, -1),
    )


def queue_per_label(census: Census) -> Lanes:
    """One lane with a queue for each class that somebody has."""
    is_present_k = census.counts_mk.sum(axis=0) > 0
    return Lanes(
        pattern_l=round_robin(1),
        queues_m=np.array([is_present_k.sum()], dtype=np.int64),
        queue_n=_numbered(is_present_k, census.labels_n, census),
    )


def lane_per_segment(census: Census) -> Lanes:
    """A lane for each segment with a labelled row, with one queue of its rows; lanes in turn."""
    is_present_m = census.counts_mk.sum(axis=1) > 0
    num_lanes = int(is_present_m.sum())
    return Lanes(
        pattern_l=round_robin(num_lanes),
        queues_m=np.ones(num_lanes, dtype=np.int64),
        queue_n=_numbered(is_present_m, census.codes_n, census),
    )


def cells_in_turn(census: Census) -> Lanes:
    """A lane for each segment with a labelled row, with a queue for each class it has; lanes in turn."""
    queues_m, queue_n = _cells(census)
    return Lanes(pattern_l=round_robin(len(queues_m)), queues_m=queues_m, queue_n=queue_n)


def cells_in_periods(census: Census) -> Lanes:
    """The same cells; a lane has as many turns as the rarest class of its segment has units."""
    queues_m, queue_n = _cells(census)
    pattern_l = periodic_pattern(census.rarest_m[census.present_segments].tolist())
    return Lanes(pattern_l=pattern_l, queues_m=queues_m, queue_n=queue_n)


def _cells(census: Census) -> tuple[Ints, Ints]:
    """Queues of each lane, and the queue of each row."""
    is_present_mk = census.counts_mk > 0
    cell_n = census.codes_n * census.counts_mk.shape[1] + census.labels_n
    queues_m = is_present_mk.sum(axis=1)
    return queues_m[queues_m > 0].astype(np.int64), _numbered(is_present_mk.reshape(-1), cell_n, census)


def _numbered(is_present_g: NDArray[np.bool_], group_n: Ints, census: Census) -> Ints:
    """Number of each row's group among the present groups; -1 for rows without a label."""
    number_g = np.cumsum(is_present_g, dtype=np.int64) - 1
    return np.where(census.labels_n >= 0, number_g[group_n], -1)
