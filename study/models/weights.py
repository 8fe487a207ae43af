"""Weights of a network of ours from a file, without running code from it."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from study.errors import InputError

# All that the readers of weights were seen to raise on damaged files.
UNREADABLE: Final = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError, AttributeError, OverflowError, MemoryError),
    *(UnpicklingError, SafetensorError),
)


def load_weights(network: nn.Module, path: Path, *, optional: tuple[str, ...] = ()) -> None:
    """Fill a network from a ``.safetensors`` or ``.pth`` file that holds its state dict.

    Args:
        network: is changed in place.
        path: of the file.
        optional: first parts of names (``head``) whose tensors are taken where they fit, and else stay fresh.

    Raises:
        InputError: the file is missing or cannot be read, or lacks a tensor or has it in another shape.
    """
    found = _read(path)
    state = network.state_dict()
    fitting = {name: found[name] for name, own in state.items() if name in found and found[name].shape == own.shape}
    lacking = [name for name in state if name not in fitting and name.partition(".")[0] not in optional]
    if lacking:
        raise InputError(
            f"model.pretrained: {path} lacks {len(lacking)} tensors of {type(network).__name__}, {lacking[0]} first",
            "give weights of the same network, such as model.safetensors of one of its checkpoints",
        )
    network.load_state_dict({**state, **fitting})


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"model.pretrained: there is no file {path}", "give the path of a .safetensors or .pth file")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    except UNREADABLE as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"model.pretrained: {path} does not hold weights ({type(error).__name__}: {reason})",
            "give a .safetensors or .pth file with a state dict",
        ) from error
