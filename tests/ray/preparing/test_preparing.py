"""Preparing on a real local cluster: what is written, and what is reused."""

import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from study.data.dicom import read_image
from study.data.prepare import PrepareSettings, prepare_image
from study.data.shards import open_dataset, read_manifest
from study.distributed import preparing
from study.distributed.preparing import manifest_for, plan_preparation, prepare_dataset
from study.distributed.preparing_tables import image_settings, prepare_settings
from study.errors import InputError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SIZE = 64


def _inodes(config):
    return {path.name: path.stat().st_ino for path in (Path(config.prepared) / "shards").iterdir()}


def test_dataset_holds_the_pixels_of_the_image_function(config, watch):
    """Each row holds exactly what the image function makes of its file, in the order of the sources, with its label."""
    steps = watch()
    summary = prepare_dataset(config, progress=steps)
    manifest = manifest_for(config)
    kept = manifest[manifest["label"].notna() & (manifest["drop_reason"] == "")]
    dataset = open_dataset(config.prepared)
    assert summary.images == len(dataset) == len(kept) == steps.read > 0
    assert dataset.labels_n.tolist() == kept["label"].astype(int).tolist()
    assert dataset.segments_n.tolist() == kept["segment"].tolist()
    assert len(dataset.manifest) + (manifest["drop_reason"] != "").sum() == len(read_manifest(config.prepared))
    settings = PrepareSettings(image_hw=(SIZE, SIZE))
    for row, (path, side) in enumerate(zip(kept["path"], kept["laterality"], strict=True)):
        expected = prepare_image(read_image(path), laterality=side, settings=settings)
        assert np.array_equal(dataset.pixels(np.array([row]))[0], expected.framed())
        assert dataset.manifest.loc[row, "box_left"] == expected.box[0]


def test_splits_classes_and_counts_are_written(config):
    """Splits follow the manifest, the counts in the summary and in dataset.json are those of the rows."""
    summary = prepare_dataset(config)
    dataset = open_dataset(config.prepared)
    assert dataset.classes == ("normal", "benign", "malignant")
    for split, by_class in summary.counts.items():
        labels = dataset.labels_n[dataset.rows(split)]
        assert list(by_class.values()) == np.bincount(labels, minlength=3).tolist()
        assert sum(by_class.values()) > 0
    assert dataset.about["counts"] == summary.counts
    patients = dataset.manifest.groupby("patient_id")["split"].nunique()
    assert (patients == 1).all()


def test_second_run_does_nothing_and_needs_no_ray(config, no_ray):
    """Preparing again reads nothing, starts no Ray, and leaves every file as it is."""
    prepare_dataset(config)
    before = {path: path.stat().st_mtime_ns for path in Path(config.prepared).rglob("*")}
    no_ray()
    plan = plan_preparation(config)
    summary = prepare_dataset(config)
    assert (plan.is_complete, plan.missing, plan.reused) == (True, 0, plan.images)
    assert summary.reused == summary.images == plan.images
    assert {path: path.stat().st_mtime_ns for path in Path(config.prepared).rglob("*")} == before


def test_another_split_reads_no_pixels(config, make_config, no_ray):
    """Other splits or segments rewrite the tables, keep the shards, need no Ray, and change the fingerprint."""
    prepare_dataset(config)
    first, shards = open_dataset(config.prepared).fingerprint, _inodes(config)
    no_ray()
    splits = {"seed": 5, "val": {"fraction": 0.3}, "test": {"fraction": 0.3}}
    other = make_config(segments=["source"], splits=splits)
    assert not plan_preparation(other).is_complete
    summary = prepare_dataset(other)
    assert summary.reused == summary.images
    assert _inodes(other) == shards
    assert open_dataset(other.prepared).fingerprint != first
    assert set(open_dataset(other.prepared).segments_n) == {"site_a"}
    prepare_dataset(config)
    assert open_dataset(config.prepared).fingerprint == first


def test_another_image_size_reads_everything_again(config, make_config, watch):
    """Shards of another image size are not reused."""
    prepare_dataset(config)
    steps = watch()
    summary = prepare_dataset(make_config(image_size=32), progress=steps)
    assert (summary.reused, steps.read) == (0, summary.images)
    assert open_dataset(config.prepared).pixels(np.array([0])).shape == (1, 32, 32)


def test_new_and_changed_files_add_only_themselves(table_config, watch, tmp_path):
    """A new file is read alone, into a shard of its own; a file that was changed is read again."""
    table = pd.read_csv(tmp_path / "list.csv")
    table.iloc[:-1].to_csv(tmp_path / "list.csv", index=False)
    first = prepare_dataset(table_config)
    shards = _inodes(table_config)
    table.to_csv(tmp_path / "list.csv", index=False)
    steps = watch()
    second = prepare_dataset(table_config, progress=steps)
    assert second.images == first.images + steps.read
    assert (steps.read, second.reused) == (1, first.images)
    assert shards.items() <= _inodes(table_config).items()
    rows = open_dataset(table_config.prepared).about["shards"]
    assert sorted(place[0] for name, place in rows.items() if name not in shards) == [1]
    changed = tmp_path / "files" / table["path"].iloc[0]
    changed.write_bytes(changed.read_bytes())
    steps = watch()
    prepare_dataset(table_config, progress=steps)
    assert steps.read == 1


def test_plan_writes_nothing(make_config, no_ray, tmp_path):
    """A dry run neither writes a file nor starts Ray, and counts the images that would be read."""
    no_ray()
    fresh = make_config(root=tmp_path / "nowhere")
    plan = plan_preparation(fresh)
    assert plan.missing == plan.images > 0
    assert not plan.is_complete
    assert list(tmp_path.iterdir()) == []


def test_no_identifier_is_written(table_config, tmp_path):
    """No id, name, date, file name or path of the sources is in any byte or table of the dataset."""
    prepare_dataset(table_config)
    root = Path(table_config.prepared)
    secrets = {"secret.dcm", str(tmp_path)}
    for path in (tmp_path / "files").iterdir():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        secrets.add(path.name)
        names = (
            "PatientID",
            "PatientName",
            "PatientBirthDate",
            "StudyInstanceUID",
            "SOPInstanceUID",
            "SeriesInstanceUID",
        )
        secrets |= {str(header[name].value) for name in names if name in header}
    manifest = manifest_for(table_config)
    for name in ("patient_id", "study_id", "series_id", "image_id", "breast_id"):
        secrets |= set(manifest[name].dropna().astype(str))
    secrets -= {"", "None"}
    assert len(secrets) > 2 * len(manifest)
    content = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    tables = "".join(pd.read_parquet(path).to_csv() for path in root.glob("*.parquet"))
    names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
    for secret in secrets:
        assert secret.encode() not in content
        assert secret not in tables
        assert secret not in names
    key = Path(f"{root}.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_bytes() not in content
    assert read_manifest(root)["patient_id"].nunique() == manifest["patient_id"].nunique()


def test_header_fills_what_the_table_lacks(table_config, tmp_path):
    """Device and side come from the image file where the table has none, and name the segment."""
    expected = manifest_for(table_config)["segment"].tolist()
    table = pd.read_csv(tmp_path / "list.csv").drop(columns=["manufacturer", "model"])
    table.to_csv(tmp_path / "list.csv", index=False)
    assert set(manifest_for(table_config)["segment"]) == {"listed.unknown"}
    prepare_dataset(table_config)
    assert read_manifest(Path(table_config.prepared))["segment"].tolist() == expected


def test_masks_replace_the_search_for_the_breast(table_config, make_table_config, watch, tmp_path):
    """With a folder of masks the box is the mask's; an image without one is quarantined, and read once it has one."""
    manifest, masks = manifest_for(table_config), tmp_path / "masks"
    mask_hw = np.zeros((100, 100), dtype=np.uint8)
    mask_hw[20:80, 10:60] = 1
    for place, image_id in enumerate(manifest["image_id"].iloc[1:]):
        folder = masks / "listed" if place % 2 else masks
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask_hw).save(folder / f"{image_id}.png")
    config = make_table_config(masks=str(masks))
    summary = prepare_dataset(config)
    assert summary.quarantined == {"the mask is missing": 1}
    about = open_dataset(config.prepared).about
    assert str(masks) not in str(about)
    first = open_dataset(config.prepared).manifest.iloc[0]
    settings = PrepareSettings(image_hw=(SIZE, SIZE))
    path, side = manifest.loc[1, "path"], manifest.loc[1, "laterality"]
    expected = prepare_image(read_image(path), laterality=side, settings=settings, mask_hw=mask_hw > 0)
    assert (first["box_left"], first["box_bottom"]) == (expected.box[0], expected.box[3])
    Image.fromarray(mask_hw).save(masks / f"{manifest.loc[0, 'image_id']}.png")
    steps = watch()
    assert prepare_dataset(config, progress=steps).quarantined == {}
    assert steps.read == 1


@pytest.mark.parametrize(
    ("changes", "frame_hw", "bits"),
    [
        ({"scaling": "multitask", "image_size": [64, 96], "width_multiple": 16}, None, 8),
        ({"scaling": "periodic", "image_size": [48, 80], "bits": 16, "encoding": "zstd"}, (48, 80), 16),
    ],
)
def test_other_scalings_and_depths(make_config, changes, frame_hw, bits):
    """Frames of any form, 16 bits and compressed rows hold what the image function makes, on its own background."""
    config = make_config(**changes)
    prepare_dataset(config)
    dataset, manifest = open_dataset(config.prepared), manifest_for(config)
    kept = manifest[manifest["label"].notna() & (manifest["drop_reason"] == "")]
    assert dataset.bits == bits
    assert dataset.encoding == changes.get("encoding", "raw")
    settings = prepare_settings(image_settings(config))
    made = [
        prepare_image(read_image(path), laterality=side, settings=settings)
        for path, side in zip(kept["path"], kept["laterality"], strict=True)
    ]
    assert dataset.image_hw == (frame_hw or (64, max(each.frame_hw[1] for each in made)))
    pixels = dataset.pixels(np.arange(len(dataset)))
    for row, each in enumerate(made):
        height, width = each.frame_hw
        assert np.array_equal(pixels[row, :height, :width], each.framed())
        assert (pixels[row, :, width:] == each.background).all()


def test_encoding_follows_the_memory_and_stays(config, make_config, no_ray, monkeypatch):
    """Where raw shards would not fit into half of the memory, rows are compressed; the choice is kept, and told."""
    monkeypatch.setattr(preparing, "MEMORY_SHARE", 1e-9)
    prepare_dataset(config)
    dataset = open_dataset(config.prepared)
    assert dataset.encoding == "zstd"
    monkeypatch.undo()
    assert plan_preparation(config).is_complete
    with pytest.raises(InputError, match=r"is stored as zstd; data\.encoding is raw"):
        plan_preparation(make_config(encoding="raw"))
    fingerprint = dataset.fingerprint
    shutil.rmtree(config.prepared)
    prepare_dataset(make_config(encoding="raw"))
    assert open_dataset(config.prepared).fingerprint == fingerprint


def test_progress_tells_pace_and_quarantine(table_config, watch, tmp_path):
    """Progress says how many files a second are read, how many were bad, and how long the rest will take."""
    table = pd.read_csv(tmp_path / "list.csv")
    (tmp_path / "files" / table["path"].iloc[0]).write_bytes(b"not an image")
    steps = watch()
    prepare_dataset(table_config, progress=steps)
    last = steps.seen[-1]
    assert (last.done, last.quarantined, last.eta_seconds) == (len(table), 1, 0.0)
    assert all(step.rate > 0 and step.eta_seconds >= 0 for step in steps.seen)
