"""From images to breasts, exams or patients: one score and one label per group of views."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.errors import InputError
from study.stats.ranking import checked_binary
from study.stats.resampling import UNKNOWN, named
from study.stats.samples import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """One row per group, shapes [G]; they go into every function that takes scores and labels.

    ``first_row`` is the number of a group's first row, to take its patient or segment from; ``num_images`` counts its
    rows.
    """

    groups: NDArray[np.str_]
    scores: Floats
    labels: NDArray[np.bool_]
    first_row: NDArray[np.int64]
    num_images: NDArray[np.int64]


def pool_scores(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, *, pooling: Literal["max", "mean"] = "mean"
) -> Pooled:
    """Pool the images of a breast, an exam or a patient. A group is positive when any of its images is.

    Args:
        scores: shape [N], of one class.
        labels: 0 and 1 (or False and True), shape [N].
        groups: names, shape [N]; from several columns with ``joint_names(exam, laterality)``.
        pooling: ``mean`` of the scores, or ``max``, with which the most suspicious view decides.

    Raises:
        InputError: shapes or labels that do not fit, scores that are not finite, a row without a group, or an unknown
            pooling.
    """
    column, is_positive = checked_binary(scores, labels)
    if pooling not in ("max", "mean"):
        raise InputError(f"pooling is {pooling!r}; expected 'max' or 'mean'", "choose one of them")
    group_n = named(groups, num_rows=len(column), name="groups")
    if (group_n == UNKNOWN).any():
        raise InputError("a row has no group; expected a name in each", "leave out rows without one")
    names, first_row, number_n, counts = np.unique(group_n, return_index=True, return_inverse=True, return_counts=True)
    if pooling == "mean":
        pooled = np.bincount(number_n, column, minlength=len(names)) / counts
    else:
        pooled = np.full(len(names), -np.inf)
        np.maximum.at(pooled, number_n, column)
    return Pooled(
        groups=names,
        scores=pooled,
        labels=np.bincount(number_n, is_positive, minlength=len(names)) > 0,
        first_row=first_row,
        num_images=counts,
    )


def joint_names(*columns: ArrayLike) -> NDArray[np.str_]:
    """One name per row from several columns, as exam and laterality for a breast; ``unknown`` where one is missing.

    Raises:
        InputError: no column, or columns of different shapes.
    """
    if not columns:
        raise InputError("there is no column; expected at least one", "pass the columns that name a group")
    num_rows = len(np.asarray(columns[0]))
    parts = [named(column, num_rows=num_rows, name="columns") for column in columns]
    joined: NDArray[Any] = parts[0]
    for part in parts[1:]:
        # A separator that no identifier holds keeps (a, bc) and (ab, c) apart.
        joined = np.char.add(np.char.add(joined, "\x1f"), part)
    is_known = ~np.any([part == UNKNOWN for part in parts], axis=0)
    return np.where(is_known, joined, UNKNOWN)
