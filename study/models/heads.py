"""The head of a network: which part it is, and another one in its place."""

from collections.abc import Callable
from typing import Any

from torch import nn

from study.errors import InputError

MakeHead = Callable[[int], nn.Module | None]


def exchange_head(network: nn.Module, make_head: MakeHead) -> None:
    """Put the head that ``make_head`` makes of the number of features in the place of a timm backbone's linear one.

    Raises:
        InputError: the backbone has no single linear layer at its end, as those with a second head for distillation.
    """
    path = getattr(network, "pretrained_cfg", {}).get("classifier")
    last = network.get_submodule(path) if isinstance(path, str) else None
    features = last.in_features if isinstance(last, nn.Linear) else 1
    head = make_head(features)
    if head is None:
        return
    if not isinstance(path, str) or not isinstance(last, nn.Linear):
        raise InputError("this network's last layer cannot be exchanged", "take another model.name, or another loss")
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, head)


def head_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of the last layer: of timm's ``get_classifier()``, or of a module called ``head``.

    Raises:
        InputError: the network has neither, so that nothing could learn while the rest is frozen.
    """
    classifier: Any = getattr(network, "get_classifier", lambda: getattr(network, "head", None))
    head = classifier()
    parameters = list(head.parameters()) if isinstance(head, nn.Module) else []
    if not parameters:
        raise InputError("the network has no head that could learn alone", "set optim.freeze_epochs to 0")
    return parameters
