"""What a manifest holds, as text: images by split and class, facts about them, what is left out and why."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from study.console.tables import Column, aligned
from study.data.summary import ManifestSummary

NUMBERS: Final = 1_000_000  # a table whose columns are all numbers never has to give way
FACT_WORDS: Final = {"density": "density", "view": "views", "vendor": "vendors", "kind": "kinds"}


def manifest_text(summary: ManifestSummary) -> str:
    """All tables of a summary that have something to say, an empty line between them."""
    blocks = [
        _counts(summary.counts),
        _facts(summary.facts),
        _tasks(summary.tasks),
        _origins(summary.origins),
        _imbalance(summary.imbalance),
        _dropped(summary.dropped),
        "\n".join(f"warning: {text}" for text in summary.warnings),
    ]
    return "\n\n".join(block for block in blocks if block)


def _counts(counts: pd.DataFrame) -> str:
    """Patients and images by source and split, and their sums; patients of two sources count in both."""
    shown = counts if counts["unlabelled"].any() else counts.drop(columns="unlabelled")
    sums = shown.drop(columns=["source", "patients"]).groupby("split", sort=False).sum().reset_index()
    rows = shown.to_dict("records")
    if len(set(shown["source"])) > 1:
        rows += [{**row, "source": "all", "patients": ""} for row in sums.to_dict("records")]
    return _table([str(column) for column in shown.columns], rows, words=("source", "split"))


def _facts(facts: pd.DataFrame) -> str:
    lines = []
    for (source, fact), rows in facts.groupby(["source", "fact"], sort=False):
        values = ", ".join(f"{value} {images}" for value, images in zip(rows["value"], rows["images"], strict=True))
        lines.append({"source": source, "fact": FACT_WORDS.get(str(fact), str(fact)), "images": values})
    return _table(["source", "fact", "images"], lines, words=("source", "fact", "images"))


def _tasks(tasks: pd.DataFrame) -> str:
    """Classes of every task, where there are several; those of one stand in the counts."""
    if len(set(tasks["task"])) < 2:
        return ""
    return _table(list(tasks.columns), tasks.to_dict("records"), words=("task", "class"))


def _origins(origins: pd.DataFrame) -> str:
    """Where labels come from, unless readers gave all of them."""
    if set(origins["origin"]) <= {"reader"}:
        return ""
    return _table(list(origins.columns), origins.to_dict("records"), words=("task", "origin"))


def _imbalance(imbalance: pd.DataFrame) -> str:
    lines = [f"{row['source']}: {_ratio_text(row)}" for row in imbalance.to_dict("records")]
    return "\n".join(lines[-1:] if len(lines) == 2 else lines)


def _ratio_text(row: Mapping[Any, Any]) -> str:
    if row["ratio"] == float("inf"):
        return f"no image of class {row['rarest']}"
    if row["ratio"] == 1:
        return "as many images of each class"
    return f"{row['ratio']:.3g} images of {row['commonest']} for one of {row['rarest']}"


def _dropped(dropped: pd.DataFrame) -> str:
    lines = [{**row, "left out": row["reason"]} for row in dropped.to_dict("records")]
    return _table(["source", "images", "left out"], lines, words=("source", "left out"))


def _table(names: Sequence[str], rows: Sequence[dict[Any, Any]], *, words: Sequence[str]) -> str:
    if not rows:
        return ""
    columns = [Column(name, right=name not in words) for name in names]
    return "\n".join(aligned(columns, [[str(row[name]) for name in names] for row in rows], width=NUMBERS))
