"""Ensembles: the mean of the class probabilities of runs that differ in their seed alone (paper multitask, 3.3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from study.data.parquet_file import FAULTS, read_table, reason, write_table
from study.errors import StudyError
from study.metrics import classification_metrics, segment_metrics
from study.stats import bootstrap, pool_probabilities, resampling

PROBABILITY: Final = "probability_"
RESAMPLES: Final = 1000
LEVELS: Final = ("breast", "exam")
Pooling = Literal["mean", "max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """The mean of several runs on one split.

    ``table`` has the columns of a predictions file with the mean probabilities and the most probable class;
    ``metrics`` those of all images, per segment and of pooled views, without a prefix; ``value`` is the wanted one and
    ``low`` to ``high`` its 95 % interval over the ``num_patients`` patients.
    """

    table: pd.DataFrame
    metrics: dict[str, float]
    value: float
    low: float
    high: float
    num_patients: int


def ensemble_of(
    files: Sequence[Path], *, metric: str, pool: Sequence[str] = (), pooling: Pooling = "mean", seed: int = 0
) -> Ensemble:
    """Average the predictions files of several runs on the same images.

    The interval is a percentile bootstrap over patients. It tells how the value would move on other patients, not with
    other seeds, of which an ensemble has used up all.

    Args:
        files: ``predictions_<split>.parquet`` of each run, at least 2.
        metric: name without the split, such as ``auroc_macro``, ``segment/a/mcc`` or ``breast/auroc_macro``; one that
            the predictions cannot give is NaN.
        pool: levels, ``breast`` or ``exam``, whose metrics are added.
        pooling: how views are pooled.
        seed: of the resamples.

    Raises:
        StudyError: fewer than two files, one that cannot be read, or files about other images or classes.
    """
    table, classes = _mean_table(files)
    fold = _Fold(table=table, classes=tuple(classes), pooling=pooling)
    rows = resampling(len(table), groups=table["patient_id"].to_numpy(dtype=str))
    found = bootstrap(lambda count_n: fold.value(metric, count_n), rows, resamples=RESAMPLES, seed=seed)
    return Ensemble(
        table=table,
        metrics=fold.metrics(pool),
        value=found.value,
        low=found.low,
        high=found.high,
        num_patients=rows.num_groups,
    )


def write_ensemble(ensemble: Ensemble, path: Path) -> None:
    """Write the table of an ensemble as a predictions file, replacing an older one as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pandas(ensemble.table, preserve_index=False), path)


class _Fold:
    """An evaluated split, as arrays."""

    def __init__(self, *, table: pd.DataFrame, classes: tuple[str, ...], pooling: Pooling) -> None:
        numbers = {name: k for k, name in enumerate(classes)}
        self.probs_nk = table[[PROBABILITY + name for name in classes]].to_numpy(dtype=np.float64)
        self.labels_n = table["label"].map(numbers).to_numpy(dtype=np.int64)
        self.segments_n = table["segment"].to_numpy(dtype=str)
        self.classes = classes
        self.pooled = {
            level: pool_probabilities(self.probs_nk, self.labels_n, table[level].to_numpy(dtype=str), pooling=pooling)
            for level in LEVELS
            if level in table
        }

    def metrics(self, pool: Sequence[str]) -> dict[str, float]:
        """All metrics, without a prefix."""
        found = self._of_images() | self._of_segments()
        for level in pool:
            found |= {f"{level}/{key}": value for key, value in self._of_groups(level).items()}
        return found

    def value(self, metric: str, count_n: NDArray[np.int64]) -> float:
        """One metric when each row is there so many times; NaN for one that is not known here."""
        where, _, name = metric.rpartition("/")
        if where in LEVELS:
            return self._of_groups(where, count_n).get(name, float("nan")) if where in self.pooled else float("nan")
        if where or name.startswith(("segment_", "pooled_")):
            return self._of_segments(count_n).get(metric, float("nan"))
        return self._of_images(count_n).get(name, float("nan"))

    def _of_images(self, weight_n: NDArray[Any] | None = None) -> dict[str, float]:
        return classification_metrics(self.probs_nk, self.labels_n, class_names=self.classes, sample_weight=weight_n)

    def _of_segments(self, weight_n: NDArray[Any] | None = None) -> dict[str, float]:
        return segment_metrics(
            self.probs_nk, self.labels_n, self.segments_n, class_names=self.classes, sample_weight=weight_n
        )

    def _of_groups(self, level: str, weight_n: NDArray[Any] | None = None) -> dict[str, float]:
        """A breast or exam is there as often as its first image, for all of them are a patient's."""
        found = self.pooled[level]
        weight_g = None if weight_n is None else weight_n[found.first_row]
        return classification_metrics(found.probs_gk, found.labels_g, class_names=self.classes, sample_weight=weight_g)


def _mean_table(files: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    if len(files) < 2:
        raise StudyError(f"an ensemble of {len(files)} runs; expected at least 2", "name more seeds in confirm.seeds")
    tables = [_read(file) for file in files]
    first = tables[0]
    columns = [str(name) for name in first if str(name).startswith(PROBABILITY)]
    for file, table in zip(files, tables, strict=True):
        if list(table) != list(first) or not table[["image_id", "label"]].equals(first[["image_id", "label"]]):
            raise StudyError(
                f"{file.parent.name}/{file.name} is about other images or classes than that of {files[0].parent.name}",
                "remove both run folders, then resume the study",
            )
    mean_nk = np.mean([table[columns].to_numpy(dtype=np.float64) for table in tables], axis=0)
    classes = [name.removeprefix(PROBABILITY) for name in columns]
    decoded = [classes[k] for k in mean_nk.argmax(axis=1)]
    mean = first.assign(decoded=decoded)
    mean[columns] = mean_nk
    return mean, classes


def _read(file: Path) -> pd.DataFrame:
    try:
        return read_table(file)
    except FAULTS as error:
        raise StudyError(
            f"the predictions {file.parent.name}/{file.name} {reason(error)}",
            "remove the run folder, then resume the study",
        ) from error
