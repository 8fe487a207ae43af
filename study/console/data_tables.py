"""What a manifest holds, as text: images by split and class, facts about them, what is left out and why."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pandas as pd

from study.console.tables import Column, aligned
from study.data.summary import ManifestSummary

WIDTH: Final = 80
LEAST: Final = 24  # columns of text that a table's last column keeps
GAP: Final = 2
NO_LIMIT: Final = 1_000_000  # what does not fit is broken into lines and tables here, never cut
KEPT_TOGETHER: Final = "\u00a0"  # between a value and its count
FACT_WORDS: Final = {"density": "density", "view": "views", "vendor": "vendors", "kind": "kinds"}


def manifest_text(summary: ManifestSummary, *, width: int = WIDTH) -> str:
    """All tables of a summary that have something to say, an empty line between them.

    What is wider than ``width`` goes on in further lines, or in a further table; numbers and names are never cut.
    """
    blocks = [
        _counts(summary.counts, width),
        _facts(summary.facts, width),
        _tasks(summary.tasks),
        _origins(summary.origins),
        _imbalance(summary.imbalance),
        _dropped(summary.dropped, width),
        "\n".join("\n".join(_wrapped(f"warning: {text}", width, indent="  ")) for text in summary.warnings),
    ]
    return "\n\n".join(block for block in blocks if block)


def _counts(counts: pd.DataFrame, width: int) -> str:
    """Patients and images by source and split, and their sums; patients of two sources count in both."""
    shown = counts if counts["unlabelled"].any() else counts.drop(columns="unlabelled")
    sums = shown.drop(columns=["source", "patients"]).groupby("split", sort=False).sum().reset_index()
    rows = shown.to_dict("records")
    if len(set(shown["source"])) > 1:
        rows += [{**row, "source": "all", "patients": ""} for row in sums.to_dict("records")]
    keys = ("source", "split")
    names = [str(column) for column in shown.columns if column not in keys]
    return "\n\n".join(_table([*keys, *page], rows, words=keys) for page in _pages(names, rows, keys=keys, width=width))


def _pages(
    names: Sequence[str], rows: Sequence[dict[Any, Any]], *, keys: Sequence[str], width: int
) -> Iterator[list[str]]:
    """Names of columns that fit beside the keys in ``width``, one list for each table that this takes."""
    sizes = {name: GAP + max([len(name), *(len(str(row[name])) for row in rows)]) for name in (*keys, *names)}
    room = width + GAP - sum(sizes[key] for key in keys)
    page: list[str] = []
    for name in names:
        if page and sum(sizes[other] for other in (*page, name)) > room:
            yield page
            page = []
        page = [*page, name]
    yield page


def _facts(facts: pd.DataFrame, width: int) -> str:
    lines = []
    for (source, fact), rows in facts.groupby(["source", "fact"], sort=False):
        mark = "; " if rows["value"].astype("str").str.contains(",").any() else ", "
        counted = zip(rows["value"], rows["images"], strict=True)
        values = mark.join(f"{value}{KEPT_TOGETHER}{images}" for value, images in counted)
        lines.append({"source": source, "fact": FACT_WORDS.get(str(fact), str(fact)), "images": values})
    names = ["source", "fact", "images"]
    return _table(names, _in_width(lines, names, width=width), words=names)


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


def _dropped(dropped: pd.DataFrame, width: int) -> str:
    lines = [{**row, "left out": row["reason"]} for row in dropped.to_dict("records")]
    names = ["source", "images", "left out"]
    return _table(names, _in_width(lines, names, width=width), words=("source", "left out"))


def _in_width(rows: Sequence[dict[Any, Any]], names: Sequence[str], *, width: int) -> list[dict[Any, Any]]:
    """Rows whose last cell is broken into lines, so that the table fits ``width``."""
    *others, last = names
    used = sum(GAP + max([len(name), *(len(str(row[name])) for row in rows)]) for name in others)
    lines: list[dict[Any, Any]] = []
    for row in rows:
        first, *more = _wrapped(str(row[last]), max(width - used, LEAST))
        lines += [{**row, last: first}, *({**dict.fromkeys(others, ""), last: text} for text in more)]
    return lines


def _wrapped(text: str, width: int, *, indent: str = "") -> list[str]:
    lines = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace(KEPT_TOGETHER, " ") for line in lines or [""]]


def _table(names: Sequence[str], rows: Sequence[dict[Any, Any]], *, words: Sequence[str]) -> str:
    if not rows:
        return ""
    columns = [Column(name, right=name not in words) for name in names]
    cells = [[str(row[name]) for name in names] for row in rows]
    return "\n".join(aligned(columns, cells, width=NO_LIMIT))
