"""Segments: groups of images that share the values of some manifest columns, or intervals of a number."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.data.tasks import near
from study.errors import InputError

UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
UNKNOWN: Final = "unknown"
ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binned:
    """A column of numbers cut at ``bins``: below the first, from each to below the next, and from the last on.

    Raises:
        InputError: no bins, or bins that are no ascending numbers.
    """

    column: str
    bins: tuple[float, ...]

    def __post_init__(self) -> None:
        is_ascending = all(map(_is_number, self.bins)) and all(low < high for low, high in pairwise(self.bins))
        if not self.bins or not is_ascending:
            raise InputError(
                f"data.segments cuts column {self.column!r} at {list(self.bins)}; expected ascending numbers",
                "for example {column: age, bins: [50, 60]}",
            )

    @classmethod
    def read(cls, part: Mapping[str, Any]) -> Self:
        """From the study file's form, ``{column: age, bins: [50, 60]}``.

        Raises:
            InputError: other keys, or bins that cannot be.
        """
        if set(part) != {"column", "bins"} or not isinstance(part["bins"], list | tuple):
            raise InputError(
                f"an entry of data.segments is {dict(part)}; expected a column's name, or its column and bins",
                "for example {column: age, bins: [50, 60]}",
            )
        return cls(column=str(part["column"]), bins=tuple(part["bins"]))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the intervals, ascending: ``age_under_50``, ``age_50_to_60`` (60 excluded), ``age_60_up``."""
        texts = [f"{edge:.10g}" for edge in self.bins]
        between = [f"{low}_to_{high}" for low, high in pairwise(texts)]
        return tuple(f"{self.column}_{text}" for text in (f"under_{texts[0]}", *between, f"{texts[-1]}_up"))


def add_segments(manifest: pd.DataFrame, parts: Sequence[str | Binned | Mapping[str, Any]]) -> pd.DataFrame:
    """Add ``segment``: the values of the parts joined by a dot, safe for a metric's name.

    Every character but letters, digits, ``_`` and ``-`` becomes ``_``; a missing value becomes ``unknown``; a binned
    column gives the name of its interval; without parts there is one segment, ``all``.

    Raises:
        InputError: a column that the manifest does not have, or one to be binned that holds no numbers.
    """
    codes_n = np.zeros(len(manifest), dtype=np.int64)
    names = [""] if parts else [ALL]
    for part in parts:
        part_n, part_names = _part(manifest, Binned.read(part) if isinstance(part, Mapping) else part)
        # Only combinations that occur are named: ten parts of ten values each would be ten thousand million.
        found, codes_n = np.unique(codes_n * len(part_names) + part_n, return_inverse=True)
        names = [
            f"{names[code // len(part_names)]}.{part_names[code % len(part_names)]}".removeprefix(".") for code in found
        ]
    values_n = np.array(names, dtype=object)[codes_n]
    return manifest.assign(segment=pd.Series(values_n, index=manifest.index, dtype="str"))


def _part(manifest: pd.DataFrame, part: str | Binned) -> tuple[NDArray[np.int64], list[str]]:
    """Number of each row's value, and the names of the numbers."""
    column = part.column if isinstance(part, Binned) else part
    if column not in manifest:
        known = [str(name) for name in manifest.columns]
        raise InputError(
            f"data.segments names {column!r}; expected a column of the manifest{near(column, known)}",
            "correct data.segments",
        )
    if isinstance(part, Binned):
        return _binned(manifest[column], part)
    codes_n, values = pd.factorize(manifest[column], use_na_sentinel=False)
    return codes_n.astype(np.int64), [_safe(value) for value in values]


def _binned(values: pd.Series, part: Binned) -> tuple[NDArray[np.int64], list[str]]:
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise InputError(
            f"data.segments cuts column {part.column!r} at numbers, but it holds text",
            f"name the column alone: segments: [{part.column}]",
        )
    numbers_n = values.to_numpy(dtype=np.float64, na_value=np.nan)
    codes_n = np.searchsorted(np.asarray(part.bins, dtype=np.float64), numbers_n, side="right")
    names = [*(UNSAFE.sub("_", name) for name in part.names), UNKNOWN]
    return np.where(np.isnan(numbers_n), len(names) - 1, codes_n).astype(np.int64), names


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _safe(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return UNKNOWN
    text = f"{value:g}" if isinstance(value, float) else str(value).strip()
    return UNSAFE.sub("_", text) or UNKNOWN
