"""What a study leaves behind: its order, its figure, its table."""

import csv
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from study.report import ranked, write_search_figure, write_search_table
from study.report.figure import _spread
from study.types import ConfirmRow, StudyResult, TrialRow

NAN = float("nan")


def row(trial: str, state: str, value: float | None, curve: tuple[float, ...] = (), **changes: object) -> TrialRow:
    options = {
        "params": {"optim.lr": 0.01},
        "metrics": {"val/f1_macro": 0.5},
        "seeds": (0,),
        "epochs": len(curve),
        **changes,
    }
    return TrialRow(trial=trial, state=state, value=value, curve=curve, **options)  # type: ignore[arg-type]


def confirmed(trial: str, values: tuple[float, ...], **changes: object) -> ConfirmRow:
    mean = sum(values) / len(values)
    options = {
        "params": {"loss.name": "emd", "optim.lr": 0.01},
        "seeds": tuple(range(len(values))),
        "values": values,
        "mean": mean,
    }
    options |= {"sd": 0.02, "low": mean - 0.05, "high": mean + 0.05, "val_mean": 0.8, **changes}
    return ConfirmRow(trial=trial, **options)  # type: ignore[arg-type]


RESULT = StudyResult(
    study="quickstart",
    state="done",
    metric="val/auroc_macro",
    mode="max",
    trials_planned=5,
    rows=(
        row("0", "complete", 0.7, (0.5, 0.6, 0.7)),
        row("1", "complete", 0.8, (0.5, NAN, 0.8)),
        row("2", "pruned", 0.55, (0.55,)),
        row("3", "failed", None, reason="loss is not finite"),
        row("4", "failed", NAN, (NAN, NAN)),
    ),
    confirmed=(
        confirmed("1", (0.7, 0.72, 0.74), p=0.01, p_holm=0.02),
        confirmed("baseline", (0.6, 0.62, 0.64), params={}),
    ),
)

UGLY = {
    "as it should be": RESULT,
    "nothing at all": replace(RESULT, rows=(), confirmed=()),
    "nothing complete": replace(RESULT, rows=RESULT.rows[2:], confirmed=()),
    "one epoch": replace(RESULT, rows=(row("0", "complete", 0.7, (0.7,)),), confirmed=()),
    "one seed": replace(RESULT, confirmed=(confirmed("1", (0.7,), sd=NAN, low=NAN, high=NAN),)),
    "undefined on test": replace(RESULT, confirmed=(confirmed("1", (NAN, NAN)),)),
    "infinite": replace(RESULT, rows=(row("0", "complete", math.inf, (0.5, math.inf)),), confirmed=()),
    "forty trials, long names": replace(
        RESULT,
        rows=tuple(row(str(i), "complete", 0.7, (0.5, 0.7), params={f"a.{'x' * 40}": "y" * 40}) for i in range(40)),
        confirmed=(
            confirmed("1", (0.7, 0.7), params={f"a.{'x' * 40}": "y" * 40, "b.c": 1, "d.e": 2, "f.g": 3, "h.i": 4}),
        ),
    ),
}


@pytest.mark.parametrize("name", UGLY)
def test_figure_of_any_result(name, tmp_path):
    """Every result, however empty or undefined, becomes a PNG of the promised size, without a warning."""
    path = write_search_figure(UGLY[name], tmp_path / "report" / "search.png")
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (1800, 780)
    assert [file.name for file in path.parent.iterdir()] == ["search.png"]


def test_figure_labels_do_not_overlap():
    """Labels at the ends of the curves keep their order and their distance, and move no further than that asks."""
    moved = _spread([0.50, 0.505, 0.51, 0.8], gap=0.05)
    assert moved == pytest.approx([0.455, 0.505, 0.555, 0.8])
    assert _spread([0.1, 0.2, 0.3], gap=0.05) == [0.1, 0.2, 0.3]
    assert _spread([], gap=0.05) == []


def test_ranking():
    """Complete by value, pruned by value, failed last; a NaN stands behind every number of its state."""
    rows = (*RESULT.rows, row("10", "complete", NAN), row("11", "pruned", 0.6), row("12", "complete", 0.8))
    assert [r.trial for r in ranked(replace(RESULT, rows=rows))] == ["1", "12", "0", "10", "11", "2", "3", "4"]


def test_table(tmp_path):
    """The CSV holds every trial best first, the confirmation beside its trial, the baseline last, nothing undefined."""
    path = write_search_table(RESULT, tmp_path / "search.csv")
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["rank"], line["trial"], line["state"], line["value"]) for line in lines] == [
        ("1", "1", "complete", "0.8"),
        ("2", "0", "complete", "0.7"),
        ("", "2", "pruned", "0.55"),
        ("", "3", "failed", ""),
        ("", "4", "failed", ""),
        ("", "baseline", "", ""),
    ]
    assert float(lines[0]["test_mean"]) == pytest.approx(0.72)
    assert (lines[0]["p_holm"], lines[0]["params.optim.lr"]) == ("0.02", "0.01")
    assert (lines[3]["reason"], lines[5]["test_seeds"], lines[5]["p"]) == ("loss is not finite", "3", "")
    assert "nan" not in path.read_text()


def test_table_of_costs(tmp_path):
    """What a trial has cost is not in the table, or stands below another heading."""
    dear = replace(RESULT.rows[0], seconds=12.3456, device_seconds=24.5, images=4096)
    path = write_search_table(replace(RESULT, rows=(dear,)), tmp_path / "search.csv")
    with path.open(newline="") as file:
        first, *_, baseline = csv.DictReader(file)
    assert [first[name] for name in ("seconds", "device_seconds", "images")] == ["12.346", "24.5", "4096"]
    assert (baseline["trial"], baseline["images"], baseline["test_seeds"]) == ("baseline", "", "3")


def test_report_does_not_import_pyplot(tmp_path):
    """Drawing a figure leaves pyplot, and with it any window system, unloaded."""
    code = (
        "import sys; from pathlib import Path; from study.types import StudyResult;"
        "from study.report import write_search_figure;"
        "assert 'matplotlib' not in sys.modules;"
        "write_search_figure(StudyResult(study='s', state='new', metric='m', mode='max', rows=()), Path(sys.argv[1]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.png")], check=True)
