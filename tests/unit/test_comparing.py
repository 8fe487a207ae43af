"""`study compare`: what differs, what is held against what, and when nothing may be."""

import contextlib
import json
import math
from pathlib import Path

import pytest
import sqlalchemy
from scipy import stats
from typer.testing import CliRunner

from study.cli import app
from study.cli.comparing import DATASET
from study.cli.folders import ledger_url, store_config
from study.config import load_config
from study.errors import InputError
from study.ledger import Ledger
from study.stats import holm
from study.types import EpochResult, RunOutcome

METRIC, TEST = "val/auroc_macro", "test/auroc_macro"
FILE = """
study: {name}
data: {{prepared: {root}/none, sources: [{{kind: phantom, name: a, patients: 30}}]}}
train: {{epochs: 2}}
optim: {{lr: {lr}}}
search:
  metric: {metric}
  trials: 2
  algorithm: random
  space: {{optim.weight_decay: {{float: [1.0e-4, 1.0e-2], scale: log}}}}
confirm: {{top: 2, seeds: {seeds}}}
"""
# The second trial is the better one on the validation split, and the worse one on the test split.
VALUES = {
    "first": ([0.70, 0.71, 0.72], [0.9, 0.9, 0.91]),
    "second": ([0.80, 0.82, 0.81], [0.5, 0.5, 0.51]),
    "third": ([0.71, 0.70, 0.74], [0.9, 0.8, 0.7]),
}


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk():
    def hurry(connection, _):
        if "sqlite" in type(connection).__module__:
            connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", hurry)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", hurry)


def make_study(root: Path, name: str, *, dataset="d1", metric=METRIC, lr="0.001", values=VALUES["first"]) -> None:
    """A study of two trials with its confirmation; ``values`` are those on the test split of trial 1 and trial 0."""
    file = root / f"{name}.yaml"
    seeds = list(range(len(values[0]) or 2))
    file.write_text(FILE.format(root=root, name=name, metric=metric, lr=lr, seeds=seeds))
    config = load_config(file)
    directory = root / "studies" / name
    directory.mkdir(parents=True)
    store_config(directory, config)
    test = f"test/{metric.split('/')[1]}"
    with contextlib.closing(Ledger.open(ledger_url(directory), config=config)) as ledger:
        ledger.record_stage(DATASET, dataset)
        for number, value in enumerate((0.6, 0.9)):
            ledger.next_trial()
            ledger.report(number, EpochResult(epoch=1, metrics={metric: value}, images=500, seconds=3600.0))
            ledger.finish(number, RunOutcome(state="complete", best_epoch=1))
        for trial, of_trial in (("1", values[0]), ("0", values[1])):
            for seed, value in enumerate(of_trial):
                ledger.record_run(trial, seed, RunOutcome(state="complete", metrics={test: value}), kind="evaluate")


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("compared")
    for name, values in VALUES.items():
        make_study(root, name, lr="0.01" if name == "second" else "0.001", values=values)
    make_study(root, "other-data", dataset="d2")
    make_study(root, "other-metric", metric="val/qwk")
    make_study(root, "one-seed", values=([0.7], [0.6]))
    file = root / "unconfirmed.yaml"
    file.write_text(FILE.format(root=root, name="new", metric=METRIC, lr=0.001, seeds=[0, 1]))
    (root / "studies" / "new").mkdir()
    store_config(root / "studies" / "new", load_config(file))
    return str(root / "studies")


def call(storage: str, *names: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, ["compare", *names, "--storage", storage], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, done.stderr


def compared(storage: str, *names: str) -> dict:
    return json.loads(call(storage, *names, "--json")[0])


def test_two_studies(storage):
    """The numbers are not SciPy's, are of the trial that the test split prefers, or a difference has the other sign."""
    found = compared(storage, "first", "second")
    (one,) = found["comparisons"]
    left, right = VALUES["first"][0], VALUES["second"][0]
    theirs = stats.ttest_ind(right, left, equal_var=False)
    assert (one["trials"], one["seeds"], one["metric"]) == (["1", "1"], [[0, 1, 2], [0, 1, 2]], TEST)
    assert one["p"] == one["p_holm"] == pytest.approx(theirs.pvalue)
    assert one["difference"] == pytest.approx(0.1)
    interval = theirs.confidence_interval()
    assert [one["low"], one["high"]] == pytest.approx([interval.low, interval.high])
    assert found["differences"] == {"optim.lr": {"first": 0.001, "second": 0.01}}
    first = found["studies"][0]
    assert (first["best"]["trial"], first["best"]["value"], first["trials"]) == ("1", 0.9, {"complete": 2})
    test = first["test"]
    assert (test["trial"], test["seeds"], test["values"]) == ("1", [0, 1, 2], left)
    assert (test["mean"], test["sd"]) == pytest.approx((0.71, 0.01))
    assert first["cost"] == {"seconds": 7200.0, "device_seconds": 7200.0, "images": 1000}


def test_three_studies(storage):
    """Several comparisons are not corrected for their number, or not each against the first study."""
    found = compared(storage, "first", "second", "third")
    assert [(one["first"], one["other"]) for one in found["comparisons"]] == [("first", "second"), ("first", "third")]
    alone = [
        stats.ttest_ind(VALUES[name][0], VALUES["first"][0], equal_var=False).pvalue for name in ("second", "third")
    ]
    assert [one["p_holm"] for one in found["comparisons"]] == pytest.approx(list(holm(alone)))


def test_in_words(storage):
    """The words do not say what was held against what, or call a difference that is none."""
    out, err = call(storage, "first", "second", "third")
    assert out == ""
    said = " ".join(err.split("\n\n")[-1].split())
    assert (
        "test/auroc_macro, second's trial 1 minus first's trial 1: +0.100 (95 % interval +0.077 to +0.123), p <0.001 "
        "(Welch's test over 3 and 3 seeds, after Holm): second is better."
    ) in said
    assert "third's trial 1 minus first's trial 1: +0.007" in said
    assert said.endswith("no difference is established.")
    assert "optim.lr" in err
    assert all(len(line) <= 100 for line in err.splitlines())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("other-data", "have other prepared datasets (fingerprints d1 and d2)"),
        ("other-metric", "first optimises val/auroc_macro, other-metric val/qwk"),
        ("one-seed", "one-seed is confirmed with one seed"),
        ("new", "new has not begun"),
    ],
)
def test_what_cannot_be_compared(storage, other, words):
    """Values of different kinds get a p-value."""
    (one,) = compared(storage, "first", other)["comparisons"]
    assert words in one["reason"]
    assert (one["is_compared"], "p" in one) == (False, False)
    assert words in " ".join(call(storage, "first", other)[1].split())


def test_not_confirmed(tmp_path):
    """A study without a confirmation is compared by its validation split."""
    make_study(tmp_path, "first")
    make_study(tmp_path, "bare", values=([], []))
    (one,) = compared(str(tmp_path / "studies"), "first", "bare")["comparisons"]
    assert one["reason"] == "bare has nothing confirmed on the test split (`study confirm bare`)"


def test_equal_values(tmp_path):
    """Values without any spread give a p-value of 0 or a crash."""
    for name, value in (("left", 0.5), ("right", 0.6)):
        make_study(tmp_path, name, values=([value] * 3, [value] * 3))
    (one,) = compared(str(tmp_path / "studies"), "left", "right")["comparisons"]
    assert one["reason"] == "neither sample has any spread"
    assert not math.isfinite(one.get("p", math.nan))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("first",), "expected two studies"),
        (("first", "first"), "named twice"),
        (("first", "frist"), "no study is called"),
    ],
)
def test_wrong_names(storage, names, words):
    """One study is compared with itself, or with one that does not exist."""
    done = CliRunner().invoke(app, ["compare", *names, "--storage", storage])
    assert isinstance(done.exception, InputError)
    assert words in done.exception.message
