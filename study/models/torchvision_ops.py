"""Lets torchvision be imported beside a torch that its compiled extension was not built for.

timm and grad-cam import torchvision, and torchvision describes its operators ``nms`` and ``qnms`` to torch while it is
imported. Where the extension does not load (a GPU wheel beside a CPU-only torch), these operators are unknown and the
import fails, although nobody here uses them.
"""

import functools
import importlib.machinery
import importlib.util

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing_operators() -> None:
    """Declare ``torchvision::nms`` and ``torchvision::qnms``, without an implementation, where they are missing.

    Call this before the first import of torchvision, timm or grad-cam. Calling it again does nothing. Where
    torchvision's own extension loads, its operators are used and nothing is declared.
    """
    _declared_operators()


@functools.cache
def _declared_operators() -> torch.library.Library | None:
    """The declarations; torch forgets them with the object, so the cache keeps it."""
    if hasattr(torch.ops.torchvision, "nms") or _extension_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(f"nms{_SIGNATURE}")  # type: ignore[no-untyped-call]
    library.define(f"qnms{_SIGNATURE}")  # type: ignore[no-untyped-call]
    return library


def _extension_loads() -> bool:
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return False
    details = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    finder = importlib.machinery.FileFinder(package.submodule_search_locations[0], details)
    extension = finder.find_spec("_C")
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True
