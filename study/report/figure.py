"""One figure of a search: validation curves of all trials, and the confirmed configurations on the test split."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from study.report.ranking import BASELINE, confirm_ranked, ranked, test_metric
from study.report.words import cut, number, params_text
from study.types import ConfirmRow, StudyResult, TrialRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind readers can tell apart; the best trial has its own, darkest colour.
BEST_COLOUR: Final = "#0072B2"
COLOURS: Final = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
PRUNED_COLOUR: Final = "#9A9A9A"
NUM_LABELLED: Final = 1 + len(COLOURS)  # complete trials with a colour and a label of their own
_LABEL_GAP: Final = 0.045  # least distance of two labels, as a share of the axis
_DPI: Final = 150


def write_search_figure(result: StudyResult, path: Path) -> Path:
    """Draw the search into a PNG file (1800 x 780 px) and return ``path``; replaces an older file as a whole.

    Left: the study's metric on the validation split over epochs, one line per trial; pruned trials end in a cross.
    Right: the metric on the test split of the confirmed trials and the baseline, every seed a dot, with the mean and
    its 95 % interval (Student's t). Undefined values are left out; a study without a finished trial gives an empty
    figure that says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
    _draw_curves(left, result)
    _draw_confirmation(right, result)
    figure.suptitle(f"{result.study}: {_counts(result)}", fontsize=12, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(partial, format="png")
    partial.replace(path)
    return path


def _draw_curves(axes: Axes, result: StudyResult) -> None:
    axes.set_title("Search: validation split", fontsize=11, loc="left")
    axes.set_xlabel("epoch")
    axes.set_ylabel(result.metric)
    drawn = [row for row in ranked(result) if any(math.isfinite(value) for value in row.curve)]
    if not drawn:
        _say(axes, "no trial has finished an epoch")
        return
    complete = [row for row in drawn if row.state == "complete"]
    others = [row for row in drawn if row.state != "complete"]
    for row in others:
        _draw_other(axes, row)
    for place, row in reversed(list(enumerate(complete))):
        _draw_complete(axes, row, place)
    _integer_epochs(axes, max(len(row.curve) for row in drawn))
    _label_ends(axes, complete[:NUM_LABELLED])
    _style_legend(axes, has_complete=bool(complete), has_others=bool(others))


def _draw_complete(axes: Axes, row: TrialRow, place: int) -> None:
    epochs = range(1, len(row.curve) + 1)
    if place == 0:
        axes.plot(epochs, row.curve, color=BEST_COLOUR, linewidth=3.0, marker="o", markersize=5, zorder=5)
    else:
        colour = _colour(place)
        axes.plot(epochs, row.curve, color=colour, linewidth=1.5, marker="o", markersize=3, zorder=4)


def _draw_other(axes: Axes, row: TrialRow) -> None:
    axes.plot(range(1, len(row.curve) + 1), row.curve, color=PRUNED_COLOUR, linewidth=0.9, linestyle="--", zorder=2)
    last = max(i for i, value in enumerate(row.curve) if math.isfinite(value))
    axes.plot([last + 1], [row.curve[last]], color=PRUNED_COLOUR, marker="x", markersize=6, linestyle="", zorder=3)


def _colour(place: int) -> str:
    return BEST_COLOUR if place == 0 else COLOURS[place - 1] if place <= len(COLOURS) else "#BFD3E0"


def _integer_epochs(axes: Axes, num_epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.set_xlim(0.8 - 0.04 * num_epochs, num_epochs + 0.2 + 0.04 * num_epochs)


def _label_ends(axes: Axes, rows: Sequence[TrialRow]) -> None:
    """Names the lines at their last point, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    ends = []
    for place, row in enumerate(rows):
        last = max(i for i, value in enumerate(row.curve) if math.isfinite(value))
        ends.append((row.curve[last], last + 1, place, row))
    ends.sort(key=lambda end: end[0])
    heights = _spread([end[0] for end in ends], gap=_LABEL_GAP * (high - low))
    for (value, epoch, place, row), height in zip(ends, heights, strict=True):
        axes.annotate(
            f"trial {row.trial}  {number(row.value)}",
            xy=(epoch, value),
            xytext=(1.03, height),
            textcoords=axes.get_yaxis_transform(),
            annotation_clip=False,
            va="center",
            fontsize=9,
            color=_colour(place),
            fontweight="bold" if place == 0 else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": _colour(place),
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )
    if heights:
        axes.set_ylim(min(low, heights[0] - 0.03 * (high - low)), max(high, heights[-1] + 0.03 * (high - low)))


def _spread(heights: Sequence[float], *, gap: float) -> list[float]:
    """Ascending ``heights`` moved as little as needed until neighbours are ``gap`` apart; their mean hardly moves."""
    groups: list[list[float]] = []  # mean of the wished heights, number of members
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            mean, count = groups.pop()
            other, others = groups.pop()
            groups.append([(mean * count + other * others) / (count + others), count + others])
    return [mean + gap * (i - (count - 1) / 2) for mean, count in groups for i in range(int(count))]


def _style_legend(axes: Axes, *, has_complete: bool, has_others: bool) -> None:
    from matplotlib.lines import Line2D

    handles = []
    if has_complete:
        handles += [
            Line2D([], [], color=BEST_COLOUR, linewidth=3, marker="o", markersize=5, label="best"),
            Line2D([], [], color="#555555", linewidth=1.5, marker="o", markersize=3, label="complete"),
        ]
    if has_others:
        pruned = Line2D(
            [], [], color=PRUNED_COLOUR, linewidth=0.9, linestyle="--", marker="x", label="pruned or failed"
        )
        handles.append(pruned)
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False, fontsize=9)


def _draw_confirmation(axes: Axes, result: StudyResult) -> None:
    axes.set_title("Confirmation: test split", fontsize=11, loc="left")
    axes.set_xlabel(test_metric(result))
    rows = [row for row in confirm_ranked(result) if any(math.isfinite(value) for value in row.values)]
    if not rows:
        _say(axes, "no trial is confirmed")
        return
    colours = {row.trial: _colour(place) for place, row in enumerate(ranked(result)) if row.state == "complete"}
    for height, row in enumerate(rows):
        _draw_confirmed(axes, row, height=height, colour=colours.get(row.trial, "#333333"))
        if row.trial == BASELINE and math.isfinite(row.mean):
            axes.axvline(row.mean, color="#333333", linestyle=":", linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(rows)), [_confirm_label(row) for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    _confirm_legend(axes, has_baseline=rows[-1].trial == BASELINE)


def _draw_confirmed(axes: Axes, row: ConfirmRow, *, height: int, colour: str) -> None:
    values = [value for value in row.values if math.isfinite(value)]
    axes.plot(
        values, [height + 0.16] * len(values), "o", color=colour, alpha=0.55, markersize=6, markeredgewidth=0, zorder=3
    )
    if not math.isfinite(row.mean):
        return
    if math.isfinite(row.low) and math.isfinite(row.high):
        axes.plot([row.low, row.high], [height, height], color=colour, linewidth=2, marker="|", markersize=9, zorder=3)
    axes.plot([row.mean], [height], "D", color=colour, markersize=8, markeredgecolor="white", zorder=4)
    axes.annotate(
        number(row.mean),
        xy=(row.mean, height),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )


def _confirm_label(row: ConfirmRow) -> str:
    if row.trial == BASELINE:
        return "baseline\nas in the study file"
    lines = [f"trial {row.trial}"]
    for pair in params_text(row.params).split():
        if len(lines) == 1 or len(lines[-1]) + len(pair) > 28:
            lines.append(cut(pair, 28))
        else:
            lines[-1] += f" {pair}"
    shown = lines[:4]
    return "\n".join([*shown[:-1], shown[-1] + " ..."] if len(lines) > len(shown) else shown)


def _confirm_legend(axes: Axes, *, has_baseline: bool) -> None:
    from matplotlib.lines import Line2D

    colour = "#555555"
    handles = [
        Line2D([], [], color=colour, marker="D", markersize=7, linewidth=2, label="mean, 95 % interval"),
        Line2D([], [], color=colour, marker="o", alpha=0.55, markersize=6, linestyle="", label="one seed"),
    ]
    if has_baseline:
        handles.append(Line2D([], [], color="#333333", linestyle=":", linewidth=1.2, label="mean of the baseline"))
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=3, frameon=False, fontsize=9)


def _counts(result: StudyResult) -> str:
    states = ("complete", "pruned", "failed", "running")
    counts = {state: sum(row.state == state for row in result.rows) for state in states}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trials"


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#777777")
    axes.set_xticks([])
    axes.set_yticks([])
