"""From the study file's data section to labels, segments and splits of every image; no pixels, no Ray."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from study.config.load import check_raw
from study.data.labels import task_columns
from study.distributed.preparing_manifest import arranged_for, manifest_for, needed_rows, summary_for
from study.distributed.preparing_tables import public_settings, request_digest
from study.errors import InputError

REAL = os.environ.get("STUDY_REAL_DATA", "")
needs_real = pytest.mark.skipif(not REAL, reason="STUDY_REAL_DATA is not set")
SITES = [
    {"kind": "phantom", "name": "site_a", "patients": 40, "seed": 1},
    {"kind": "phantom", "name": "site_b", "patients": 30, "seed": 2},
]


def data_of(*, sources=SITES, **parts):
    partial, faults = check_raw({"study": "s", "data": {"prepared": "p", "sources": sources, **parts}})
    assert faults == []
    return partial.data


def table_source(tmp_path, **columns):
    """A table of thirty patients with two images each."""
    rows = 60
    frame = pd.DataFrame(
        {
            "path": [f"{n}.png" for n in range(rows)],
            "patient_id": np.repeat([f"p{n}" for n in range(rows // 2)], 2),
            "birads": np.tile([1, 1, 2, 2, 4, 4], 10),
            **columns,
        }
    )
    frame.to_csv(tmp_path / "list.csv", index=False)
    return {"kind": "table", "name": "own", "root": str(tmp_path), "table": "list.csv"}


def test_old_files_mean_what_they_meant():
    """The classes or splits of a file without new settings have changed."""
    manifest = manifest_for(data_of())
    assert manifest["label"].notna().all()
    assert (manifest["label"] == manifest["birads3"]).all()
    assert set(manifest["split"]) == {"train", "val", "test"}
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()
    assert needed_rows(manifest).all()


def test_every_task_reaches_the_manifest():
    """A task of the file has no columns, or an experiment of the file does not happen."""
    labels = {"task": "binary", "binary_truth": "acr", "auxiliary": ["density", "view", "acr"], "seed": 3}
    labels |= {"leave_out": {"density": 0.5}, "flip": {"acr": 0.25}, "uncertainty": {"reader": 0.125}}
    manifest = manifest_for(data_of(labels=labels))
    assert set(task_columns(("binary", "density", "view", "acr"))) <= set(manifest.columns)
    training = manifest["split"] == "train"
    assert (manifest["density_origin"] == "left_out").sum() == round(training.sum() / 2)
    assert (manifest["acr_origin"] == "flipped").sum() == round(training.sum() / 4)
    assert not (manifest.loc[~training, "acr_origin"] == "flipped").any()
    assert set(manifest["view_uncertainty"]) == {0.125}


def test_images_without_the_deciding_label_are_wanted_for_the_others(tmp_path):
    """An image that only an auxiliary task knows is not prepared, or an image that no task knows is."""
    source = table_source(tmp_path, density=["", "B", *["C"] * 58])
    data = data_of(sources=[source, SITES[0]], labels={"task": "birads", "auxiliary": ["density"]})
    assert needed_rows(manifest_for(data)).all()
    table = pd.read_csv(tmp_path / "list.csv", dtype="str").assign(birads=["", "", *["2"] * 58])
    table.to_csv(tmp_path / "list.csv", index=False)
    manifest = manifest_for(data)
    assert needed_rows(manifest).tolist()[:3] == [False, True, True]
    assert manifest["drop_reason"].iloc[0] == "no BI-RADS assessment"
    assert pd.isna(manifest["label"].iloc[1])
    assert manifest["split"].iloc[1] == "train"


def test_experiments_do_not_move_patients():
    """Leaving out labels changes the split, so that two studies are not scored on the same patients."""
    plain = manifest_for(data_of())
    noisy = manifest_for(
        data_of(labels={"auxiliary": ["density"], "leave_out": {"all": 0.5}, "flip": {"birads3": 0.3}})
    )
    assert (plain["split"] == noisy["split"]).all()


def test_schemes_reach_the_split():
    """A scheme of the file is not the one that splits."""
    held = manifest_for(data_of(splits={"scheme": "leave_one_source_out", "held_out": "site_b"}))
    assert set(held.loc[held["source"] == "site_b", "split"]) == {"test"}
    rules = {"site_a": {"train": 0.5, "val": 0.5}, "site_b": "test"}
    ruled = manifest_for(data_of(splits={"scheme": "by_source", "by_source": rules}))
    table = ruled.groupby(["source", "split"])["patient_id"].nunique()
    assert table["site_b", "test"] == 30
    assert abs(table["site_a", "val"] - 20) <= 1
    folds = [manifest_for(data_of(splits={"scheme": "folds", "folds": 4, "fold": fold})) for fold in (1, 2, 3, 4)]
    validated = [set(part.loc[part["split"] == "val", "patient_id"]) for part in folds]
    assert len(set().union(*validated)) == sum(map(len, validated)) == 56
    parted = arranged_for(data_of(splits={"unit": "breast"}))
    assert "splits are by breast" in parted.notes[0]


def test_errors_name_the_row(tmp_path):
    """A class that the file does not name is dropped in silence."""
    source = table_source(tmp_path, class_name=["mild"] * 59 + ["wild"])
    with pytest.raises(InputError, match="data row 60: class 'wild'; expected none, mild; did you mean 'mild'"):
        manifest_for(data_of(sources=[source], labels={"task": "classes", "classes": ["none", "mild"]}))


def test_summary():
    """The summary leaves out a task, or a warning of the split."""
    summary = summary_for(data_of(labels={"auxiliary": ["density"]}, splits={"unit": "breast"}))
    assert summary.counts["images"].sum() == 280
    assert summary.tasks["task"].unique().tolist() == ["birads3", "density"]
    assert "splits are by breast" in summary.warnings[0]


CHANGES = [
    {"labels": {"birads_3": "benign"}},
    {"labels": {"auxiliary": ["view"]}},
    {"labels": {"uncertainty": {"synthetic": 0.25}}},
    {"labels": {"leave_out": {"all": 0.1}}},
    {"labels": {"flip": {"birads3": 0.1}}},
    {"labels": {"seed": 1}},
    {"labels": {"task": "binary", "binary_truth": "acr"}},
    {"labels": {"task": "birads", "birads_sub": True}},
    {"splits": {"unit": "breast"}},
    {"splits": {"seed": 1}},
    {"splits": {"scheme": "official"}},
    {"splits": {"scheme": "folds", "folds": 3, "fold": 1}},
    {"splits": {"scheme": "folds", "folds": 3, "fold": 2}},
    {"splits": {"scheme": "leave_one_source_out", "held_out": "site_a"}},
    {"splits": {"scheme": "by_source", "by_source": {"site_a": "train", "site_b": {"val": 0.5, "test": 0.5}}}},
]


def test_settings_of_the_dataset():
    """Two datasets with other labels or splits have equal settings, so that one passes for the other, or a folder
    is written into them.
    """
    texts = [json.dumps(public_settings(data_of(**change)), sort_keys=True) for change in ({}, *CHANGES)]
    assert len(set(texts)) == len(texts)
    elsewhere = [{**source, "root": "/secret/place"} for source in SITES]
    assert "secret" not in json.dumps(public_settings(data_of(sources=[elsewhere[0]])))
    assert json.loads(texts[9])["splits"]["unit"] == "breast"


@needs_real
@pytest.mark.data
def test_patients_of_both_parts_of_cbis_ddsm_train():
    """Patients of both parts of the published split are trained on and tested, or move without a word.

    31 patients are in both parts; the reader counts a view of both as training, and 12 have other views in test.
    """
    source = {"kind": "cbis_ddsm", "root": f"{REAL}/tables/cbis_ddsm_ccby3"}
    data = data_of(sources=[source], labels={"task": "binary"}, splits={"scheme": "official"})
    found = arranged_for(data)
    assert found.notes == ("12 patients lay on several sides by their sources; all their images train",)
    torn = found.manifest.groupby("patient_id")["split_official"].transform("nunique") > 1
    assert set(found.manifest.loc[torn, "split"]) == {"train"}
    assert found.manifest["split"].value_counts().sum() == 3032


def test_another_doubt_prepares_nothing_anew():
    """A search over uncertainties reads all images again, or flipped labels keep a doubt that nobody wants."""

    def digest(uncertainty, **labels):
        data = data_of(labels={**labels, "uncertainty": uncertainty})
        return request_digest(data, manifest_for(data), b"key")

    assert digest({"synthetic": 0.25}) == digest({"reader": 0.5})
    assert digest({}) != digest({}, auxiliary=["view"])
    assert digest({}, flip={"birads3": 0.1}) != digest({"reader": 0.5}, flip={"birads3": 0.1})
