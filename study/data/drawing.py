"""Which units (patients, or breasts) go where: drawn alike in class and source, the same for every order of rows."""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from study.errors import InputError
from study.types import SplitName

NEARLY_ONE: Final = 1 - 1e-9


def draw(
    units: pd.DataFrame, *, val_fraction: float, test_fraction: float, seed: int, where: str = ""
) -> dict[str, SplitName]:
    """The split of each unit: shares for val and test, the rest trains.

    Within a class, units are lined up by source and, inside a source, by a keyed hash; test and then val take evenly
    spaced places, so each source gives its share. A class of three or more units reaches every split; smaller ones go
    to train first.

    Args:
        units: one row per unit in the order of :func:`study.data.splits.units_of`: ``label`` and ``order``.
        val_fraction, test_fraction: shares of the units.
        seed: of the draw.
        where: the source that is drawn from, for messages.

    Raises:
        InputError: shares outside 0 to 1 or adding up to more than 1, or fewer units than splits with a share.
    """
    if min(val_fraction, test_fraction) < 0 or (val_fraction + test_fraction) * NEARLY_ONE > 1:
        raise InputError(
            f"{where}shares of val {val_fraction:g} and test {test_fraction:g}; expected a sum of at most 1",
            "correct data.splits",
        )
    trains = val_fraction + test_fraction < NEARLY_ONE
    needed = trains + (val_fraction > 0) + (test_fraction > 0)
    if len(units) < needed:
        raise InputError(
            f"{where}{len(units)} patients have a usable image; expected at least {needed} for the splits",
            "add patients, or change data.splits",
        )
    split: dict[str, SplitName] = {}
    for label, members in units.groupby("label", sort=True):
        ids = [str(unit) for unit in members.index]
        test = _pick(ids, test_fraction, rng=_rng(seed, f"test {label}"), reserve=trains + (val_fraction > 0))
        rest = [unit for unit in ids if unit not in test]
        share = val_fraction / (1 - test_fraction) if test_fraction < NEARLY_ONE else 0.0
        val = _pick(rest, share, rng=_rng(seed, f"val {label}"), reserve=int(trains))
        left: SplitName = "train" if trains else "val" if val_fraction else "test"
        split |= {unit: "test" if unit in test else "val" if unit in val else left for unit in ids}
    _fill_empty(split, units, fractions={"val": val_fraction, "test": test_fraction})
    return split


def draw_folds(units: pd.DataFrame, *, folds: int, fold: int, test_fraction: float, seed: int) -> dict[str, SplitName]:
    """Cross-validation: test is taken first, the rest is dealt to the folds in turn; fold ``fold`` (from 1) is val.

    Units are dealt in one line, by class, source and hash, so no fold has two more of a class, of a source in it, or
    in all than another. Every unit outside test is in val exactly once as ``fold`` runs.

    Args:
        units: as in :func:`draw`.
        folds, fold: how many, and which one validates.
        test_fraction: share of the units.
        seed: of the draw.

    Raises:
        InputError: no such fold, or fewer units than folds.
    """
    if not 1 <= fold <= folds:
        raise InputError(f"splits.fold is {fold}; expected 1 to {folds}, the folds", "choose one of them")
    split = draw(units, val_fraction=0.0, test_fraction=test_fraction, seed=seed)
    rest = [str(unit) for unit in units.index if split[str(unit)] == "train"]
    if len(rest) < folds:
        raise InputError(
            f"{len(rest)} patients have a usable image outside test; expected at least {folds}, one for each fold",
            "add patients, or ask for fewer folds",
        )
    return split | {unit: "val" for place, unit in enumerate(rest) if place % folds == fold - 1}


def hash_text(seed: int, text: str) -> str:
    """32 hexadecimal digits from a seed and a text."""
    return hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=16).hexdigest()


def _pick(ids: Sequence[str], fraction: float, *, rng: np.random.Generator, reserve: int) -> set[str]:
    """Evenly spaced members of a list, from a random start; at least one if that leaves ``reserve`` for the others."""
    wanted = round(len(ids) * fraction)
    if fraction > 0:
        wanted = max(wanted, 1)
    count = max(0, min(wanted, len(ids) - reserve))
    if count == 0:
        return set()
    places = np.floor((np.arange(count) + rng.random()) * len(ids) / count).astype(int)
    return {ids[place] for place in places}


def _fill_empty(split: dict[str, SplitName], units: pd.DataFrame, *, fractions: dict[SplitName, float]) -> None:
    """Give an empty split one unit, from the commonest class of the fullest split."""
    for name, fraction in fractions.items():
        if fraction == 0 or name in split.values():
            continue
        sizes = pd.Series(list(split.values())).value_counts()
        donors = units[units.index.map(split) == sizes.idxmax()]
        common = donors[donors["label"] == donors["label"].value_counts().idxmax()]
        split[str(common["order"].idxmin())] = name


def _rng(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(int(hash_text(seed, purpose), 16))
