"""From images to breasts, exams or patients: one score or row of probabilities, and one label, per group of views."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledClasses:
    """One row per group: names [G], class probabilities [G, K] and classes [G] of truth and decision.

    ``first_row`` is the number of a group's first row; ``num_images`` counts its rows.
    """

    groups: NDArray[np.str_]
    probs_gk: Floats
    labels_g: NDArray[np.int64]
    predicted_g: NDArray[np.int64]
    first_row: NDArray[np.int64]
    num_images: NDArray[np.int64]


def pool_probabilities(
    probs_nk: ArrayLike, labels_n: ArrayLike, groups: ArrayLike, *, pooling: Literal["max", "mean"] = "mean"
) -> PooledClasses:
    """Pool class probabilities of ordered classes; a group has the highest class that any of its images has.

    ``mean`` averages the probabilities of the images. ``max`` takes those of the most suspicious one, whose expected
    class is the highest (the first of equals): rows still sum to 1, and for two classes the score is the maximum.

    Args:
        probs_nk: shape [N, K]; rows sum to 1.
        labels_n: true classes 0..K-1, shape [N].
        groups: names, shape [N], as in ``pool_scores``.
        pooling: ``mean`` or ``max``.

    Raises:
        InputError: shapes that do not fit, a row without a group, or an unknown pooling.
    """
    if pooling not in ("max", "mean"):
        raise InputError(f"pooling is {pooling!r}; expected 'max' or 'mean'", "choose one of them")
    probs, labels = np.asarray(probs_nk, dtype=np.float64), np.asarray(labels_n)
    if probs.ndim != 2 or labels.shape != probs.shape[:1]:
        raise InputError(
            f"probabilities have shape {probs.shape} and labels {labels.shape}; expected [N, K] and [N]",
            "pass one row of probabilities and one label per image",
        )
    group_n = named(groups, num_rows=len(labels), name="groups")
    if (group_n == UNKNOWN).any():
        raise InputError("a row has no group; expected a name in each", "leave out rows without one")
    names, first_row, number_n, counts = np.unique(group_n, return_index=True, return_inverse=True, return_counts=True)
    highest_g = np.full(len(names), -1, dtype=np.int64)
    np.maximum.at(highest_g, number_n, labels.astype(np.int64))
    if pooling == "mean":
        pooled = np.zeros((len(names), probs.shape[1]))
        np.add.at(pooled, number_n, probs)
        pooled /= counts[:, None]
    else:
        expected_n = probs @ np.arange(probs.shape[1])
        order = np.lexsort((np.arange(len(labels)), -expected_n, number_n))
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        pooled = probs[order[starts]] if len(names) else probs[:0]
    return PooledClasses(
        groups=names,
        probs_gk=pooled,
        labels_g=highest_g,
        predicted_g=pooled.argmax(axis=1) if len(names) else highest_g,
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
