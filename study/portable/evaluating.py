"""A trained network, or several as an ensemble, on another prepared dataset; patients of its training are left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from study.data.shards import PreparedDataset
from study.errors import InputError
from study.inference import Predictions, forward_all, prediction_metrics, prediction_table, row_batches
from study.metrics import classification_metrics
from study.portable.model import BATCH_IMAGES, Answers, PortableModel, combined
from study.stats import bootstrap, resampling

MARK: Final = "test/"
RESAMPLES: Final = 1000
LEARNED_FROM: Final = ("train", "val")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came out.

    ``metrics`` have the usual keys without a split; ``low`` to ``high`` is the 95 % interval of ``auroc_macro`` over
    the patients; ``table`` has the columns of a predictions file. ``left_out`` images belong to patients that the
    network learned from; ``unlabelled`` ones have no class.
    """

    metrics: dict[str, float]
    low: float
    high: float
    table: pd.DataFrame
    images: int
    patients: int
    left_out: int
    unlabelled: int


def check_fits(model: PortableModel, dataset: PreparedDataset) -> None:
    """Complain of a dataset that was prepared otherwise, or has other classes.

    Raises:
        InputError: it does not fit; the message lists every difference.
    """
    record, own = model.record, dataset.about["settings"]["image"]
    lines = [
        f"{name}: {own.get(name)!r}, in training {record.preparation[name]!r}"
        for name in record.preparation
        if own.get(name) != record.preparation[name]
    ]
    if tuple(dataset.classes) != record.classes:
        lines.append(f"classes: {', '.join(dataset.classes)}, in training {', '.join(record.classes)}")
    if lines:
        text = "".join(f"\n  {line}" for line in lines)
        raise InputError(
            f"the dataset is not prepared as that of the training:{text}",
            "prepare it with the image settings and labels of the training's study file",
        )


def learned_rows(dataset: PreparedDataset, training: pd.DataFrame, patients_n: NDArray[np.str_]) -> NDArray[np.bool_]:
    """True [N] for images of patients, or pictures, that the training or the choice of the epoch has seen.

    Args:
        dataset: the one to be evaluated.
        training: the manifest that the network was trained on.
        patients_n: patients of ``dataset``'s images by their names in ``training``; empty text where unknown.
    """
    learned = training[training["split"].isin(LEARNED_FROM)]
    by_patient = np.isin(patients_n, learned["patient_id"].astype(str).unique()) & (patients_n != "")
    by_picture = np.isin(_prints(dataset.manifest), _prints(learned))
    found: NDArray[np.bool_] = by_patient | by_picture
    return found


def _prints(rows: pd.DataFrame) -> NDArray[np.str_]:
    """What tells pictures apart: their pixels' checksum, and where they were cut out of the original."""
    columns = ["pixel_crc32", "box_left", "box_top", "box_right", "box_bottom"]
    prints: NDArray[np.str_] = rows[columns].astype(str).agg(" ".join, axis=1).to_numpy(dtype=str)
    return prints


def evaluate_on(
    models: Sequence[PortableModel], dataset: PreparedDataset, *, is_learned_n: NDArray[np.bool_], seed: int = 0
) -> Evaluation:
    """Judge all labelled images whose patients are new to the network; several models are an ensemble.

    Raises:
        InputError: no such image is left, or the dataset does not fit.
    """
    for model in models:
        check_fits(model, dataset)
    has_label_n = dataset.labels_n >= 0
    rows_n = np.flatnonzero(has_label_n & ~is_learned_n)
    if not len(rows_n):
        raise InputError(
            f"none of the {int(has_label_n.sum())} labelled images is of a patient who is new to the network",
            "evaluate on other patients; the test split of the study itself is judged by `study confirm`",
        )
    predictions = _predictions([_answers(model, dataset, rows_n) for model in models], dataset, rows_n)
    metrics = prediction_metrics(predictions, dataset, prefix="")
    table = pd.DataFrame(dict(prediction_table(predictions, dataset)))
    low, high = _interval(predictions, table["patient_id"].to_numpy(dtype=str), dataset=dataset, seed=seed)
    return Evaluation(
        metrics=metrics,
        low=low,
        high=high,
        table=table,
        images=len(rows_n),
        patients=int(table["patient_id"].nunique()),
        left_out=int((has_label_n & is_learned_n).sum()),
        unlabelled=int((~has_label_n).sum()),
    )


def _answers(model: PortableModel, dataset: PreparedDataset, rows_n: NDArray[np.int64]) -> Answers:
    batches = row_batches(dataset, rows_n, batch_size=BATCH_IMAGES)
    return model.answers(forward_all(model.network, batches, device=model.device, autocast=model.autocast))


def _predictions(answers: Sequence[Answers], dataset: PreparedDataset, rows_n: NDArray[np.int64]) -> Predictions:
    whole = answers[0] if len(answers) == 1 else combined(np.stack([each.probs_nk for each in answers]))
    return Predictions(
        rows_n=rows_n,
        labels_n=dataset.labels_n[rows_n],
        logits_no=torch.from_numpy(np.log(np.clip(whole.probs_nk, 1e-12, 1.0))),
        probs_nk=whole.probs_nk,
        decoded_n=whole.decoded_n,
    )


def _interval(
    predictions: Predictions, patients_n: NDArray[Any], *, dataset: PreparedDataset, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap of the macro AUROC over patients."""

    def value(count_n: NDArray[np.int64]) -> float:
        found = classification_metrics(
            predictions.probs_nk, predictions.labels_n, class_names=list(dataset.classes), sample_weight=count_n
        )
        return float(found["auroc_macro"])

    found = bootstrap(value, resampling(len(patients_n), groups=patients_n), resamples=RESAMPLES, seed=seed)
    return found.low, found.high
