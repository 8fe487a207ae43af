"""The verbs that look at a study, on a ledger that a search has left behind."""

import contextlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli import app
from study.cli.folders import ledger_url, store_config, stored_config
from study.config import load_config
from study.ledger import Ledger
from study.tracking import Tracker, default_uri
from study.types import EpochResult, RunOutcome

STUDY_FILE = """
study: tiny
data:
  prepared: {root}/prepared
  sources: [{{kind: phantom, name: site_a, patients: 30, seed: 1}}]
train: {{epochs: 2}}
search:
  trials: 4
  algorithm: random
  space:
    loss.name: {{choice: [cross_entropy, focal]}}
    loss.gamma: {{float: [0.5, 5.0], when: {{loss.name: focal}}}}
    optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}
confirm: {{top: 2, seeds: [0, 1]}}
"""
KEYS = ["trial", "state", "value", "params", "metrics", "seeds", "epochs", "mlflow_run_ids", "checkpoint"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> str:
    """Three trials: complete at 0.7, complete at 0.8 with an undefined metric, and one that was interrupted."""
    root: Path = tmp_path_factory.mktemp("showing")
    file = root / "tiny.yaml"
    file.write_text(STUDY_FILE.format(root=root))
    config = load_config(file)
    directory = root / "studies" / "tiny"
    directory.mkdir(parents=True)
    store_config(directory, config)
    with contextlib.closing(Ledger.open(ledger_url(directory), config=config)) as ledger:
        for value, state in ((0.7, "complete"), (0.8, "complete"), (0.6, "waiting")):
            trial = ledger.next_trial()
            assert trial is not None
            metrics = {"val/auroc_macro": value, "val/f1_macro": float("nan")}
            ledger.report(trial.number, EpochResult(epoch=1, metrics=metrics, images=96, seconds=1.0))
            outcome = RunOutcome(state=state, best_epoch=1, metrics=metrics, checkpoint=f"runs/{trial.number}-s0")  # type: ignore[arg-type]
            ledger.finish(trial.number, outcome)
    return str(root / "studies")


@pytest.fixture(scope="module")
def mirrored(storage) -> str:
    """The same study with an MLflow database; of trial 1 it knows one more seed with its metric on the test split."""
    directory = Path(storage) / "tiny"
    tracker = Tracker(directory, default_uri(directory), stored_config(directory))
    for trial, seed, stage, value in (("0", 0, "search", 0.7), ("1", 0, "search", 0.8), ("1", 1, "confirm", 0.9)):
        metrics = {"val/auroc_macro": value}
        tracker.start_run(trial, seed, params={"optim.lr": 0.001}, stage=stage)  # type: ignore[arg-type]
        tracker.log_epoch(trial, seed, EpochResult(epoch=1, metrics=metrics, images=96, seconds=1.0))
        tracker.end_run(trial, seed, RunOutcome(state="complete", best_epoch=1, metrics=metrics))
    tracker.log_test("1", 1, RunOutcome(state="complete", best_epoch=1, metrics={"test/auroc_macro": 0.6}))
    assert tracker.close() == 0
    return storage


def call(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_status(storage):
    """Status as JSON counts trials by state, names those that run, and gives the best; undefined metrics are null."""
    code, out, _ = call("status", "tiny", "--json", "--storage", storage)
    found = json.loads(out)
    assert code == 0
    assert {key: found[key] for key in ("study", "state", "trials", "running")} == {
        "study": "tiny",
        "state": "interrupted",
        "trials": {"complete": 2, "running": 1},
        "running": ["2"],
    }
    assert list(found["best"]) == KEYS
    assert (found["best"]["trial"], found["best"]["metrics"]["val/f1_macro"]) == ("1", None)


def test_status_for_people(storage):
    """Status in words says what is done, shows the table and the command that goes on, on standard error."""
    code, out, err = call("status", "tiny", "--storage", storage)
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert lines[0] == "tiny  interrupted  2 of 4 trials (2 complete, 1 running)"
    assert lines[1] == f"not running; go on with: study resume tiny --storage {storage}"
    assert [line.split()[1] for line in lines[4:6]] == ["1", "0"]
    assert lines[-1] == f"log: {storage}/tiny/study.log"


def test_list(storage):
    """The list gives state, trials and best value of each study."""
    _, out, err = call("list", "--storage", storage)
    assert out == ""
    assert err.splitlines()[1].split()[:8] == [
        *("tiny", "interrupted", "2/4", "2", "0", "0", "0.800", "val/auroc_macro"),
    ]


def test_best_as_json(storage):
    """The best trials are a JSON list, best first, complete ones only, with exactly the promised keys."""
    _, out, _ = call("best", "tiny", "--json", "--storage", storage)
    found = json.loads(out)
    assert [row["trial"] for row in found] == ["1", "0"]
    assert [list(row) for row in found] == [KEYS, KEYS]
    _, out, _ = call("best", "tiny", "--json", "--top", "1", "--storage", storage)
    assert [row["trial"] for row in json.loads(out)] == ["1"]


def test_best_as_a_study_file(storage, tmp_path):
    """The best trial as YAML is a study file of its own: parameters fixed, nothing searched, the metric kept."""
    _, out, _ = call("best", "tiny", "--json", "--top", "1", "--storage", storage)
    params = json.loads(out)[0]["params"]
    code, out, _ = call("best", "tiny", "--yaml", "--storage", storage)
    (tmp_path / "best.yaml").write_text(out)
    config = load_config(tmp_path / "best.yaml")
    assert code == 0
    assert out.startswith("# Trial 1 of study tiny: val/auroc_macro 0.800 at its best epoch.\n")
    assert (config.study, config.search) == ("tiny-trial-1", None)
    assert (config.confirm, config.metric) == (None, "val/auroc_macro")
    assert (config.loss.name, config.optim.lr) == (params["loss.name"], params["optim.lr"])


def test_best_for_people(storage):
    """Without a form the best trials are a table on standard error."""
    code, out, err = call("best", "tiny", "--storage", storage)
    assert (code, out) == (0, "")
    words = [line.split()[:2] for line in err.splitlines()]
    assert words[words.index(["rank", "trial"]) + 1 :][:2] == [["1", "1"], ["2", "0"]]


def test_best_without_mlflow(storage):
    """Where MLflow does not answer the ledger does, with a word about it on standard error."""
    _, out, err = call("best", "tiny", "--json", "--storage", storage)
    assert [(row["trial"], row["mlflow_run_ids"]) for row in json.loads(out)] == [("1", []), ("0", [])]
    assert err.startswith("warning: ")
    assert err.endswith("; the ledger alone answers\n")


def test_best_with_mlflow(mirrored):
    """MLflow adds the ids of its runs, all seeds and the test metrics; value and order stay the ledger's."""
    _, out, err = call("best", "tiny", "--json", "--storage", mirrored)
    first, second = json.loads(out)
    assert err == ""
    assert (first["trial"], first["value"], first["seeds"]) == ("1", 0.8, [0, 1])
    assert first["metrics"]["test/auroc_macro"] == 0.6
    assert len(first["mlflow_run_ids"]) == 2
    assert (second["trial"], len(second["mlflow_run_ids"])) == ("0", 1)


def test_best_from_mlflow_alone(mirrored, monkeypatch, tmp_path):
    """Who has a tracking address but not the study's directory gets the best from MLflow, also as a study file."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", default_uri(Path(mirrored) / "tiny"))
    _, out, _ = call("best", "tiny", "--json", "--storage", str(tmp_path))
    assert [(row["trial"], row["value"]) for row in json.loads(out)] == [("1", 0.8), ("0", 0.7)]
    _, out, _ = call("best", "tiny", "--yaml", "--storage", str(tmp_path))
    (tmp_path / "best.yaml").write_text(out)
    assert load_config(tmp_path / "best.yaml").optim.lr == 0.001
