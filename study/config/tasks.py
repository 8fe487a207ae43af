"""The study file's ``tasks`` section: how much each task counts in training, and by which loss an auxiliary one."""

from typing import Annotated, Literal

from pydantic import Field

from study.config.fields import AsTuple, ClassName, ClassWeights, Distinct, NotNegative
from study.config.record import Section

LossName = Literal[
    "cross_entropy",
    "focal",
    "coral",
    "corn",
    "cdw_ce",
    "emd",
    "wk",
    "mce",
    "mce_wk",
    "soft_label_beta",
    "soft_label_binomial",
    "soft_label_exponential",
    "soft_label_geometric",
    "soft_label_poisson",
    "soft_label_triangular",
    "slace",
    "soft_f1",
    "soft_mcc",
    "ce_f1",
    "ce_mcc",
    "bce",
    "focal_sigmoid",
    "asl",
    "alpa",
    "hill",
    "ral",
    "cb",
    "ldam",
]


class TaskConfig(Section):
    """One task: its ``weight`` in the sum of losses (0 leaves an auxiliary one out), and how its labels count.

    ``loss``, ``normaliser`` and ``class_weights`` are those of an auxiliary task (the one that decides has section
    ``loss``); null normaliser is the loss's own. Images of ``factor_classes``, of this task or of another one, count
    ``factor`` times.
    """

    weight: NotNegative = 1.0
    loss: LossName | None = None
    normaliser: Literal["weight", "batch", "labelled", "pairs", "sum"] | None = None
    class_weights: ClassWeights | None = None
    factor: NotNegative = 1.0
    factor_classes: Annotated[tuple[ClassName, ...], AsTuple, Distinct] = ()


class ReconstructionConfig(Section):
    """The squared error of a reconstructed picture: its weight in the sum of losses, 0 for none."""

    weight: NotNegative = 1.0


class TasksConfig(Section):
    """How the tasks of ``data.labels`` are trained; one that is not named counts once, by cross entropy."""

    birads3: TaskConfig | None = None
    birads: TaskConfig | None = None
    acr: TaskConfig | None = None
    binary: TaskConfig | None = None
    density: TaskConfig | None = None
    view: TaskConfig | None = None
    classes: TaskConfig | None = None
    reconstruction: ReconstructionConfig = Field(default_factory=ReconstructionConfig)

    def of(self, task: str) -> TaskConfig:
        """The settings of one task of the data."""
        found: TaskConfig | None = getattr(self, task)
        return found or TaskConfig()
