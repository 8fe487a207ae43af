"""The table and the study file of a study, from MLflow alone."""

import hashlib
import math

import pytest
import yaml

from study.errors import EnvironmentFault, InputError
from study.tracking import Tracker, best_rows, default_uri, study_config_text
from study.tracking.quick import quick_runs
from study.tracking.server import make_client
from study.types import EpochResult, RunOutcome

METRIC = "val/auroc_macro"
PARAMS = {"optim.lr": 0.1 + 0.2, "loss.name": "emd", "data.flip": True, "optim.clip_norm": None, "optim.step_epochs": 3}


def tell(tracker, trial, value, *, seed=7, stage="search", state="complete", metric=METRIC):
    tracker.start_run(trial, seed, params={**PARAMS, "optim.step_epochs": int(value * 10)}, stage=stage)
    for epoch, measured in ((1, value / 2), (2, value)):
        tracker.log_epoch(trial, seed, EpochResult(epoch=epoch, metrics={metric: measured}, images=1, seconds=1))
    metrics = {metric: value, "val/mcc": math.nan}
    tracker.end_run(trial, seed, RunOutcome(state=state, best_epoch=2, metrics=metrics, checkpoint=f"runs/{trial}"))


@pytest.mark.parametrize(("mode", "metric"), [("max", METRIC), ("min", "val/log_loss")])
def test_rows_are_sorted_and_typed(study_dir, tools, mode, metric):
    """Complete trials come best first with their typed parameters, the metrics of the best epoch, and NaN as NaN."""
    tracker = Tracker(study_dir, "", tools.make_config(mode=mode, metric=metric))
    for trial, value in (("0", 0.5), ("1", 0.7), ("2", 0.6), ("10", 0.5)):
        tell(tracker, trial, value, metric=metric)
    tell(tracker, "3", 0.9, state="pruned", metric=metric)
    tell(tracker, "4", 0.9, state="failed", metric=metric)
    tracker.start_run("5", 7, params=PARAMS)
    assert tracker.close() == 0
    rows = best_rows(default_uri(study_dir), "quick")
    some = best_rows(default_uri(study_dir), "quick", trials=["10", "1", "3", "77"])
    assert repr(some) == repr([row for row in rows if row.trial in ("1", "10")])
    assert [row.trial for row in rows] == (["1", "2", "0", "10"] if mode == "max" else ["0", "10", "2", "1"])
    row = next(row for row in rows if row.trial == "1")
    assert row.params == {**PARAMS, "optim.step_epochs": 7}
    assert isinstance(row.params["data.flip"], bool)
    assert (row.value, row.metrics[metric], row.epochs, row.seeds, row.checkpoint) == (0.7, 0.7, 2, (7,), "runs/1")
    assert math.isnan(row.metrics["val/mcc"])
    assert make_client(default_uri(study_dir)).get_run(row.mlflow_run_ids[0]).info.run_name == "1-s7"


def test_confirmation_is_part_of_its_trial(study_dir, tools):
    """The value stays that of the search; test metrics are means over the seeds; the baseline is no trial."""
    tracker = Tracker(study_dir, "", tools.make_config())
    tell(tracker, "4", 0.8)
    for trial in ("4", "baseline"):
        for seed, test in ((7, 0.5), (1, 0.75), (2, 1.0)):
            tell(tracker, trial, 0.8 if seed == 7 else 0.3, seed=seed, stage="confirm")
            outcome = RunOutcome(
                state="complete", metrics={"test/qwk": test, "test/mcc": math.nan if seed == 2 else 0.5}
            )
            tracker.log_test(trial, seed, outcome)
    assert tracker.close() == 0
    (row,) = best_rows(default_uri(study_dir), "quick")
    assert repr(best_rows(default_uri(study_dir), "quick", trials=["4"])) == repr([row])
    assert (row.trial, row.value, row.seeds) == ("4", 0.8, (7, 1, 2))
    assert len(set(row.mlflow_run_ids)) == 3
    assert row.metrics["test/qwk"] == 0.75
    assert math.isnan(row.metrics["test/mcc"])
    assert row.metrics[METRIC] == 0.8


def test_study_file_comes_back(study_dir, tools):
    """The resolved study file is given back equal, short or too long for a tag, in its newest form."""
    assert Tracker(study_dir, "", tools.make_config(trials=3)).close() == 0
    for space in (1, 200):
        nodes = {f"loss.p{number}": {"choice": ["a" * 20, "b" * 20]} for number in range(space)}
        config = {
            **tools.make_config(trials=5).model_dump(mode="json"),
            "search": {"space": nodes, "metric": METRIC, "mode": "max", "trials": 9},
        }
        tracker = Tracker(study_dir, "", tools.make_config(trials=5))
        tracker._append("study", payload=described(tracker, config))
        assert tracker.close() == 0
        text = study_config_text(default_uri(study_dir), "quick")
        assert yaml.safe_load(text) == config
        assert (len(text) > 8000) == (space == 200)


def described(tracker, config):
    names = {"study_id": tracker._journal.study_id, "metric": METRIC, "mode": "max", "search_seed": 7}
    return {**names, "config": yaml.safe_dump(config, sort_keys=False)}


def test_study_file_of_a_small_study_is_the_config(study_dir, tools):
    """What comes back is the study file that the tracker was opened with."""
    config = tools.make_config()
    assert Tracker(study_dir, "", config).close() == 0
    text = study_config_text(default_uri(study_dir), "quick")
    assert type(config).model_validate(yaml.safe_load(text)) == config


@pytest.mark.parametrize("space", [3, 200])
def test_a_study_file_that_was_changed_is_refused(study_dir, tools, space):
    """What somebody has put into MLflow in place of the study file is taken for it."""
    config = {"study": "quick", "search": {"space": {f"a.{i}": {"float": [0.0, 1.0]} for i in range(space)}}}
    tracker = Tracker(study_dir, "", tools.make_config(trials=5))
    tracker._append("study", payload=described(tracker, config))
    assert tracker.close() == 0
    client = make_client(default_uri(study_dir))
    (experiment,) = [each for each in client.search_experiments() if each.name == "quick"]
    (run,) = client.search_runs([experiment.experiment_id])
    if run.data.tags["study.config"]:
        client.set_tag(run.info.run_id, "study.config", "study: other")
    else:
        client.log_text(run.info.run_id, "study: other", "study.yaml")
    with pytest.raises(InputError, match="its SHA-256 differs"):
        study_config_text(default_uri(study_dir), "quick")


def test_artifacts_have_their_digests(study_dir, tools, tmp_path):
    """A reader cannot tell whether an artifact is the file that was sent."""
    (tmp_path / "curve.png").write_bytes(b"curve")
    tracker = Tracker(study_dir, "", tools.make_config())
    tell(tracker, "0", 0.5)
    tracker.log_artifacts("0", 7, [tmp_path / "curve.png"])
    tracker.log_artifacts("0", 7, [tmp_path / "curve.png"], folder="maps")
    assert tracker.close() == 0
    client = make_client(default_uri(study_dir))
    (row,) = best_rows(default_uri(study_dir), "quick")
    tags = client.get_run(row.mlflow_run_ids[0]).data.tags
    digest = hashlib.sha256(b"curve").hexdigest()
    assert (tags["study.sha256/curve.png"], tags["study.sha256/maps/curve.png"]) == (digest, digest)


def test_missing_things_are_named(study_dir, tools, tmp_path):
    """No database, no study of that name and an experiment of somebody else are said, and nothing is created."""
    with pytest.raises(InputError, match="no MLflow database at"):
        best_rows(default_uri(tmp_path / "nowhere"), "quick")
    assert not (tmp_path / "nowhere").exists()
    assert Tracker(study_dir, "", tools.make_config()).close() == 0
    assert best_rows(default_uri(study_dir), "quick") == []
    for read in (best_rows, study_config_text):
        with pytest.raises(InputError, match="knows no study 'quikc'") as caught:
            read(default_uri(study_dir), "quikc")
        assert caught.value.fix == "did you mean quick?"
    make_client(default_uri(study_dir)).create_experiment("foreign")
    with pytest.raises(InputError, match="not written by a study"):
        best_rows(default_uri(study_dir), "foreign")


def test_server_that_is_down_is_named_without_its_password(tools):
    """A server that does not answer is an error of the environment, and the password in its address is not shown."""
    with pytest.raises(EnvironmentFault, match=r"MLflow at http://127\.0\.0\.1:9 cannot be used") as caught:
        best_rows("http://me:geheim@127.0.0.1:9", "quick")
    assert "geheim" not in str(caught.value)


def test_what_is_read_without_mlflow(study_dir, tools, tmp_path):
    """A database is read past MLflow although it is not as expected, or MLflow is asked although it need not be."""
    tracker = Tracker(study_dir, "", tools.make_config())
    tell(tracker, "0", 0.5)
    assert tracker.close() == 0
    uri = default_uri(study_dir)
    found = quick_runs(uri, "quick", ["0"])
    assert found is not None
    tags, runs = found
    assert (tags["study.metric"], [run.data.tags["study.trial"] for run in runs]) == (METRIC, ["0"])
    assert quick_runs(uri, "other", ["0"]) is None
    assert quick_runs("http://localhost:1", "quick", ["0"]) is None
    assert quick_runs(f"sqlite:///{tmp_path / 'missing.db'}", "quick", ["0"]) is None
    (tmp_path / "broken.db").write_text("no database")
    assert quick_runs(f"sqlite:///{tmp_path / 'broken.db'}", "quick", ["0"]) is None
    assert not (tmp_path / "missing.db").exists()
