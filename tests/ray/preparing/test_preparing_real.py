"""Preparing real DICOM files: encodings agree, each broken file has its own reason."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.config import DataConfig
from study.data.shards import open_dataset, read_manifest
from study.distributed.preparing import prepare_dataset

pytestmark = [pytest.mark.ray, pytest.mark.data, pytest.mark.usefixtures("cluster")]

SAME = (
    "mg_explicit_le_mono2.dcm",
    "mg_implicit_le_mono1.dcm",
    "mg_jpeg_lossless_70.dcm",
    "mg_j2k_lossless_90.dcm",
    "mg_rle.dcm",
)
OTHERS = ("MG1_J2KI.dcm", "MG_Explicit_Little.dcm")
BAD = {
    "bad_no_pixeldata.dcm": "PixelData",
    "bad_truncated_j2k.dcm": "decode|truncated|damaged",
    "bad_values_exceed_bitsstored.dcm": "BitsStored|bits",
}


@pytest.fixture
def folder():
    """The folder of real DICOM files."""
    root = os.environ.get("STUDY_REAL_DATA")
    if not root:
        pytest.skip("STUDY_REAL_DATA does not name the folder of real files")
    return Path(root) / "dicom"


def test_real_files(folder, tmp_path):
    """All lossless encodings of one breast give the same pixels; each bad file is quarantined with its own reason."""
    names = [*SAME, *OTHERS, *BAD]
    pd.DataFrame(
        {
            "path": names,
            "patient_id": [f"p{place}" for place in range(len(names))],
            "image_id": names,
            "laterality": "L",
            "view": "CC",
            "birads": [1, 2, 5, 1, 2, 5, 1, 2, 5, 1],
        }
    ).to_csv(tmp_path / "list.csv", index=False)
    source = {"kind": "table", "name": "real", "root": str(folder), "table": str(tmp_path / "list.csv")}
    config = DataConfig.model_validate(
        {
            "prepared": str(tmp_path / "data"),
            "sources": [source],
            "image_size": 128,
            "splits": {"val": {"fraction": 0.3}, "test": {"fraction": 0.3}},
            "max_quarantined": 0.4,
        }
    )
    summary = prepare_dataset(config)
    assert summary.images == len(SAME) + len(OTHERS)
    assert len(summary.quarantined) == len(BAD)
    table = read_manifest(tmp_path / "data")
    for name, words in BAD.items():
        reason = table.loc[names.index(name), "drop_reason"]
        assert reason.startswith("quarantine: ")
        assert pd.Series([reason]).str.contains(words).all(), (name, reason)
    pixels = open_dataset(tmp_path / "data").pixels(np.arange(len(SAME)))
    for place in range(1, len(SAME)):
        assert np.array_equal(pixels[place], pixels[0]), SAME[place]
    assert pixels[0].max() == 255
