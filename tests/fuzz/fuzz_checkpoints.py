"""Damaged checkpoints, weights and exported models.

python -m tests.fuzz.fuzz_checkpoints --inputs 3000 --seed 0
"""

import functools
import hashlib
import json
import random
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from study import checkpoint
from study.checkpoint import TrainState
from study.errors import StudyError
from study.models.weights import load_weights
from study.types import EpochResult
from tests.fuzz.command import run
from tests.fuzz.folders import damage_files, mend
from tests.fuzz.isolated import Target

RUN, WEIGHTS = "run", "weights"


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


@functools.cache
def originals() -> Path:
    """A run with a checkpoint, and weights in both formats."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-checkpoints-"))
    network = _network()
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimiser.step()
    result = EpochResult(epoch=1, metrics={"val/auroc_macro": 0.5, "val/loss": float("nan")}, images=4, seconds=1.0)
    state = TrainState(
        model=network.state_dict(),
        optimiser=optimiser.state_dict(),
        step=1,
        epoch=1,
        history=[result],
        best_epoch=1,
        best_value=0.5,
    )
    checkpoint.claim(root / RUN, 1)
    checkpoint.save(root / RUN, state, attempt=1, is_best=True)
    (root / WEIGHTS).mkdir()
    save_file(network.state_dict(), root / WEIGHTS / "w.safetensors")
    torch.save(network.state_dict(), root / WEIGHTS / "w.pth")
    return root


def make(rng: random.Random, folder: Path) -> None:
    """One run or weights with faults in one or two files; checksums fit half the time."""
    kind = rng.choice((RUN, RUN, RUN, WEIGHTS))
    shutil.copytree(originals() / kind, folder / kind)
    files = [path for path in sorted((folder / kind).rglob("*")) if path.is_file() and path.stat().st_size]
    damage_files(rng, files)
    if kind == RUN and rng.random() < 0.6:
        mend_run(folder / RUN / "checkpoints")


def mend_run(root: Path) -> None:
    """Make the checksums of a run's checkpoints agree again."""
    mend(lambda: _mend_state(root), lambda: _mend_pointers(root))


def _mend_state(root: Path) -> None:
    for file in root.glob("step_*/state.json"):
        document = json.loads(file.read_bytes())
        for name, record in document["files"].items():
            content = (file.parent / name).read_bytes()
            record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        document["digest"] = hashlib.sha256(json.dumps(document["state"], allow_nan=False).encode()).hexdigest()
        file.write_text(json.dumps(document))


def _mend_pointers(root: Path) -> None:
    for name in ("latest.json", "attempt.json"):
        content = json.loads((root / name).read_bytes())
        content.pop("crc32", None)
        (root / name).write_text(json.dumps({**content, "crc32": zlib.crc32(json.dumps(content).encode())}))


def judge(rng: random.Random, folder: Path) -> str:
    """Load it in every way there is: a state, nothing, or a reason."""
    if (folder / WEIGHTS).is_dir():
        files = sorted((folder / WEIGHTS).iterdir())
        return _reason(lambda: load_weights(_network(), rng.choice(files)), folder)
    ways: tuple[Callable[[], object], ...] = (
        lambda: checkpoint.load_last(folder / RUN),
        lambda: checkpoint.load_best(folder / RUN),
        lambda: checkpoint.best_path(folder / RUN),
        lambda: checkpoint.claim(folder / RUN, 2),
    )
    reasons = [_reason(way, folder) for way in ways]
    return next((reason for reason in reasons if reason != "accepted"), "accepted")


def _reason(way: Callable[[], object], folder: Path) -> str:
    try:
        found = way()
        if isinstance(found, TrainState):
            _check(found)
        elif isinstance(found, Path):
            assert folder in found.parents, "a checkpoint outside of its run"
    except StudyError as error:
        assert error.message
        assert len(str(error)) < 2000, "more than anybody reads"
        return error.message.replace(str(folder), "").partition(" cannot be used ")[2][:70] or error.message[-70:]
    return "accepted"


def _check(state: TrainState) -> None:
    """What a run goes on from is of the kinds that it will be used as."""
    assert isinstance(state.step, int)
    assert isinstance(state.epoch, int)
    assert isinstance(state.best_epoch, int)
    assert isinstance(state.best_value, float | int | None)
    assert isinstance(state.optimiser, dict)
    assert all(isinstance(result, EpochResult) for result in state.history)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.model.values())


def prepare() -> None:
    """Make the files once, before processes are forked."""
    originals()


def tidy() -> None:
    """Remove them."""
    shutil.rmtree(originals(), ignore_errors=True)
    originals.cache_clear()


TARGET = Target(name="checkpoints", make=make, judge=judge)

if __name__ == "__main__":
    sys.exit(run(TARGET, inputs=3_000, prepare=prepare, tidy=tidy))
