"""The study file's ``data`` section: sources, labels, segments, splits, and how pictures are prepared."""

from typing import Annotated, Literal

from pydantic import Field

from study.config.fields import AsTuple, Distinct, Fraction, NotEmpty, Seed, Segment, Share, Text, Treatment
from study.config.record import Section
from study.config.sources import Source


class LabelsConfig(Section):
    """The task, and what becomes of BI-RADS 0 (incomplete) and 3 (probably benign)."""

    task: Literal["birads3"] = "birads3"
    birads_0: Treatment = "drop"
    birads_3: Treatment = "drop"


class SplitConfig(Section):
    """One split, as its share of the patients."""

    fraction: Fraction = 0.2


class SplitsConfig(Section):
    """Patients of ``val`` steer the search, those of ``test`` are for confirm and evaluate alone; the rest train."""

    val: SplitConfig = Field(default_factory=SplitConfig)
    test: SplitConfig = Field(default_factory=SplitConfig)
    seed: Seed = 0


class DataConfig(Section):
    """Where images come from, and how they are prepared; a prepared dataset belongs to exactly these settings."""

    prepared: Text
    sources: Annotated[tuple[Source, ...], NotEmpty, AsTuple]
    image_size: Annotated[int, Field(ge=32, le=4096)] = 512
    crop: Literal["breast", "none"] = "breast"
    flip: bool = True
    labels: LabelsConfig = Field(default_factory=LabelsConfig)
    segments: Annotated[tuple[Segment, ...], NotEmpty, AsTuple, Distinct] = ("source",)
    splits: SplitsConfig = Field(default_factory=SplitsConfig)
    max_quarantined: Share = 0.2
