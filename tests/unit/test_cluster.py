"""How a study gets its Ray cluster."""

import sys
import threading
from types import SimpleNamespace

import pytest

from study.distributed import cluster
from study.errors import EnvironmentFault


@pytest.fixture
def started(monkeypatch):
    """The options of every start of Ray, none of which takes place."""
    calls = []
    monkeypatch.setattr("ray.init", lambda **options: calls.append(options))
    return calls


def test_without_an_address_a_cluster_of_its_own(started, monkeypatch):
    """Ray itself would join whatever cluster somebody has started on the machine, and refuse our options there."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster._start()
    (options,) = started
    assert options["address"] == "local"
    assert options["num_cpus"] >= 1
    assert "runtime_env" not in options


def test_with_an_address_that_cluster(started, monkeypatch):
    """A cluster that exists is neither sized by us nor expected to share our environment."""
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    monkeypatch.setenv("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "77")  # the workers would not hear of it in another way
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123")
    cluster._start()
    (options,) = started
    assert not {"address", "num_cpus"} & set(options)
    told = options["runtime_env"]["env_vars"]
    assert set(told) == {*cluster.RAY_ENVIRONMENT, "RAY_TRAIN_COLLECTIVE_TIMEOUT_S"}
    assert told["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] == "77"


@pytest.mark.parametrize(
    ("address", "words"), [("", "not start a local cluster"), ("192.0.2.1:1", "not reach the clu")]
)
def test_what_ray_says_is_told(monkeypatch, address, words):
    """The reason is in the error, on one line."""

    def refuse(**_):
        raise ValueError("no such port\nat all")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(EnvironmentFault, match=f"{words}.*: no such port\n"):
        cluster._start()


def test_daemons_that_end_with_the_cluster_are_not_lost(monkeypatch):
    """A daemon is lost when it dies while the cluster is used, and not when it ends because the cluster is left."""
    dead = []
    node = SimpleNamespace(dead_processes=lambda: [(kind, None) for kind in dead])
    monkeypatch.setitem(sys.modules, "ray._private.worker", SimpleNamespace(_global_node=node))
    monkeypatch.setattr(cluster, "_leaving", threading.Event())
    assert cluster.lost_daemon() == ""
    dead.append("log_monitor")
    assert cluster.lost_daemon() == ""
    dead.append("raylet")
    assert cluster.lost_daemon() == "raylet"
    cluster._leaving.set()
    assert cluster.lost_daemon() == ""
