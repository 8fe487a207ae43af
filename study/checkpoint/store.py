"""Checkpoints of one run: safetensors and JSON in a directory that appears whole or not at all.

Layout, below the directory of the run::

    checkpoints/latest.json                 {"last": name, "best": name or null}, replaced atomically
    checkpoints/attempt.json                the newest attempt that claimed the run (a fence against older ones)
    checkpoints/step_00000123/              model.safetensors, optimiser.safetensors, state.json

Where the study lies in a store (`study.remote`), the whole folder goes there too, in the background, and is brought
from there before anything is read. No pickle is written or read. Every file's length and SHA-256 stand in
``state.json`` and are checked on loading.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors
from torch import Tensor

from study import remote
from study.checkpoint.encoding import decode, detached, encode
from study.errors import StudyError
from study.remote import StaleAttempt
from study.types import EpochResult

FORMAT: Final = 1
MODEL_FILE: Final = "model.safetensors"
OPTIMISER_FILE: Final = "optimiser.safetensors"
STATE_FILE: Final = "state.json"
STEP_NAME: Final = re.compile(r"step_\d{8,}(-\d+)?")  # a name, so that a pointer leads to no other folder
FAULTS: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError)
READ_TRIES: Final = 5  # a writer may remove a step directory between reading the pointer and opening it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """All that a run needs to go on bit by bit as if it had never stopped.

    ``model`` and ``optimiser`` are state dicts (the latter of any ``torch.optim`` optimiser), ``scaler`` that of a
    GradScaler or empty. ``step`` is the next global step to run, ``epoch`` the number of finished epochs, ``partial``
    the running sums of the unfinished epoch. ``best_value`` is the study's metric at ``best_epoch`` (0: none yet).
    ``identity`` is the digest of the configuration and data that the run was trained with. ``raw`` are the weights
    that learn, where ``model`` holds their average, else empty.
    """

    model: dict[str, Tensor]
    optimiser: dict[str, Any]
    step: int
    epoch: int
    scaler: dict[str, Any] = dataclasses.field(default_factory=dict)
    partial: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[EpochResult] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    identity: str = ""
    raw: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def claim(directory: Path, attempt: int) -> None:
    """Reserve the run in ``directory`` for ``attempt`` (counts from 1); saves of older attempts fail from now on.

    Raises:
        StaleAttempt: a newer attempt holds the run already.
        EnvironmentFault: the store of the study does not answer.
    """
    remote.claim(directory, attempt)
    root = directory / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        _check_fence(root, attempt)
        _replace_json(root / "attempt.json", {"attempt": attempt})


def save(directory: Path, state: TrainState, *, attempt: int, is_best: bool) -> Path:
    """Write ``state`` as the run's last checkpoint (and its best one, if ``is_best``); give its directory.

    A kill at any moment leaves the former checkpoint in force. Step directories that nothing points at are removed.
    In a store the checkpoint counts when its upload has ended; `study.remote.settle` waits for that.

    Raises:
        StaleAttempt: a newer attempt has claimed the run.
        StudyError: the state holds something that is neither a tensor nor plain data, or the disk refused it.
        EnvironmentFault: the store did not take the checkpoint before.
    """
    root = directory / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    _check_fence(root, attempt)
    temporary = root / f".writing-{attempt}-{os.getpid()}-{state.step}"
    try:
        _write_step(temporary, state, attempt)
        with _locked(root):
            _check_fence(root, attempt)
            target = _free_name(root, state.step)
            _sync_folder(temporary)
            temporary.rename(target)
            _sync_folder(root)
            best = target.name if is_best else _read_pointer(root).get("best")
            _replace_json(root / "latest.json", {"last": target.name, "best": best})
            _remove_unreferenced(root, keep={target.name, best})
    except OSError as error:
        _check_fence(root, attempt)  # a newer attempt tidies away what an older one was writing
        raise StudyError(
            f"the checkpoint of step {state.step} could not be written to {root}: {error.strerror or error}",
            "make room on that disk, then resume the study",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    remote.send(directory)
    return target


def load_last(directory: Path) -> TrainState | None:
    """The newest checkpoint of the run, on the CPU; None when there is none yet.

    Raises:
        StudyError: a file is missing, truncated, changed or not one of ours; the message names it.
    """
    return _load_pointed(directory, "last")


def load_best(directory: Path) -> TrainState | None:
    """The checkpoint with the best value of the run, on the CPU; None when there is none yet. Raises as `load_last`."""
    return _load_pointed(directory, "best")


def best_path(directory: Path) -> Path | None:
    """The step directory of the run's best checkpoint, to be kept in a record; None when there is none yet."""
    name = _read_pointer(directory / "checkpoints").get("best")
    return directory / "checkpoints" / name if name else None


def load_step(path: Path) -> TrainState:
    """The checkpoint in one step directory, on the CPU. Raises as `load_last`."""
    document = _read_document(path)
    tensors = _read_tensors(path, OPTIMISER_FILE, document)
    fields = document["state"]
    with _explained(path / STATE_FILE):
        state = TrainState(
            model=_read_tensors(path, MODEL_FILE, document),
            optimiser=decode(fields["optimiser"], tensors),
            scaler=decode(fields["scaler"], tensors),
            step=fields["step"],
            epoch=fields["epoch"],
            partial=decode(fields["partial"], tensors),
            history=[EpochResult(**decode(item, tensors)) for item in fields["history"]],
            best_epoch=fields["best_epoch"],
            best_value=decode(fields["best_value"], tensors),
            identity=fields["identity"],
            raw=decode(fields["raw"], tensors),
        )
        _check_kinds(state)
    return state


def _check_kinds(state: TrainState) -> None:
    """Refuse values of other kinds than training writes: they would fail later, far from their cause."""
    counts = (state.step, state.epoch, state.best_epoch, *(result.epoch for result in state.history))
    mappings = (state.optimiser, state.scaler, state.partial, state.raw, *(result.metrics for result in state.history))
    is_ours = all(type(count) is int and count >= 0 for count in counts)
    is_ours = is_ours and all(isinstance(mapping, Mapping) for mapping in mappings)
    is_ours = is_ours and (state.best_value is None or isinstance(state.best_value, float | int))
    if not is_ours or not isinstance(state.identity, str):
        raise TypeError("values of other kinds than a run writes")


def _write_step(target: Path, state: TrainState, attempt: int) -> None:
    target.mkdir()
    tensors: dict[str, Tensor] = {}
    fields = {
        "optimiser": encode(state.optimiser, "optimiser", tensors),
        "scaler": encode(state.scaler, "scaler", tensors),
        "step": state.step,
        "epoch": state.epoch,
        "partial": encode(state.partial, "partial", tensors),
        "history": [encode(_epoch_fields(result), "history", tensors) for result in state.history],
        "best_epoch": state.best_epoch,
        "best_value": encode(state.best_value, "best_value", tensors),
        "identity": state.identity,
        "raw": encode(state.raw, "raw", tensors),
    }
    files = {
        MODEL_FILE: _write_bytes(target / MODEL_FILE, bytes_from_tensors(detached(state.model))),
        OPTIMISER_FILE: _write_bytes(target / OPTIMISER_FILE, bytes_from_tensors(detached(tensors))),
    }
    document = {"format": FORMAT, "attempt": attempt, "files": files, "state": fields, "digest": _digest(fields)}
    _write_bytes(target / STATE_FILE, json.dumps(document, allow_nan=False).encode())


def _epoch_fields(result: EpochResult) -> dict[str, Any]:
    metrics = {key: float(value) for key, value in result.metrics.items()}
    return {**dataclasses.asdict(result), "metrics": metrics}


def _write_bytes(path: Path, content: bytes) -> dict[str, Any]:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, so that a renamed step survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    _write_bytes(temporary, json.dumps({**content, "crc32": zlib.crc32(json.dumps(content).encode())}).encode())
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    """What `_replace_json` wrote; files of before have no checksum."""
    content: dict[str, Any] = json.loads(path.read_bytes())
    crc = content.pop("crc32", None)
    if crc is not None and crc != zlib.crc32(json.dumps(content).encode()):
        raise _unusable(path, "its content does not agree with its checksum")
    return content


def _free_name(root: Path, step: int) -> Path:
    """A name for a step directory; a repeated step gets a suffix, as the former one may still be pointed at."""
    target = root / f"step_{step:08d}"
    repeat = 1
    while target.exists():
        target = root / f"step_{step:08d}-{repeat}"
        repeat += 1
    return target


def _remove_unreferenced(root: Path, *, keep: set[str | None]) -> None:
    for path in [*root.glob("step_*"), *root.glob(".writing-*")]:
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the run's lock; where a network file system knows no locks, the fence is checked without one."""
    with (root / ".lock").open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_fence(root: Path, attempt: int) -> None:
    path = root / "attempt.json"
    if not path.exists():
        return
    with _explained(path):
        newest = int(_read_json(path)["attempt"])
    if newest > attempt:
        raise StaleAttempt(f"attempt {attempt} of the run in {root.parent} was replaced by attempt {newest}")


def _load_pointed(directory: Path, which: str) -> TrainState | None:
    remote.bring(directory)
    root = directory / "checkpoints"
    for _ in range(READ_TRIES):
        name = _read_pointer(root).get(which)
        if not name:
            return None
        try:
            return load_step(root / name)
        except StudyError:
            if _read_pointer(root).get(which) == name:
                raise
    raise StudyError(f"the checkpoint in {root} changed {READ_TRIES} times while it was read", "try again")


def _read_pointer(root: Path) -> dict[str, str | None]:
    path = root / "latest.json"
    if not path.exists():
        return {}
    with _explained(path):
        pointer = _read_json(path)
        names: dict[str, str | None] = {"last": pointer["last"], "best": pointer["best"]}
        if not all(name is None or STEP_NAME.fullmatch(name) for name in names.values()):
            raise _unusable(path, "it names no step")
        return names


def _read_document(path: Path) -> dict[str, Any]:
    file = path / STATE_FILE
    with _explained(file):
        document: dict[str, Any] = json.loads(file.read_bytes())
        version, digest, fields = document["format"], document["digest"], document["state"]
        if version != FORMAT:
            raise _unusable(file, f"format {version}, expected {FORMAT}")
        if digest != _digest(fields):
            raise _unusable(file, "its content does not agree with its checksum")
    return document


def _read_tensors(path: Path, name: str, document: Mapping[str, Any]) -> dict[str, Tensor]:
    file = path / name
    with _explained(file):
        expected = document["files"][name]
        content = file.read_bytes()
        if len(content) != expected["bytes"]:
            raise _unusable(file, f"{len(content)} bytes, expected {expected['bytes']}")
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise _unusable(file, "its content does not agree with its checksum")
        tensors: dict[str, Tensor] = tensors_from_bytes(content)
    return tensors


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, allow_nan=False).encode()).hexdigest()


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn whatever a foreign or damaged file provokes into an error that names the file."""
    try:
        yield
    except FAULTS as error:
        detail = "missing" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        raise _unusable(file, detail) from error


def _unusable(file: Path, detail: str) -> StudyError:
    root = next((parent for parent in file.parents if parent.name == "checkpoints"), file.parent)
    return StudyError(
        f"the checkpoint file {file} cannot be used ({detail})",
        f"restore it from a copy, or delete {root} and resume: the run then starts from its first step",
    )
