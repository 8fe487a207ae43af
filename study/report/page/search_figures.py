"""Figures of a search: history, curves, importance, slices, parallel coordinates."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from study.ledger.importance import Reasons
from study.report.page.answer import metric_name
from study.report.page.drawing import COLOURS, FAINT, NARROW, WIDE, picture, say
from study.report.page.evidence import Evidence
from study.report.page.parts import Picture
from study.report.ranking import ranked
from study.types import TrialRow

SLICES = 8  # of so many parameters; more figures nobody looks at
AXES = 8
MARKS = {"complete": "o", "pruned": "x"}


def history_picture(evidence: Evidence) -> Picture:
    """The metric of every trial in their order, and the best so far."""
    result = evidence.result
    known = [row for row in result.rows if _value(row) is not None]
    better = max if result.mode == "max" else min

    def draw(axes: Axes) -> None:
        axes.set(xlabel="trial", ylabel=metric_name(result.metric), title="Optimisation history")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        complete = [row for row in known if row.state == "complete"]
        others = [row for row in known if row.state != "complete"]
        _dots(axes, others, colour=FAINT, label="pruned or running", mark="x")
        _dots(axes, complete, colour=COLOURS[0], label="complete", mark="o")
        if complete:
            values = [float(row.value or 0.0) for row in complete]
            best = [better(values[: i + 1]) for i in range(len(values))]
            axes.step([int(row.trial) for row in complete], best, where="post", color=COLOURS[1], label="best so far")
        if known:
            axes.legend(loc="best")
        else:
            say(axes, "no trial has a value yet")

    return picture(
        "history",
        draw,
        caption="Each trial's value on validation in the order of the search, and the best of the complete ones.",
        alt=f"Value of {len(known)} trials over the trial number",
    )


def _dots(axes: Axes, rows: Sequence[TrialRow], *, colour: str, label: str, mark: str) -> None:
    if rows:
        axes.plot(
            [int(r.trial) for r in rows],
            [r.value or 0.0 for r in rows],
            mark,
            color=colour,
            label=label,
            markersize=_size(rows),
        )


def curves_picture(evidence: Evidence) -> Picture:
    """Validation curves: complete trials coloured, others faint."""
    result = evidence.result
    rows = [row for row in ranked(result) if any(math.isfinite(value) for value in row.curve)]

    def draw(axes: Axes) -> None:
        axes.set(xlabel="epoch", ylabel=metric_name(result.metric), title="Learning curves")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for row in reversed(rows):
            place = rows.index(row)
            is_named = row.state == "complete" and place < len(COLOURS) - 1
            axes.plot(
                range(1, len(row.curve) + 1),
                row.curve,
                color=COLOURS[place] if is_named else FAINT,
                linewidth=2.2 if place == 0 else 1.2,
                alpha=1.0 if is_named or len(rows) < 20 else 0.35,
                linestyle="-" if row.state == "complete" else "--",
                label=f"trial {row.trial}" if is_named and place < 6 else None,
            )
        if not rows:
            say(axes, "no epoch has ended yet")
        elif any(row.state == "complete" for row in rows):
            axes.legend(loc="best", ncols=2)

    return picture(
        "curves",
        draw,
        caption="The metric on validation after each epoch; dashed lines are trials that did not finish.",
        alt=f"Learning curves of {len(rows)} trials",
    )


def importance_picture(reasons: Reasons) -> Picture:
    """Shares of importance as bars."""
    found = reasons.importances[::-1]

    def draw(axes: Axes) -> None:
        axes.barh([one.parameter for one in found], [one.share for one in found], color=COLOURS[0], height=0.6)
        axes.set(xlabel="share of importance", title="What mattered", xlim=(0, 1))
        axes.grid(visible=False, axis="y")

    return picture(
        "importance",
        draw,
        caption=f"Importance of each parameter by PED-ANOVA, from {reasons.trials} complete trials.",
        alt="; ".join(f"{one.parameter} {one.share:.0%}" for one in reasons.importances),
    )


def slice_pictures(evidence: Evidence, names: Sequence[str], *, logs: set[str]) -> list[Picture]:
    """For each parameter the metric over its values."""
    found = []
    for number, name in enumerate(names[:SLICES]):
        rows = [row for row in evidence.result.rows if name in row.params and _value(row) is not None]
        if len({str(row.params[name]) for row in rows}) > 1:
            found.append(_slice(evidence, name, rows, number=number, is_log=name in logs))
    return found


def _slice(evidence: Evidence, name: str, rows: Sequence[TrialRow], *, number: int, is_log: bool) -> Picture:
    result = evidence.result

    def draw(axes: Axes) -> None:
        axes.set(xlabel=name, ylabel=metric_name(result.metric), title=name)
        values = [row.params[name] for row in rows]
        if _is_numeric(values):
            if is_log:
                axes.set_xscale("log")
            places = [float(value) for value in values]
        else:
            options = sorted({_option(value) for value in values})
            places = [float(options.index(_option(value))) for value in values]
            axes.set_xticks(range(len(options)), [_short(option) for option in options], rotation=20, ha="right")
            axes.set_xlim(-0.5, len(options) - 0.5)
        for state, mark in MARKS.items():
            part = [i for i, row in enumerate(rows) if row.state == state]
            colour = COLOURS[0] if state == "complete" else FAINT
            axes.plot(
                [places[i] for i in part],
                [rows[i].value or 0.0 for i in part],
                mark,
                color=colour,
                label=state,
                markersize=_size(rows),
            )
        axes.legend(loc="best")

    return picture(
        f"slice-{number}",
        draw,
        caption=f"The metric on validation over {name}, one mark per trial.",
        alt=f"{len(rows)} trials over {name}",
    )


def parallel_picture(evidence: Evidence, names: Sequence[str], *, logs: set[str]) -> Picture:
    """All trials at once: one line per trial through its values, coloured by the metric."""
    result = evidence.result
    rows = [row for row in result.rows if _value(row) is not None]
    shown = [name for name in names if any(name in row.params for row in rows)][:AXES]
    values = np.array([float(row.value or 0.0) for row in rows])
    order = np.argsort(values if result.mode == "max" else -values)
    low, high = float(values.min()), float(values.max())

    def draw(axes: Axes) -> None:
        from matplotlib import colormaps

        map_ = colormaps["viridis" if result.mode == "max" else "viridis_r"]
        scales = [_scale(rows, name, is_log=name in logs) for name in shown]
        for place in order:
            row = rows[place]
            part = (values[place] - low) / ((high - low) or 1.0)
            points = [
                (x, scale[0](row.params[name]))
                for x, (name, scale) in enumerate(zip(shown, scales, strict=True))
                if name in row.params
            ]
            points.append((len(shown), part))
            style = "-" if row.state == "complete" else ":"
            axes.plot(
                *zip(*points, strict=True), style, color=map_(part), linewidth=1.8, alpha=0.85, marker="o", markersize=3
            )
        for x, (_, ticks) in enumerate([*scales, (None, [(0.0, f"{low:.3f}"), (1.0, f"{high:.3f}")])]):
            axes.axvline(x, color=FAINT, linewidth=0.8, zorder=0)
            for y, text in ticks:
                axes.annotate(text, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axes.set_xticks(range(len(shown) + 1), [*shown, metric_name(result.metric)])
        axes.set_yticks([])
        axes.set(xlim=(-0.15, len(shown) + 0.45), ylim=(-0.06, 1.1), title="Parallel coordinates")
        axes.spines["left"].set_visible(False)

    return picture(
        "parallel",
        draw,
        caption="One line per trial, light where the metric is good; dotted lines were pruned. One that a trial "
        "does not have is passed over.",
        alt=f"Parallel coordinates of {len(rows)} trials over {', '.join(shown)}",
        size=WIDE if len(shown) > 1 else NARROW,
        grid=False,
    )


def _size(rows: Sequence[TrialRow]) -> float:
    """Marks of many trials are small."""
    return 6.0 if len(rows) < 60 else 3.5


def _scale(rows: Sequence[TrialRow], name: str, *, is_log: bool) -> Any:
    """From a value to its height, 0 to 1, and the ticks of the axis."""
    values = [row.params[name] for row in rows if name in row.params]
    if not _is_numeric(values):
        options = sorted({_option(value) for value in values})
        heights = {option: (i + 0.5) / len(options) for i, option in enumerate(options)}
        return (lambda value: heights[_option(value)]), [(y, _short(option)) for option, y in heights.items()]
    change = math.log if is_log else float
    low, high = min(values), max(values)
    start, width = change(low), (change(high) - change(low)) or 1.0
    ticks = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if high > low else [(0.0, f"{low:.3g}")]
    return (lambda value: (change(value) - start) / width), ticks


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _option(value: Any) -> str:
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= 18 else text[:16] + "…"


def _value(row: TrialRow) -> float | None:
    return row.value if row.value is not None and math.isfinite(row.value) else None
