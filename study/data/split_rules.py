"""Rules of splits: what becomes of the patients of one source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

import pandas as pd

from study.errors import InputError
from study.types import SplitName

WORDS: Final[Mapping[str, SplitName]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
EVERY_SIDE: Final[Mapping[SplitName, SplitName]] = {"train": "train", "val": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class Fixed:
    """All patients of the source go to one side."""

    side: SplitName


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Patients are drawn, together with those of all sources of the same ``pool``."""

    val_fraction: float
    test_fraction: float
    pool: str = ""

    @property
    def drawn(self) -> "Drawn":
        """The rule itself."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """Patients go where the source says, by ``sides``; those without a word are drawn.

    ``carves``: shares of val and test are taken from the training patients where the source has none of its own.
    Without it every image needs a word.
    """

    val_fraction: float = 0.0
    test_fraction: float = 0.0
    sides: Mapping[SplitName, SplitName] = field(default_factory=lambda: dict(EVERY_SIDE))
    carves: bool = True

    @property
    def drawn(self) -> Drawn:
        """The rule for patients without a word."""
        return Drawn(val_fraction=self.val_fraction, test_fraction=self.test_fraction)


Rule = Fixed | Drawn | Official


def official_sides(rows: pd.DataFrame, rule: Official) -> pd.Series:
    """Side of each row of one source by its official word; empty where there is none and the rule can do without.

    ``rows`` has the column ``data_row``, the row's place in its source from 1.

    Raises:
        InputError: a word that is not known or that the rule has no side for, or a missing one that is needed.
    """
    words = rows["split_official"].astype("str").str.strip().str.lower()
    known = words.map(dict(WORDS)).map(dict(rule.sides))
    strange = words.notna() & known.isna()
    source = rows["source"].iloc[0]
    if strange.any():
        first = rows[strange].iloc[0]
        word, row = str(first["split_official"])[:40], int(first["data_row"])
        allowed = [text for text, side in WORDS.items() if side in rule.sides]
        near = get_close_matches(word.lower(), allowed, n=1)
        raise InputError(
            f"source {source!r}: column split_official, data row {row}: {word!r}; expected {', '.join(allowed)}"
            + (f"; did you mean {near[0]!r}?" if near else ""),
            "correct the table, or use another data.splits.scheme",
        )
    lacking = int(words.isna().sum())
    if lacking and not rule.carves:
        raise InputError(
            f"source {source!r}: {lacking} usable rows have no split_official; expected one in each",
            "complete the table, or use another data.splits.scheme",
        )
    return known.fillna("").astype("str")
