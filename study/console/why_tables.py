"""What mattered in a search, as tables."""

import textwrap

from study.console.tables import Column, aligned
from study.ledger.importance import Reasons
from study.report.words import number


def why_text(reasons: Reasons, *, metric: str, mode: str, width: int) -> str:
    """Importances, interactions and slices, and what could not be told."""
    better = "higher" if mode == "max" else "lower"
    blocks = [f"{reasons.trials} complete trials, {metric} ({better} is better)"]
    if reasons.importances:
        columns = [Column("parameters"), Column("importance", right=True), Column("trials", right=True)]
        cells = [[one.parameter, f"{one.share:.2f}", str(one.trials)] for one in reasons.importances]
        title = "Importance: what sets the best trials apart (PED-ANOVA)"
        blocks.append("\n".join([title, *aligned(columns, cells, width=width)]))
    if reasons.interactions:
        columns = [Column("parameters"), Column("interaction", right=True)]
        cells = [[" x ".join(one.parameters), f"{one.strength:.2f}"] for one in reasons.interactions]
        title = "Interaction: share of the joint effect that is not the sum of the two (Friedman's H squared)"
        blocks.append("\n".join([title, *aligned(columns, cells, width=width)]))
    if reasons.slices:
        columns = [Column("parameters"), Column("values"), Column("trials", right=True), Column("mean", right=True)]
        columns.append(Column("best", right=True))
        cells = [
            [one.parameter, one.values, str(one.trials), number(one.mean), number(one.best)] for one in reasons.slices
        ]
        blocks.append("\n".join(["Slices: the trials by value", *aligned(columns, cells, width=width)]))
    if reasons.note:
        blocks.append(textwrap.fill(reasons.note, width))
    return "\n\n".join(blocks)
