"""Plain JSON and named tensors from nested state, and back: what a checkpoint is written as."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from study.errors import StudyError


def detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU copies that share no memory: safetensors refuses tied weights, loading writes to both of their names."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result


def encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Plain JSON for ``value``; tensors go to ``tensors`` under their path. Tuples, int keys and NaN survive."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"$tensor": path}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, list | tuple):
        items = [encode(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        return {"$items": [[key, encode(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    raise StudyError(
        f"{path} is a {type(value).__name__}; a checkpoint holds tensors, numbers, texts, lists and mappings",
        f"turn {path} into plain Python data before saving",
    )


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that :func:`encode` was given."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "$tensor":
            return tensors[content]
        case "$float":
            return float(content)
        case "$tuple":
            return tuple(decode(item, tensors) for item in content)
        case "$items":
            return {key: decode(item, tensors) for key, item in content}
        case _:
            raise KeyError(kind)
