"""The sections of comparison methods: pooling of views, Monte-Carlo dropout, pseudo-labels; ``docs/comparators.md``."""

from typing import Annotated, Literal

from pydantic import Field

from study.config.fields import AsTuple, Distinct, Fraction, Share, Text
from study.config.record import Section

MAX_SAMPLES = 1000


class EvaluateConfig(Section):
    """What is measured beside single images: ``pool`` breasts or exams, by the mean of their views or the maximum."""

    pool: Annotated[tuple[Literal["breast", "exam"], ...], AsTuple, Distinct] = ()
    pooling: Literal["mean", "max"] = "mean"


class McDropoutConfig(Section):
    """Monte-Carlo dropout on the test split: mean of ``samples`` passes; ``rate`` null keeps that of training."""

    samples: Annotated[int, Field(ge=2, le=MAX_SAMPLES)] = 10
    rate: Fraction | None = None


class PseudoConfig(Section):
    """Training images without a label get that of a ``teacher``, a run of another study, as ``<study>/<run>``.

    Those of which it is less sure than ``threshold`` stay without. ``doubt`` makes them count as much as it is sure.
    """

    teacher: Text
    threshold: Share = 0.0
    doubt: bool = True
