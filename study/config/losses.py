"""The records of ``loss``: one for each criterion, with its parameters."""

from typing import Annotated, Literal

from pydantic import Field

from study.config.fields import ClassWeights, NotNegative, Rate
from study.config.record import Section


class CrossEntropyConfig(Section):
    """Cross entropy over K outputs."""

    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: ClassWeights = "none"
    normaliser: Literal["weight", "batch"] = "weight"
    label_smoothing: Rate = 0.0


class EmdConfig(Section):
    """Squared earth mover's distance between cumulative distributions."""

    name: Literal["emd"]
    class_weights: ClassWeights = "none"


class CornConfig(Section):
    """Conditional ordinal regression over K - 1 outputs."""

    name: Literal["corn"]
    class_weights: ClassWeights = "none"
    normaliser: Literal["pairs", "batch"] = "pairs"


class FocalConfig(Section):
    """Focal loss over K outputs; ``gamma`` 0 is cross entropy."""

    name: Literal["focal"]
    gamma: NotNegative = 2.0
    class_weights: ClassWeights = "none"


LossConfig = Annotated[CrossEntropyConfig | EmdConfig | CornConfig | FocalConfig, Field(discriminator="name")]
