"""What a pod of Kubernetes does before it stops: the driver is told, and waited for."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.nodes import nodes_apart
from tests.slurm.nodes import Slurm

pytestmark = [pytest.mark.e2e, pytest.mark.long]

KUBERAY = Path(__file__).parents[2] / "cluster" / "kuberay"
DRIVER = f"""\
#!{sys.executable}
import signal, sys, time
def save(*_):
    time.sleep(1)
    print("saved", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
print("driving", flush=True)
time.sleep(60)
"""


# A task of some seconds on the worker node, and whether its end was heard of.
WORK = """
import ray, time
ray.init(logging_level="ERROR", log_to_driver=False)
@ray.remote(num_cpus=1)
def work():
    print("begun", flush=True)
    time.sleep(8)
    return "saved"
future = work.remote()
while ray.available_resources()["CPU"] > 1:
    time.sleep(0.1)
time.sleep(1)
print("working", flush=True)
print(ray.get(future), flush=True)
"""


@pytest.fixture
def node():
    """A space of processes, so that nobody else's driver is ended."""
    made = Slurm(["one"])
    yield made
    made.close()


def before_it_stops(file, group="head"):
    for document in yaml.safe_load_all((KUBERAY / file).read_text()):
        if document["kind"] in ("RayJob", "RayCluster"):
            spec = document["spec"]
            spec = spec.get("rayClusterSpec", spec)
            part = spec["headGroupSpec"] if group == "head" else spec["workerGroupSpecs"][0]
            return part["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    raise AssertionError(file)


@pytest.mark.parametrize("file", ["rayjob.yaml", "raycluster.yaml"])
def test_driver_saves_first(node, file):
    """The command returns when the driver has saved, and at once when there is none."""
    program = node.folder / "study"
    program.write_text(DRIVER)
    program.chmod(0o755)
    with subprocess.Popen([*node.enter("one"), program, "run", "a.yaml"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout.readline() == "driving\n"
        node.run("one", *before_it_stops(file))
        assert [line for line in node.processes("one") if "study run" in line] == []
        assert driver.stdout.read() == "saved\n"
    begun = time.monotonic()
    node.run("one", *before_it_stops(file))
    assert time.monotonic() - begun < 1


def test_worker_is_drained_first(tmp_path):
    """The command drains the node of its pod, and returns when what ran there has ended and the node has left."""
    command = before_it_stops("rayjob.yaml", "worker")
    assert command == before_it_stops("raycluster.yaml", "worker")
    command[-1] = command[-1].replace("/tmp/ray/preemption.log", str(tmp_path / "log"))
    with nodes_apart() as nodes:
        nodes.join([])
        nodes.wait_for(2)
        pod = nodes.env | nodes.joining | {"POD_IP": "127.0.0.3"}
        pod["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{pod['PATH']}"
        words = [sys.executable, "-c", WORK]
        with subprocess.Popen(words, env=nodes.env | nodes.joining, stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout.readline() == "working\n"
            done = subprocess.run(command, env=pod, timeout=100, check=False)
            nodes.wait_for(1)
            assert done.returncode == 0, (tmp_path / "log").read_text()
            assert driver.stdout.read() == "saved\n"
        again = subprocess.run(command, env=pod, timeout=60, check=False)
        assert again.returncode == 1
        assert "no node of the cluster" in (tmp_path / "log").read_text()
    begun = time.monotonic()
    assert subprocess.run(command, env=pod, timeout=60, check=False).returncode == 1
    assert time.monotonic() - begun < 20
    assert "no cluster answers" in (tmp_path / "log").read_text()
