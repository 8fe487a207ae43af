"""Pictures of an index plan: shares as a heat map, and the turns of the segments in the first batches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

MOST_SEGMENTS: Final = 16  # rows that a person can read; the segments with the smallest shares are drawn as one
MOST_TURNS: Final = 144  # columns of the turns; more are too thin to tell the colours apart
CLASS_COLOURS: Final = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")

Turn = tuple[str, int]
FloatArray = npt.NDArray[np.float64]


def write_plan_figure(
    path: Path,
    *,
    title: str,
    table: Any,
    num_draws: int,
    batches: Sequence[Sequence[Turn]],
    classes: Sequence[str],
) -> None:
    """Write one PNG, replacing an older one as a whole: what is in the data, what the plan draws, the first batches.

    Args:
        path: where the picture goes; its folder exists.
        title: text above it.
        table: a line per segment and class with the columns segment, label, share, images, repeats_min, repeats_max
            and never_seen, as of ``Plan.summary``.
        num_draws: draws of the whole plan.
        batches: segment and class of each place of the first batches.
        classes: names of the K classes.
    """
    rows = _row_names(table)
    figure = Figure(figsize=(13, 2.6 + 0.6 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    places: Any = [["images", "shares", "repeats"], ["turns", "turns", "turns"]]
    axes = figure.subplot_mosaic(places, height_ratios=(1, 0.9))
    images_rk = _cells(table, "images", rows=rows, num_classes=len(classes))
    shares_rk = _cells(table, "share", rows=rows, num_classes=len(classes))
    repeats_rk = shares_rk * num_draws / np.maximum(images_rk, 1)
    shape = {"rows": rows, "classes": classes}
    _heat_map(axes["images"], images_rk / images_rk.sum(), texts=_texts(table, _count_text, **shape), **shape)
    axes["images"].set_title("images in the data", fontsize=10)
    _heat_map(axes["shares"], shares_rk, texts=_texts(table, _share_text, **shape), **shape)
    axes["shares"].set_title("share of the draws", fontsize=10)
    _heat_map(axes["repeats"], repeats_rk, texts=_texts(table, _repeats_text, **shape), **shape)
    axes["repeats"].set_title("draws of each image", fontsize=10)
    _draw_turns(axes["turns"], batches, rows=rows, classes=classes)
    _save(figure, path)


def write_turns_figure(path: Path, *, title: str, batches: Sequence[Sequence[Turn]], classes: Sequence[str]) -> None:
    """Write one PNG of the turns alone: a row per segment, a column per draw, coloured by class."""
    rows = sorted({segment for batch in batches for segment, _ in batch})
    figure = Figure(figsize=(11, 0.9 + 0.32 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _draw_turns(axes, batches, rows=rows, classes=classes)
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png", dpi=90)
    partial.replace(path)


def _row_names(table: Any) -> list[str]:
    """The segments in order; behind the largest, if there are many, one name for all others."""
    shares = table.groupby("segment")["share"].sum()
    if len(shares) <= MOST_SEGMENTS:
        return [str(name) for name in shares.index]
    largest = sorted(shares.nlargest(MOST_SEGMENTS - 1).index)
    return [*(str(name) for name in largest), f"{len(shares) - len(largest):,} others"]


def _row_numbers(segments: Sequence[str], rows: Sequence[str]) -> npt.NDArray[np.int64]:
    number = {name: row for row, name in enumerate(rows)}
    return np.array([number.get(segment, len(rows) - 1) for segment in segments], dtype=np.int64)


def _cells(table: Any, column: str, *, rows: Sequence[str], num_classes: int) -> FloatArray:
    """Sum of a column of the table in each row and class, [R, K]."""
    cells_rk = np.zeros((len(rows), num_classes))
    np.add.at(cells_rk, (_row_numbers(list(table["segment"]), rows), table["label"].to_numpy()), table[column])
    return cells_rk


def _texts(
    table: Any, text_of: Callable[[Any], str], *, rows: Sequence[str], classes: Sequence[str]
) -> list[list[str]]:
    """What stands in each field of a heat map; ``none`` where the data has no image."""
    texts = [["none"] * len(classes) for _ in rows]
    keys = [_row_numbers(list(table["segment"]), rows), table["label"].to_numpy()]
    for (row, label), lines in table.groupby(keys):
        texts[row][label] = text_of(lines)
    return texts


def _count_text(lines: Any) -> str:
    return f"{lines['images'].sum():,}"


def _share_text(lines: Any) -> str:
    return f"{lines['share'].sum():.1%}"


def _repeats_text(lines: Any) -> str:
    smallest, largest, unseen = lines["repeats_min"].min(), lines["repeats_max"].max(), lines["never_seen"].sum()
    text = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    return f"{text}\n{unseen:,} never" if unseen else text


def _heat_map(
    axes: Axes, values_rk: FloatArray, *, texts: list[list[str]], rows: Sequence[str], classes: Sequence[str]
) -> None:
    largest = values_rk.max() or 1.0
    size = 8 if len(classes) <= 4 else 6.5
    axes.imshow(values_rk, cmap="Blues", vmin=0, vmax=largest, aspect="auto")
    for row, column in np.ndindex(*values_rk.shape):
        colour = "white" if values_rk[row, column] > 0.6 * largest else "black"
        axes.text(
            column, row, texts[row][column], ha="center", va="center", color=colour, fontsize=size, linespacing=0.9
        )
    axes.set_xticks(range(len(classes)), classes, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)


def _draw_turns(axes: Axes, batches: Sequence[Sequence[Turn]], *, rows: Sequence[str], classes: Sequence[str]) -> None:
    """A column per draw, a row per segment; a line where a batch ends."""
    turns = [turn for batch in batches for turn in batch][:MOST_TURNS]
    labels = [label for _, label in turns]
    grid_rt = np.full((len(rows), max(len(turns), 1)), np.nan)
    if turns:
        grid_rt[_row_numbers([segment for segment, _ in turns], rows), np.arange(len(turns))] = labels
    colours = [CLASS_COLOURS[label % len(CLASS_COLOURS)] for label in range(len(classes))]
    axes.imshow(grid_rt, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(classes) - 0.5, aspect="auto")
    ends = np.cumsum([len(batch) for batch in batches])
    for end in ends[ends < len(turns)]:
        axes.axvline(end - 0.5, color="black", linewidth=1.2)
    axes.set_xticks(np.arange(-0.5, grid_rt.shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("draw, from the first" if len(ends) < 2 else "draw, from the first; lines end a batch", fontsize=8)
    keys = [Patch(color=colour, label=name) for colour, name in zip(colours, classes, strict=True)]
    axes.legend(handles=keys, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
