"""The comparison in the form of the papers: mean ± SD over seeds, p against the baseline, bold where it holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from study.config import mode_of
from study.metrics import classification_metrics
from study.report.page.answer import compared, metric_name
from study.report.page.cells import between, mean_sd, metric, p_value, word
from study.report.page.drawing import COLOURS, INK, picture, say
from study.report.page.evidence import Arm, Evidence, Fold
from study.report.page.parts import Block, Cell, Note, Picture, Pictures, Section, Table
from study.report.ranking import BASELINE, SIGNIFICANT, confirm_ranked, test_metric, verdict
from study.report.words import number, params_text
from study.stats import PairedDifference, area_metric, bootstrap_difference, holm, resampling, welch
from study.stats.resampling import Metric
from study.types import ConfirmRow

SHORT: Final = {
    "auroc_macro": "AUROC",
    "f1_macro": "F1",
    "balanced_accuracy": "bal. acc.",
    "qwk": "kappa",
    "grade_mae": "grade MAE",
    "mcc": "MCC",
    "ece": "ECE",
}
RESAMPLES: Final = 2000
SLOW_RESAMPLES: Final = 500  # of metrics that are no areas: 1 ms each, for every seed of both sides


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    """One configuration's values of one metric over its seeds, and its Welch p-values against the baseline."""

    values: tuple[float, ...]
    p: float = math.nan
    p_holm: float = math.nan

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def sd(self) -> float:
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan


def comparison_section(evidence: Evidence) -> Section:
    """Who is better, by how much, and whether that is chance of seeds or of patients."""
    result = evidence.result
    if not result.confirmed:
        text = "No configuration was confirmed: without several seeds and the test split there is nothing to compare."
        note = Note(text=text, kind="missing", command=evidence.command("confirm"))
        return Section(key="comparison", title="Comparison", finding="Nothing is confirmed yet.", blocks=(note,))
    blocks: list[Block] = [_main_table(evidence), Pictures(pictures=(_dots_picture(evidence),))]
    blocks += _other_metrics(evidence)
    blocks += _other_tasks(evidence)
    blocks += _by_patients(evidence)
    blocks += [_comparators(evidence)] if result.comparators else []
    if all(row.trial != BASELINE for row in result.confirmed):
        text = "The baseline was not confirmed, so there are no p-values: set confirm.baseline to true."
        blocks.append(
            Note(text=text, kind="missing", command=evidence.command("resume", "--set confirm.baseline=true"))
        )
    return Section(key="comparison", title="Comparison", finding=verdict(result), blocks=tuple(blocks))


def _main_table(evidence: Evidence) -> Table:
    result = evidence.result
    rows = []
    for row in confirm_ranked(result):
        is_baseline = row.trial == BASELINE
        holds = not math.isnan(row.p_holm) and row.p_holm < SIGNIFICANT
        rows.append(
            (
                word(row.trial if is_baseline else f"trial {row.trial}"),
                word(params_text(row.params) or "as in the study file"),
                Cell(text=str(len(row.values)), value=len(row.values)),
                mean_sd(row.mean, row.sd, bold=holds),
                between(row.low, row.high),
                *_against(row, evidence, holds=holds),
            )
        )
    name = metric_name(test_metric(result))
    seeds = "one seed has no SD and no p-value. " if any(len(row.values) < 2 for row in result.confirmed) else ""
    return Table(
        name="comparison",
        caption=f"{name[0].upper()}{name[1:]} on the test split: mean ± SD over seeds",
        columns=("", "configuration", "seeds", "mean ± SD", "95 % CI", "difference", "Hedges' g", "p", "p (Holm)"),
        rows=tuple(rows),
        words=(0, 1),
        note=f"Difference, Hedges' g and Welch's p against the baseline; {seeds}bold: holds at {SIGNIFICANT:g} after "
        f"Holm's correction over the confirmed trials.",
    )


def _against(row: ConfirmRow, evidence: Evidence, *, holds: bool) -> tuple[Cell, ...]:
    base = evidence.confirmed(BASELINE)
    if row.trial == BASELINE or base is None:
        return (metric(None),) * 4
    found = row.mean - base.mean
    difference = metric(None) if math.isnan(found) else Cell(text=f"{found:+.3f}", value=found)
    return difference, metric(row.effect), p_value(row.p), p_value(row.p_holm, bold=holds)


def _dots_picture(evidence: Evidence) -> Picture:
    result = evidence.result
    rows = [row for row in confirm_ranked(result) if any(math.isfinite(value) for value in row.values)]

    def draw(axes: Axes) -> None:
        axes.set(xlabel=metric_name(test_metric(result)), title="Test split, every seed")
        if not rows:
            say(axes, "no value is defined")
            return
        for height, row in enumerate(rows):
            colour = INK if row.trial == BASELINE else COLOURS[height % len(COLOURS)]
            axes.plot(row.values, [height + 0.18] * len(row.values), "o", color=colour, alpha=0.5, markersize=6)
            axes.plot([row.low, row.high], [height, height], color=colour, linewidth=2, marker="|", markersize=9)
            axes.plot([row.mean], [height], "D", color=colour, markersize=7, markeredgecolor="white")
            if row.trial == BASELINE:
                axes.axvline(row.mean, color=INK, linestyle=":", linewidth=1.1)
        axes.set_yticks(range(len(rows)), [_title(row) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")

    return picture(
        "confirmation",
        draw,
        caption="Dots are seeds, diamonds their mean, lines its 95 % interval (Student's t), the dotted line the "
        "baseline's mean.",
        alt="; ".join(f"{_title(row)} {number(row.mean)}" for row in rows),
        size=(6.4, 0.9 + 0.75 * max(2, len(rows))),
    )


def _title(row: ConfirmRow | Arm) -> str:
    return row.trial if row.trial == BASELINE else f"trial {row.trial}"


def _other_metrics(evidence: Evidence) -> list[Block]:
    """The study's metric was asked for beforehand; all others are corrected together."""
    own = test_metric(evidence.result).removeprefix("test/")
    order = [row.trial for row in confirm_ranked(evidence.result)]
    scores = {name: _scores(evidence, name) for name in SHORT if name != own}
    scores = {name: found for name, found in scores.items() if any(score.values for score in found.values())}
    if not scores:
        return []
    p_values = {(name, trial): score.p for name, found in scores.items() for trial, score in found.items()}
    known = [key for key, p in p_values.items() if not math.isnan(p)]
    corrected = dict(zip(known, holm([p_values[key] for key in known]), strict=True))
    seeds = {row.trial: row for row in evidence.result.confirmed}
    rows = []
    for trial in order:
        cells = [_score_cell(scores[name].get(trial), corrected.get((name, trial), math.nan)) for name in scores]
        rows.append((word(_title(seeds[trial])), *cells))
    arrows = [f"{SHORT[name]} {'↑' if mode_of(f'val/{name}') == 'max' else '↓'}" for name in scores]
    return [
        Table(
            name="metrics",
            caption="Other metrics on the test split: mean ± SD over seeds",
            columns=("", *arrows),
            rows=tuple(rows),
            note="AUROC and F1 are macro averages, kappa has quadratic weights. Arrows: more or less is better. "
            "In brackets Welch's p against the baseline, uncorrected; bold: holds at "
            f"{SIGNIFICANT:g} after Holm's correction over all {len(known)} comparisons of this table.",
        )
    ]


def _score_cell(score: _Score | None, p_holm: float) -> Cell:
    if score is None or math.isnan(score.mean):
        return metric(None)
    holds = not math.isnan(p_holm) and p_holm < SIGNIFICANT
    cell = mean_sd(score.mean, score.sd, bold=holds)
    p = "" if math.isnan(score.p) else f" ({score.p:.2f})" if score.p >= 0.01 else f" ({score.p:.1g})"
    return Cell(text=cell.text + p, value=cell.value, bold=holds)


def _scores(evidence: Evidence, name: str) -> dict[str, _Score]:
    key = f"test/{name}"
    values: dict[str, list[float]] = {}
    for row in evidence.result.confirmed:
        found = {
            record.seed: record.outcome.metrics.get(key, math.nan)
            for record in evidence.ledgered.records
            if record.trial == row.trial and record.kind == "evaluate"
        }
        values[row.trial] = [found[seed] for seed in row.seeds if math.isfinite(found.get(seed, math.nan))]
    base = values.get(BASELINE, [])
    return {
        trial: _Score(values=tuple(sample), p=welch(sample, base).p if _is_testable(trial, sample, base) else math.nan)
        for trial, sample in values.items()
    }


def _is_testable(trial: str, sample: Sequence[float], base: Sequence[float]) -> bool:
    return trial != BASELINE and len(sample) > 1 and len(base) > 1


def _other_tasks(evidence: Evidence) -> list[Block]:
    """Auxiliary tasks of the same networks; they are told, and not tested against anything."""
    keys = {key for record in evidence.ledgered.records for key in record.outcome.metrics}
    tasks = sorted({key.split("/")[2] for key in keys if key.startswith("test/task/")} - {"reconstruction"})
    shown = ("auroc_macro", "f1_macro", "qwk", "grade_mae")
    rows = []
    for task in tasks:
        found = {name: _scores(evidence, f"task/{task}/{name}") for name in shown}
        for row in confirm_ranked(evidence.result):
            scores = [found[name][row.trial] for name in shown]
            rows.append((word(task), word(_title(row)), *(mean_sd(score.mean, score.sd) for score in scores)))
    if not rows:
        return []
    return [
        Table(
            name="tasks-test",
            caption="Auxiliary tasks of the same networks on the test split: mean ± SD over seeds",
            columns=("task", "", *(SHORT[name] for name in shown)),
            rows=tuple(rows),
            words=(0, 1),
        )
    ]


def _by_patients(evidence: Evidence) -> list[Block]:
    """The other kind of chance: the same networks on other patients."""
    chosen, base, comparison = evidence.chosen, evidence.baseline, compared(evidence)
    if comparison is None or chosen is None or base is None:
        return []
    shared = [seed for seed in chosen.test if seed in base.test]
    if not shared:
        text = "The predictions of the confirmed runs are not in the study's folder, so patients cannot be resampled."
        return [Note(text=text, kind="missing", command=evidence.command("resume"))]
    name = test_metric(evidence.result).removeprefix("test/")
    found = patient_difference([chosen.test[s] for s in shared], [base.test[s] for s in shared], metric=name)
    if found is None:
        return [Note(text=f"{metric_name(name)} cannot be resampled from the predictions.", kind="missing")]
    fold = chosen.test[shared[0]]
    cells = (
        word(f"{_title(chosen)} against the baseline"),
        Cell(text=f"{found.difference:+.3f}", value=found.difference),
        between(found.low, found.high),
        p_value(found.p),
        Cell(text=f"{len(set(fold.patients_n)):,}", value=len(set(fold.patients_n))),
    )
    return [
        Table(
            name="patients",
            caption=f"The same networks on other patients: {metric_name(name)}, mean over {len(shared)} seeds",
            columns=("", "difference", "95 % CI", "p", "patients"),
            rows=(cells,),
            note="Paired bootstrap of whole patients of the test split, percentile interval. A claim on a method needs "
            "both: this interval and the one over seeds."
            + (f" {found.reason[0].upper()}{found.reason[1:]}." if found.reason else ""),
        )
    ]


def patient_difference(first: Sequence[Fold], second: Sequence[Fold], *, metric: str) -> PairedDifference | None:
    """Difference of two configurations, mean over their seeds, with patients resampled; None for other metrics."""
    one = first[0]
    if any(
        len(fold.labels_n) != len(one.labels_n) or (fold.patients_n != one.patients_n).any()
        for fold in (*first, *second)
    ):
        return None
    rows = resampling(len(one.labels_n), groups=one.patients_n)
    if metric == "auroc_macro":
        sides = [[area_metric(_scores_of(fold), fold.labels_n) for fold in side] for side in (first, second)]
        resamples = RESAMPLES
    elif metric in classification_metrics(one.probs_nk, one.labels_n, class_names=one.classes):
        sides = [[_weighted(fold, metric) for fold in side] for side in (first, second)]
        resamples = SLOW_RESAMPLES
    else:
        return None

    return bootstrap_difference(_mean_of(sides[0]), _mean_of(sides[1]), rows, resamples=resamples, seed=0)


def _mean_of(metrics: Sequence[Metric]) -> Metric:
    return lambda count_n: float(np.mean([each(count_n) for each in metrics]))


def _scores_of(fold: Fold) -> NDArray[np.float64]:
    return fold.probs_nk[:, 1] if fold.probs_nk.shape[1] == 2 else fold.probs_nk


def _weighted(fold: Fold, name: str) -> Metric:
    def value(count_n: NDArray[np.int64]) -> float:
        found = classification_metrics(
            fold.probs_nk,
            fold.labels_n,
            class_names=fold.classes,
            predicted_n=fold.decoded_n,
            sample_weight=count_n,
        )
        return found[name]

    return value


def _comparators(evidence: Evidence) -> Table:
    kinds: Mapping[str, str] = {"ensemble": "ensemble over seeds", "mc_dropout": "Monte-Carlo dropout"}
    rows = tuple(
        (
            word(row.trial if row.trial == BASELINE else f"trial {row.trial}"),
            word(kinds[row.kind]),
            metric(row.value),
            between(row.low, row.high),
            word("patients" if row.kind == "ensemble" else "seeds"),
        )
        for row in evidence.result.comparators
    )
    return Table(
        name="comparators",
        caption="Other uses of the confirmed runs, on the test split",
        columns=("", "method", "value", "95 % CI", "interval over"),
        rows=rows,
        words=(0, 1, 4),
        note="An ensemble is one network: its interval holds for other patients, not for other seeds.",
    )
