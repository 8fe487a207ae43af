"""All that a report is drawn from, read once: ledger, dataset, predictions. No identifier leaves this module's records.

Hashed ids of images and patients are needed to join tables and to resample patients. They stay in ``Fold`` and are
never written.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.config import StudyConfig
from study.data.files import shown
from study.data.parquet_file import FAULTS, read_table, reason
from study.data.shards import QUARANTINE_FILE, PreparedDataset, open_dataset, read_manifest, table_place
from study.errors import StudyError
from study.ledger import Reading, RunRecord
from study.standing import BASELINE, ranked_complete
from study.types import ConfirmRow, Retry, RunKey, StudyResult, TrialRow

PROBABILITY: Final = "probability_"
UNKNOWN: Final = "unknown"
FACTS: Final = ("view", "density", "manufacturer", "laterality")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """What one run says about one split.

    ``labels_n`` and ``decoded_n`` [N] are class numbers, ``probs_nk`` [N, K] probabilities; ``facts`` are columns [N]
    of the images (segment, source, and those of the manifest where it is at hand); ``patients_n`` are only for
    resampling.
    """

    run: str
    classes: tuple[str, ...]
    labels_n: NDArray[np.int64]
    decoded_n: NDArray[np.int64]
    probs_nk: NDArray[np.float64]
    patients_n: NDArray[np.str_]
    facts: Mapping[str, NDArray[np.str_]]
    ages_n: NDArray[np.float64]

    @property
    def segments_n(self) -> NDArray[np.str_]:
        """Segment of each image."""
        return self.facts["segment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One configuration with its runs: ``test`` and ``val`` folds by seed, as far as they are on disk."""

    trial: str
    params: Mapping[str, Any]
    test: Mapping[int, Fold] = field(default_factory=dict)
    val: Mapping[int, Fold] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """``baseline`` or ``trial 4``."""
        return self.trial if self.trial == BASELINE else f"trial {self.trial}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The prepared dataset, with all its manifest's rows; ``fault`` says why it is not at hand."""

    dataset: PreparedDataset | None = None
    manifest: pd.DataFrame | None = None
    quarantine: pd.DataFrame | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledgered:
    """What the ledger holds beside the trials: runs, readings of the test split, retries, hours, fingerprint."""

    records: Sequence[RunRecord] = ()
    readings: Sequence[Reading] = ()
    retries: Mapping[tuple[str, int], tuple[Retry, ...]] = field(default_factory=dict)
    hours: float = 0.0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything about one study; ``program`` and ``options`` are for commands that can be copied."""

    config: StudyConfig
    result: StudyResult
    directory: Path
    ledgered: Ledgered
    data: Data
    arms: tuple[Arm, ...]
    program: str = "study"
    options: str = ""

    @property
    def chosen(self) -> Arm | None:
        """The configuration that validation puts first: what the report is about."""
        return next((arm for arm in self.arms if arm.trial != BASELINE), None)

    @property
    def baseline(self) -> Arm | None:
        """The study file's own values, when they were confirmed."""
        return next((arm for arm in self.arms if arm.trial == BASELINE), None)

    def rows_to_show(self) -> list[ConfirmRow | TrialRow]:
        """The confirmed rows, the one that validation puts first before all; without any the best complete trial."""
        sign = -1.0 if self.result.mode == "max" else 1.0
        if self.result.confirmed:
            rows = sorted(
                self.result.confirmed,
                key=lambda row: (row.trial == BASELINE, math.isnan(row.val_mean), sign * row.val_mean),
            )
            return list(rows)
        return list(ranked_complete(self.result.rows, mode=self.result.mode)[:1])

    def with_arms(self, arms: Sequence[Arm]) -> "Evidence":
        """The same with runs."""
        return replace(self, arms=tuple(arms))

    def confirmed(self, trial: str) -> ConfirmRow | None:
        """The row of a confirmed configuration."""
        return next((row for row in self.result.confirmed if row.trial == trial), None)

    def command(self, verb: str, *words: str) -> str:
        """A command about this study that can be copied."""
        return " ".join([self.program, verb, self.result.study, *words]) + self.options


def read_data(config: StudyConfig, *, fingerprint: str) -> Data:
    """The dataset that the study was run with; another one, or none, is a fault in words, not an error."""
    place = config.data.prepared
    try:
        dataset = open_dataset(place)
        if fingerprint and dataset.fingerprint != fingerprint:
            return Data(fault=f"{shown(place)} was prepared again since the study began: it holds other data now")
        manifest = read_manifest(place)
        quarantine = _quarantine(dataset)
    except StudyError as error:
        return Data(fault=error.message.splitlines()[0])
    except FAULTS as error:
        return Data(fault=f"{QUARANTINE_FILE} of {shown(place)} {reason(error)}")
    return Data(dataset=dataset, manifest=manifest, quarantine=quarantine)


def _quarantine(dataset: PreparedDataset) -> pd.DataFrame | None:
    """Files that could not be used; None for a dataset below a URI, whose report needs counts alone."""
    path = Path(table_place(dataset.root, dataset.about, QUARANTINE_FILE))
    return read_table(path) if path.exists() else None


def read_arms(
    directory: Path, rows: Sequence[ConfirmRow | TrialRow], *, data: Data, classes: Sequence[str]
) -> tuple[Arm, ...]:
    """The runs of each configuration, with the predictions that lie in the study's folder.

    Raises:
        StudyError: a predictions file is damaged.
    """
    known = _facts(data)
    arms = []
    for row in rows:
        folds: dict[str, dict[int, Fold]] = {"val": {}, "test": {}}
        for split, by_seed in folds.items():
            for number, name in _runs_of(row).items():
                path = directory / "runs" / f"{row.trial}-{name}" / f"predictions_{split}.parquet"
                if path.exists():
                    by_seed[number] = read_fold(path, facts=known, classes=classes)
        arms.append(Arm(trial=row.trial, params=row.params, test=folds["test"], val=folds["val"]))
    return tuple(arms)


def _runs_of(row: ConfirmRow | TrialRow) -> dict[int, str]:
    """Folders of the runs behind the trial, by seed; by the fold's number where a trial has folds."""
    if isinstance(row, ConfirmRow) or not row.runs:
        return {seed: f"s{seed}" for seed in row.seeds}
    return {run.fold or run.seed: RunKey(seed=run.seed, fold=run.fold).name for run in row.runs}


def read_fold(path: Path, *, facts: pd.DataFrame | None = None, classes: Sequence[str] = ()) -> Fold:
    """One predictions file, with facts of its images from the manifest where that is at hand.

    Raises:
        StudyError: the file is damaged.
    """
    try:
        table = read_table(path)
        found = tuple(str(name).removeprefix(PROBABILITY) for name in table if str(name).startswith(PROBABILITY))
        names = tuple(classes) if set(classes) == set(found) else found
        number = {name: k for k, name in enumerate(names)}
        ages_n = np.full(len(table), np.nan)
        columns = {name: _texts(table[name]) for name in ("segment", "source")}
        if facts is not None:
            rows = facts.reindex(table["image_id"].astype(str))
            columns |= {name: _texts(rows[name]) for name in FACTS if name in rows}
            ages_n = rows["age"].to_numpy(dtype=np.float64) if "age" in rows else ages_n
        return Fold(
            run=path.parent.name,
            classes=names,
            labels_n=np.array([number[name] for name in table["label"]], dtype=np.int64),
            decoded_n=np.array([number[name] for name in table["decoded"]], dtype=np.int64),
            probs_nk=table[[PROBABILITY + name for name in names]].to_numpy(dtype=np.float64),
            patients_n=_texts(table["patient_id"]),
            facts=columns,
            ages_n=ages_n,
        )
    except FAULTS as error:
        raise StudyError(
            f"the predictions {path.parent.name}/{path.name} {reason(error)}",
            "remove the run folder, then resume the study",
        ) from error


def _facts(data: Data) -> pd.DataFrame | None:
    if data.dataset is None:
        return None
    rows = data.dataset.manifest
    columns = [name for name in (*FACTS, "age") if name in rows]
    return rows.set_index(rows["image_id"].astype(str))[columns]


def _texts(column: Any) -> NDArray[np.str_]:
    texts: NDArray[np.str_] = column.astype("str").where(column.notna(), UNKNOWN).to_numpy(dtype=str)
    return texts
