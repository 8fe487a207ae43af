"""The mistakes: confusion matrices, how many grades off, and whether probabilities mean what they say."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from study.report.page.cells import mean_sd, word
from study.report.page.drawing import COLOURS, FAINT, GRID, INK, figure_picture, picture, say
from study.report.page.evidence import Arm, Evidence, Fold
from study.report.page.folds import mean_and_sd, missing_predictions, on_validation, read_folds, split_name
from study.report.page.parts import Block, Picture, Pictures, Section, Table
from study.report.words import number
from study.stats import Temperature, calibration_curve, fit_temperature, log_probs

BINS = 10


def mistakes_section(evidence: Evidence) -> Section:
    """What is taken for what, and how far off."""
    arms = _arms(evidence)
    if not arms:
        return missing_predictions(evidence, key="mistakes", title="Errors")
    split = read_folds(arms[0])[1]
    matrices = tuple(_confusion_picture(arm) for arm in arms)
    blocks: list[Block] = [*on_validation(split, evidence), Pictures(pictures=(*matrices, _severity_picture(arms)))]
    blocks.append(_severity_table(arms))
    folds = read_folds(arms[0])[0]
    far = [float((np.abs(fold.decoded_n - fold.labels_n) > 1).mean()) for fold in folds]
    wrong = [float((fold.decoded_n != fold.labels_n).mean()) for fold in folds]
    finding = f"{arms[0].title.capitalize()} is wrong in {np.mean(wrong):.1%} of the images"
    finding += f", by more than one grade in {np.mean(far):.1%}." if len(folds[0].classes) > 2 else "."
    return Section(key="mistakes", title="Errors", finding=finding, blocks=tuple(blocks))


def _arms(evidence: Evidence) -> list[Arm]:
    return [arm for arm in (evidence.chosen, evidence.baseline) if arm is not None and read_folds(arm)[0]]


def _confusion(fold: Fold) -> NDArray[np.float64]:
    size = len(fold.classes)
    cells = np.bincount(fold.labels_n * size + fold.decoded_n, minlength=size * size)
    return cells.reshape(size, size).astype(np.float64)


def _confusion_picture(arm: Arm) -> Picture:
    folds, split = read_folds(arm)
    classes = folds[0].classes
    counts_kk = np.mean([_confusion(fold) for fold in folds], axis=0)
    shares_kk = counts_kk / np.maximum(counts_kk.sum(axis=1, keepdims=True), 1)

    def draw(axes: Axes) -> None:
        axes.imshow(shares_kk, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts_kk.shape):
            shade = "white" if shares_kk[row, column] > 0.55 else INK
            mean = counts_kk[row, column]
            text = (
                f"{shares_kk[row, column]:.0%}\n{mean:.0f}"
                if len(folds) == 1
                else f"{shares_kk[row, column]:.0%}\n{mean:.1f}"
            )
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=9)
        axes.set_xticks(range(len(classes)), classes, rotation=20 if len(classes) > 3 else 0)
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="decided", ylabel="true", title=arm.title)
        axes.spines[:].set_visible(False)

    return picture(
        f"confusion-{arm.trial}",
        draw,
        caption=f"{arm.title.capitalize()} on {split_name(split)}: share of each true class, and "
        f"images{'' if len(folds) == 1 else f', mean over {len(folds)} seeds'}.",
        alt=f"Confusion matrix of {arm.title}",
        size=(4.2, 3.9),
        grid=False,
    )


def _distances(folds: Sequence[Fold]) -> NDArray[np.float64]:
    """Share of the images that are decided 0, 1, ... grades off, mean over the seeds, [K]."""
    size = len(folds[0].classes)
    shares = [np.bincount(np.abs(f.decoded_n - f.labels_n), minlength=size) / max(1, len(f.labels_n)) for f in folds]
    return np.asarray(np.mean(shares, axis=0), dtype=np.float64)


def _severity_picture(arms: Sequence[Arm]) -> Picture:
    shares = [_distances(read_folds(arm)[0]) for arm in arms]

    def draw(axes: Axes) -> None:
        shades = ["#cfe0f3", "#f6c28b", "#e0703c", "#b3261e", "#7a120e", "#4a0a08"]
        left = np.zeros(len(arms))
        for distance in range(len(shares[0])):
            part = np.array([share[distance] for share in shares])
            name = "right" if distance == 0 else f"{distance} {'grade' if distance == 1 else 'grades'} off"
            axes.barh(
                [arm.title for arm in arms], part, left=left, color=shades[min(distance, 5)], label=name, height=0.55
            )
            for height, (start, width) in enumerate(zip(left, part, strict=True)):
                if width > 0.06:
                    axes.text(start + width / 2, height, f"{width:.0%}", ha="center", va="center", fontsize=9)
            left = left + part
        axes.set(xlim=(0, 1), xlabel="share of images", title="How far off")
        axes.invert_yaxis()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=min(3, len(shares[0])))
        axes.grid(visible=False, axis="y")

    return picture(
        "severity",
        draw,
        caption="Distance of the decision from the true grade, mean over seeds.",
        alt="; ".join(f"{arm.title}: {share[0]:.0%} right" for arm, share in zip(arms, shares, strict=True)),
        size=(4.4, 2.9),
    )


def _severity_table(arms: Sequence[Arm]) -> Table:
    rows = []
    for arm in arms:
        folds, _ = read_folds(arm)
        off = [fold.decoded_n - fold.labels_n for fold in folds]
        numbers = (
            [float(np.abs(each).mean()) for each in off],
            [float((each < 0).mean()) for each in off],
            [float((each > 0).mean()) for each in off],
            [float((np.abs(each) > 1).mean()) for each in off],
            [_missed(fold) for fold in folds],
        )
        rows.append((word(arm.title), *(mean_sd(*mean_and_sd(values)) for values in numbers)))
    classes = read_folds(arms[0])[0][0].classes
    return Table(
        name="severity",
        caption="Severity of errors: mean ± SD over seeds",
        columns=(
            "",
            "grade MAE",
            "graded too low",
            "graded too high",
            "more than one grade off",
            f"{classes[-1]} called {classes[0]}",
        ),
        rows=tuple(rows),
        note=f"Shares of all images; the last column of those that are {classes[-1]}.",
    )


def _missed(fold: Fold) -> float:
    """Share of the highest class that is called the lowest: the worst error there is."""
    is_highest = fold.labels_n == len(fold.classes) - 1
    return float((fold.decoded_n[is_highest] == 0).mean()) if is_highest.any() else float("nan")


def calibration_section(evidence: Evidence) -> Section:
    """Do probabilities mean what they say, before and after a temperature that validation gives?"""
    arms = _arms(evidence)
    if not arms:
        return missing_predictions(evidence, key="calibration", title="Calibration")
    split = read_folds(arms[0])[1]
    blocks: list[Block] = [
        *on_validation(split, evidence),
        Pictures(pictures=tuple(_calibration_picture(arm) for arm in arms)),
    ]
    rows, notes = [], []
    for arm in arms:
        folds, _ = read_folds(arm)
        raw = [calibration_curve(fold.probs_nk, fold.labels_n, bins=15).expected_error for fold in folds]
        after, temperatures, reason = _after_temperature(arm)
        notes += [f"{arm.title}: {reason}"] if reason else []
        cells = [mean_sd(*mean_and_sd(values)) for values in (raw, temperatures, after)]
        rows.append((word(arm.title), *cells))
    blocks.append(
        Table(
            name="calibration",
            caption="Expected calibration error of the most probable class, 15 bins: mean ± SD over seeds",
            columns=("", "ECE", "temperature", "ECE after it"),
            rows=tuple(rows),
            note=". ".join(["The temperature is fitted on validation and applied to test", *notes]) + ".",
        )
    )
    mean, _ = mean_and_sd([calibration_curve(f.probs_nk, f.labels_n).expected_error for f in read_folds(arms[0])[0]])
    finding = f"Probabilities of {arms[0].title} are off by {number(mean)} on average (ECE)."
    return Section(key="calibration", title="Calibration", finding=finding, blocks=tuple(blocks))


def _after_temperature(arm: Arm) -> tuple[list[float], list[float], str]:
    """ECE on test after each seed's own temperature, those temperatures, and why there are none."""
    seeds = [seed for seed in arm.test if seed in arm.val]
    if not seeds:
        return [], [], "no test predictions with validation beside them"
    fitted: dict[int, Temperature] = {}
    for seed in seeds:
        fold = arm.val[seed]
        fitted[seed] = fit_temperature(log_probs(fold.probs_nk), fold.labels_n)
        if fitted[seed].reason:
            return [], [], fitted[seed].reason
    after = [
        calibration_curve(
            fitted[seed].apply(log_probs(arm.test[seed].probs_nk)), arm.test[seed].labels_n, bins=15
        ).expected_error
        for seed in seeds
    ]
    return after, [fitted[seed].value for seed in seeds], ""


def _calibration_picture(arm: Arm) -> Picture:
    folds, split = read_folds(arm)
    probs = np.concatenate([fold.probs_nk for fold in folds])
    labels = np.concatenate([fold.labels_n for fold in folds])
    curve = calibration_curve(probs, labels, bins=BINS)

    def draw_figure(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        for axes in (upper, lower):
            axes.grid(color=GRID, linewidth=0.8)
        upper.plot([0, 1], [0, 1], ":", color=FAINT)
        used = [i for i, size in enumerate(curve.counts) if size]
        if not used:
            say(upper, "no image")
        upper.plot([curve.predicted[i] for i in used], [curve.observed[i] for i in used], "o-", color=COLOURS[0])
        upper.set(ylabel="share right", title=arm.title, xlim=(0, 1), ylim=(0, 1.02))
        middle = [(curve.edges[i] + curve.edges[i + 1]) / 2 for i in range(len(curve.counts))]
        lower.bar(middle, curve.counts, width=0.9 / BINS, color=FAINT)
        lower.set(xlabel="probability of the decided class", ylabel="images")

    return figure_picture(
        f"calibration-{arm.trial}",
        draw_figure,
        caption=f"{arm.title.capitalize()} on {split_name(split)}, images of "
        f"{len(folds)} {'seed' if len(folds) == 1 else 'seeds'} together; "
        "on the dotted line probabilities mean what they say.",
        alt=f"Calibration curve of {arm.title}",
        size=(4.4, 3.9),
    )
