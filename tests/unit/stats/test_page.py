"""The page on statistics: its examples run, and the numbers that it states are those that the functions give."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special

import study.stats
from study.metrics import classification_metrics
from study.stats import hedges_g_from_summary, welch_from_summary

PAGE = (Path(__file__).parents[3] / "docs" / "statistics.md").read_text(encoding="utf-8")


def table_below(heading):
    """Cells of the rows of the first table whose heading starts so."""
    lines = PAGE[PAGE.index(f"| {heading}") :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.fixture
def names():
    """What the examples take for granted."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{index}" for index in range(30)], 4)
    labels = np.repeat(rng.integers(2, size=60), 2)
    scores = special.expit(2 * labels - 1 + rng.normal(size=120))
    grades = rng.integers(3, size=120)
    probs = special.softmax(np.eye(3)[grades] + rng.normal(size=(120, 3)), axis=1)
    return {name: getattr(study.stats, name) for name in study.stats.__all__} | {
        "classification_metrics": classification_metrics,
        "patients": patients,
        "exams": patients,
        "sides": np.tile(["L", "L", "R", "R"], 30),
        "labels": labels,
        "scores": scores,
        "scores_a": scores,
        "scores_b": special.expit(2 * labels - 1 + 2 * rng.normal(size=120)),
        "val_scores": scores[::-1],
        "val_labels": labels[::-1],
        "grades": grades,
        "probs": probs,
        "val_probs": probs,
        "val_grades": grades,
        "segments": rng.choice(["a", "b"], 120),
        "views": np.tile(["CC", "MLO"], 60),
        "densities": rng.choice(["A", "B"], 120),
        "ages": rng.integers(35, 80, size=120),
    }


def test_examples_run(names, capsys):
    """Every example of the page runs, one after the other, and what it prints are numbers."""
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == 6
    for example in examples:
        exec(example, names)
    printed = capsys.readouterr().out
    assert "nan" not in printed
    assert "segment a" in printed
    assert names["calibrated"].shape == (120, 3)


def test_every_function_named_exists():
    """Functions named in the table of tests exist."""
    named = re.findall(r"`(\w+)`", " ".join(row[1] for row in table_below("question")))
    assert len(named) >= 14
    assert set(named) <= set(study.stats.__all__)


def test_what_the_ordinal_paper_implies():
    """The SDs, interval and effect that the page derives from the text of the ordinal paper."""
    (
        emd,
        *_,
    ) = (row for row in table_below("comparison") if row[0].startswith("VinDr, AUROC"))

    def seed_sd(a, b, p, *, is_equal=True):
        def excess(sd):
            return welch_from_summary(a, sd, 5, mean_b=b, sd_b=sd if is_equal else 0.0, n_b=5).p - p

        return optimize.brentq(excess, 1e-4, 0.05)

    equal = seed_sd(0.7694, 0.7628, 0.03)
    found = welch_from_summary(0.7694, equal, 5, mean_b=0.7628, sd_b=equal, n_b=5)
    effect = hedges_g_from_summary(0.7694, equal, 5, mean_b=0.7628, sd_b=equal, n_b=5)
    one_sided = seed_sd(0.7694, 0.7628, 0.03, is_equal=False)
    for text in (
        f"{equal:.4f} if both",
        f"{one_sided:.4f} for one",
        f"{found.difference:.4f} ({found.low:.4f} to {found.high:.4f})",
        f"g = {effect:.1f}",
    ):
        assert text in emd[-1]
    assert f"under {seed_sd(0.8481, 0.8309, 0.05):.4f}" in PAGE
    assert f"under {seed_sd(0.5927, 0.5833, 0.05):.4f}" in PAGE


def test_alarm_table():
    """The table behind the alarm's threshold follows from the counts of the paper and normal scores, exactly."""
    positives, negatives = {"rich": 7258, "poor": 160}, {"rich": 13341, "poor": 21871}
    rows = table_below("local area")
    for row, skill in zip(rows, (0.0, 1.0, 1.5), strict=True):
        local = special.ndtr(skill / math.sqrt(2))
        assert row[0] == f"{local:.3f}"
        for cell, shift in zip(row[1:], (0.25, 0.5, 1, 2, 1e9), strict=True):
            pooled = sum(
                positives[p] * negatives[n] * special.ndtr((skill + shift * ((p == "rich") - (n == "rich"))) / 2**0.5)
                for p in positives
                for n in negatives
            ) / (sum(positives.values()) * sum(negatives.values()))
            assert float(cell) == pytest.approx(pooled - local, abs=6e-4)
    thresholds = [min(0.05, 0.2 * (1 - float(row[0]))) for row in rows]
    assert thresholds == pytest.approx([0.05, 0.048, 0.029], abs=5e-4)
    for row, threshold in zip(rows, thresholds, strict=True):
        assert float(row[1]) < threshold < float(row[2])
