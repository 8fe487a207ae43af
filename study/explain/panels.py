"""Panels: an image, and beside it the map of each class, of several runs below one another, in the original's geometry.

The picture is the prepared one, put back to where it lay in the original: original files need not be at hand.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from study.data.mapping import FloatBox, Placement, heat_to_original
from study.data.shards import PreparedDataset
from study.errors import InputError
from study.explain.looking import Look, lesions_of, looks, placement_in
from study.explain.numbers import Attention
from study.explain.opening import OpenRun

F32 = NDArray[np.float32]
LONGEST_PX = 512
OVERLAY = 0.45


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One image as one run sees it, in the original's geometry, at most ``LONGEST_PX`` large.

    ``picture_hw`` from 0 to 1; ``heats_khw`` >= 0, one map per class, each with its ``attention``; ``boxes`` of lesions
    in px of the picture; ``truth`` is the label's class, -1 without one.
    """

    row: int
    picture_hw: F32
    heats_khw: F32
    probs_k: NDArray[np.float64]
    attention: tuple[Attention, ...]
    boxes: tuple[FloatBox, ...]
    truth: int


def panel_rows(dataset: PreparedDataset, rows_n: NDArray[np.int64], *, count: int, labels_n: NDArray[Any]) -> list[int]:
    """Which images to show: classes in turn, the highest first; those with known lesions before others."""
    manifest = dataset.manifest
    lesions = manifest.get("lesions", None)
    marked = [bool(lesions is not None and isinstance(lesions.iloc[row], str)) for row in rows_n]
    queues = {}
    for label in sorted({int(labels_n[row]) for row in rows_n if labels_n[row] >= 0}, reverse=True):
        own = [(not mark, int(row)) for row, mark in zip(rows_n, marked, strict=True) if labels_n[row] == label]
        queues[label] = [row for _, row in sorted(own)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return chosen


def panels_of(run: OpenRun, rows: Sequence[int], *, task: str = "") -> list[Panel]:
    """Panels of some images, in their order.

    Raises:
        InputError: the network has no map of classes, or no such task.
    """
    return [_panel(run.dataset, look) for look in looks(run, rows, task=task)]


def _panel(dataset: PreparedDataset, look: Look) -> Panel:
    line = dataset.manifest.iloc[look.row]
    placement, original_hw = placement_in(line, dataset.image_hw)
    small, small_hw, shrink = _shrunk(placement, original_hw)
    back = {"frame_hw": dataset.image_hw, "original_hw": small_hw}
    return Panel(
        row=look.row,
        picture_hw=heat_to_original(look.pixels_hw, small, **back),
        heats_khw=np.stack([heat_to_original(heat, small, **back) for heat in look.heats_khw]),
        probs_k=look.probs_k,
        attention=look.attention,
        boxes=tuple(
            (left * shrink, top * shrink, right * shrink, bottom * shrink)
            for left, top, right, bottom in lesions_of(line)
        ),
        truth=look.truth,
    )


def _shrunk(placement: Placement, original_hw: tuple[int, int]) -> tuple[Placement, tuple[int, int], float]:
    """The same placement in a smaller copy of the original; the box is rounded, so its scale follows from its size."""
    shrink = min(1.0, LONGEST_PX / max(original_hw))
    left, top, right, bottom = (round(edge * shrink) for edge in placement.box)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    width, height = placement.size_wh
    small = Placement(
        box=(left, top, right, bottom),
        scale=(width / (right - left), height / (bottom - top)),
        offset=placement.offset,
        flipped=placement.flipped,
    )
    rows, columns = (max(1, round(size * shrink)) for size in original_hw)
    return small, (max(rows, bottom), max(columns, right)), shrink


def write_panels(path: Path, runs: Sequence[tuple[str, Sequence[Panel]]], *, classes: Sequence[str]) -> Path:
    """Write the panels of several runs on the same images into one PNG, replacing an older one as a whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(panels_png(runs, classes=classes))
    partial.replace(path)
    return path


def panels_png(
    runs: Sequence[tuple[str, Sequence[Panel]]],
    *,
    classes: Sequence[str],
    dpi: int = 110,
    form: str = "png",
    column_in: float = 1.75,
) -> bytes:
    """The panels as a PNG (or, with ``form``, a JPEG): a row per image and run; original, then the map of each class.

    Lesions are boxes. Above each map stand the class's probability and, where it is known, the share inside the breast.

    Raises:
        InputError: no panel, or runs about different images.
    """
    count = len(runs[0][1]) if runs else 0
    if not count or any([p.row for p in panels] != [p.row for p in runs[0][1]] for _, panels in runs):
        raise InputError("there are no panels, or the runs are about different images", "explain runs of one dataset")
    rows, columns = count * len(runs), 1 + len(classes)
    aspect = float(np.median([panel.picture_hw.shape[0] / panel.picture_hw.shape[1] for panel in runs[0][1]]))
    figure = Figure(
        figsize=(column_in * columns + 0.3, (0.92 * column_in * aspect + 0.45) * rows),
        layout="constrained",
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for image in range(count):
        for number, (title, panels) in enumerate(runs):
            _draw_row(
                axes[image * len(runs) + number], panels[image], title=title if len(runs) > 1 else "", classes=classes
            )
    content = io.BytesIO()
    figure.savefig(content, format=form, dpi=dpi)
    return content.getvalue()


def _draw_row(axes: Any, panel: Panel, *, title: str, classes: Sequence[str]) -> None:
    truth = classes[panel.truth] if panel.truth >= 0 else "no label"
    _draw_picture(axes[0], panel, f"true:\n{truth}")
    axes[0].set_ylabel(title, fontsize=8)
    for k, name in enumerate(classes):
        inside = panel.attention[k].inside
        share = "" if np.isnan(inside) else f"\n{inside:.0%} in the breast"
        _draw_picture(axes[1 + k], panel, f"{name} {panel.probs_k[k]:.2f}{share}")
        heat = panel.heats_khw[k]
        if heat.max() > 0:
            part = heat / heat.max()
            axes[1 + k].imshow(part, cmap="turbo", alpha=np.clip(part * 1.2, 0, 1) * OVERLAY, vmin=0, vmax=1)


def _draw_picture(axes: Axes, panel: Panel, title: str) -> None:
    axes.imshow(panel.picture_hw, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=8, loc="left", pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    for left, top, right, bottom in panel.boxes:
        box = Rectangle(
            (left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="#00d0ff", linewidth=1.2
        )
        axes.add_patch(box)
