"""Checkpoints: exact, atomic, fenced and loud when damaged."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from study import checkpoint
from study.checkpoint import TrainState, store
from study.errors import StudyError
from study.types import EpochResult


def make_parts(seed: int = 0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)


def train(model, optimiser, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 5, generator=generator)
        optimiser.zero_grad()
        model(inputs).square().mean().backward()
        optimiser.step()


def make_state(model, optimiser, **changes):
    fields = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": 3, "epoch": 1}
    return TrainState(**{**fields, **changes})


def save_one(directory: Path, *, step: int = 3, attempt: int = 1, is_best: bool = False, **changes) -> Path:
    model, optimiser = make_parts()
    train(model, optimiser, range(2))
    state = make_state(model, optimiser, step=step, **changes)
    return checkpoint.save(directory, state, attempt=attempt, is_best=is_best)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop"])
def test_continuation_is_bit_identical(tmp_path, name):
    """Six steps at once and three, save, load, three give the same weights and optimiser state to the last bit."""
    options = {"lr": 1e-2, **({"momentum": 0.9} if name == "SGD" else {})}
    whole, _ = make_parts()
    optimiser = getattr(torch.optim, name)(whole.parameters(), **options)
    train(whole, optimiser, range(6))
    first, _ = make_parts()
    first_optimiser = getattr(torch.optim, name)(first.parameters(), **options)
    train(first, first_optimiser, range(3))
    checkpoint.save(tmp_path, make_state(first, first_optimiser), attempt=1, is_best=False)

    second, _ = make_parts(seed=99)
    second_optimiser = getattr(torch.optim, name)(second.parameters(), lr=5.0)
    state = checkpoint.load_last(tmp_path)
    second.load_state_dict(state.model)
    second_optimiser.load_state_dict(state.optimiser)
    train(second, second_optimiser, range(state.step, 6))

    for key, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    wanted, found = optimiser.state_dict(), second_optimiser.state_dict()
    assert wanted["param_groups"] == found["param_groups"]
    for index, entries in wanted["state"].items():
        for key, value in entries.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(found["state"][index][key]))


def test_state_round_trip_is_exact(tmp_path):
    """Every number of the state comes back equal, NaN, infinity, tuples and half precision included."""
    model, optimiser = make_parts()
    history = [
        EpochResult(epoch=1, metrics={"val/auroc_macro": 0.1 + 0.2, "val/mcc": float("nan")}, images=64, seconds=1.5),
        EpochResult(epoch=2, metrics={"val/auroc_macro": 1 / 3, "train/loss": float("-inf")}, images=64, seconds=2.5),
    ]
    state = TrainState(
        model={**model.state_dict(), "half": torch.randn(3, dtype=torch.float32).to(torch.bfloat16)},
        optimiser=optimiser.state_dict(),
        scaler={
            "scale": 65536.0,
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": 2000,
            "_growth_tracker": 7,
        },
        step=123456789,
        epoch=2,
        partial={"loss_sum": 1e-300, "images": 12.0, "worst": float("inf")},
        history=history,
        best_epoch=2,
        best_value=1 / 3,
    )
    checkpoint.save(tmp_path, state, attempt=1, is_best=True)
    found = checkpoint.load_best(tmp_path)
    assert found.optimiser == state.optimiser
    assert isinstance(found.optimiser["param_groups"][0]["betas"], tuple)
    assert (found.scaler, found.partial, found.step, found.epoch) == (state.scaler, state.partial, 123456789, 2)
    assert (found.best_epoch, found.best_value) == (2, 1 / 3)
    assert found.history[0].metrics["val/auroc_macro"] == 0.1 + 0.2
    assert math.isnan(found.history[0].metrics["val/mcc"])
    assert found.history[1] == history[1]
    assert found.model["half"].dtype == torch.bfloat16
    assert all(torch.equal(value, found.model[key]) for key, value in state.model.items())


def test_tied_weights_survive(tmp_path):
    """A weight under two names, a view of a larger tensor and an empty tensor are saved and come back equal."""
    weight = torch.randn(4, 4)
    model = {
        "encoder": weight,
        "decoder": weight,
        "view": weight[1:3].t(),
        "empty": torch.zeros(0),
        "scalar": torch.tensor(3),
    }
    checkpoint.save(tmp_path, TrainState(model=model, optimiser={}, step=1, epoch=0), attempt=1, is_best=False)
    found = checkpoint.load_last(tmp_path).model
    assert set(found) == set(model)
    assert all(torch.equal(found[key], value) for key, value in model.items())


def test_directory_keeps_only_what_is_pointed_at(tmp_path):
    """After many saves only the last and the best step directory are left, and each loads as what it was."""
    for step in range(1, 7):
        save_one(tmp_path, step=step, is_best=step == 3)
    root = tmp_path / "checkpoints"
    assert sorted(path.name for path in root.glob("*") if path.is_dir()) == ["step_00000003", "step_00000006"]
    assert checkpoint.load_last(tmp_path).step == 6
    assert checkpoint.load_best(tmp_path).step == 3
    assert checkpoint.best_path(tmp_path) == root / "step_00000003"
    assert set(checkpoint.load_step(root / "step_00000003").model) == set(make_parts()[0].state_dict())
    assert not list(tmp_path.rglob("*.pkl"))
    assert not list(tmp_path.rglob("*.pt"))


def test_same_step_twice_keeps_the_newer_one(tmp_path):
    """A step that is saved again replaces the former checkpoint of that step."""
    save_one(tmp_path, step=5, is_best=True, best_value=0.25)
    save_one(tmp_path, step=5, is_best=False, best_value=0.5)
    assert checkpoint.load_last(tmp_path).best_value == 0.5
    assert checkpoint.load_best(tmp_path).best_value == 0.25
    assert len(list((tmp_path / "checkpoints").glob("step_*"))) == 2


def test_empty_directory_has_no_checkpoint(tmp_path):
    """A run that never saved gives None instead of an error."""
    assert checkpoint.load_last(tmp_path) is None
    assert checkpoint.load_best(tmp_path) is None
    assert checkpoint.best_path(tmp_path) is None


def test_older_attempt_is_fenced_off(tmp_path):
    """Once attempt 2 has claimed the run, attempt 1 can neither save nor claim, and what it left stays in force."""
    checkpoint.claim(tmp_path, 1)
    save_one(tmp_path, step=1, attempt=1)
    checkpoint.claim(tmp_path, 2)
    with pytest.raises(checkpoint.StaleAttempt, match=r"attempt 1 .* replaced by attempt 2"):
        save_one(tmp_path, step=2, attempt=1)
    with pytest.raises(checkpoint.StaleAttempt):
        checkpoint.claim(tmp_path, 1)
    assert checkpoint.load_last(tmp_path).step == 1
    save_one(tmp_path, step=3, attempt=2)
    assert checkpoint.load_last(tmp_path).step == 3
    assert not list((tmp_path / "checkpoints").glob(".writing*"))


def test_attempt_that_loses_the_race_while_writing_is_fenced_off(tmp_path, monkeypatch):
    """An attempt that is claimed away between its writing and its pointer does not move the pointer."""
    save_one(tmp_path, step=1)
    write = store._write_step

    def slow_write(*args):
        write(*args)
        checkpoint.claim(tmp_path, 2)

    monkeypatch.setattr(store, "_write_step", slow_write)
    with pytest.raises(checkpoint.StaleAttempt):
        save_one(tmp_path, step=2)
    assert checkpoint.load_last(tmp_path).step == 1


DAMAGES = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-5]),
    "one bit": lambda file: file.write_bytes(
        file.read_bytes()[:-9] + bytes([file.read_bytes()[-9] ^ 1]) + file.read_bytes()[-8:]
    ),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "foreign": lambda file: file.write_bytes(b'{"hello": [1, 2]}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors", "state.json"])
def test_damaged_file_is_named(tmp_path, name, damage):
    """A damaged file is refused with its name and with one thing to do; the older checkpoint is not used in silence."""
    save_one(tmp_path, step=1, is_best=True)
    target = save_one(tmp_path, step=2)
    DAMAGES[damage](target / name)
    with pytest.raises(StudyError) as caught:
        checkpoint.load_last(tmp_path)
    assert str(target / name) in caught.value.message
    assert str(tmp_path / "checkpoints") in caught.value.fix
    assert checkpoint.load_best(tmp_path).step == 1


def test_changed_number_in_state_is_refused(tmp_path):
    """A hand that edits the step in state.json is noticed."""
    file = save_one(tmp_path, step=7) / "state.json"
    document = json.loads(file.read_text())
    document["state"]["step"] = 8
    file.write_text(json.dumps(document))
    with pytest.raises(StudyError, match="checksum"):
        checkpoint.load_last(tmp_path)


def test_damaged_pointer_is_named(tmp_path):
    """A pointer file that is no JSON is refused by its name."""
    save_one(tmp_path)
    (tmp_path / "checkpoints" / "latest.json").write_text("{")
    with pytest.raises(StudyError, match=r"latest\.json"):
        checkpoint.load_last(tmp_path)


def test_foreign_object_is_refused_before_anything_changes(tmp_path):
    """A state with an object that is no plain data is refused by its path, and the former checkpoint stays."""
    save_one(tmp_path, step=1)
    with pytest.raises(StudyError, match="scaler/when is a PosixPath"):
        save_one(tmp_path, step=2, scaler={"when": Path()})
    assert checkpoint.load_last(tmp_path).step == 1
    assert not list((tmp_path / "checkpoints").glob(".writing*"))


def test_full_disk_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    """An error of the disk at any file write is reported as one, and the former checkpoint stays loadable."""
    save_one(tmp_path, step=1)
    write, calls = store._write_bytes, []
    for fail_at in range(4):
        calls.clear()

        def failing(path, content, fail_at=fail_at):
            calls.append(path)
            if len(calls) > fail_at:
                raise OSError(28, "No space left on device")
            return write(path, content)

        monkeypatch.setattr(store, "_write_bytes", failing)
        with pytest.raises(StudyError, match="No space left"):
            save_one(tmp_path, step=2)
        assert checkpoint.load_last(tmp_path).step == 1
    monkeypatch.undo()
    save_one(tmp_path, step=2)
    assert len([path for path in (tmp_path / "checkpoints").glob("*") if path.is_dir()]) == 1


def test_reader_follows_a_moving_pointer(tmp_path, monkeypatch):
    """A reader whose step directory is removed under its hands reads the newer one instead of failing."""
    save_one(tmp_path, step=1)
    load, moved = checkpoint.load_step, []

    def load_late(path):
        if not moved:
            moved.append(path)
            save_one(tmp_path, step=2)
            assert not path.exists()
        return load(path)

    monkeypatch.setattr(store, "load_step", load_late)
    assert checkpoint.load_last(tmp_path).step == 2


WRITER = """
import sys
from pathlib import Path
import torch
from study import checkpoint
from study.checkpoint import store
torch.set_num_threads(1)
step = 0
while True:
    step += 1
    weights = {"w": torch.full((40000,), float(step))}
    state = checkpoint.TrainState(model=weights, optimiser={"state": {0: {"m": weights["w"]}}}, step=step, epoch=0)
    checkpoint.save(Path(sys.argv[1]), state, attempt=1, is_best=step % 3 == 0)
    if step == 1:
        print("ready", flush=True)
"""


def test_kill_never_leaves_half_a_checkpoint(tmp_path):
    """After SIGKILL at arbitrary moments of a writer, last and best load whole and belong to one step each."""
    root = Path(checkpoint.__file__).parents[2]
    for round_number in range(3):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05 + 0.037 * round_number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = checkpoint.load_last(tmp_path / "run")
        assert torch.equal(last.model["w"], torch.full((40000,), float(last.step)))
        assert torch.equal(last.optimiser["state"][0]["m"], last.model["w"])
        best = checkpoint.load_best(tmp_path / "run")
        assert best is None or best.step % 3 == 0
        save_one(tmp_path / "run", step=last.step + 1)
        assert checkpoint.load_last(tmp_path / "run").step == last.step + 1
        assert not list((tmp_path / "run" / "checkpoints").glob(".writing*"))


@pytest.mark.parametrize(
    "name", ["../../elsewhere", "/tmp/step_00000003", "step_3", "latest.json", 7, ["step_00000003"]]
)
def test_a_pointer_leads_to_a_step_alone(tmp_path, name):
    """A pointer that was changed makes the run read another folder, or fails as something else."""
    save_one(tmp_path, is_best=True)
    (tmp_path / "checkpoints" / "latest.json").write_text(json.dumps({"last": name, "best": name}))
    for load in (checkpoint.load_last, checkpoint.load_best, checkpoint.best_path):
        with pytest.raises(StudyError, match=r"latest\.json cannot be used"):
            load(tmp_path)


@pytest.mark.parametrize(
    "change", [{"step": "3"}, {"epoch": True}, {"identity": 5}, {"best_value": "high"}, {"raw": 1}]
)
def test_a_state_of_other_kinds_is_refused(tmp_path, change):
    """A state whose checksum fits and whose values do not fails steps later, far from its cause."""
    target = save_one(tmp_path) / "state.json"
    document = json.loads(target.read_text())
    document["state"] |= change
    document["digest"] = store._digest(document["state"])
    target.write_text(json.dumps(document))
    with pytest.raises(StudyError, match=r"state\.json cannot be used"):
        checkpoint.load_last(tmp_path)
    target.write_text("[" * 100_000)
    with pytest.raises(StudyError, match=r"state\.json cannot be used"):
        checkpoint.load_last(tmp_path)
