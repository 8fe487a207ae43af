"""Which part of a network is its head."""

from typing import Any

from torch import nn

from study.errors import InputError


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
