"""The picture of one run: its curves, its confusion matrix, its ROC curves with operating points."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import confusion_matrix, roc_curve

SENSITIVITY: Final = 0.95  # the operating point that is marked: first threshold with at least this sensitivity

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def write_run_figure(
    path: Path,
    *,
    title: str,
    curves: Mapping[str, Sequence[float]],
    labels_n: IntArray,
    decoded_n: IntArray,
    probs_nk: FloatArray,
    classes: Sequence[str],
) -> None:
    """Write one PNG, replacing an older one as a whole.

    Args:
        path: where the picture goes; its folder exists.
        title: text above it.
        curves: by name, one value per epoch (NaN leaves a gap).
        labels_n: true class of every image, [N].
        decoded_n: decided class of every image, [N].
        probs_nk: class probabilities, [N, K].
        classes: names of the K classes.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    left, middle, right = figure.subplots(1, 3)
    _draw_curves(left, curves)
    _draw_confusion(middle, confusion_matrix(labels_n, decoded_n, labels=range(len(classes))), classes)
    _draw_roc(right, labels_n, probs_nk, classes=classes)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(path)


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[float]]) -> None:
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
    axes.set(xlabel="epoch", title="curves")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)


def _draw_confusion(axes: Axes, cells_kk: Any, classes: Sequence[str]) -> None:
    shares_kk = cells_kk / np.maximum(cells_kk.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares_kk, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*cells_kk.shape):
        colour = "white" if shares_kk[row, column] > 0.6 else "black"
        axes.text(column, row, str(cells_kk[row, column]), ha="center", va="center", color=colour)
    ticks = range(len(classes))
    axes.set(xticks=ticks, xticklabels=classes, yticks=ticks, yticklabels=classes)
    axes.set(xlabel="decided", ylabel="true", title="images")


def _draw_roc(axes: Axes, labels_n: IntArray, probs_nk: FloatArray, *, classes: Sequence[str]) -> None:
    for k, name in enumerate(classes):
        is_class = labels_n == k
        if is_class.all() or not is_class.any():
            continue
        false_rate, true_rate, _ = roc_curve(is_class, probs_nk[:, k])
        line = axes.plot(false_rate, true_rate, label=name)[0]
        point = int(np.argmax(true_rate >= SENSITIVITY))
        axes.plot(false_rate[point], true_rate[point], "o", color=line.get_color())
    axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"ROC, dots at {SENSITIVITY:.0%} sensitivity")
    axes.legend(fontsize=8, loc="lower right")
