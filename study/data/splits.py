"""Train, validation and test: by patient, alike in class and source, the same for every order of the rows."""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from study.data.manifest import usable_rows
from study.errors import InputError
from study.types import SplitName

NO_SPLIT: Final = ""


def minimum_patients(*, val_fraction: float, test_fraction: float) -> int:
    """Fewest patients that fill every split with a fraction above 0, training included."""
    return 1 + (val_fraction > 0) + (test_fraction > 0)


def split_patients(manifest: pd.DataFrame, *, val_fraction: float, test_fraction: float, seed: int) -> pd.DataFrame:
    """Add ``split`` (train, val or test; empty for patients without a usable row).

    A patient counts with the worst class of all usable images; ``patient_id`` is one patient wherever it occurs, in
    all sources. Within a class, patients are lined up by source and, inside a source, by a keyed hash; test and then
    val take evenly spaced places, so each source gives its share. A class of three or more patients reaches every
    split; smaller ones go to train first. Neither row order nor other columns matter.

    Raises:
        InputError: fractions outside 0 .. 1 or adding up to 1 and more, or fewer patients than splits.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise InputError(
            f"splits.val.fraction {val_fraction:g} and splits.test.fraction {test_fraction:g}; expected a sum under 1",
            "give fractions from 0 that add up to less than 1",
        )
    patients = _patients(manifest, seed)
    needed = minimum_patients(val_fraction=val_fraction, test_fraction=test_fraction)
    if len(patients) < needed:
        raise InputError(f"{len(patients)} patients have a usable image; expected at least {needed} for the splits")
    split: dict[str, SplitName] = {}
    for label, members in patients.groupby("label", sort=True):
        ids = [str(patient) for patient in members.index]
        test = _pick(ids, test_fraction, rng=_rng(seed, f"test {label}"), reserve=1 + (val_fraction > 0))
        rest = [patient for patient in ids if patient not in test]
        share = val_fraction / (1 - test_fraction)
        val = _pick(rest, share, rng=_rng(seed, f"val {label}"), reserve=1)
        split |= {patient: "test" if patient in test else "val" if patient in val else "train" for patient in ids}
    _fill_empty(split, patients, fractions={"val": val_fraction, "test": test_fraction})
    assigned = manifest["patient_id"].map(split).fillna(NO_SPLIT).astype("str")
    return manifest.assign(split=assigned)


def check_no_leak(manifest: pd.DataFrame) -> None:
    """No patient may be in two splits, whichever source the images came from.

    Raises:
        InputError: with the number of such patients; no ids.
    """
    rows = manifest[manifest["split"].fillna(NO_SPLIT) != NO_SPLIT]
    counts = rows.groupby("patient_id")["split"].nunique()
    leaking = int((counts > 1).sum())
    if leaking:
        raise InputError(
            f"{leaking} of {len(counts)} patients are in more than one split",
            "prepare again, so that splits are made over all sources at once",
        )


def _patients(manifest: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One row per usable patient: worst ``label`` and ``source``, in the order in which places are taken."""
    rows = manifest[usable_rows(manifest) & manifest["label"].notna()]
    if rows["patient_id"].isna().any():
        raise InputError("some usable rows have no patient_id", "fill patient_id in every row")
    grouped = rows.groupby("patient_id", sort=True)
    patients = pd.DataFrame({"label": grouped["label"].max(), "source": grouped["source"].min()})
    patients["order"] = [_hash(seed, str(patient)) for patient in patients.index]
    return patients.sort_values(["label", "source", "order"], kind="stable")


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


def _fill_empty(split: dict[str, SplitName], patients: pd.DataFrame, *, fractions: dict[SplitName, float]) -> None:
    """Give an empty split one patient, from the commonest class of the fullest split."""
    for name, fraction in fractions.items():
        if fraction == 0 or name in split.values():
            continue
        sizes = pd.Series(list(split.values())).value_counts()
        donors = patients[patients.index.map(split) == sizes.idxmax()]
        common = donors[donors["label"] == donors["label"].value_counts().idxmax()]
        split[str(common["order"].idxmin())] = name


def _hash(seed: int, text: str) -> str:
    return hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=16).hexdigest()


def _rng(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(int(_hash(seed, purpose), 16))
