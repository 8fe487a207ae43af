#!/usr/bin/env python3
"""Draws the picture of what-a-batch-holds.md, and writes its tables to standard output."""

import sys
from pathlib import Path

import numpy as np

from study.data.sampling import Plan, make_plan
from study.figures_plan import write_turns_figure

CLASSES = ("benign", "malignant")
# Paper periodic, figure 2: images of the rarest class (malignant) of each segment; benign ones are twice as many here.
FIGURE_2 = {"DS_0": (4, 2), "DS_1": (10, 5), "DS_2": (20, 10), "DS_3": (40, 20)}
# Paper periodic, table 1: benign and malignant images of the four training segments.
TABLE_1 = {"S1, Ma": (13341, 7258), "S1, Mb": (527, 408), "S2, Ma": (21871, 160), "S2, Mb": (19040, 146)}
STRATEGIES = ("bal_labels", "bal_segments", "periodic")
STEPS, BATCH = 150_000, 24  # as the paper trained
PHASE_SEED = 4  # a seed with which all four segments of figure 2 begin with a benign image


def plan_of(name: str, table: dict[str, tuple[int, int]], *, batch_size: int, num_steps: int, seed: int) -> Plan:
    """A plan over so many images per segment and class."""
    labels = np.concatenate([np.repeat([0, 1], counts) for counts in table.values()])
    segments = np.concatenate([np.repeat(segment, sum(counts)) for segment, counts in table.items()])
    return make_plan(name, labels=labels, segments=segments, batch_size=batch_size, num_steps=num_steps, seed=seed)


def figure_2() -> Plan:
    """One pass over the pattern of figure 2, as one batch."""
    return plan_of("periodic", FIGURE_2, batch_size=37, num_steps=1, seed=PHASE_SEED)


def table_1() -> list[str]:
    """Lines of the comparison: share of each cell in the data and in the draws, and draws of each image."""
    summaries = {
        name: plan_of(name, TABLE_1, batch_size=BATCH, num_steps=STEPS, seed=0).summary() for name in STRATEGIES
    }
    images = summaries["periodic"]["images"]
    lines = [f"| segment, class | images | in the data | {' | '.join(STRATEGIES)} |", "|---|---|---|---|---|---|"]
    for row, line in enumerate(summaries["periodic"].itertuples()):
        cells = [_cell(float(summaries[name]["share"][row]), line.images) for name in STRATEGIES]
        raw = f"{line.images / images.sum():.1%}"
        lines.append(f"| {line.segment}, {CLASSES[line.label]} | {line.images:,} | {raw} | {' | '.join(cells)} |")
    return lines


def _cell(share: float, images: int) -> str:
    return f"{share:.1%}, {share * STEPS * BATCH / images:,.1f} times"


def main() -> None:
    """Draw the picture beside this file and write the tables."""
    batches = figure_2().describe().batches
    named = [[(f"{segment}: {FIGURE_2[segment][1]} turns", label) for segment, label in batch] for batch in batches]
    title = "37 draws of periodic sampling: one pass over the pattern of 2 + 5 + 10 + 20 turns"
    write_turns_figure(Path(__file__).with_name("what-a-batch-holds.png"), title=title, batches=named, classes=CLASSES)
    sys.stdout.write("\n".join([*table_1(), ""]))


if __name__ == "__main__":
    main()
