"""What a plan shows, as a plain record and as text: for a look before anything is trained."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

MOST_LINES: Final = 40  # of ten thousand segments those with the largest shares are shown
MOST_IN_BATCH: Final = 6

Cell = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """Shares, repeats and first batches of a plan.

    Attributes:
        sampler: its name.
        queue: ``balanced`` or ``iid``.
        unit: what a draw picks, ``image`` or ``patient``.
        table: a line per non-empty segment and class, as of ``Plan.summary``.
        images: labelled images, which the plan may draw.
        never_seen: those among them that it never draws.
        repeats: smallest, median and largest number of draws per labelled image.
        batches: segment and class of each place of the first batches.
        warnings: what the data does not allow the sampler to do.
    """

    sampler: str
    queue: str
    unit: str
    seed: int
    batch_size: int
    num_steps: int
    table: pd.DataFrame
    images: int
    never_seen: int
    repeats: tuple[int, float, int]
    batches: tuple[tuple[Cell, ...], ...]
    warnings: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """All of it as values that JSON knows."""
        return {
            "sampler": self.sampler,
            "queue": self.queue,
            "unit": self.unit,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "num_steps": self.num_steps,
            "images": self.images,
            "never_seen": self.never_seen,
            "repeats": dict(zip(("min", "median", "max"), self.repeats, strict=True)),
            "cells": [{str(key): value for key, value in line.items()} for line in self.table.to_dict("records")],
            "first_batches": [[list(cell) for cell in batch] for batch in self.batches],
            "warnings": list(self.warnings),
        }

    def lines(self, classes: Sequence[str]) -> list[str]:
        """The summary as text; ``classes`` are the names of the classes, in order."""
        smallest, median, largest = self.repeats
        draws = f"{self.num_steps * self.batch_size:,} draws, {self.num_steps:,} batches of {self.batch_size}"
        seen = f"each {smallest} to {largest} times (median {median:g}); {self.never_seen:,} never seen"
        return [
            f"sampler {self.sampler}, {self.queue} draws of {self.unit}s, seed {self.seed}: {draws}",
            f"{self.images:,} images, {seen}",
            *self._cells(classes),
            *(f"batch {number}: {_mix(batch, classes)}" for number, batch in enumerate(self.batches)),
            *(f"note: {warning}" for warning in self.warnings),
        ]

    def _cells(self, classes: Sequence[str]) -> Iterator[str]:
        """The table, the largest shares only if it is long."""
        shown = self.table
        if len(shown) > MOST_LINES:
            shown = shown.nlargest(MOST_LINES, "share").sort_values(["segment", "label"])
        names = [class_name(label, classes) for label in shown["label"]]
        wide = max([7, *map(len, shown["segment"])])
        tall = max([5, *map(len, names)])
        yield f"{'segment':{wide}}  {'class':{tall}}     images   share  min  median  max  never seen"
        for name, line in zip(names, shown.itertuples(), strict=True):
            yield (
                f"{line.segment:{wide}}  {name:{tall}}  {line.images:>9,}  {line.share:6.2%} {line.repeats_min:>4} "
                f"{line.repeats_median:>7g} {line.repeats_max:>4} {line.never_seen:>11,}"
            )
        if len(shown) < len(self.table):
            yield f"... and {len(self.table) - len(shown):,} more, with {1 - shown['share'].sum():.2%} of the draws"


def class_name(label: int, classes: Sequence[str]) -> str:
    """Name of a class; its number where it has none."""
    return classes[label] if label < len(classes) else f"class {label}"


def _mix(batch: Sequence[Cell], classes: Sequence[str]) -> str:
    """Composition of a batch: the segments by number of images, with their classes."""
    segments = Counter(segment for segment, _ in batch)
    cells = Counter(batch)
    found = []
    for segment, count in segments.most_common(MOST_IN_BATCH):
        labels = sorted(label for name, label in cells if name == segment)
        inside = ", ".join(f"{cells[segment, label]} {class_name(label, classes)}" for label in labels)
        found.append(f"{segment} {count} ({inside})")
    if len(segments) > MOST_IN_BATCH:
        found.append(f"{len(segments) - MOST_IN_BATCH} more segments")
    return "; ".join(found)
