"""The confirmation's statistics from records of runs."""

import math

import pytest

from study.ledger import RunRecord
from study.metrics import range_of
from study.standing import BASELINE, Candidate, confirm_rows
from study.types import RunOutcome

SAMPLES = {"3": (0.90, 0.94, 0.92), BASELINE: (0.80, 0.84, 0.82)}


def rows_of(samples, *, metric="val/auroc_macro"):
    candidates = [Candidate(trial=trial, params={}, config=None) for trial in samples]
    name = metric.removeprefix("val/")
    records = [
        RunRecord(trial=t, seed=s, kind="evaluate", outcome=RunOutcome(state="complete", metrics={f"test/{name}": v}))
        for t, values in samples.items()
        for s, v in enumerate(values)
    ]
    return {row.trial: row for row in confirm_rows(candidates, records, seeds=(0, 1, 2), metric=metric)}


def test_by_hand():
    """Mean, SD, interval, effect or p-value of the closing table are not those of the textbook.

    SD is 0.02 on both sides, t(2) at 97.5 % is 4.3027, so the interval is 4.3027 x 0.02 / sqrt(3) to both sides; the
    difference of 0.1 is 5 SD, times the exact small-sample factor for 4
    degrees of freedom, gamma(2) / (sqrt(2) gamma(1.5)) = 0.79788.
    """
    best = rows_of(SAMPLES)["3"]
    assert (best.mean, best.sd) == pytest.approx((0.92, 0.02))
    assert (best.low, best.high) == pytest.approx((0.92 - 0.04968, 0.92 + 0.04968), abs=1e-4)
    assert best.effect == pytest.approx(5 * 0.79788, rel=1e-4)
    assert best.p == best.p_holm == pytest.approx(0.0036, abs=2e-4)
    assert math.isnan(rows_of(SAMPLES)[BASELINE].p)


def test_an_interval_holds_no_impossible_value():
    """Two seeds far apart give an AUROC between -0.1 and 1.5, and readers stop trusting the table."""
    row = rows_of({"3": (0.6, 0.8)})["3"]
    assert (row.low, row.high) == (0.0, 1.0)
    row = rows_of({"3": (0.1, 0.9)}, metric="val/grade_mae")["3"]
    assert row.low == 0.0
    assert row.high > 1.0


@pytest.mark.parametrize(
    ("metric", "bounds"),
    [
        ("val/auroc_macro", (0, 1)),
        ("test/segment/a.b/mcc", (-1, 1)),
        ("log_loss", (0, math.inf)),
        ("val/brier", (0, 2)),
    ],
)
def test_ranges(metric, bounds):
    """An interval is cut at the bounds of another metric."""
    assert range_of(metric) == bounds
