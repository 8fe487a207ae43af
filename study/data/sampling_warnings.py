"""Sentences about what the data does not allow a sampler to do, with the shares that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from study.data.sampling_pattern import Floats, Ints
from study.data.sampling_queues import Queues
from study.data.sampling_table import Census

TINY_QUEUE: Final = 10  # fewer units than this behind one turn: the network can learn them by heart
MOST_NAMED: Final = 5  # of ten thousand segments with the same trouble the first few are named, the rest counted
BY_CELL: Final = frozenset({"source_label", "bal_segments", "periodic"})
BY_LABEL: Final = frozenset({"label", "bal_labels", "class_stratified"})
BY_SEGMENT: Final = frozenset({"source", "segment"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a sampler makes of the data.

    Attributes:
        name: the sampler.
        batch_size: images per global batch.
        queues: the units behind each queue.
        shares_q: long-run share of each queue in the draws, [Q].
    """

    name: str
    batch_size: int
    queues: Queues
    shares_q: Floats


def cell_shares(census: Census, outcome: Outcome) -> Floats:
    """Long-run share of each segment and class in the draws, [M, K]."""
    share_n = np.zeros(len(census.labels_n))
    share_n[outcome.queues.images_i] = outcome.queues.image_shares(outcome.shares_q)
    return census.per_cell(share_n)


def warnings_for(census: Census, outcome: Outcome) -> list[str]:
    """All that a reader of a result should know about the plan behind it."""
    found: list[str] = []
    missing = len(census.labels_n) - census.num_labelled
    if missing:
        found.append(f"{missing} of {len(census.labels_n)} images have no label and are never drawn")
    absent = np.flatnonzero(census.counts_mk.sum(axis=0) == 0)
    if absent.size:
        found.append(f"no image at all has class {_list(absent)}")
    found += _without_contrast(census, outcome)
    if outcome.name in BY_CELL:
        found += _empty_cells(census, outcome)
    if outcome.name != "none":
        found += _tiny_queues(census, outcome)
    return found


def _without_contrast(census: Census, outcome: Outcome) -> list[str]:
    """One image, one class, one segment, or batches too small: nothing to balance."""
    classes, segments = np.flatnonzero(census.counts_mk.sum(axis=0)), census.present_segments
    found = []
    if census.num_labelled == 1:
        found.append("there is one image with a label, and it fills every batch")
    elif classes.size == 1:
        found.append(f"all images have class {classes[0]}, so no batch can show a difference between classes")
    if segments.size == 1 and outcome.name in BY_SEGMENT | BY_CELL:
        name = str(census.segments_m[segments[0]])
        found.append(f"there is one segment, {name!r}, so sampler {outcome.name} balances no segments")
    if outcome.name == "class_stratified" and outcome.batch_size < classes.size:
        found.append(f"a batch of {outcome.batch_size} images cannot hold all {classes.size} classes; they rotate")
    return found


def _empty_cells(census: Census, outcome: Outcome) -> list[str]:
    has_class_k = census.counts_mk.sum(axis=0) > 0
    lacks_mk = (census.counts_mk == 0) & has_class_k
    lacking = [segment for segment in census.present_segments if lacks_mk[segment].any()]
    if not lacking:
        return []
    shares_mk = cell_shares(census, outcome)
    found = []
    for segment in lacking[:MOST_NAMED]:
        name, classes = str(census.segments_m[segment]), _list(np.flatnonzero(lacks_mk[segment]))
        share = shares_mk[segment].sum()
        found.append(f"segment {name!r} has no image of class {classes} and keeps {share:.3f} of the draws")
    found += _all(lacking, "segments lack a class")
    shares = ", ".join(f"{share:.3f}" for share in shares_mk.sum(axis=0))
    return [*found, f"sampler {outcome.name} keeps the share of each segment, so the classes get {shares} of the draws"]


def _tiny_queues(census: Census, outcome: Outcome) -> list[str]:
    queues = outcome.queues
    tiny = np.flatnonzero(queues.lengths_q < TINY_QUEUE)
    found = []
    for queue in tiny[:MOST_NAMED]:
        row = queues.rows(queues.start_q[[queue]], np.zeros(1, dtype=np.int64))[0]
        length, share = queues.lengths_q[queue], outcome.shares_q[queue]
        count = f"1 {census.unit}" if length == 1 else f"{length} {census.unit}s"
        found.append(f"{_group(census, outcome, row)} has only {count} and gets {share:.3f} of the draws")
    return found + _all(tiny, f"groups have fewer than {TINY_QUEUE} {census.unit}s")


def _group(census: Census, outcome: Outcome, row: int) -> str:
    """Whose queue a row stands in."""
    label = f"class {census.labels_n[row]}"
    segment = f"segment {str(census.segments_m[census.codes_n[row]])!r}"
    if outcome.name in BY_LABEL:
        return label
    return segment if outcome.name in BY_SEGMENT else f"{segment}, {label}"


def _all(troubles: Sequence[int] | Ints, what: str) -> list[str]:
    """The number of troubles, where not all of them are named."""
    return [f"in all {len(troubles)} {what}"] if len(troubles) > MOST_NAMED else []


def _list(numbers: Ints) -> str:
    return ", ".join(str(number) for number in numbers)
