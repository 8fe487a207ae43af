"""Permutation tests of a difference, of paired cases and of independent samples."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.errors import InputError
from study.stats.resampling import numbered
from study.stats.samples import NAN, Floats, as_vector

PERMUTATIONS: Final = 9999
Statistic = Callable[[NDArray[Any]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationResult:
    """Difference of a statistic, and the share of relabelled data that differ at least as much, on either side.

    ``is_exact`` when every relabelling was tried; ``reason`` says why numbers are NaN.
    """

    difference: float
    p: float
    permutations: int
    is_exact: bool
    reason: str = ""


def permutation_paired(
    a: ArrayLike,
    b: ArrayLike,
    *,
    statistic: Statistic = np.mean,
    groups: ArrayLike | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> PermutationResult:
    """Is the statistic of a that of b, if which model gave which of a case's two values did not matter?

    For an area pass ranks (``midranks``) of both models' scores: swapping asks for one scale.

    Args:
        a: one value or row per case, shape [N] or [N, K]: scores of the first model, or its result per seed.
        b: the same of the second model on the same cases.
        statistic: from such an array to a number, the mean by default; for a metric close over the labels, as in
            ``lambda scores: auc(scores, labels)``.
        groups: shape [N], cases that are swapped together (a patient's images); each case by itself by default.
        permutations: how many swaps to draw; all are tried instead when there are no more than that.
        seed: of the draws.

    Returns:
        NaN without a case, and when the statistic is NaN on a, b or any permutation.

    Raises:
        InputError: arrays of different shapes.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim not in (1, 2):
        raise InputError(
            f"values have shapes {first.shape} and {second.shape}; expected [N] or [N, K] twice",
            "pass one value per case and model",
        )
    group_n = np.arange(len(first)) if groups is None else numbered(groups, num_rows=len(first), name="groups")
    num_groups = int(group_n.max(initial=-1)) + 1
    # Swapping everything only turns the sign, so the first group may stay: half of all swaps are all.
    is_exact = 0 < num_groups <= 60 and 2 ** (num_groups - 1) <= permutations

    def swapped_differences() -> Iterator[float]:
        for swap_g in _all_swaps(num_groups) if is_exact else _drawn_swaps(num_groups, permutations, seed=seed):
            swap = swap_g[group_n].reshape(-1, *[1] * (first.ndim - 1))
            yield float(statistic(np.where(swap, second, first))) - float(statistic(np.where(swap, first, second)))

    if num_groups == 0:
        return PermutationResult(difference=NAN, p=NAN, permutations=0, is_exact=False, reason="there is no case")
    difference = float(statistic(first)) - float(statistic(second))
    return _result(difference, np.fromiter(swapped_differences(), dtype=np.float64), is_exact=is_exact)


def permutation_unpaired(
    a: ArrayLike,
    b: ArrayLike,
    *,
    statistic: Statistic = np.mean,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> PermutationResult:
    """Is the statistic of a that of b, if which sample a value belongs to did not matter?

    Args:
        a: first sample, shape [n_a], as in results of five seeds.
        b: second sample, shape [n_b].
        statistic: from a sample to a number, the mean by default.
        permutations: how many divisions to draw; all are tried instead when there are no more than that.
        seed: of the draws.

    Returns:
        NaN when a sample is empty, and when the statistic is NaN on a, b or any division.

    Raises:
        InputError: a sample with more than one dimension.
    """
    first, second = as_vector(a), as_vector(b)
    if min(len(first), len(second)) == 0:
        return PermutationResult(difference=NAN, p=NAN, permutations=0, is_exact=False, reason="a sample is empty")
    both = np.concatenate([first, second])
    is_exact = math.comb(len(both), len(first)) <= permutations

    def divided_differences() -> Iterator[float]:
        rng = np.random.default_rng(seed)
        divisions: Iterator[Any] = (
            itertools.combinations(range(len(both)), len(first))
            if is_exact
            else (rng.permutation(len(both))[: len(first)] for _ in range(permutations))
        )
        for chosen in divisions:
            is_first = np.zeros(len(both), dtype=bool)
            is_first[list(chosen)] = True
            yield float(statistic(both[is_first])) - float(statistic(both[~is_first]))

    difference = float(statistic(first)) - float(statistic(second))
    return _result(difference, np.fromiter(divided_differences(), dtype=np.float64), is_exact=is_exact)


def _all_swaps(num_groups: int) -> Iterator[NDArray[np.bool_]]:
    for rest in itertools.product((False, True), repeat=num_groups - 1):
        yield np.array((False, *rest))


def _drawn_swaps(num_groups: int, permutations: int, *, seed: int) -> Iterator[NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    for _ in range(permutations):
        yield rng.integers(2, size=num_groups).astype(bool)


def _result(difference: float, found: Floats, *, is_exact: bool) -> PermutationResult:
    if not (np.isfinite(difference) and np.isfinite(found).all()):
        reason = "the statistic is undefined on the data or on a permutation of them"
        return PermutationResult(
            difference=difference, p=NAN, permutations=len(found), is_exact=is_exact, reason=reason
        )
    # The same data in another order give sums that differ in the last digits.
    tolerance = 1e-12 * max(abs(difference), float(np.abs(found).max()))
    num_as_large = int(np.count_nonzero(np.abs(found) >= abs(difference) - tolerance))
    p = num_as_large / len(found) if is_exact else (num_as_large + 1) / (len(found) + 1)
    return PermutationResult(difference=difference, p=p, permutations=len(found), is_exact=is_exact)
