"""Where it works: ROC curves per segment with operating points, parts of the data, the shortcut alarm."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from study.metrics import classification_metrics
from study.report.page.cells import count, mean_sd, share, word
from study.report.page.drawing import COLOURS, FAINT, picture, say
from study.report.page.evidence import UNKNOWN, Arm, Evidence, Fold
from study.report.page.folds import mean_and_sd, missing_predictions, read_folds, split_name
from study.report.page.parts import Block, Note, Picture, Pictures, Section, Table
from study.report.words import number
from study.stats import (
    OperatingPoint,
    age_bins,
    auc,
    operating_points,
    resampling,
    shortcut_alarm,
    subgroup_metrics,
    synchronisation,
    triage_point,
)
from study.stats.subgroups import RowMetrics

THRESHOLDS: Final = (0.2, 0.4, 0.6, 0.8)
GRID: Final = np.linspace(0, 1, 201)
PARTS: Final = {"segment": "segment", "view": "view", "density": "density", "manufacturer": "vendor"}
MOST_SEGMENTS: Final = 7
ALL: Final = "all"


def where_section(evidence: Evidence) -> Section:
    """Does it work everywhere, and does a threshold mean the same everywhere?"""
    arm = evidence.chosen
    folds, split = read_folds(arm)
    if arm is None or not folds:
        return missing_predictions(evidence, key="where", title="Where it works")
    positive = folds[0].classes[-1]
    pictures = [_segments_picture(arm, folds, split=split), _classes_picture(arm, folds, split=split)]
    blocks: list[Block] = [Pictures(pictures=tuple(pictures)), _points_table(arm, folds, split=split)]
    blocks += _spread(folds)
    blocks.append(_parts_table(folds, split=split))
    alarm = _alarm(folds)
    blocks.append(alarm)
    areas = [auc(fold.probs_nk[:, -1], _is_positive(fold)) for fold in folds]
    finding = (
        f"{arm.title.capitalize()} tells {positive} from the rest with an AUROC of {mean_sd(*mean_and_sd(areas)).text} "
        f"on the {split_name(split)} split."
    )
    return Section(key="where", title="Where it works", finding=finding, blocks=tuple(blocks))


def _is_positive(fold: Fold) -> NDArray[np.bool_]:
    """The highest class against the rest."""
    is_positive_n: NDArray[np.bool_] = fold.labels_n == len(fold.classes) - 1
    return is_positive_n


def _segments(folds: Sequence[Fold]) -> list[str]:
    names, sizes = np.unique(folds[0].segments_n, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    return [ALL, *(str(names[i]) for i in order[:MOST_SEGMENTS])] if len(names) > 1 else [ALL]


def _in_segment(fold: Fold, segment: str) -> NDArray[np.bool_]:
    return np.ones(len(fold.labels_n), dtype=bool) if segment == ALL else fold.segments_n == segment


def _mean_curve(folds: Sequence[Fold], rows: Sequence[NDArray[np.bool_]], *, label: int) -> NDArray[np.float64] | None:
    """Sensitivity over 1 - specificity, mean over the seeds; None where a side is empty."""
    curves = []
    for fold, chosen_n in zip(folds, rows, strict=True):
        is_positive_n = fold.labels_n[chosen_n] == label
        if is_positive_n.all() or not is_positive_n.any():
            return None
        false_rate, true_rate, _ = roc_curve(is_positive_n, fold.probs_nk[chosen_n, label])
        curves.append(np.interp(GRID, false_rate, true_rate))
    mean = np.mean(curves, axis=0)
    return np.concatenate([[0.0], mean])


def _segments_picture(arm: Arm, folds: Sequence[Fold], *, split: str) -> Picture:
    last = len(folds[0].classes) - 1
    segments = _segments(folds)

    def draw(axes: Axes) -> None:
        _frame(axes, f"ROC per segment: {folds[0].classes[last]}")
        undefined = []
        for place, segment in enumerate(segments):
            rows = [_in_segment(fold, segment) for fold in folds]
            curve = _mean_curve(folds, rows, label=last)
            if curve is None:
                undefined.append(segment)
                continue
            areas = [auc(f.probs_nk[r, last], _is_positive(f)[r]) for f, r in zip(folds, rows, strict=True)]
            shade = "#000000" if segment == ALL else COLOURS[(place - 1) % len(COLOURS)]
            axes.plot([0, *GRID], curve, color=shade, linewidth=1.8, label=f"{segment} {number(float(np.mean(areas)))}")
            for threshold, mark in zip(THRESHOLDS, "v^sD", strict=True):
                points = [
                    operating_points(f.probs_nk[r, last], _is_positive(f)[r], thresholds=[threshold])[0]
                    for f, r in zip(folds, rows, strict=True)
                ]
                axes.plot(
                    1 - _mean(points, "specificity"), _mean(points, "sensitivity"), mark, color=shade, markersize=5
                )
        axes.legend(
            loc="lower right", title="AUROC" if not undefined else f"AUROC ({', '.join(undefined)}: one class alone)"
        )

    return picture(
        "roc-segments",
        draw,
        caption=f"{arm.title.capitalize()} on {split_name(split)}, mean over {len(folds)} "
        f"{'seed' if len(folds) == 1 else 'seeds'}. Marks are the thresholds 0.2 (▼), 0.4 (▲), 0.6 (■), 0.8 (◆): where "
        "they lie apart, one threshold does not mean the same everywhere.",
        alt=f"ROC curves of {len(segments)} segments",
        size=(4.6, 4.2),
    )


def _classes_picture(arm: Arm, folds: Sequence[Fold], *, split: str) -> Picture:
    classes = folds[0].classes

    def draw(axes: Axes) -> None:
        _frame(axes, "ROC per class, against the rest")
        everywhere = [np.ones(len(fold.labels_n), dtype=bool) for fold in folds]
        drawn = 0
        for label, name in enumerate(classes):
            curve = _mean_curve(folds, everywhere, label=label)
            if curve is None:
                continue
            drawn += 1
            areas = [auc(fold.probs_nk[:, label], fold.labels_n == label) for fold in folds]
            axes.plot(
                [0, *GRID],
                curve,
                color=COLOURS[label % len(COLOURS)],
                linewidth=1.8,
                label=f"{name} {number(float(np.mean(areas)))}",
            )
        if drawn:
            axes.legend(loc="lower right", title="AUROC")
        else:
            say(axes, "one class alone")

    return picture(
        "roc-classes",
        draw,
        caption=f"{arm.title.capitalize()} on {split_name(split)}: each class against all others.",
        alt=f"ROC curves of {len(classes)} classes",
        size=(4.6, 4.2),
    )


def _frame(axes: Axes, title: str) -> None:
    axes.plot([0, 1], [0, 1], ":", color=FAINT, linewidth=1)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=title, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")


def _mean(points: Sequence[OperatingPoint], name: str) -> float:
    values = np.array([getattr(point, name) for point in points], dtype=np.float64)
    return float(np.mean(values)) if np.isfinite(values).any() else float("nan")


def _points_table(arm: Arm, folds: Sequence[Fold], *, split: str) -> Table:
    """Fixed thresholds, and the one that finds 95 % of the positives of validation."""
    last = len(folds[0].classes) - 1
    chosen = _triage_thresholds(arm, folds) if split == "test" else []
    rows = []
    for segment in _segments(folds):
        inside = [_in_segment(fold, segment) for fold in folds]
        kinds = [(f"{threshold:g}", [threshold] * len(folds)) for threshold in THRESHOLDS]
        kinds += [("triage", chosen)] if chosen else []
        for name, thresholds in kinds:
            points = [
                operating_points(f.probs_nk[r, last], _is_positive(f)[r], thresholds=[t])[0]
                for f, r, t in zip(folds, inside, thresholds, strict=True)
            ]
            rows.append(
                (
                    word(segment),
                    word(name),
                    *(
                        mean_sd(*mean_and_sd([getattr(p, key) for p in points]))
                        for key in ("sensitivity", "specificity", "mcc")
                    ),
                    share(_mean(points, "safely_ruled_out")),
                )
            )
    note = "triage: the highest threshold that finds 95 % of the positives on validation, of each seed's own network. "
    return Table(
        name="operating-points",
        caption=f"Operating points for {folds[0].classes[last]} against the rest: mean ± SD over seeds",
        columns=("segment", "threshold", "sensitivity", "specificity", "MCC", "ruled out rightly"),
        rows=tuple(rows),
        words=(0, 1),
        note=(note if chosen else "") + "A dash: undefined for at least one seed.",
    )


def _triage_thresholds(arm: Arm, folds: Sequence[Fold]) -> list[float]:
    seeds = list(arm.test)
    if any(seed not in arm.val for seed in seeds) or len(seeds) != len(folds):
        return []
    found = [triage_point(arm.val[s].probs_nk[:, -1], _is_positive(arm.val[s])).threshold for s in seeds]
    return found if np.isfinite(found).all() else []


def _spread(folds: Sequence[Fold]) -> list[Block]:
    """How far apart one threshold works between segments."""
    found = [synchronisation(f.probs_nk[:, -1], _is_positive(f), f.segments_n, thresholds=THRESHOLDS) for f in folds]
    if len(np.unique(folds[0].segments_n)) < 2:
        return []
    if found[0].reason:
        return [Note(text=f"Synchronisation of segments is undefined: {found[0].reason}.")]
    mean, _ = mean_and_sd([each.mean_distance for each in found])
    text = (
        f"Synchronisation: at one threshold the segments' operating points lie {mean:.3f} apart in the ROC plane "
        "(mean over thresholds and seeds; 0 would mean that a threshold means the same everywhere)."
    )
    return [Note(text=text)]


def _parts_table(folds: Sequence[Fold], *, split: str) -> Table:
    """AUROC, F1 and grade distance in each part of the data, mean over the seeds."""
    one = folds[0]
    columns = _columns(one)
    keys = ("auroc_macro", "f1_macro", "grade_mae")

    def metrics_of(fold: Fold) -> RowMetrics:
        def found(rows: NDArray[np.int64]) -> Mapping[str, float]:
            table = classification_metrics(
                fold.probs_nk[rows], fold.labels_n[rows], class_names=fold.classes, predicted_n=fold.decoded_n[rows]
            )
            return {key: table[key] for key in keys}

        return found

    parts = [subgroup_metrics(metrics_of(f), f.labels_n, columns, num_classes=len(f.classes)) for f in folds]
    rows = []
    for seeds in zip(*parts, strict=True):
        part = seeds[0]
        values = [mean_and_sd([each.metrics.get(key, float("nan")) for each in seeds]) for key in keys]
        rows.append(
            (
                word(PARTS.get(part.column, part.column)),
                word(part.value),
                count(part.num_rows),
                word(" / ".join(f"{n:,}" for n in part.class_counts)),
                *(mean_sd(*value) for value in values),
            )
        )
    return Table(
        name="parts",
        caption=f"Every part of the {split_name(split)} split",
        columns=("part", "", "images", " / ".join(one.classes), "macro AUROC", "macro F1", "grade MAE"),
        rows=tuple(rows),
        words=(0, 1, 3),
        note="A dash: undefined, because a class is missing in that part.",
    )


def _columns(fold: Fold) -> dict[str, NDArray[np.str_]]:
    columns = {name: fold.facts[name] for name in PARTS if name in fold.facts}
    known = {name: values for name, values in columns.items() if len(np.unique(values)) > 1}
    if np.isfinite(fold.ages_n).any():
        known["age"] = age_bins(fold.ages_n)
    return {name: values for name, values in known.items() if not (values == UNKNOWN).all()}


def _alarm(folds: Sequence[Fold]) -> Note:
    """Is the pooled area much above the local ones? Of the first seed, with an interval over patients."""
    fold = folds[0]
    rows = resampling(len(fold.labels_n), groups=fold.patients_n)
    found = shortcut_alarm(fold.probs_nk[:, -1], _is_positive(fold), fold.segments_n, rows=rows, resamples=1000)
    if found.state == "undefined":
        return Note(text=f"Shortcut alarm: undefined, because {found.reason}.")
    numbers = (
        f"pooled AUROC {number(found.pooled)}, mean of the segments {number(found.local_mean)}, difference "
        f"{found.difference:+.3f} (95 % CI {found.low:+.3f} to {found.high:+.3f}, threshold {found.threshold:.3f})"
    )
    if found.state == "raised":
        text = f"Shortcut alarm RAISED: {numbers}. The network may recognise where an image comes from."
        return Note(text=text, kind="warning")
    return Note(text=f"Shortcut alarm: quiet; {numbers}.")
