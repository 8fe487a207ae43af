"""The study file's ``data`` section: sources, labels, segments, splits, and how pictures are prepared."""

from typing import Annotated, Literal

from pydantic import Field

from study.config.fields import (
    AsTuple,
    ClassName,
    Count,
    Distinct,
    Fraction,
    NotEmpty,
    Seed,
    Segment,
    Share,
    Slug,
    SourceRules,
    Task,
    Text,
    Treatment,
)
from study.config.names import class_names
from study.config.pixels import WIDTH_MULTIPLE, ImageSize
from study.config.record import Section
from study.config.sources import Source


class OriginsConfig(Section):
    """How doubtful a label is by its origin: its weight is 1 minus this. ``flipped`` null: as before it was flipped."""

    reader: Share = 0.0
    biopsy: Share = 0.0
    synthetic: Share = 0.5
    flipped: Share | None = None


class FlipConfig(Section):
    """Share of each task's training labels that become another class, to study label noise."""

    birads3: Share = 0.0
    birads: Share = 0.0
    acr: Share = 0.0
    binary: Share = 0.0
    density: Share = 0.0
    view: Share = 0.0
    classes: Share = 0.0


class LeaveOutConfig(Section):
    """Share of training labels that are left out, to study missing ones; a task without its own has that of ``all``."""

    all: Share = 0.0
    birads3: Share | None = None
    birads: Share | None = None
    acr: Share | None = None
    binary: Share | None = None
    density: Share | None = None
    view: Share | None = None
    classes: Share | None = None


class SynthesiseConfig(Section):
    """Task from whose labels those of another are made where training images have none."""

    binary: Literal["acr", "birads", "birads3"] | None = None


class LabelsConfig(Section):
    """The task that decides, further ones beside it, what their labels are made of, and what is done to them.

    ``leave_out``, ``flip`` and ``synthesise`` change training labels alone, after the split. ``keep_unlabelled``
    prepares training images without any label, too, for a teacher to label.
    """

    task: Task = "birads3"
    auxiliary: Annotated[tuple[Task, ...], AsTuple, Distinct] = ()
    classes: Annotated[tuple[ClassName, ...], AsTuple, Distinct] = ()
    birads_0: Treatment = "drop"
    birads_3: Treatment = "drop"
    birads_sub: bool = False
    keep_unlabelled: bool = False
    binary_truth: Literal["biopsy", "acr"] = "biopsy"
    other_views: Literal["drop", "CC"] = "drop"
    uncertainty: OriginsConfig = Field(default_factory=OriginsConfig)
    leave_out: LeaveOutConfig = Field(default_factory=LeaveOutConfig)
    flip: FlipConfig = Field(default_factory=FlipConfig)
    synthesise: SynthesiseConfig = Field(default_factory=SynthesiseConfig)
    seed: Seed = 0

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The task that decides, then the others."""
        return (self.task, *self.auxiliary)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the task that decides, in order of grade."""
        return self.class_names_of(self.task)

    def class_names_of(self, task: Task) -> tuple[str, ...]:
        """Classes of a task, in order of grade."""
        return class_names(task, classes=self.classes, sub_grades=self.birads_sub)


class SplitConfig(Section):
    """One split, as its share of the patients."""

    fraction: Fraction = 0.2


class SplitsConfig(Section):
    """Patients of ``val`` steer the search, those of ``test`` are for confirm and evaluate alone; the rest train.

    ``scheme`` says what decides; ``folds`` and ``fold`` (from 1), ``held_out`` and ``by_source`` belong to the schemes
    of those names. ``unit`` breast lets the breasts of a patient part.
    """

    scheme: Literal["fractions", "official", "ordinal", "by_source", "folds", "leave_one_source_out"] = "fractions"
    unit: Literal["patient", "breast"] = "patient"
    val: SplitConfig = Field(default_factory=SplitConfig)
    test: SplitConfig = Field(default_factory=SplitConfig)
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    fold: Count | None = None
    held_out: Slug | None = None
    by_source: SourceRules | None = None
    seed: Seed = 0


class DataConfig(Section):
    """Where images come from, and how they are prepared; a prepared dataset belongs to exactly these settings.

    ``prepared`` and ``masks`` are folders or URIs. ``image_size`` is the side of a square, or (height, width) of the
    frame; with scaling multitask the height and the greatest width. ``encoding`` decides how shards are stored, not
    what they hold.
    """

    prepared: Text
    sources: Annotated[tuple[Source, ...], NotEmpty, AsTuple]
    image_size: ImageSize = 512
    scaling: Literal["ordinal", "multitask", "periodic"] = "ordinal"
    width_multiple: Annotated[int, Field(ge=1, le=1024)] = WIDTH_MULTIPLE
    bits: Literal[8, 16] = 8
    colour: Literal["grey", "rgb"] = "grey"
    lut: Literal["none", "voi"] = "none"
    crop: Literal["breast", "none"] = "breast"
    flip: bool = True
    masks: Text | None = None
    reduced: bool = False
    encoding: Literal["auto", "raw", "zstd"] = "auto"
    labels: LabelsConfig = Field(default_factory=LabelsConfig)
    segments: Annotated[tuple[Segment, ...], NotEmpty, AsTuple, Distinct] = ("source",)
    splits: SplitsConfig = Field(default_factory=SplitsConfig)
    max_quarantined: Share = 0.2

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the frame in px; with scaling multitask its greatest width."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
