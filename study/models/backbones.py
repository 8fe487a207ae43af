"""Classifiers on timm backbones."""

import difflib
import functools
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from study.errors import EnvironmentFault, InputError
from study.models.torchvision_ops import declare_missing_operators

_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, UnpicklingError, SafetensorError)


def make_timm_classifier(
    name: str,
    *,
    num_outputs: int,
    in_channels: int = 1,
    pretrained: bool | str = False,
    drop_rate: float = 0.0,
    image_hw: tuple[int, int] | None = None,
) -> nn.Module:
    """Build a timm backbone with a fresh linear head; see ``study.models.make_model``."""
    _check_name(name)
    _check_numbers(num_outputs=num_outputs, in_channels=in_channels, drop_rate=drop_rate)
    options: dict[str, Any] = {"num_classes": num_outputs, "in_chans": in_channels, "drop_rate": drop_rate}
    if image_hw is not None and _has_fixed_size(name):
        options["img_size"] = image_hw
    if isinstance(pretrained, str):
        return _from_file(name, path=Path(pretrained), options=options)
    if pretrained:
        return _from_hub(name, options=options)
    return _build(name, options)


def list_backbones() -> list[str]:
    """Names of all backbones that can be built, sorted, without the tags of pretrained weights."""
    return list(_timm().list_models())


def nearest_backbones(name: str) -> list[str]:
    """Up to three known backbones whose spelling is nearest to ``name``, the nearest first."""
    return difflib.get_close_matches(name.partition(".")[0], list_backbones(), n=3, cutoff=0.6)


@functools.cache
def _timm() -> Any:
    declare_missing_operators()
    return importlib.import_module("timm")


def _build(name: str, options: Mapping[str, Any]) -> nn.Module:
    model: nn.Module = _timm().create_model(name, **options)
    return model


def _from_hub(name: str, *, options: Mapping[str, Any]) -> nn.Module:
    if not _timm().list_models(name if "." in name else f"{name}.*", pretrained=True):
        fix = "set model.pretrained to false or to a local file"
        raise InputError(f"timm has no pretrained weights of {name}", fix)
    try:
        return _build(name, {**options, "pretrained": True})
    except OSError as error:
        raise EnvironmentFault(
            f"the pretrained weights of {name} are neither in the local cache nor could timm's hub be reached",
            "connect this machine to the hub, or set model.pretrained to a local .safetensors or .pth file",
        ) from error


def _from_file(name: str, *, path: Path, options: Mapping[str, Any]) -> nn.Module:
    """Built twice: what came from the file is equal in both, what stayed random is not."""
    if not path.is_file():
        raise InputError(f"model.pretrained: there is no file {path}", "give the path of a .safetensors or .pth file")
    overlay = {"file": str(path), "custom_load": False}
    options = {**options, "pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        model = _build(name, options)
        with torch.random.fork_rng():
            torch.manual_seed(torch.initial_seed() + 1)
            other = _build(name, options)
    except _UNREADABLE as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"model.pretrained: {path} does not hold weights of {name} ({type(error).__name__}: {reason})",
            "give a .safetensors or .pth file with a state dict of the same backbone",
        ) from error
    left = _random_tensors(model, other)
    if left:
        raise InputError(
            f"model.pretrained: {path} lacks {len(left)} tensors of {name}, {left[0]} first",
            "give weights of the same backbone",
        )
    return model


def _random_tensors(model: nn.Module, other: nn.Module) -> list[str]:
    """Names of the tensors in which two builds differ, without the head, which is fresh by intention."""
    heads: str | Iterable[str] = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    others = other.state_dict()
    state = model.state_dict().items()
    return [key for key, value in state if not key.startswith(prefixes) and not torch.equal(value, others[key])]


def _has_fixed_size(name: str) -> bool:
    return bool(getattr(_timm().models.get_pretrained_cfg(name), "fixed_input_size", False))


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not _timm().is_model(architecture):
        nearest = nearest_backbones(name)
        fix = f"did you mean {' or '.join(nearest)}?" if nearest else "`study list` names the backbones"
        raise InputError(f"unknown backbone {name!r}; expected a name that timm knows", fix)
    tagged = _timm().list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in tagged:
        nearest = difflib.get_close_matches(name, tagged, n=3, cutoff=0.0)
        fix = f"did you mean {' or '.join(nearest)}?" if nearest else f"use {architecture}"
        raise InputError(f"backbone {architecture} has no pretrained weights with the tag {tag!r}", fix)


def _check_numbers(*, num_outputs: int, in_channels: int, drop_rate: float) -> None:
    if num_outputs < 1 or in_channels < 1:
        raise InputError(
            f"num_outputs is {num_outputs} and in_channels is {in_channels}; expected at least 1 each",
            "take num_outputs from the criterion",
        )
    if not 0 <= drop_rate < 1:
        raise InputError(f"model.drop_rate is {drop_rate}; expected a number >= 0 and < 1", "change model.drop_rate")
