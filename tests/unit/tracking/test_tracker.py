"""The tracker: one run per trial and seed, with all that the study said, also after a resume."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.tracking import Tracker, default_uri
from study.tracking.server import clean_key, make_client, param_text
from study.types import EpochResult, RunOutcome

METRIC = "val/auroc_macro"


def test_a_study_in_mlflow(study_dir, tools, tmp_path):
    """Experiment, parent, child, params, points, tags, status and artifacts are what the study said."""
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png")
    config = tools.make_config()
    tracker = Tracker(study_dir, "", config)
    tracker.start_run("0", 7, params={"optim.lr": 0.1 + 0.2, "loss.name": "emd", "data.flip": True}, config=config)
    tracker.log_epoch("0", 7, tools.epoch(1, 0.5, **{"val/mcc": tools.nan, "val/auroc_krank & krumm": 0.25}))
    tracker.log_epoch("0", 7, tools.epoch(2, 0.1 + 0.2))
    tracker.end_run("0", 7, tools.complete(2, 0.1 + 0.2, **{"val/mcc": tools.nan}), artifacts=[figure])
    tracker.start_run("1", 7, params={"optim.lr": 1e-3})
    tracker.end_run("1", 7, RunOutcome(state="pruned", best_epoch=1))
    tracker.start_run("2", 7, params={"optim.lr": 1e-3})
    tracker.end_run("2", 7, RunOutcome(state="failed", reason="out of memory"))
    assert tracker.close() == 0

    runs = tools.runs_of(study_dir)
    assert set(runs) == {None, ("0", 7), ("1", 7), ("2", 7)}
    parent, run = runs[None], runs["0", 7]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["study.state"] == "done"
    assert {one.data.tags["mlflow.parentRunId"] for key, one in runs.items() if key} == {parent.info.run_id}
    assert run.info.run_name == "0-s7"
    assert run.data.params == {"optim.lr": "0.30000000000000004", "loss.name": "emd", "data.flip": "true"}
    assert tools.points(study_dir, run) == [(1, 0.5), (2, 0.1 + 0.2)]
    assert tools.points(study_dir, run, "val/auroc_krank _ krumm") == [(1, 0.25)]
    assert tools.points(study_dir, run, f"best/{METRIC}") == [(2, 0.1 + 0.2)]
    assert tools.points(study_dir, run, "epoch/seconds") == [(1, 1.5), (2, 1.5)]
    assert tools.points(study_dir, run, "val/mcc") == []
    tags = run.data.tags
    assert json.loads(tags["study.undefined"]) == ["val/mcc"]
    assert (tags["study.state"], tags["study.epochs"], tags["study.checkpoint"]) == ("complete", "2", "runs/c")
    assert (run.info.status, runs["1", 7].info.status, runs["2", 7].info.status) == ("FINISHED", "FINISHED", "FAILED")
    assert runs["1", 7].data.tags["study.state"] == "pruned"
    assert runs["2", 7].data.tags["study.reason"] == "out of memory"
    artifacts = study_dir / "mlartifacts" / run.info.run_id / "artifacts"
    assert sorted(path.name for path in artifacts.iterdir()) == ["config.yaml", "curve.png"]
    assert "study: quick" in (artifacts / "config.yaml").read_text()


def test_resume_goes_on_in_the_same_run(study_dir, tools):
    """An interrupted run is KILLED; resumed, it runs under the same id, and told epochs are not doubled."""
    config = tools.make_config()
    tracker = Tracker(study_dir, "", config)
    tracker.start_run("0", 7, params={"optim.lr": 1e-3})
    tracker.log_epoch("0", 7, tools.epoch(1, 0.1))
    assert tracker.close(state="interrupted") == 0
    first = tools.runs_of(study_dir)
    assert (first["0", 7].info.status, first["0", 7].data.tags["study.state"]) == ("KILLED", "interrupted")
    assert (first[None].info.status, first[None].data.tags["study.state"]) == ("KILLED", "interrupted")

    tracker = Tracker(study_dir, "", config)
    assert tracker.open_runs() == []
    tracker.start_run("0", 7, params={"optim.lr": 1e-3}, attempt=2)
    assert tracker.open_runs() == [("0", 7, 0)]
    tracker.log_epoch("0", 7, tools.epoch(1, 0.1))
    tracker.log_epoch("0", 7, tools.epoch(2, 0.2))
    deadline = time.monotonic() + 20
    while (runs := tools.runs_of(study_dir))["0", 7].data.metrics.get(METRIC) != 0.2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (runs["0", 7].info.status, runs["0", 7].data.tags["study.state"]) == ("RUNNING", "running")
    assert runs[None].info.status == "RUNNING"
    tracker.end_run("0", 7, tools.complete(2, 0.2))
    tracker.end_run("0", 7, tools.complete(2, 0.2))
    assert tracker.close() == 0
    second = tools.runs_of(study_dir)
    assert second["0", 7].info.run_id == first["0", 7].info.run_id
    assert (second["0", 7].info.status, second["0", 7].data.tags["study.attempt"]) == ("FINISHED", "2")
    assert tools.points(study_dir, second["0", 7]) == [(1, 0.1), (2, 0.2)]


def test_telling_everything_again_changes_nothing(study_dir, tools):
    """A driver that tells all that its ledger knows once more, after a resume, adds no run, no point and no record."""

    def tell(tracker):
        for trial in ("0", "1"):
            tracker.start_run(trial, 7, params={"optim.lr": 1e-3}, config=tools.make_config())
            tracker.log_epoch(trial, 7, tools.epoch(1, 0.1))
            tracker.end_run(trial, 7, tools.complete(1, 0.1))

    tracker = Tracker(study_dir, "", tools.make_config())
    tell(tracker)
    tell(tracker)
    count = tracker._journal.count
    assert tracker.close() == 0
    tracker = Tracker(study_dir, "", tools.make_config())
    tell(tracker)
    assert tracker._journal.count == count + 2  # the closing of the first one and the opening of the second
    assert tracker.close() == 0
    assert tools.points(study_dir, tools.runs_of(study_dir)["1", 7], f"best/{METRIC}") == [(1, 0.1)]


def test_two_studies_of_one_name_are_kept_apart(study_dir, tools):
    """A second study with the same name on the same server has its own parent and its own runs."""
    for value in (0.1, 0.2):
        for leftover in study_dir.glob("journal*"):
            leftover.unlink()
        tracker = Tracker(study_dir, "", tools.make_config())
        tracker.start_run("0", 7, params={"optim.lr": 1e-3})
        tracker.log_epoch("0", 7, tools.epoch(1, value))
        assert tracker.close() == 0
    client = make_client(default_uri(study_dir))
    runs = client.search_runs([client.get_experiment_by_name("quick").experiment_id])
    assert sorted(run.data.metrics[METRIC] for run in runs if METRIC in run.data.metrics) == [0.1, 0.2]
    assert len({run.data.tags["study.id"] for run in runs}) == 2


def test_many_metrics_and_params_are_split(study_dir, tools):
    """More metrics and params than MLflow takes at once arrive all."""
    tracker = Tracker(study_dir, "", tools.make_config())
    tracker.start_run("0", 7, params={f"p{number}": number for number in range(150)})
    metrics = {f"segment/s{number}/x": float(number) for number in range(1200)}
    tracker.log_epoch("0", 7, EpochResult(epoch=1, metrics=metrics, images=1, seconds=1))
    assert tracker.close() == 0
    run = tools.runs_of(study_dir)["0", 7]
    assert len(run.data.params) == 150
    assert sum(key.startswith("segment/") for key in run.data.metrics) == 1200


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val/auroc_macro", "val/auroc_macro"),
        ("segment/Größe 5%/x", "segment/Gr__e 5_/x"),
        ("/a//../b/", "a/b"),
        ("..", "unnamed"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_fit_into_mlflow(name, expected):
    """Every name is turned into one that MLflow accepts; those that it accepts stay as they are."""
    from mlflow.utils.validation import _validate_metric_name

    assert clean_key(name) == expected
    _validate_metric_name(clean_key(name))


def test_params_are_texts():
    """Sampled values are written as one would in the study file."""
    assert [param_text(value) for value in ("emd", True, 1e-3, 4, None)] == ["emd", "true", "0.001", "4", "null"]


QUIET = """
import importlib.util, sys, logging
from pathlib import Path
spec = importlib.util.spec_from_file_location("cases", sys.argv[2])
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
from study.tracking import Tracker, best_rows, default_uri
tracker = Tracker(Path(sys.argv[1]), "", cases.make_config())
tracker.start_run("0", 7, params={"optim.lr": 1e-3})
tracker.end_run("0", 7, cases.complete(1, 0.1))
assert tracker.close(60) == 0
assert len(best_rows(default_uri(Path(sys.argv[1])), "quick")) == 1
import threading
assert not [one.name for one in threading.enumerate() if "elemetry" in one.name]
"""


@pytest.mark.long
def test_mlflow_is_quiet_and_keeps_to_itself(tmp_path):
    """Making the database and writing to it prints nothing and starts no telemetry."""
    hidden = {"PYTEST_CURRENT_TEST", "CI"}
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(tmp_path / "quick"), str(Path(__file__).with_name("conftest.py"))],
        capture_output=True,
        cwd=Path(__file__).parents[3],
        env={key: value for key, value in os.environ.items() if key not in hidden and not key.startswith("MLFLOW")},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
