"""The table of images by segment and class that samplers balance, what a plan makes of it, and what to warn about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from study.data.sampling_pattern import Floats, Ints, Strings
from study.errors import InputError

TINY_QUEUE: Final = 10  # fewer images than this behind one turn: the network can learn them by heart


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Who is in the data: class and segment of every row.

    Attributes:
        labels_n: class of each row, int64 [N], -1 where it is missing.
        codes_n: segment number of each row, int64 [N].
        segments_m: segment names, sorted, [M].
        counts_mk: labelled images per segment and class, int64 [M, K] with K = largest class + 1.
    """

    labels_n: Ints
    codes_n: Ints
    segments_m: Strings
    counts_mk: Ints

    @property
    def labelled(self) -> Ints:
        """Rows that have a label, int64."""
        return np.flatnonzero(self.labels_n >= 0)

    def cell(self, segment: int, label: int) -> Ints:
        """Rows of one segment and class, int64."""
        return np.flatnonzero((self.codes_n == segment) & (self.labels_n == label))

    def labels_of(self, segment: int) -> Ints:
        """Classes present in a segment, ascending."""
        return np.flatnonzero(self.counts_mk[segment])

    @property
    def present_segments(self) -> Ints:
        """Numbers of the segments that have a labelled image, ascending."""
        return np.flatnonzero(self.counts_mk.sum(axis=1))

    @property
    def rarest_m(self) -> Ints:
        """Images of the rarest class present in each segment, 0 where no image has a label: int64 [M]."""
        large = np.iinfo(np.int64).max
        rarest = np.where(self.counts_mk > 0, self.counts_mk, large).min(axis=1)
        return np.asarray(np.where(rarest == large, 0, rarest), dtype=np.int64)


def take_census(labels: Any, segments: Any) -> Census:
    """Read labels (whole numbers >= 0; negative, NaN or NA means missing) and segment names of equal length.

    Raises:
        InputError: lengths differ, a label is no whole number, or no row has a label.
    """
    labels_n = _labels(labels)
    names_n = np.asarray(segments).astype(str)
    if labels_n.shape != names_n.shape or labels_n.ndim != 1:
        raise InputError(f"labels have shape {labels_n.shape} and segments {names_n.shape}; expected two equal rows")
    if not (labels_n >= 0).any():
        raise InputError(
            f"none of {len(labels_n)} images has a label; expected at least one",
            "check data.labels and the training split in the manifest",
        )
    segments_m, codes_n = np.unique(names_n, return_inverse=True)
    codes_n = codes_n.astype(np.int64)
    counts_mk = np.zeros((len(segments_m), int(labels_n.max()) + 1), dtype=np.int64)
    known = labels_n >= 0
    np.add.at(counts_mk, (codes_n[known], labels_n[known]), 1)
    return Census(labels_n=labels_n, codes_n=codes_n, segments_m=segments_m, counts_mk=counts_mk)


def _labels(labels: Any) -> Ints:
    try:
        column = pd.Series(labels).astype("Int64")
    except (TypeError, ValueError) as error:
        raise InputError("labels are no whole numbers; expected class numbers from 0") from error
    values = column.fillna(-1).to_numpy(dtype=np.int64)
    return np.where(values < 0, -1, values)


def summarise(census: Census, repeats_n: Ints) -> pd.DataFrame:
    """What a plan draws: one line per non-empty cell.

    Columns: segment, label, share (of all draws), images, repeats_min, repeats_median, repeats_max (draws per image),
    never_seen (images that are not drawn at all).
    """
    rows = census.labelled
    frame = pd.DataFrame(
        {
            "segment": census.segments_m[census.codes_n[rows]].astype(object),
            "label": census.labels_n[rows],
            "repeats": repeats_n[rows],
            "unseen": repeats_n[rows] == 0,
        }
    )
    table = frame.groupby(["segment", "label"], as_index=False).agg(
        share=("repeats", "sum"),
        images=("repeats", "size"),
        repeats_min=("repeats", "min"),
        repeats_median=("repeats", "median"),
        repeats_max=("repeats", "max"),
        never_seen=("unseen", "sum"),
    )
    return table.assign(share=table["share"] / max(int(repeats_n.sum()), 1))


def warnings_for(
    census: Census, name: str, *, by_cell: bool, queues: Sequence[Ints], class_shares: Floats
) -> list[str]:
    """Sentences about what the data does not allow the sampler to do; ``class_shares`` are the plan's own, [K]."""
    found: list[str] = []
    missing = int((census.labels_n < 0).sum())
    if missing:
        found.append(f"{missing} of {len(census.labels_n)} images have no label and are never drawn")
    absent = np.flatnonzero(census.counts_mk.sum(axis=0) == 0)
    if absent.size:
        found.append(f"no image at all has class {_list(absent)}")
    if by_cell:
        found.extend(_empty_cells(census, name, class_shares))
    if name != "none":
        found.extend(_tiny_queues(census, name, queues))
    return found


def _empty_cells(census: Census, name: str, class_shares: Floats) -> list[str]:
    has_class_k = census.counts_mk.sum(axis=0) > 0
    found = []
    for segment in census.present_segments:
        lacking = np.flatnonzero((census.counts_mk[segment] == 0) & has_class_k)
        if lacking.size:
            found.append(f"segment {str(census.segments_m[segment])!r} has no image of class {_list(lacking)}")
    if found:
        shares = ", ".join(f"{share:.3f}" for share in class_shares)
        found.append(f"sampler {name} keeps the share of each segment, so the classes get {shares} of the draws")
    return found


def _tiny_queues(census: Census, name: str, queues: Sequence[Ints]) -> list[str]:
    found = []
    for rows in queues:
        if len(rows) >= TINY_QUEUE:
            continue
        label = f"class {census.labels_n[rows[0]]}"
        segment = f"segment {str(census.segments_m[census.codes_n[rows[0]]])!r}"
        group = {"label": label, "source": segment}.get(name, f"{segment}, {label}")
        found.append(f"{group} has only {len(rows)} images, which take its whole share of the draws")
    return found


def _list(numbers: Ints) -> str:
    return ", ".join(str(number) for number in numbers)
