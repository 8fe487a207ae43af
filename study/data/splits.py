"""Train, validation and test: by patient (or breast), by one of several schemes, the same for every order of rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pandas as pd

from study.data.drawing import draw, draw_folds, hash_text
from study.data.manifest import usable_rows
from study.data.split_rules import Drawn, Fixed, Official, Rule, official_sides
from study.errors import InputError
from study.types import SplitName

NO_SPLIT: Final = ""
SPLITS: Final[tuple[SplitName, ...]] = ("train", "val", "test")
Scheme = Literal["fractions", "official", "ordinal", "by_source", "folds", "leave_one_source_out"]
Unit = Literal["patient", "breast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSettings:
    """What the study file says of splits; ``kinds`` is the kind of each source by its name (for scheme ordinal)."""

    scheme: Scheme = "fractions"
    unit: Unit = "patient"
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    folds: int = 5
    fold: int = 1
    held_out: str = ""
    by_source: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    kinds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """The manifest with ``split`` (train, val or test; empty for units without a usable row), and what to tell of it.

    ``moved`` counts the units whose images lay on several sides by the rules and were brought to one.
    """

    manifest: pd.DataFrame
    moved: int = 0
    notes: tuple[str, ...] = ()


def split_manifest(manifest: pd.DataFrame, settings: SplitSettings | None = None) -> SplitResult:
    """Give every row its ``split``.

    A unit is a patient: ``patient_id`` is one patient wherever it occurs, in all sources; or, on request, a breast. It
    counts with the worst ``label`` of all its usable images. Where a scheme draws, units without a label train.

    Raises:
        InputError: a rule that does not fit the sources or their official splits, too few patients, or an empty split.
    """
    settings = settings or SplitSettings()
    keys = unit_keys(manifest, settings.unit)
    places = manifest.groupby("source").cumcount() + 1
    rows = manifest.assign(unit=keys, data_row=places)[usable_rows(manifest)]
    _check_keys(rows, settings.unit)
    _check_labelled(rows, len(manifest))
    if settings.scheme == "folds":
        split, moved = _folded(rows, settings), 0
    else:
        split, moved = _ruled(rows, settings)
    divided = manifest.assign(split=keys.map(split).fillna(NO_SPLIT).astype("str"))
    _check_filled(divided)
    check_no_leak(divided, unit=settings.unit)
    return SplitResult(manifest=divided, moved=moved, notes=tuple(_notes(divided, settings, moved=moved)))


def unit_keys(manifest: pd.DataFrame, unit: Unit) -> pd.Series:
    """What must stay together: the patient, or the patient's side (``breast_id`` where the side is unknown)."""
    if unit == "patient":
        return manifest["patient_id"]
    return (manifest["patient_id"] + "_" + manifest["laterality"]).fillna(manifest["breast_id"])


def units_of(rows: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """One row per ``unit`` with a label: worst ``label`` and first ``source``, in the order in which places are taken.

    ``rows`` are usable; the hash ``order`` makes the line of units the same for every order of rows.
    """
    grouped = rows[rows["label"].notna()].groupby("unit", sort=True)
    units = pd.DataFrame({"label": grouped["label"].max(), "source": grouped["source"].min()})
    units["order"] = [hash_text(seed, str(unit)) for unit in units.index]
    return units.sort_values(["label", "source", "order"], kind="stable")


def check_no_leak(manifest: pd.DataFrame, *, unit: Unit = "patient") -> None:
    """No patient (or no breast) may be in two splits, whichever source the images came from.

    Raises:
        InputError: with the number of such patients; no ids.
    """
    rows = manifest[manifest["split"].fillna(NO_SPLIT) != NO_SPLIT]
    counts = rows.groupby(unit_keys(rows, unit))["split"].nunique()
    leaking = int((counts > 1).sum())
    if leaking:
        raise InputError(
            f"{leaking} of {len(counts)} {_plural(unit)} are in more than one split",
            "prepare again, so that splits are made over all sources at once",
        )


def _folded(rows: pd.DataFrame, settings: SplitSettings) -> dict[str, SplitName]:
    units = units_of(rows, seed=settings.seed)
    split = draw_folds(
        units, folds=settings.folds, fold=settings.fold, test_fraction=settings.test_fraction, seed=settings.seed
    )
    return _all_train(rows) | split


def _ruled(rows: pd.DataFrame, settings: SplitSettings) -> tuple[dict[str, SplitName], int]:
    """The split of each unit by the rule of its source, and how many units several rules or words disagreed on."""
    rules = {source: _rule_of(str(source), settings) for source in rows["source"].unique()}
    rows = rows.assign(side=_given_sides(rows, rules))
    given = rows[rows["side"] != NO_SPLIT].groupby("unit")["side"].agg(["first", "nunique"])
    is_torn = given["nunique"] > 1
    split: dict[str, SplitName] = {str(unit): side for unit, side in given["first"].mask(is_torn, "train").items()}
    split |= _carved(rows[~rows["unit"].isin(given.index[is_torn])], split, rules, seed=settings.seed)
    for drawn, units in _pools(rows[~rows["unit"].isin(split)], rules, seed=settings.seed):
        split |= draw(
            units,
            val_fraction=drawn.val_fraction,
            test_fraction=drawn.test_fraction,
            seed=settings.seed,
            where=f"source {drawn.pool!r}: " if drawn.pool else "",
        )
    return _all_train(rows) | split, int(is_torn.sum())


def _all_train(rows: pd.DataFrame) -> dict[str, SplitName]:
    """Where units go that nothing is said of, because they have no label."""
    return {str(unit): "train" for unit in rows["unit"].unique()}


def _rule_of(source: str, settings: SplitSettings) -> Rule:
    """What the scheme says of one source."""
    val, test = settings.val_fraction, settings.test_fraction
    if settings.scheme == "ordinal":
        return _ordinal_rule(source, settings.kinds.get(source, ""))
    if settings.scheme == "leave_one_source_out":
        return Fixed("test") if source == settings.held_out else Drawn(val_fraction=val, test_fraction=0.0)
    if settings.scheme == "by_source":
        return _own_rule(source, settings)
    if settings.scheme == "official":
        return Official(val_fraction=val, test_fraction=test)
    return Drawn(val_fraction=val, test_fraction=test)


def _own_rule(source: str, settings: SplitSettings) -> Rule:
    """What scheme by_source says of one source."""
    rule = settings.by_source.get(source)
    if isinstance(rule, Mapping):
        return Drawn(val_fraction=rule.get("val", 0.0), test_fraction=rule.get("test", 0.0), pool=source)
    if rule == "official":
        return Official(val_fraction=settings.val_fraction, test_fraction=settings.test_fraction)
    if rule not in SPLITS:
        raise InputError(
            f"splits.by_source has no rule for source {source!r}",
            "name train, val, test, official, or shares of the three for every source",
        )
    return Fixed(rule)


def _ordinal_rule(source: str, kind: str) -> Rule:
    """Paper ordinal, section 2.1: VinDr trains and validates, INbreast trains and tests, EMBED trains."""
    if kind == "vindr":
        return Official(sides={"train": "train", "test": "val"}, carves=False)
    if kind == "inbreast":
        return Drawn(val_fraction=0.0, test_fraction=0.3, pool=source)
    if kind == "embed":
        return Fixed("train")
    raise InputError(
        f"splits.scheme ordinal has no rule for source {source!r} of kind {kind or 'unknown'}; expected vindr, "
        "inbreast and embed",
        "leave this source out, or use scheme by_source",
    )


def _given_sides(rows: pd.DataFrame, rules: Mapping[str, Rule]) -> pd.Series:
    """The side that a rule gives to each row without a draw; empty where its unit is to be drawn."""
    sides = pd.Series(NO_SPLIT, index=rows.index, dtype="str")
    for source, rule in rules.items():
        own = rows["source"] == source
        if isinstance(rule, Fixed):
            sides = sides.mask(own, rule.side)
        elif isinstance(rule, Official):
            sides = sides.mask(own, official_sides(rows[own], rule))
    return sides


def _carved(
    rows: pd.DataFrame, split: Mapping[str, SplitName], rules: Mapping[str, Rule], *, seed: int
) -> dict[str, SplitName]:
    """Val and test for sources whose official split lacks them, out of the units that train."""
    units = units_of(rows, seed=seed)
    training = units[units.index.map(split) == "train"]
    carved: dict[str, SplitName] = {}
    for source, rule in rules.items():
        members = training[training["source"] == source]
        sides = set(rows.loc[rows["source"] == source, "side"])
        if members.empty or not isinstance(rule, Official) or not rule.carves or {"val", "test"} <= sides:
            continue
        carved |= draw(
            members,
            val_fraction=rule.val_fraction * ("val" not in sides),
            test_fraction=rule.test_fraction * ("test" not in sides),
            seed=seed,
            where=f"source {source!r}: ",
        )
    return carved


def _pools(rows: pd.DataFrame, rules: Mapping[str, Rule], *, seed: int) -> list[tuple[Drawn, pd.DataFrame]]:
    """Units that are drawn together: those of all sources with the same rule."""
    units = units_of(rows, seed=seed)
    by_source = {source: rule.drawn for source, rule in rules.items() if not isinstance(rule, Fixed)}
    drawn = [by_source[source] for source in units["source"]]
    return [
        (rule, units[[other == rule for other in drawn]])
        for rule in sorted(set(drawn), key=lambda rule: (rule.pool, rule.val_fraction, rule.test_fraction))
    ]


def _check_keys(rows: pd.DataFrame, unit: Unit) -> None:
    lacking = int(rows["unit"].isna().sum())
    if lacking:
        column = "patient_id" if unit == "patient" else "laterality or breast_id"
        raise InputError(f"{lacking} of {len(rows)} usable rows have no {column}", f"fill {column} in every row")


def _check_labelled(rows: pd.DataFrame, images: int) -> None:
    """Without any label there is nothing to split, whatever the scheme."""
    if not rows["label"].notna().any():
        raise InputError(
            f"no labelled image for train and val and test: {images} images, {len(rows)} of them usable, and none has "
            "a label of the task that decides; expected some in each",
            "choose another data.labels.task, or add sources that state it",
        )


def _check_filled(manifest: pd.DataFrame) -> None:
    labelled = manifest[usable_rows(manifest) & manifest["label"].notna()]
    empty = [split for split in SPLITS if split not in set(labelled["split"])]
    if empty:
        raise InputError(
            f"no labelled image for {' and '.join(empty)}; expected some in each of {', '.join(SPLITS)}",
            "change data.splits, or add sources",
        )


def _notes(manifest: pd.DataFrame, settings: SplitSettings, *, moved: int) -> list[str]:
    """What a user should know of the split beside its counts."""
    rows = manifest[manifest["split"] != NO_SPLIT]
    patients = rows.groupby("patient_id")[["source", "split"]].nunique()
    notes = []
    if moved:
        notes.append(f"{moved} {_plural(settings.unit)} lay on several sides by their sources; all their images train")
    shared = int((patients["source"] > 1).sum())
    if shared:
        notes.append(f"{shared} patients have images in several sources; they count as one patient each")
    if settings.unit == "breast":
        parted = int((patients["split"] > 1).sum())
        notes.append(
            f"splits are by breast: {parted} of {len(patients)} patients have breasts in more than one split, so val "
            "and test look better than new patients will"
        )
    return notes


def _plural(unit: Unit) -> str:
    return {"patient": "patients", "breast": "breasts"}[unit]
