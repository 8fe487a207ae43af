"""Processes that import while nothing else is to be done."""

import subprocess
import sys

import pytest

from study.distributed import warming


@pytest.fixture
def submitted(monkeypatch):
    """The functions that were handed to Ray, one entry for each task; none of them runs."""
    tasks = []

    class Task:
        def __init__(self, function):
            self._function = function

        def remote(self):
            tasks.append(self._function)

    monkeypatch.setattr("ray.remote", lambda **options: Task if options == {"num_cpus": 0} else None)
    return tasks


def test_a_cluster_of_others_is_left_alone(submitted, monkeypatch):
    """Tasks that are of no use run on whichever node of a cluster that others pay for."""
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    warming.warm_loading(2)
    assert submitted == []
    monkeypatch.delenv("RAY_ADDRESS")
    warming.warm_loading(2)
    assert submitted == [warming._import_loading] * 2


def test_what_loading_needs_is_there_afterwards():
    """The task imports something else than loading tasks do, or torch, which they would keep in memory for nothing."""
    code = (
        "import sys\nfrom study.distributed import warming\nwarming._import_loading()\n"
        "print(*(name for name in ('ray.data', 'study.distributed.loading', 'torch') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ray.data", "study.distributed.loading"]
