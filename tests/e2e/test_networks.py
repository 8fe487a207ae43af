"""A finished study's networks outside of it: exported, judged on its own files and on its own data."""

import json

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.e2e


def test_export_predict_evaluate(finished, tmp_path):
    """The exported network gives the probabilities that the confirm stage wrote, from the files alone."""
    cli = finished.cli
    found = sorted((finished.directory / "runs").glob("*-s1/predictions_test.parquet"))
    run = f"small/{found[0].parent.name}"
    done = cli("export", run, "--to", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "load_model" in done.stderr
    files = finished.data / "phantom-dicom"
    done = cli("predict", str(tmp_path / "out"), str(files), "--out", str(tmp_path / "all.parquet"))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    table, kept = pd.read_parquet(tmp_path / "all.parquet"), pd.read_parquet(found[0])
    columns = [name for name in kept if name.startswith("probability_")]
    gaps = [np.abs(table[columns].to_numpy() - row).max(axis=1).min() for row in kept[columns].to_numpy()]
    assert max(gaps) < 2e-6
    done = cli("evaluate", run, "--on", "small", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    test = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert answer["images"] == len(kept)
    assert answer["metrics"]["auroc_macro"] == pytest.approx(test["test/auroc_macro"], abs=1e-6)
    text = "".join(path.read_text() for path in (tmp_path / "out").glob("*.[jym]*") if path.suffix != ".safetensors")
    assert str(finished.data) not in text
    assert "patient_id" not in text
