#!/usr/bin/env python3
"""Writes the numbers, tables and picture of reproductions.md.

With the folder of the studies of ``search_spaces/phantoms`` it reads their ledgers into reproductions.csv; in any case
it makes the tables of the page, between their marks, and the picture from that file.
"""

import csv
import json
import math
import re
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from study.stats import hedges_g, holm, welch

HERE = Path(__file__).parent
NUMBERS, PAGE, PICTURE = (HERE / f"reproductions.{ending}" for ending in ("csv", "md", "png"))
BASELINE = "baseline"
NOT_RUN = "Not run yet."
LOCAL = "mean local AUROC"  # pooled, less what it is above the mean of the segments
GAP = "pooled - local"
LAST = "recall of the rarest class"
LOWER = ("test/grade_mae", GAP)  # is better
CONFUSION = "confusion_test.json"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One study: its ``metrics``, the ones asked beforehand first, and the names of its configurations."""

    metrics: dict[str, str]
    num_asked: int = 1
    names: dict[str, str] = field(default_factory=dict)


AUROC = {"test/auroc_macro": "AUROC"}
STUDIES = {
    "phantoms-periodic": Asked(
        metrics={
            LOCAL: LOCAL,
            GAP: GAP,
            "test/auroc_macro": "pooled AUROC",
            "test/segment/t1.Alpha/auroc_macro": "AUROC of site 1",
            "test/segment/t2.Beta/auroc_macro": "AUROC of site 2",
        },
        num_asked=2,
        names={BASELINE: "bal_labels"},
    ),
    "phantoms-ordinal-losses": Asked(
        metrics={"test/grade_mae": "grade MAE", "test/qwk": "QWK", **AUROC},
        names={BASELINE: "cross_entropy"},
    ),
    "phantoms-ordinal-balancing": Asked(
        metrics={**AUROC, "test/f1_macro": "macro F1", "test/grade_mae": "grade MAE"},
        names={BASELINE: "none"},
    ),
    "phantoms-imbalance": Asked(
        metrics={
            "test/balanced_accuracy": "balanced accuracy",
            "test/f1_macro": "macro F1",
            "test/mcc": "MCC",
            LAST: LAST,
        },
        names={BASELINE: "none, cross_entropy"},
    ),
    "phantoms-alpa": Asked(
        metrics={
            "test/balanced_accuracy": "balanced accuracy",
            "test/f1_macro": "macro F1",
            LAST: LAST,
        },
        names={BASELINE: "cross_entropy"},
    ),
    "phantoms-few-labels": Asked(metrics={**AUROC, "test/f1_macro": "macro F1"}, names={BASELINE: "malignancy alone"}),
    "mias": Asked(
        metrics={
            **AUROC,
            "test/balanced_accuracy": "balanced accuracy",
            "test/f1_macro": "macro F1",
            "test/qwk": "QWK",
        },
        names={BASELINE: "cross_entropy, label, lr 0.001"},
    ),
    "phantoms-doubtful-labels": Asked(metrics={**AUROC, "test/f1_macro": "macro F1"}, names={BASELINE: "u = 0"}),
}

# Values by study, configuration, metric and seed.
Numbers = dict[str, dict[str, dict[str, dict[int, float]]]]


def read_ledgers(folder: Path) -> Numbers:
    """What the confirmation of each study measured on the test split; studies that are not there are left out."""
    from study.config import load_config
    from study.ledger import Ledger, default_url

    found: Numbers = {}
    for study, asked in STUDIES.items():
        directory = folder / study
        if not directory.is_dir():
            continue
        ledger = Ledger.open(default_url(directory), config=load_config(directory / "study.yaml"), read_only=True)
        params = {row.trial: row.params for row in ledger.rows()}
        for record in ledger.run_records():
            if record.kind != "evaluate":
                continue
            name = asked.names.get(record.trial) or words_of(params[record.trial])
            confusion = json.loads((directory / "runs" / f"{record.trial}-s{record.seed}" / CONFUSION).read_text())
            values = with_own(record.outcome.metrics, confusion)
            for metric in asked.metrics:
                found.setdefault(study, {}).setdefault(name, {}).setdefault(metric, {})[record.seed] = values[metric]
    return found


def words_of(params: dict[str, object]) -> str:
    """A configuration by its values; names of parameters only where a value alone says nothing."""
    marks = {"data.labels.uncertainty.synthetic": "u = ", "optim.lr": "lr "}
    texts = {path: f"{value:.3g}" if isinstance(value, float) else str(value) for path, value in params.items()}
    return ", ".join(f"{marks.get(path, '')}{text}" for path, text in texts.items())


def with_own(metrics: dict[str, float], confusion: dict[str, Any]) -> dict[str, float]:
    """The metrics of a run with the mean of the local AUROCs and the recall of the last class."""
    gap = metrics.get("test/pooled_minus_local_auroc", math.nan)
    last = confusion["rows_are_labels"][-1]
    return {**metrics, GAP: gap, LOCAL: metrics["test/auroc_macro"] - gap, LAST: last[-1] / sum(last)}


def write_numbers(numbers: Numbers) -> None:
    """One line for each study, configuration, metric and seed."""
    with NUMBERS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["study", "configuration", "metric", "seed", "value"])
        for study, arms in numbers.items():
            for name, metrics in arms.items():
                for metric, values in metrics.items():
                    writer.writerows([study, name, metric, seed, f"{values[seed]:.6f}"] for seed in sorted(values))


def read_numbers() -> Numbers:
    """The file that `write_numbers` wrote."""
    found: Numbers = {}
    with NUMBERS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            arm = found.setdefault(row["study"], {}).setdefault(row["configuration"], {})
            arm.setdefault(row["metric"], {})[int(row["seed"])] = float(row["value"])
    return found


def tables_of(study: str, numbers: Numbers) -> list[str]:
    """Two tables of a study: the metrics asked beforehand, tested against the baseline, and means of the others."""
    asked, arms = STUDIES[study], numbers[study]
    base = asked.names[BASELINE]
    others = [name for name in arms if name != base]
    first = list(asked.metrics)[: asked.num_asked]
    pairs = [(metric, name) for metric in first for name in others]
    tests = {pair: welch(values_of(arms, *pair), values_of(arms, pair[0], base)) for pair in pairs}
    adjusted = dict(zip(pairs, holm([tests[pair].p for pair in pairs]), strict=True))
    lines = []
    for metric in first:
        lines += ["", f"| | {asked.metrics[metric]} | difference (95 % interval) | Hedges g | p after Holm |"]
        lines += ["|---|---|---|---|---|", f"| {base} (baseline) | {spread(values_of(arms, metric, base))} | | | |"]
        sign = 1 if metric in LOWER else -1
        for name in sorted(others, key=lambda name: sign * statistics.mean(values_of(arms, metric, name))):
            test, p = tests[metric, name], adjusted[metric, name]
            effect = hedges_g(values_of(arms, metric, name), values_of(arms, metric, base))
            lines.append(
                f"| {name} | {spread(values_of(arms, metric, name))} | {shown(test.difference)} ({shown(test.low)} to "
                f"{shown(test.high)}) | {shown(effect, 2)} | {'< 0.001' if p < 0.001 else shown(p, sign='')} |"
            )
    rest = list(asked.metrics)[asked.num_asked :]
    lines += ["", f"| | {' | '.join(asked.metrics[metric] for metric in rest)} |", "|---" * (len(rest) + 1) + "|"]
    for name in [base, *others]:
        lines.append(f"| {name} | {' | '.join(spread(values_of(arms, metric, name)) for metric in rest)} |")
    return [*lines, ""]


def values_of(arms: dict[str, dict[str, dict[int, float]]], metric: str, name: str) -> list[float]:
    """Values by seed."""
    return [value for _, value in sorted(arms[name][metric].items())]


def shown(value: float, digits: int = 3, *, sign: str = "+") -> str:
    """A number, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def spread(values: list[float]) -> str:
    """Mean and sample SD."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def page_with(numbers: Numbers, page: str) -> str:
    """The page with the tables of all studies in their places."""
    for study in STUDIES:
        text = "\n".join(tables_of(study, numbers) if study in numbers else ["", NOT_RUN, ""])
        pattern = rf"(<!-- {study} -->\n).*?(<!-- end -->)"
        page, count = re.subn(pattern, lambda found, text=text: found[1] + text + found[2], page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE.name} has {count} places for {study}; expected one")
    return page


def draw(numbers: Numbers) -> None:
    """Pooled and local AUROC of each strategy, a point a seed."""
    from matplotlib.figure import Figure

    arms = numbers["phantoms-periodic"]
    names = sorted(arms, key=lambda name: name != STUDIES["phantoms-periodic"].names[BASELINE])
    drawn = ["test/auroc_macro", "test/segment/t1.Alpha/auroc_macro", "test/segment/t2.Beta/auroc_macro"]
    figure = Figure(figsize=(7, 3.4), dpi=130, layout="constrained")
    axes = figure.subplots()
    for place, (metric, colour) in enumerate(zip(drawn, ("black", "tab:blue", "tab:green"), strict=True)):
        for row, name in enumerate(names):
            values, at = values_of(arms, metric, name), row + 0.22 * (place - 1)
            label = STUDIES["phantoms-periodic"].metrics[metric] if row == 0 else None
            axes.plot(values, np.full(len(values), at), "o", color=colour, alpha=0.55, markersize=5, label=label)
            axes.plot([statistics.mean(values)], [at], "|", color=colour, markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("AUROC on the test split, five seeds; bars are means")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(PICTURE)


def films(directory: Path) -> list[str]:
    """Of the mean over seeds of each configuration of the films the interval for other patients, and the difference."""
    import pandas as pd

    from study.stats import area_metric, bootstrap, bootstrap_difference, highest_in_group, resampling

    metrics: dict[str, Any] = {}
    for path in sorted((directory / "runs").glob("*/predictions_test.parquet")):
        table = pd.read_parquet(path).sort_values("image_id", ignore_index=True)
        columns = [name for name in table if name.startswith("probability_")]
        classes = [name.removeprefix("probability_") for name in columns]
        labels, patients = table["label"].map(classes.index).to_numpy(), table["patient_id"].to_numpy(dtype=str)
        metrics.setdefault(path.parent.name.rpartition("-s")[0], []).append(area_metric(table[columns], labels))
    rows = resampling(len(labels), groups=patients, strata=highest_in_group(labels, patients))
    means = {
        trial: lambda count_n, own=own: statistics.mean(area(count_n) for area in own) for trial, own in metrics.items()
    }
    lines = [f"{len(labels)} films, {len(set(patients))} patients, 2,000 resamples of patients"]
    for trial, mean in means.items():
        found = bootstrap(mean, rows)
        lines.append(f"{trial}: AUROC {found.value:.3f} ({found.low:.3f} to {found.high:.3f})")
        if trial != BASELINE:
            gap = bootstrap_difference(mean, means[BASELINE], rows)
            lines.append(
                f"{trial} - {BASELINE}: {gap.difference:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}), p = {gap.p:.3f}"
            )
    return lines


def main() -> None:
    """Bring file, page and picture up to date."""
    if len(sys.argv) > 1:
        studies = Path(sys.argv[1])
        write_numbers(read_ledgers(studies))
        if (studies / "mias").is_dir():
            sys.stdout.write("\n".join([*films(studies / "mias"), ""]))
    numbers = read_numbers()
    PAGE.write_text(page_with(numbers, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    if "phantoms-periodic" in numbers:
        draw(numbers)


if __name__ == "__main__":
    main()
