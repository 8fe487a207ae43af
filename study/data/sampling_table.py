"""The table of images by segment and class that samplers balance, and what a plan makes of it."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from study.data.sampling_pattern import Floats, Ints, Strings, stable_order
from study.errors import InputError

MAX_CLASSES: Final = 10_000  # a class number beyond is an id in the wrong column
NAME_CHUNK: Final = 1 << 20  # bounds the memory for comparing names


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Who is in the data: class and segment of every row.

    Attributes:
        labels_n: class of each row, int64 [N], -1 where it is missing.
        codes_n: segment number of each row, int64 [N].
        segments_m: segment names, sorted, [M].
        counts_mk: labelled images per segment and class, int64 [M, K] with K = largest class + 1.
        patients_n: patient number of each row, int64 [N]; None where images are drawn, not patients.
        units_mk: what is drawn, per segment and class: patients with such an image, or the images themselves.
    """

    labels_n: Ints
    codes_n: Ints
    segments_m: Strings
    counts_mk: Ints
    patients_n: Ints | None
    units_mk: Ints

    @property
    def num_labelled(self) -> int:
        """Rows that have a label."""
        return int(self.counts_mk.sum())

    @property
    def unit(self) -> str:
        """What a draw picks: ``image`` or ``patient``."""
        return "image" if self.patients_n is None else "patient"

    @property
    def present_segments(self) -> Ints:
        """Numbers of the segments that have a labelled image, ascending."""
        return np.flatnonzero(self.counts_mk.sum(axis=1))

    @property
    def rarest_m(self) -> Ints:
        """Units of the rarest class present in each segment, 0 where no image has a label: int64 [M]."""
        large = np.iinfo(np.int64).max
        rarest = np.where(self.units_mk > 0, self.units_mk, large).min(axis=1)
        return np.asarray(np.where(rarest == large, 0, rarest), dtype=np.int64)

    def per_cell(self, values_n: Floats | Ints) -> Floats:
        """Sum of a value of each row over the labelled rows of each segment and class, [M, K]."""
        known = self.labels_n >= 0
        cells = self.codes_n[known] * self.counts_mk.shape[1] + self.labels_n[known]
        sums_c = np.bincount(cells, weights=values_n[known], minlength=self.counts_mk.size).astype(np.float64)
        return sums_c.reshape(self.counts_mk.shape)


def take_census(labels: Any, segments: Any, *, patients: Any = None) -> Census:
    """Read labels (whole numbers >= 0; negative, NaN or NA means missing), segment names and, to draw them, patients.

    Raises:
        InputError: lengths differ, a label is no class number, no row has a label, or a row has no patient.
    """
    labels_n = _labels(labels)
    shapes = [np.shape(column) for column in (segments, patients) if column is not None]
    if labels_n.ndim != 1 or any(shape != labels_n.shape for shape in shapes):
        found = " and patients ".join(str(shape) for shape in shapes)
        raise InputError(f"labels have shape {labels_n.shape} and segments {found}; expected equal rows")
    if not (labels_n >= 0).any():
        raise InputError(
            f"none of {len(labels_n)} images has a label; expected at least one",
            "check data.labels and the training split in the manifest",
        )
    codes_n, segments_m = _names(segments)
    num_classes = int(labels_n.max()) + 1
    known = labels_n >= 0
    cells = codes_n[known] * num_classes + labels_n[known]
    shape = (len(segments_m), num_classes)
    counts_mk = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)
    patients_n = None if patients is None else _patients(patients)
    units_mk = counts_mk if patients_n is None else _distinct(patients_n[known], cells, shape)
    return Census(
        labels_n=labels_n,
        codes_n=codes_n,
        segments_m=segments_m,
        counts_mk=counts_mk,
        patients_n=patients_n,
        units_mk=units_mk,
    )


def _labels(labels: Any) -> Ints:
    try:
        column = pd.Series(labels).astype("Int64")
    except (TypeError, ValueError) as error:
        raise InputError("labels are no whole numbers; expected class numbers from 0") from error
    values = column.to_numpy(dtype=np.int64, na_value=-1)
    if values.max(initial=0) >= MAX_CLASSES:
        raise InputError(f"labels reach {values.max()}; expected class numbers from 0 to at most {MAX_CLASSES - 1}")
    return np.maximum(values, -1)


def _names(names: Any) -> tuple[Ints, Strings]:
    """Number of each row's name among the sorted names, and these; part by part, for names take more than numbers."""
    values: Any = names.array if isinstance(names, pd.Series | pd.Index) else names
    values = values if isinstance(values, pd.api.extensions.ExtensionArray) else np.asarray(values)
    number: dict[str, int] = {}
    codes_n = np.empty(len(values), dtype=np.int64)
    for start in range(0, len(values), NAME_CHUNK):
        codes, found = pd.factorize(values[start : start + NAME_CHUNK], use_na_sentinel=False)
        numbers = [number.setdefault(str(name), len(number)) for name in found]
        codes_n[start : start + NAME_CHUNK] = np.array(numbers, dtype=np.int64)[codes]
    names_m = np.array(list(number), dtype=str)
    order = np.argsort(names_m, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes_n], names_m[order]


def _patients(patients: Any) -> Ints:
    """Number of each row's patient, in order of appearance."""
    codes_n, _ = pd.factorize(pd.Series(patients))
    lacking = int((codes_n < 0).sum())
    if lacking:
        raise InputError(f"{lacking} of {len(codes_n)} images have no patient; expected one for each")
    return codes_n.astype(np.int64)


def _distinct(patients: Ints, cells: Ints, shape: tuple[int, int]) -> Ints:
    """Number of different patients in each cell, [M, K]."""
    order = stable_order(patients, int(patients.max()) + 1)
    order = order[stable_order(cells[order], shape[0] * shape[1])]
    patient, cell = patients[order], cells[order]
    is_first = np.append(True, (patient[1:] != patient[:-1]) | (cell[1:] != cell[:-1]))
    return np.bincount(cell[is_first], minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)


def summarise(census: Census, repeats_n: Ints) -> pd.DataFrame:
    """What a plan draws: one line per non-empty cell.

    Columns: segment, label, share (of all draws), images, repeats_min, repeats_median, repeats_max (draws per image),
    never_seen (images that are not drawn at all).
    """
    known = census.labels_n >= 0
    num_classes = census.counts_mk.shape[1]
    frame = pd.DataFrame(
        {
            "cell": census.codes_n[known] * num_classes + census.labels_n[known],
            "repeats": repeats_n[known],
            "unseen": repeats_n[known] == 0,
        }
    )
    table = frame.groupby("cell").agg(
        share=("repeats", "sum"),
        images=("repeats", "size"),
        repeats_min=("repeats", "min"),
        repeats_median=("repeats", "median"),
        repeats_max=("repeats", "max"),
        never_seen=("unseen", "sum"),
    )
    cells = table.index.to_numpy()
    table = table.reset_index(drop=True)
    table.insert(0, "segment", census.segments_m[cells // num_classes].astype(object))
    table.insert(1, "label", cells % num_classes)
    return table.assign(share=table["share"] / max(int(repeats_n.sum()), 1))
