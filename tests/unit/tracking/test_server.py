"""A real MLflow server, which comes late."""

import shutil

import pytest

from study.errors import EnvironmentFault, InputError
from study.tracking import Tracker, best_rows, study_config_text
from study.tracking.server import make_client
from tests.servers import MlflowServer

METRIC = "val/auroc_macro"


@pytest.fixture
def server(tmp_path, empty_database):
    """A server that has not been started yet; it is shot in the end."""
    server = MlflowServer(tmp_path / "server")
    shutil.copy(empty_database, server.database)
    yield server
    server.kill()


@pytest.mark.long
def test_server_that_comes_late(tmp_path, server, tools, capfd):
    """What was told before the server came and while it ran is there once, with its files, and nothing is printed."""
    uri = server.uri
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png")
    config = tools.make_config()
    tracker = Tracker(tmp_path / "quick", uri, config)
    tracker.start_run("0", 7, params={"optim.lr": 1e-3}, config=config)
    for number in range(1, 6):
        tracker.log_epoch("0", 7, tools.epoch(number, number / 10))
    with pytest.raises(EnvironmentFault, match="cannot be used"):
        best_rows(uri, "quick")
    server.start()
    server.wait()
    tracker.log_epoch("0", 7, tools.epoch(6, 0.6))
    tracker.end_run("0", 7, tools.complete(6, 0.6), artifacts=[figure])
    assert tracker.close(60) == 0
    assert capfd.readouterr().out == ""

    (row,) = best_rows(uri, "quick")
    assert (row.value, row.epochs, row.params) == (0.6, 6, {"optim.lr": 1e-3})
    client = make_client(uri)
    history = client.get_metric_history(row.mlflow_run_ids[0], METRIC)
    assert [(point.step, point.value) for point in history] == [(number, number / 10) for number in range(1, 7)]
    assert [one.path for one in client.list_artifacts(row.mlflow_run_ids[0])] == ["config.yaml", "curve.png"]
    assert study_config_text(uri, "quick").startswith("study: quick")
    with pytest.raises(InputError, match="knows no study 'quikc'"):
        best_rows(uri, "quikc")
