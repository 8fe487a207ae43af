"""Classifiers on timm backbones."""

import difflib
import functools
import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from study.errors import EnvironmentFault, InputError
from study.models.heads import exchange_head
from study.models.setup import Setup
from study.models.torchvision_ops import declare_missing_operators
from study.models.weights import UNREADABLE


def make_classifier(name: str, setup: Setup) -> nn.Module:
    """Build a timm backbone with its global pooling, dropout and a fresh head; see ``study.models.make_model``.

    Raises:
        InputError: an unknown name, a file without its weights, or a last layer that cannot be exchanged.
        EnvironmentFault: pretrained weights are neither cached nor reachable.
    """
    _check_name(name)
    network = _with_linear_head(name, setup)
    if setup.make_head is not None:
        exchange_head(network, setup.make_head)
    return network


def _with_linear_head(name: str, setup: Setup) -> nn.Module:
    options: dict[str, Any] = {"num_classes": setup.num_outputs, "in_chans": setup.in_channels}
    options["drop_rate"] = setup.drop_rate
    if setup.image_hw is not None and _has_fixed_size(name):
        options["img_size"] = setup.image_hw
    if isinstance(setup.pretrained, str):
        return _from_file(name, path=Path(setup.pretrained), options=options)
    if setup.pretrained:
        return _from_hub(name, options=options)
    return _build(name, options)


def list_backbones() -> list[str]:
    """Names of all backbones that can be built, sorted, without the tags of pretrained weights."""
    return list(_timm().list_models())


def nearest_backbones(name: str) -> list[str]:
    """Up to three known backbones whose spelling is nearest to ``name``, the nearest first."""
    return nearest_names(name.partition(".")[0], list_backbones())


def nearest_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to three of the known names whose spelling is nearest to ``name``, the nearest first."""
    return difflib.get_close_matches(name, known, n=3, cutoff=0.6)


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
    except UNREADABLE as error:
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
