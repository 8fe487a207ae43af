"""A run's folder in a store: whole or not at all, whoever is killed, replaced, or comes from elsewhere."""

import contextlib
import json
import os
import threading

import pytest
import torch

from study import checkpoint, remote
from study.checkpoint import StaleAttempt, TrainState
from study.data.files import delete, join, read_bytes, stored_files, write_bytes
from study.errors import EnvironmentFault, StudyError
from study.remote import outgoing, places, snapshots


def state(step, *, value=0.5):
    generator = torch.Generator().manual_seed(step)
    return TrainState(
        model={"w": torch.randn(64, 64, generator=generator)},
        optimiser={"state": {}, "param_groups": []},
        step=step,
        epoch=step,
        best_epoch=1,
        best_value=value,
    )


def saved(folder, step, *, attempt=1, is_best=True):
    checkpoint.save(folder, state(step), attempt=attempt, is_best=is_best)


def uri_of(folder):
    return places.uri_of(folder)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pauses between tries; no run is known to this process, as in a new one."""
    monkeypatch.setattr(places, "PAUSES_S", (0.0, 0.0))
    outgoing._RUNS.clear()


def as_new_process():
    outgoing._RUNS.clear()


def test_another_machine_goes_on_from_what_was_saved(distant):
    """Weights, best weights and the other files of the run arrive, bit by bit."""
    here = distant("a")
    checkpoint.claim(here, 1)
    saved(here, 1)
    (here / "batches.jsonl").write_text('{"attempt": 1}\n')
    saved(here, 2, is_best=False)
    remote.settle(here)
    there = distant("b")
    as_new_process()
    checkpoint.claim(there, 2)
    last, best = checkpoint.load_last(there), checkpoint.load_best(there)
    assert (last.step, best.step) == (2, 1)
    assert torch.equal(last.model["w"], state(2).model["w"])
    assert (there / "batches.jsonl").read_text() == '{"attempt": 1}\n'


def test_what_no_checkpoint_needs_leaves_the_store(machine):
    """As locally: the last and the best one stay, whatever came before goes, and so do heads of older attempts."""
    here = machine("a")
    checkpoint.claim(here, 1)
    for step in range(1, 6):
        saved(here, step, is_best=step == 2)
        remote.settle(here)
    steps = {name.split("-")[1] for name in stored_files(uri_of(here)) if name.startswith("checkpoints-step")}
    assert steps == {"step_00000002", "step_00000005"}
    checkpoint.claim(here, 2)
    assert [name for name in stored_files(uri_of(here)) if name.startswith("heads/")] == ["heads/000000000002.json"]


@pytest.mark.parametrize("requests", [0, 4, 5, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2, 3))])
def test_an_upload_that_is_killed_leaves_the_former_checkpoint(machine, monkeypatch, requests):
    """After any number of requests of an upload the next machine finds the one checkpoint or the other, whole."""
    here = machine("a")
    checkpoint.claim(here, 1)
    saved(here, 1)
    remote.settle(here)
    done = []

    def dying(place, content):
        if len(done) >= requests:
            raise SystemExit
        done.append(place)
        write_bytes(place, content)

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "write_bytes", dying)
        saved(here, 2)
        with contextlib.suppress(SystemExit):  # with five, all requests of the upload were allowed
            remote.settle(here)
    there = machine("b")
    as_new_process()
    is_new = any("/heads/" in place for place in done)
    assert checkpoint.load_best(machine("c", "look")).step == (2 if is_new else 1)
    checkpoint.claim(there, 2)
    found = checkpoint.load_last(there)
    assert found.step == (2 if is_new else 1)
    assert torch.equal(found.model["w"], state(found.step).model["w"])
    left = {name for name in stored_files(uri_of(there)) if "step_" in name}
    assert {name.split("-")[1] for name in left} == {f"step_{found.step:08d}"}


def test_a_store_that_fails_is_asked_again_and_then_named(machine, monkeypatch):
    """Two failures are got over; a store that stays away is an error at the next save, without a secret."""
    here, left = machine("a"), [2]

    def failing(place, content):
        if left[0] > 0:
            left[0] -= 1
            raise OSError("AWS Error SLOW_DOWN during PutObject wJalrXUtnSecret")
        write_bytes(place, content)

    monkeypatch.setattr(snapshots, "write_bytes", failing)
    checkpoint.claim(here, 1)
    saved(here, 1)
    remote.settle(here)
    assert left == [0]
    left[0] = 10**6
    saved(here, 2)
    with pytest.raises(EnvironmentFault, match=r"slow down; 3 tries") as caught:
        remote.settle(here)
    assert "wJalrXUtnSecret" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(EnvironmentFault):
        saved(here, 3)
    left[0] = 0
    as_new_process()
    assert checkpoint.load_last(machine("c", "look")).step == 1


def test_training_does_not_wait_for_an_upload(machine, monkeypatch):
    """While one upload hangs further saves return; of those that wait only the newest goes out."""
    here, gate, places_put = machine("a"), threading.Event(), []
    checkpoint.claim(here, 1)

    def slow(place, content):
        places_put.append(place)
        assert gate.wait(20)
        write_bytes(place, content)

    monkeypatch.setattr(snapshots, "write_bytes", slow)
    for step in (1, 2, 3, 4):
        saved(here, step)
    with pytest.raises(EnvironmentFault, match=r"did not reach .* within 0\.05 s"):
        remote.settle(here, timeout_s=0.05)
    gate.set()
    remote.settle(here)
    assert {place.split("-step_")[1][:8] for place in places_put if "-step_" in place} == {"00000001", "00000004"}
    assert checkpoint.load_last(machine("b", "look")).step == 4
    assert not list((here / ".outgoing").glob("*"))


def test_saving_does_not_look_into_what_goes_out(tmp_path, monkeypatch):
    """The thread that uploads removes those folders at any moment; another one that is gone is a fault."""
    for name in ("a.json", "below/b.json", ".outgoing/1/below/b.json", "below/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    scandir = os.scandir

    def gone(wanted):
        def look(path):
            if wanted in str(path):
                raise FileNotFoundError(path)
            return scandir(path)

        return look

    monkeypatch.setattr(os, "scandir", gone(".outgoing"))
    assert set(snapshots.local_files(tmp_path)) == {"a.json", "below/b.json"}
    monkeypatch.setattr(os, "scandir", gone("below"))
    with pytest.raises(FileNotFoundError):
        snapshots.local_files(tmp_path)
    monkeypatch.undo()
    assert snapshots.local_files(tmp_path / "nowhere") == {}


def test_an_attempt_that_was_replaced_writes_nothing_that_counts(machine):
    """It learns of it when it saves; what it had in hand changes neither checkpoint nor objects of the new one."""
    old = machine("a")
    checkpoint.claim(old, 1)
    saved(old, 1)
    remote.settle(old)
    kept = outgoing._RUNS.pop(old.absolute())
    new = machine("b")
    checkpoint.claim(new, 2)
    saved(new, 2, attempt=2)
    remote.settle(new)
    outgoing._RUNS[old.absolute()] = kept
    saved(old, 7)
    with pytest.raises(StaleAttempt):
        remote.settle(old)
    with pytest.raises(StaleAttempt):
        checkpoint.claim(old, 1)
    as_new_process()
    assert checkpoint.load_best(machine("c", "look")).step == 2


def test_files_that_are_added_later_go_beside_the_checkpoint(machine):
    """Predictions that another machine makes appear with all that was there; readers may leave the weights there."""
    here = machine("a")
    checkpoint.claim(here, 3)
    saved(here, 1, attempt=3)
    remote.settle(here)
    other = machine("b")
    as_new_process()
    remote.adopt(other)
    (other / "predictions_test.parquet").write_bytes(b"table")
    remote.send(other)
    remote.settle(other)
    reader = machine("c", "look")
    as_new_process()
    remote.bring(reader, small=True)
    assert (reader / "predictions_test.parquet").read_bytes() == b"table"
    assert (reader / "checkpoints" / "latest.json").exists()
    assert not list(reader.glob("checkpoints/step_*"))
    assert checkpoint.load_last(reader).step == 1


def test_local_files_that_the_store_does_not_know_give_way(machine):
    """A machine that was killed between saving and uploading goes on from what the others can see."""
    here = machine("a")
    checkpoint.claim(here, 1)
    saved(here, 1)
    remote.settle(here)
    outgoing._RUNS[here.absolute()].error = RuntimeError("as if killed")
    with pytest.raises(RuntimeError):
        saved(here, 2)
    as_new_process()
    checkpoint.claim(here, 2)
    assert checkpoint.load_last(here).step == 1
    assert [path.name for path in (here / "checkpoints").glob("step_*")] == ["step_00000001"]


def test_a_file_that_changed_locally_or_in_the_store_is_noticed(machine):
    """Local ones are brought again; an object with other content is refused, with its name."""
    here = machine("a")
    checkpoint.claim(here, 1)
    saved(here, 1)
    remote.settle(here)
    reader = machine("b", "look")
    as_new_process()
    weights = next(iter((checkpoint.load_last(reader), reader)[1].glob("checkpoints/step_*/model.safetensors")))
    weights.write_bytes(b"x" * weights.stat().st_size)
    assert torch.equal(checkpoint.load_last(reader).model["w"], state(1).model["w"])
    (name,) = [name for name in stored_files(uri_of(here)) if "model." in name]
    write_bytes(join(uri_of(here), name), b"other")
    with pytest.raises(StudyError, match=r"model\.[0-9a-f]{16}\.safetensors is not what was written \(5 bytes"):
        checkpoint.load_last(machine("c", "look"))
    delete(join(uri_of(here), name))
    with pytest.raises(StudyError, match="changed 5 times"):
        checkpoint.load_last(machine("d", "look"))


@pytest.mark.parametrize("damage", [pytest.param("cut", marks=pytest.mark.long), "digest", "path"])
def test_a_damaged_head_is_refused(machine, damage):
    """Nothing is guessed from half a head, and no path in it leaves the folder."""
    here = machine("a")
    checkpoint.claim(here, 1)
    place = join(uri_of(here), "heads", "000000000001.json")
    content = json.loads(read_bytes(place))
    if damage == "path":
        content["files"] = {"../../x": {"object": "x", "bytes": 1, "sha256": "0"}}
        content["digest"] = snapshots._digest(content["files"])
    if damage == "digest":
        content["files"] = {"x": {"object": "x", "bytes": 1, "sha256": "0"}}
    write_bytes(place, json.dumps(content).encode()[: 20 if damage == "cut" else None])
    with pytest.raises(StudyError, match=r"the head of (s3|gs)://.* is damaged"):
        checkpoint.load_last(machine("b", "look"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"null",
        b"[" * 100_000,
        b'{"format": 1, "attempt": 1, "files": [], "digest": ""}',
        json.dumps({"format": 1, "attempt": "x", "files": {}, "digest": snapshots._digest({})}).encode(),
    ],
)
def test_heads_of_another_form(content):
    """Whatever JSON may hold, it is a damaged head."""
    with pytest.raises(StudyError, match="the head of s3://bucket/x is damaged"):
        snapshots._parsed(content, "s3://bucket/x")


def test_what_lies_beside_the_heads(monkeypatch):
    """A copy that somebody made by hand, or a program's mark, is taken for a head and ends the study."""
    names = ["000000000007.json", "000000000003.json", ".keep", "000000000009.json.bak", "notes.json"]
    monkeypatch.setattr(snapshots, "stored_files", lambda place: names)
    assert snapshots.newest_attempt("s3://bucket/x") == 7
    monkeypatch.setattr(snapshots, "stored_files", lambda place: names[2:])
    assert snapshots.newest_attempt("s3://bucket/x") == 0


def test_a_directory_of_its_own_is_left_alone(tmp_path):
    """Without a store nothing of this happens."""
    run = tmp_path / "studies" / "mine" / "runs" / "0-s0"
    checkpoint.claim(run, 1)
    saved(run, 1)
    remote.bring_all(run.parent.parent)
    remote.settle(run)
    assert sorted(path.name for path in run.rglob("*") if path.is_file()) == sorted(
        [".lock", "attempt.json", "latest.json", "model.safetensors", "optimiser.safetensors", "state.json"]
    )
