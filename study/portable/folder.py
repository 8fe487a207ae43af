"""An exported folder: weights, record, training settings, metrics and a card; whole or not there at all."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors

from study.errors import InputError
from study.portable.card import card_text
from study.portable.model import PortableModel
from study.portable.record import ModelRecord
from study.portable.torchscript import TORCHSCRIPT_FILE

WEIGHTS_FILE: Final = "model.safetensors"
RECORD_FILE: Final = "model.json"
TRAINING_FILE: Final = "training.yaml"
METRICS_FILE: Final = "metrics.json"
CARD_FILE: Final = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What goes into the folder beside the network: the settings of training, without places, and the metrics."""

    training: Mapping[str, Any]
    metrics: Mapping[str, float]


def save_model(model: PortableModel, folder: Path, background: Background, *, script: bytes | None = None) -> Path:
    """Write a folder that `load_model` reads; ``script`` is the network as TorchScript.

    Raises:
        InputError: the folder exists, or cannot be written.
    """
    if folder.exists():
        raise InputError(f"{folder} exists", "name another folder, or remove this one")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in model.network.state_dict().items()}
        content = bytes_from_tensors(tensors)
        record = model.record.to_plain() | {"weights_sha256": hashlib.sha256(content).hexdigest()}
        (partial / WEIGHTS_FILE).write_bytes(content)
        (partial / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (partial / TRAINING_FILE).write_text(
            yaml.safe_dump(dict(background.training), sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        (partial / METRICS_FILE).write_text(json.dumps(_plain(background.metrics), indent=1) + "\n", encoding="utf-8")
        (partial / CARD_FILE).write_text(card_text(model.record, background.metrics), encoding="utf-8")
        if script is not None:
            (partial / TORCHSCRIPT_FILE).write_bytes(script)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"{folder} cannot be written ({error.strerror})", "name another folder with --to") from error
    return folder


def load_model(folder: str | Path, *, device: torch.device | None = None) -> PortableModel:
    """Load an exported folder; no code in it is run.

    Raises:
        InputError: it is no such folder, or a file of it is missing, damaged or of another version.
    """
    root = Path(folder)
    record_file, weights_file = root / RECORD_FILE, root / WEIGHTS_FILE
    for file in (record_file, weights_file):
        if not file.is_file():
            raise InputError(f"{root} is no exported model: {file.name} is missing", "make one with `study export`")
    try:
        plain = json.loads(record_file.read_text(encoding="utf-8"))
        digest = plain.pop("weights_sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{record_file} is damaged ({type(error).__name__})", "export the run again") from error
    content = weights_file.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(f"{weights_file} is not the file that was exported: its SHA-256 differs", "export again")
    record = ModelRecord.from_plain(plain, name=str(record_file))
    try:
        return PortableModel(record, tensors_from_bytes(content), device=device)
    except (SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{weights_file} does not fit {RECORD_FILE}: {first}", "export the run again") from error


def _plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a metric that is not defined is null."""
    return {name: None if value != value else float(value) for name, value in sorted(metrics.items())}  # noqa: PLR0124
