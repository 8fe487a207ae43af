"""Which rows are drawn together, and how often each row stands in a resample (Efron 1979)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.errors import InputError

UNKNOWN: Final = "unknown"
MISSING_NAMES: Final = ("", "None", "nan", "NaN", "<NA>", "NaT")
Counts = NDArray[np.int64]
Metric = Callable[[Counts], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How the rows of an evaluated set are drawn with replacement; made by ``resampling``.

    ``group_n`` numbers the groups (patients) from 0, those of one stratum side by side; None when each row is its own
    group, in order. ``stratum_sizes`` counts the groups of each stratum.
    """

    num_rows: int
    num_groups: int
    group_n: NDArray[np.int64] | None
    stratum_sizes: tuple[int, ...]

    def draw(self, rng: np.random.Generator) -> Counts:
        """How often each row is drawn, shape [N]: as many groups as there are, with replacement, in each stratum."""
        starts = np.cumsum((0, *self.stratum_sizes[:-1]))
        picked = [start + rng.integers(size, size=size) for start, size in zip(starts, self.stratum_sizes, strict=True)]
        drawn = picked[0] if len(picked) == 1 else np.concatenate(picked)
        return self._of_rows(np.bincount(drawn, minlength=self.num_groups))

    def without(self, group: int) -> Counts:
        """Every row once, but those of one group, shape [N]."""
        count_g = np.ones(self.num_groups, dtype=np.int64)
        count_g[group] = 0
        return self._of_rows(count_g)

    def once(self) -> Counts:
        """Every row once, shape [N]: the set itself."""
        return np.ones(self.num_rows, dtype=np.int64)

    def _of_rows(self, count_g: Counts) -> Counts:
        return count_g if self.group_n is None else count_g[self.group_n]


def resampling(num_rows: int, *, groups: ArrayLike | None = None, strata: ArrayLike | None = None) -> Resampling:
    """Plan how rows are drawn.

    Args:
        num_rows: N, at least 0.
        groups: shape [N], rows that are drawn together (a patient's images); each row is its own group by default.
        strata: shape [N], parts whose number of groups stays the same in every resample (a segment, a class); none by
            default. A group lies in one stratum: for patients stratify by ``highest_in_group(labels, groups)``.

    Raises:
        InputError: other lengths than N, or a group in several strata.
    """
    if groups is None and strata is None:
        return Resampling(
            num_rows=num_rows, num_groups=num_rows, group_n=None, stratum_sizes=(num_rows,) if num_rows else ()
        )
    group_n = np.arange(num_rows) if groups is None else numbered(groups, num_rows=num_rows, name="groups")
    stratum_n = np.zeros(num_rows, np.int64) if strata is None else numbered(strata, num_rows=num_rows, name="strata")
    num_groups = int(group_n.max(initial=-1)) + 1
    stratum_g = np.zeros(num_groups, dtype=np.int64)
    stratum_g[group_n] = stratum_n
    if (stratum_g[group_n] != stratum_n).any():
        raise InputError(
            "a group lies in several strata; expected one stratum per group",
            "stratify by something that is the same for all rows of a group, as highest_in_group(labels, groups)",
        )
    # Groups are numbered stratum by stratum, so that a draw needs no table of members.
    number_g = np.empty(num_groups, dtype=np.int64)
    number_g[np.argsort(stratum_g, kind="stable")] = np.arange(num_groups)
    return Resampling(
        num_rows=num_rows,
        num_groups=num_groups,
        group_n=number_g[group_n],
        stratum_sizes=tuple(int(size) for size in np.bincount(stratum_g)),
    )


def highest_in_group(labels: ArrayLike, groups: ArrayLike) -> NDArray[Any]:
    """The highest label of each row's group, shape [N]: whether a patient has any positive image.

    Raises:
        InputError: labels and groups of other shapes than [N].
    """
    values = np.asarray(labels)
    group_n = numbered(groups, num_rows=len(values), name="groups")
    highest_g = np.full(int(group_n.max(initial=-1)) + 1, values.min(initial=0))
    np.maximum.at(highest_g, group_n, values)
    highest: NDArray[Any] = highest_g[group_n]
    return highest


def of_rows(metric: Callable[[NDArray[np.int64]], float]) -> Metric:
    """A metric of row numbers, as in ``lambda rows: score(y[rows], p[rows])``, made one of counts; slower."""
    return lambda count_n: metric(np.repeat(np.arange(len(count_n)), count_n))


def numbered(names: ArrayLike, *, num_rows: int, name: str) -> NDArray[np.int64]:
    """Names of any kind as numbers from 0, shape [N].

    Raises:
        InputError: another shape, or a missing name.
    """
    column = np.asarray(names)
    if column.dtype.kind in "biu" and column.shape == (num_rows,):
        return np.unique(column, return_inverse=True)[1].astype(np.int64)
    column = named(column, num_rows=num_rows, name=name)
    if (column == UNKNOWN).any():
        raise InputError(f"{name} have missing names; expected one per row", "leave such rows out")
    return np.unique(column, return_inverse=True)[1].astype(np.int64)


def named(names: ArrayLike, *, num_rows: int, name: str) -> NDArray[np.str_]:
    """Names of any kind as text, shape [N]; None, NaN, NA and empty text become ``unknown``.

    Raises:
        InputError: another shape.
    """
    column = np.asarray(names)
    if column.shape != (num_rows,):
        raise InputError(f"{name} have shape {column.shape}; expected ({num_rows},)", "pass one per row")
    text = column.astype(str)
    return np.where(np.isin(text, MISSING_NAMES), UNKNOWN, text)
