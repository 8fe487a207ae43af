"""Preparing on a real local cluster: interruptions, broken files, and who is refused."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.data.shards import open_dataset, read_manifest
from study.distributed import preparing, preparing_run
from study.distributed.preparing import manifest_for, plan_preparation, prepare_dataset
from study.errors import InputError, StudyError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SIZE = 64


def _inodes(config):
    return {path.name: path.stat().st_ino for path in (Path(config.prepared) / "shards").iterdir()}


def test_interrupted_preparation_goes_on(config, watch, monkeypatch):
    """After an interruption the finished blocks stay, no dataset appears, and the next run reads only the rest."""
    monkeypatch.setattr(preparing_run, "BLOCK_FILES", 4)
    wanted = plan_preparation(config).images
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(config, progress=watch(stop_at=4), workers=1)
    assert not Path(config.prepared).exists()
    plan = plan_preparation(config)
    assert 4 <= plan.reused < wanted
    steps = watch()
    summary = prepare_dataset(config, progress=steps)
    assert summary.images == wanted
    assert steps.read == wanted - summary.reused <= wanted - 4
    assert not Path(f"{config.prepared}.partial").exists()
    assert open_dataset(config.prepared).pixels(np.arange(wanted)).max() > 0


@pytest.mark.parametrize("is_other", [True, False])
def test_half_of_a_block_is_not_trusted(config, is_other):
    """A shard without its results, or a staging folder with other settings, is made again."""
    staging = Path(f"{config.prepared}.partial")
    (staging / "shards").mkdir(parents=True)
    (staging / "shards" / "torn.arrow").write_bytes(b"ARROW1")
    image = preparing.image_settings(config)
    work = {"image": image | {"image_hw": [8, 8]} if is_other else image, "encoding": "raw"}
    (staging / "work.json").write_text(json.dumps(work))
    summary = prepare_dataset(config)
    assert summary.reused == 0
    assert "torn.arrow" not in _inodes(config)


def test_exchange_that_was_interrupted_is_finished(config, no_ray):
    """If the process dies between the two renames, the next preparation puts the finished dataset in its place."""
    prepare_dataset(config)
    root = Path(config.prepared)
    fingerprint = open_dataset(root).fingerprint
    root.rename(f"{root}.partial")
    old = root.with_name(f".{root.name}.replaced-" + "0" * 32)
    old.mkdir()
    no_ray()
    prepare_dataset(config)
    assert open_dataset(root).fingerprint == fingerprint
    assert not old.exists()
    root.rename(old)
    prepare_dataset(config)
    assert open_dataset(root).fingerprint == fingerprint


def test_lost_shard_is_made_again(config, watch):
    """A shard that was deleted or cut is noticed by the plan, and only its files are read again."""
    prepare_dataset(config)
    fingerprint = open_dataset(config.prepared).fingerprint
    shard = next((Path(config.prepared) / "shards").iterdir())
    rows = open_dataset(config.prepared).about["shards"][shard.name][0]
    shard.unlink()
    assert plan_preparation(config).missing == rows
    steps = watch()
    prepare_dataset(config, progress=steps)
    assert steps.read == rows
    assert open_dataset(config.prepared).fingerprint == fingerprint


@pytest.mark.long
def test_files_that_kill_or_eat_memory_cost_one_file_each(table_config, tmp_path, monkeypatch):
    """Three killers in one block and a memory hog in another lose these four; no other file, nor the job, suffers."""
    table = pd.read_csv(tmp_path / "list.csv")
    strange = {0: "killer0.dcm", 2: "killer2.dcm", 3: "killer3.dcm", 5: "hungry.dcm"}
    for place, name in strange.items():
        (tmp_path / "files" / table["path"].iloc[place]).rename(tmp_path / "files" / name)
        table.loc[place, "path"] = name
    table.to_csv(tmp_path / "list.csv", index=False)
    monkeypatch.setattr(preparing_run, "BLOCK_FILES", 4)
    summary = prepare_dataset(table_config)
    bad = {"the decoder crashed": 3, "reading it takes more than 2 GiB of memory": 1}
    assert (summary.images, summary.quarantined) == (len(table) - len(strange), bad)
    assert plan_preparation(table_config).is_complete
    reasons = read_manifest(Path(table_config.prepared))["drop_reason"].str.removeprefix("quarantine: ")
    assert [list(bad).index(reasons[place]) for place in strange] == [0, 0, 0, 1]
    assert len(open_dataset(table_config.prepared)) == len(table) - len(strange)


def test_killed_preparation_goes_on(config, watch, start_process):
    """After SIGKILL the finished blocks are not read again."""
    wanted = plan_preparation(config).images
    with start_process(config) as process:
        for line in process.stdout:
            if line.startswith("read"):
                process.kill()
                break
    assert process.wait(timeout=60) == -signal.SIGKILL
    steps = watch()
    summary = prepare_dataset(config, progress=steps)
    assert summary.images == wanted
    assert 4 <= summary.reused == wanted - steps.read


def test_too_many_bad_files_stop_the_preparation(table_config, make_table_config, no_ray, tmp_path):
    """Above the limit the job fails with share and reasons and leaves no dataset; a higher limit then reads nothing."""
    table = pd.read_csv(tmp_path / "list.csv")
    (tmp_path / "files" / table["path"].iloc[0]).write_bytes(b"not an image")
    (tmp_path / "files" / table["path"].iloc[1]).unlink()
    strict = make_table_config(max_quarantined=0.0)
    with pytest.raises(StudyError) as caught:
        prepare_dataset(strict)
    assert caught.value.exit_code == 1
    assert re.match(rf"2 of {len(table)} images \(\d+%\) cannot be used; data.max_quarantined", caught.value.message)
    assert "listed: the file is missing" in caught.value.message
    assert "secret" not in caught.value.message
    assert not Path(strict.prepared).exists()
    no_ray()
    summary = prepare_dataset(table_config)
    assert sum(summary.quarantined.values()) == 2
    quarantine = pd.read_parquet(Path(table_config.prepared) / "quarantine.parquet")
    assert list(quarantine.columns) == ["file_key", "source", "stage", "reason"]
    assert set(quarantine["stage"]) == {"read"}
    dropped = read_manifest(Path(table_config.prepared))["drop_reason"]
    assert (dropped == "quarantine: the file is missing").sum() == 1


def test_limit_holds_for_a_finished_dataset_too(table_config, make_table_config, no_ray, tmp_path):
    """A lower limit on a dataset that is there fails as it would have then, so that nobody trains on too little."""
    table = pd.read_csv(tmp_path / "list.csv")
    (tmp_path / "files" / table["path"].iloc[0]).write_bytes(b"not an image")
    prepare_dataset(table_config)
    no_ray()
    strict = make_table_config(max_quarantined=0.0)
    assert not plan_preparation(strict).is_complete
    with pytest.raises(StudyError, match=r"1 of .* cannot be used; data\.max_quarantined allows 0%") as caught:
        prepare_dataset(strict)
    assert caught.value.exit_code == 1
    assert plan_preparation(table_config).is_complete
    assert len(open_dataset(table_config.prepared)) > 0


def test_split_without_a_usable_image_is_refused(table_config):
    """When all files of a split are bad, the job says which split is empty."""
    manifest = manifest_for(table_config)
    for path in manifest.loc[manifest["split"] == "test", "path"]:
        Path(path).write_bytes(b"not an image")
    with pytest.raises(InputError, match="no usable image for test"):
        prepare_dataset(table_config.model_copy(update={"max_quarantined": 1.0}))


def test_two_preparations_at_once_are_refused(config):
    """A second process that prepares the same dataset is sent away."""
    prepare_dataset(config)
    layout = preparing.layout_of(config)
    with preparing.locked(layout), pytest.raises(InputError, match="is being prepared by another process"):
        prepare_dataset(config)


def test_block_that_cannot_be_written_stops_the_job(config, monkeypatch):
    """A full or read-only disk ends the job with what to do, not with the reader's traceback."""
    open_staging = preparing.open_staging

    def without_shards(layout, image, *, encoding):
        open_staging(layout, image, encoding=encoding)
        Path(layout.shards).rmdir()
        Path(layout.shards).write_text("")

    monkeypatch.setattr(preparing, "open_staging", without_shards)
    with pytest.raises(StudyError, match=r"a shard cannot be written \(File exists") as caught:
        prepare_dataset(config)
    assert "make room" in caught.value.fix


@pytest.mark.parametrize("name", ["data", "data.partial"])
def test_foreign_folder_is_never_replaced(config, tmp_path, name):
    """A folder that holds something else than a dataset is refused and left as it is."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something that is no prepared dataset"):
        prepare_dataset(config)
    assert (tmp_path / name / "thesis.txt").read_text() == "years of work"
