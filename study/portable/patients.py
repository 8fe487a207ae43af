"""Which patients of another dataset the training has seen; ids are compared inside this process and written nowhere."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from study.config import DataConfig
from study.data.identity import KEY_BYTES, hash_ids
from study.data.shards import PreparedDataset, open_dataset, read_manifest
from study.distributed.preparing_manifest import manifest_for
from study.errors import StudyError
from study.portable.evaluating import learned_rows

NO_TRAINING: Final = "the folder does not know its training's patients, so none could be left out"
NO_SOURCES: Final = (
    "patients could not be compared with those of the training, pictures were: a prepared dataset has names of its own "
    "for its patients; give the study file that it was prepared from to compare them"
)


def learned_by(
    dataset: PreparedDataset, data: DataConfig | None, training: DataConfig | None
) -> tuple[NDArray[np.bool_], str]:
    """True for images of ``dataset`` that the training has learned from, and a warning where this is not certain.

    Args:
        dataset: the prepared dataset to be evaluated.
        data: the data section that it was prepared from; None when only the dataset is known.
        training: that of the network; None when it is not known.

    Raises:
        InputError: a dataset is missing or damaged.
    """
    if training is None:
        return np.zeros(len(dataset), dtype=bool), NO_TRAINING
    learned = read_manifest(training.prepared)
    if open_dataset(training.prepared).fingerprint == dataset.fingerprint:
        return learned_rows(dataset, learned, dataset.manifest["patient_id"].to_numpy(dtype=str)), ""
    names_n = _names(dataset, data, training)
    unknown_n = np.full(len(dataset), "", dtype=str)
    return learned_rows(
        dataset, learned, unknown_n if names_n is None else names_n
    ), NO_SOURCES if names_n is None else ""


def _names(dataset: PreparedDataset, data: DataConfig | None, training: DataConfig) -> NDArray[np.str_] | None:
    """Each image's patient by the name that the training's key gives; None where key or sources are not at hand."""
    training_key, own_key = _key(training.prepared), _key(data.prepared) if data is not None else None
    if data is None or training_key is None or own_key is None:
        return None
    try:
        manifest = manifest_for(data)
    except StudyError:
        return None
    own = hash_ids(manifest, own_key)["patient_id"].astype(str)
    theirs = hash_ids(manifest, training_key)["patient_id"].astype(str)
    named = dict(zip(own, theirs, strict=True))
    return np.array([named.get(patient, "") for patient in dataset.manifest["patient_id"].astype(str)], dtype=str)


def _key(prepared: str) -> bytes | None:
    """The identity key of a local dataset, which lies beside it."""
    path = Path(f"{prepared.rstrip('/')}.key")
    content = path.read_bytes() if path.is_file() else b""
    return content if len(content) == KEY_BYTES else None
