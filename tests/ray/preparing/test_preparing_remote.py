"""Preparing from and to stores: the same dataset as in a folder, no half of one, one preparer, one download.

They are an S3 server, and one that pretends to be Google's.
"""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.data import files
from study.data.shards import open_dataset, read_about, read_manifest
from study.distributed import preparing_dataset, preparing_run, preparing_store
from study.distributed.preparing import plan_preparation, prepare_dataset
from study.errors import InputError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SECRETS = ("AKIDEXAMPLE", "wJalrXUtnSecret")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Keys and cache of these tests lie in their folder."""
    monkeypatch.setenv("STUDY_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["s3", pytest.param("gs", marks=pytest.mark.long)])
def store(request):
    """URI of a place in a new bucket, as a function of its path; whoever has it, in any process, may read and write."""
    place = request.getfixturevalue(request.param)
    if request.param == "s3":
        return place
    request.getfixturevalue("gcs_server").pretend(needs="")  # the cluster's processes have begun without our key
    return lambda path: place(path).replace("gs://", "gs://anonymous@")


@pytest.fixture
def remote(table_config, store, tmp_path):
    """Two files of each patient of the table, and their dataset, below URIs."""
    table = pd.read_csv(tmp_path / "list.csv")
    table = table.groupby("patient_id").head(2)
    table.to_csv(tmp_path / "list.csv", index=False)
    for name in table["path"]:
        files.write_bytes(store(f"site/{name}"), (tmp_path / "files" / name).read_bytes())
    source = {"kind": "table", "name": "listed", "root": store("site"), "table": str(tmp_path / "list.csv")}
    return type(table_config).model_validate(
        table_config.model_dump(mode="json") | {"prepared": store("prepared/set"), "sources": [source]}
    )


def _names(config):
    root = files.shown(config.prepared)
    return {files.shown(place).removeprefix(f"{root}/") for place in files.list_files(config.prepared)}


def _pixels(config):
    dataset = open_dataset(config.prepared)
    return dataset.pixels(np.arange(len(dataset)))


def test_remote_dataset_is_the_local_one(remote, table_config, tmp_path):
    """From and to a store, the same files give the same images, labels and splits as in a folder."""
    here, there = prepare_dataset(table_config), prepare_dataset(remote)
    assert (there.images, there.counts) == (here.images, here.counts)
    assert np.array_equal(_pixels(remote), _pixels(table_config))
    about = read_about(remote.prepared)
    tables = {name for name, _, _ in about["tables"].values()}
    assert _names(remote) == {"dataset.json", *tables, *(f"shards/{name}" for name in about["shards"])}
    written = b"".join(files.read_bytes(place) for place in files.list_files(remote.prepared))
    assert not [word for word in (*SECRETS, "secret.dcm", str(tmp_path)) if word.encode() in written]
    (key,) = (tmp_path / "keys").iterdir()
    assert (key.suffix, key.stat().st_mode & 0o777) == (".key", 0o600)
    assert key.read_bytes() not in written
    key.unlink()  # as on another machine: new names would part the dataset from all that refers to it
    plan = plan_preparation(remote)
    assert (plan.is_complete, plan.missing, "is not on this machine" in plan.warning) == (True, 0, True)
    other = plan_preparation(remote.model_copy(update={"bits": 16}))
    assert (other.is_complete, other.missing, other.warning) == (False, plan.images, "")


@pytest.mark.long
def test_second_run_and_new_files(remote, watch, tmp_path):
    """Preparing again reads nothing; a new file is read alone, into a shard of its own."""
    table = pd.read_csv(tmp_path / "list.csv")
    table.iloc[:-1].to_csv(tmp_path / "list.csv", index=False)
    first = prepare_dataset(remote)
    assert plan_preparation(remote).is_complete
    before = _names(remote)
    table.to_csv(tmp_path / "list.csv", index=False)
    steps = watch()
    second = prepare_dataset(remote, progress=steps)
    assert (steps.read, second.reused, second.images) == (1, first.images, first.images + 1)
    shards = {name for name in before if name.startswith("shards/")}
    assert len(_names(remote)) == len(before) + 1
    assert shards < _names(remote)


@pytest.mark.long
def test_interrupted_preparation_goes_on(remote, watch, monkeypatch):
    """After an interruption finished blocks stay, readers find no dataset, and the next run reads only the rest."""
    monkeypatch.setattr(preparing_run, "BLOCK_FILES", 4)
    wanted = plan_preparation(remote).images
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(remote, progress=watch(stop_at=4), workers=1)
    with pytest.raises(InputError, match=r"dataset\.json is missing"):
        open_dataset(remote.prepared)
    steps = watch()
    summary = prepare_dataset(remote, progress=steps)
    assert summary.images == wanted
    assert steps.read == wanted - summary.reused <= wanted - 4
    assert not [name for name in _names(remote) if name.startswith("work/")]


def test_reader_sees_the_old_dataset_or_the_new_one(remote, no_ray, monkeypatch):
    """A preparation that dies before its last object leaves the old dataset whole; the next one finishes the new."""
    prepare_dataset(remote)
    no_ray()
    old = open_dataset(remote.prepared)
    other = remote.model_copy(update={"segments": ("source",)})

    def die(place, content):
        if files.shown(place).endswith("dataset.json"):
            raise KeyboardInterrupt
        files.write_bytes(place, content)

    monkeypatch.setattr(preparing_dataset, "write_bytes", die)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(other)
    again = open_dataset(remote.prepared)
    assert again.fingerprint == old.fingerprint
    assert np.array_equal(again.segments_n, old.segments_n)
    monkeypatch.setattr(preparing_dataset, "write_bytes", files.write_bytes)
    prepare_dataset(other)
    assert set(open_dataset(remote.prepared).segments_n) == {"listed"}
    with pytest.raises(InputError, match="prepared again"):
        pickle.loads(pickle.dumps(old))


def test_lock_of_another_machine_is_respected(remote, monkeypatch):
    """A second machine that prepares the same dataset is sent away, until the lock is as old as a dead process's."""
    monkeypatch.setattr(preparing_store, "SETTLE_SECONDS", 0.0)
    layout = preparing_store.layout_of(remote)
    lock = files.join(layout.staging, "lock.json")
    foreign = {"token": "x", "machine": "other", "time": time.time()}
    files.write_bytes(lock, json.dumps(foreign).encode())
    with pytest.raises(InputError, match="is being prepared by another process") as caught:
        prepare_dataset(remote)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    files.write_bytes(lock, json.dumps(foreign | {"time": time.time() - 300}).encode())
    with preparing_store.locked(layout):
        assert json.loads(files.read_bytes(lock))["token"] != "x"
        with pytest.raises(InputError, match="is being prepared"), preparing_store.locked(layout):
            raise AssertionError("two hold the lock")
    assert not files.is_file(lock)


def test_lock_of_a_dead_process_of_this_machine_is_void(remote, monkeypatch):
    """After SIGKILL on this machine nobody has to wait for the lock to grow old."""
    monkeypatch.setattr(preparing_store, "SETTLE_SECONDS", 0.0)
    layout = preparing_store.layout_of(remote)
    preparing_store.key_of(layout, make=True)
    preparing_store._beat(layout, "dead")
    with preparing_store.locked(layout):
        assert files.is_file(files.join(layout.staging, "lock.json"))


@pytest.mark.long
def test_foreign_objects_are_never_removed(remote, store):
    """A place that holds something else is refused; and what a user adds to a dataset stays."""
    files.write_bytes(store("prepared/set/thesis.txt"), b"years of work")
    with pytest.raises(InputError, match="holds something that is no prepared dataset"):
        prepare_dataset(remote)
    files.delete(store("prepared/set/thesis.txt"))
    prepare_dataset(remote)
    files.write_bytes(store("prepared/set/thesis.txt"), b"years of work")
    prepare_dataset(remote.model_copy(update={"segments": ("source",)}))
    assert files.read_bytes(store("prepared/set/thesis.txt")) == b"years of work"


@pytest.mark.long
def test_shards_are_fetched_once(remote, tmp_path, monkeypatch):
    """All processes of a machine share one copy of a shard; a damaged copy is fetched anew."""
    prepare_dataset(remote)
    dataset = open_dataset(remote.prepared)
    code = (
        "import sys, pickle, numpy as np; d = pickle.load(sys.stdin.buffer);"
        "print(int(d.pixels(np.arange(len(d))).astype(np.int64).sum()))"
    )
    sent = pickle.dumps(dataset)
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    answers = {child.communicate(sent, timeout=120)[0] for child in children}
    expected = int(_pixels(remote).astype(np.int64).sum())
    assert answers == {f"{expected}\n".encode()}
    cached = sorted((tmp_path / "cache").rglob("*.arrow"))
    assert sorted(path.name for path in cached) == sorted(dataset.about["shards"])
    fetched = []
    monkeypatch.setattr("study.data.shards_cache.download", lambda place, path: fetched.append(place))
    assert np.array_equal(dataset.pixels(np.array([0])), open_dataset(remote.prepared).pixels(np.array([0])))
    assert fetched == []
    monkeypatch.undo()
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    content = bytearray(cached[0].read_bytes())
    content[len(content) // 2] ^= 1
    cached[0].unlink()
    cached[0].write_bytes(content)
    assert int(_pixels(remote).astype(np.int64).sum()) == expected


@pytest.mark.long
def test_object_that_changed_is_refused(remote):
    """An object that is not what dataset.json says is refused by name, without the credentials."""
    prepare_dataset(remote)
    dataset = open_dataset(remote.prepared)
    name = next(iter(dataset.about["shards"]))
    place = files.join(remote.prepared, "shards", name)
    files.write_bytes(place, files.read_bytes(place)[:-1] + b"x")
    with pytest.raises(InputError, match=f"{name} differs from what its dataset.json says") as caught:
        _pixels(remote)
    files.delete(place)
    with pytest.raises(InputError, match=f"{name} cannot be fetched") as gone:
        _pixels(remote)
    text = f"{caught.value}{gone.value}{gone.value.__cause__}"
    assert not [secret for secret in SECRETS if secret in text]
    assert plan_preparation(remote).missing > 0


def test_bucket_that_does_not_exist_is_told(remote, store):
    """A wrong bucket ends with the place and the cause, and no bucket is made."""
    wrong = remote.model_copy(update={"prepared": store("x").replace("@study-", "@no-such-")})
    with pytest.raises(InputError, match=r"cannot be read or written \(no such bucket\)") as caught:
        prepare_dataset(wrong)
    assert not [secret for secret in SECRETS if secret in f"{caught.value}{caught.value.__cause__}"]


@pytest.mark.long
def test_manifest_of_a_remote_dataset(remote):
    """The table of all rows can be read from the store, dropped ones too."""
    prepare_dataset(remote)
    assert len(read_manifest(remote.prepared)) == len(pd.read_csv(Path(remote.sources[0].table)))
