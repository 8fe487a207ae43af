"""A study directory with an empty MLflow database, a study file and the result of an epoch."""

import math
import shutil
from types import SimpleNamespace

import pytest
import sqlalchemy

from study.config import StudyConfig
from study.tracking.server import default_uri, make_client
from study.types import EpochResult, RunOutcome

METRIC = "val/auroc_macro"


def make_config(name="quick", mode="max", **search):
    raw = {
        "study": name,
        "seed": 7,
        "data": {"prepared": "data/x", "sources": [{"kind": "phantom", "name": "site_a", "patients": 60, "seed": 1}]},
        "search": {
            "metric": METRIC,
            "mode": mode,
            "trials": 3,
            "space": {"optim.lr": {"float": [1e-4, 1e-2]}},
            **search,
        },
    }
    return StudyConfig.model_validate(raw)


def epoch(number, value, **metrics):
    return EpochResult(epoch=number, metrics={METRIC: value, **metrics}, images=64, seconds=1.5)


def complete(number, value, **metrics):
    return RunOutcome(state="complete", best_epoch=number, metrics={METRIC: value, **metrics}, checkpoint="runs/c")


def runs_of(study_dir):
    """All runs by (trial, seed), the parent as None; a doubled run is an error."""
    client = make_client(default_uri(study_dir))
    experiment = client.get_experiment_by_name("quick")
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        tags = run.data.tags
        key = None if tags["study.kind"] == "parent" else (tags["study.trial"], int(tags["study.seed"]))
        assert key not in found, f"run {key} is there twice"
        found[key] = run
    return found


def points(study_dir, run, key=METRIC):
    history = make_client(default_uri(study_dir)).get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value) for point in history)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    """Killing a process loses nothing that it has written; only a power cut would."""

    def hurry(connection, _):
        if "sqlite" in type(connection).__module__:
            connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", hurry)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", hurry)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow takes seconds to make its tables: once is enough."""
    folder = tmp_path_factory.mktemp("mlflow")
    make_client(default_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture
def study_dir(tmp_path, empty_database):
    folder = tmp_path / "quick"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


@pytest.fixture
def tools():
    """The functions of this file, for the tests beside it."""
    return SimpleNamespace(
        **{name: value for name, value in globals().items() if not name.startswith("_")}, nan=math.nan
    )
