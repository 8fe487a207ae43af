"""The study file as records: every knob with its default and its bounds; ``data`` has modules of its own.

Each field is checked on its own here; what needs two fields at once stands in ``study.config.rules``.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.config.comparators import EvaluateConfig, McDropoutConfig, PseudoConfig
from study.config.data import DataConfig
from study.config.fields import (
    AsTuple,
    Constraints,
    Count,
    Distinct,
    Every,
    Fraction,
    Metrics,
    NotEmpty,
    NotNegative,
    Point,
    Positive,
    Rate,
    Seed,
    Slug,
    Space,
    Text,
    Times,
    Weights,
)
from study.config.losses import CrossEntropyConfig, LossConfig
from study.config.names import DEFAULT_METRIC, Mode, mode_of
from study.config.rates import LossRates
from study.config.record import Section
from study.config.resources import ResourcesConfig
from study.config.rules import View, rule_faults
from study.config.tasks import TasksConfig
from study.space import count
from study.types import RunKey

LEAST_FAILURES: Final = 10


class ModelConfig(Section):
    """The network: any timm name, or ``hourglass``; ``pretrained`` true asks timm's hub, text is a weights file.

    ``tasks`` says which auxiliary tasks it has beside the one that decides: all, none, or names joined by +.
    ``fusion`` and ``reconstruct`` belong to ``hourglass``, where null is true.
    """

    name: Text = "efficientnet_b3"
    pretrained: Weights = False
    drop_rate: Rate = 0.2
    tasks: Text = "all"
    fusion: bool | None = None
    reconstruct: bool | None = None


class SamplerConfig(Section):
    """How batches are balanced.

    ``epoch_draws`` null: as many as the train split has images; for ``periodic`` the passes that show each rarest class
    once. ``queue`` iid draws with replacement; ``unit`` patient draws patients and shows their images in turn.
    """

    name: Literal[
        "none",
        "label",
        "source",
        "source_label",
        "segment",
        "bal_labels",
        "bal_segments",
        "periodic",
        "class_stratified",
    ] = "source_label"
    queue: Literal["balanced", "iid"] = "balanced"
    unit: Literal["image", "patient"] = "image"
    epoch_draws: Count | None = None


class AugmentConfig(Section):
    """The augmentation policy of training images.

    ``fast`` and ``compatible`` differ in how often a picture is interpolated, not in what is drawn. ``device: train``
    augments whole batches on the device that trains, in mode ``fast`` alone.
    """

    policy: Literal["none", "mammogram", "multitask", "fundus"] = "mammogram"
    mode: Literal["fast", "compatible"] = "fast"
    device: Literal["cpu", "train"] = "cpu"


class OptimConfig(Section):
    """Optimiser and learning-rate schedule.

    ``step_epochs`` belongs to schedule ``step``, ``plateau_epochs`` (epochs without progress) to ``plateau``,
    ``step_factor`` to both, ``momentum`` to ``sgd``. For ``freeze_epochs`` the head learns alone. ``lr_for`` gives
    single losses rates of their own.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: Positive = 1e-3
    lr_for: LossRates | None = None
    weight_decay: NotNegative = 0.01
    momentum: Rate = 0.9
    schedule: Literal["constant", "step", "cosine", "plateau"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    step_epochs: Count = 10
    step_factor: Fraction = 0.1
    plateau_epochs: Annotated[int, Field(ge=0)] = 5
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    clip_norm: Positive | None = 1.0


class TrainConfig(Section):
    """One run: epochs, images per global batch, number format.

    ``checkpoint_every`` is ``10 minutes``, ``500 steps``, or ``epoch``; one is saved at the end of each epoch anyway.
    ``patience`` ends a run whose metric has not become better for so many epochs; ``ema_decay`` validates and keeps a
    moving average of the weights. ``accumulate`` parts of a batch pass the network one after the other; ``compile``
    auto compiles it on a GPU where that pays. ``metric`` picks the best epoch of a study that searches nothing; a
    search has its own, and this one stays null.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    checkpoint_every: Every = "10 minutes"
    patience: Count | None = None
    ema_decay: Fraction | None = None
    channels_last: Literal["auto"] | bool = "auto"
    accumulate: Annotated[int, Field(ge=1, le=65_536)] = 1
    compile: Literal["auto"] | bool = "auto"
    metric: str | None = None


class PrunerConfig(Section):
    """Which weak trials stop early; no decision falls before ``min_epochs``.

    ``reduction_factor`` belongs to successive halving and hyperband, ``percentile`` (the share in percent that goes on)
    to ``percentile``, ``startup_trials`` to it and ``median``, ``patience`` and ``min_delta`` to ``patience``,
    ``lower`` and ``upper`` to ``threshold``, ``p_value`` to ``wilcoxon``.
    """

    name: Literal[
        "none",
        "median",
        "percentile",
        "successive_halving",
        "hyperband",
        "wilcoxon",
        "patience",
        "threshold",
    ] = "none"
    min_epochs: Count = 1
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    startup_trials: Count = 5
    patience: Count = 5
    min_delta: NotNegative = 0.0
    lower: float | None = None
    upper: float | None = None
    p_value: Fraction = 0.1


class BudgetConfig(Section):
    """What ends a search beside ``trials``, whichever comes first; trials that run are finished.

    ``hours`` count while the search runs; ``gpu_hours`` sum over the GPUs of all trials; ``target`` is a value of the
    metric; ``no_better_in`` so many trials after the best one.
    """

    hours: Positive | None = None
    gpu_hours: Positive | None = None
    target: float | None = None
    no_better_in: Count | None = None


class RetriesConfig(Section):
    """How often a run is tried again from its last checkpoint, without an epoch in between, by what ended it.

    ``preempted``: its node was drained or lost. ``out_of_memory``: each time in twice as many parts of a batch.
    ``crash``: a process died, or an error came that may not come again. A configuration that cannot work is never tried
    again.
    """

    preempted: Times = 20
    out_of_memory: Times = 2
    crash: Times = 2


class SearchConfig(Section):
    """What is searched, by which algorithm, for which metrics; ``mode`` follows from the first metric.

    Of several metrics the first one picks the best epoch of a trial. ``constraints`` bound other metrics of that epoch.
    ``start_with`` are points to try first. ``trials`` may be missing where ``budget`` or a grid ends the search.
    ``seeds`` or ``folds`` make a trial of several runs, whose mean is its value: one for each seed, or one for each
    fold of the patients outside of the test split.
    ``population`` is that of ``nsga2`` and ``cmaes``; null: by the size of the search. More failed trials than
    ``max_failures`` stop the study; null: half of the trials, at least 10.
    """

    metric: Metrics = DEFAULT_METRIC
    mode: Mode = "max"
    algorithm: Literal["tpe", "random", "quasi_random", "grid", "gp", "cmaes", "nsga2"] = "tpe"
    population: Annotated[int, Field(ge=4, le=1000)] | None = None
    trials: Count | None = None
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    retries: RetriesConfig = Field(default_factory=RetriesConfig)
    max_failures: Times | None = None
    constraints: Constraints = Field(default_factory=dict)
    pruner: PrunerConfig = Field(default_factory=PrunerConfig)
    seeds: Annotated[tuple[Seed, ...], NotEmpty, AsTuple, Distinct] | None = None
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    start_with: Annotated[tuple[Point, ...], AsTuple] = ()
    space: Space

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that are optimised; the first decides on the best epoch."""
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    @model_validator(mode="before")
    @classmethod
    def _mode_from_metric(cls, raw: object) -> object:
        if not isinstance(raw, Mapping) or "mode" in raw:
            return raw
        metric = raw.get("metric")
        first = metric[0] if isinstance(metric, list | tuple) and metric else metric
        return {**raw, "mode": mode_of(first)} if isinstance(first, str) else raw


class ConfirmConfig(Section):
    """After the search: the best ``top`` trials, and the unsearched configuration as ``baseline``, with every seed.

    ``ensemble`` also reads the mean of their probabilities over the seeds, ``mc_dropout`` that of passes with dropout.
    """

    top: Count = 2
    seeds: Annotated[tuple[Seed, ...], NotEmpty, AsTuple, Distinct] = (0, 1, 2)
    baseline: bool = True
    ensemble: bool = False
    mc_dropout: McDropoutConfig | None = None


class StudyConfig(Section):
    """The whole study file; ``strict`` makes faults of settings that favour rare classes twice."""

    study: Slug
    seed: Seed = 0
    strict: bool = False
    data: DataConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=CrossEntropyConfig)
    tasks: TasksConfig = Field(default_factory=TasksConfig)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    pseudo: PseudoConfig | None = None
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    search: SearchConfig | None = None
    confirm: ConfirmConfig | None = None
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)

    @property
    def metric(self) -> str:
        """What decides on the best epoch and, alone or first, on the best trial."""
        return self.search.metrics[0] if self.search else self.train.metric or DEFAULT_METRIC

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that the search optimises; ``metric`` alone without a search."""
        return self.search.metrics if self.search else (self.metric,)

    @property
    def mode(self) -> Mode:
        """Whether more of the metric is better (``max``) or less (``min``)."""
        return mode_of(self.metric)

    @property
    def num_trials(self) -> int:
        """Trials of the search: 1 where nothing is searched, the cells of a grid, 0 where only ``budget`` ends it."""
        if self.search is None:
            return 1
        if self.search.algorithm == "grid":
            cells = count(self.search.space) or 0
            return min(cells, self.search.trials or cells)
        return self.search.trials or 0

    @property
    def retries(self) -> RetriesConfig:
        """How often a run is tried again, by kind; the defaults where nothing is searched."""
        return self.search.retries if self.search else RetriesConfig()

    @property
    def max_failures(self) -> int:
        """Failed trials that the study bears; one more stops it."""
        asked = self.search.max_failures if self.search else None
        return max(LEAST_FAILURES, self.num_trials // 2) if asked is None else asked

    @property
    def run_keys(self) -> tuple[RunKey, ...]:
        """The runs of one trial, in the order in which they begin."""
        seeds, folds = (self.search.seeds, self.search.folds) if self.search else (None, None)
        if folds:
            return tuple(RunKey(seed=self.seed, fold=fold) for fold in range(1, folds + 1))
        return tuple(RunKey(seed=seed) for seed in seeds or (self.seed,))

    @model_validator(mode="after")
    def _rules(self) -> Self:
        faults = rule_faults(View(self.model_dump(mode="json")))
        if faults:
            text = "; ".join(f"{fault.path}: {fault.message}" for fault in faults)
            raise PydanticCustomError("rules", "{text}", {"text": text})
        return self
