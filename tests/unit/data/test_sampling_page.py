"""The page on batches shows what the samplers do: its pattern, its table and its picture."""

import json
import runpy
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "what-a-batch-holds.md").read_text(encoding="utf-8")
SCRIPT = runpy.run_path(str(ROOT / "docs" / "draw_batches.py"))
GOLDEN = json.loads((ROOT / "tests" / "golden" / "samplers.json").read_text())


def test_the_table_is_what_the_plans_draw():
    """Every line of the comparison on the page is what the plans give today."""
    for line in SCRIPT["table_1"]():
        assert line in PAGE.splitlines()


def test_the_pattern_is_that_of_figure_2():
    """The pattern on the page, and the turns in the picture, are those of figure 2."""
    assert " ".join(map(str, GOLDEN["figure2"]["pattern"])) in PAGE.splitlines()
    (batch,) = SCRIPT["figure_2"]().describe().batches
    assert [[int(segment[-1]), label] for segment, label in batch] == GOLDEN["trace_fig2_Y0_zero"]


def test_the_picture_is_small_and_there():
    """The picture of the page is a PNG of a few kilobytes."""
    content = (ROOT / "docs" / "what-a-batch-holds.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 50_000


def test_shares_told_in_the_text():
    """With balanced labels 75 % of the benign draws and 4 % of the malignant ones are from the second source."""
    plan = SCRIPT["plan_of"]("bal_labels", SCRIPT["TABLE_1"], batch_size=24, num_steps=150_000, seed=0)
    summary = plan.summary()
    second = summary[summary["segment"].str.startswith("S2")].groupby("label")["share"].sum()
    np.testing.assert_allclose(second / summary.groupby("label")["share"].sum(), [0.75, 0.04], atol=0.005)
