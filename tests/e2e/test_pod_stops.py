"""What a pod of Kubernetes does before it stops: the driver is told, and waited for."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

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


@pytest.fixture
def node():
    """A space of processes, so that nobody else's driver is ended."""
    made = Slurm(["one"])
    yield made
    made.close()


def before_it_stops(file):
    for document in yaml.safe_load_all((KUBERAY / file).read_text()):
        if document["kind"] in ("RayJob", "RayCluster"):
            spec = document["spec"]
            head = spec.get("rayClusterSpec", spec)["headGroupSpec"]["template"]["spec"]["containers"][0]
            return head["lifecycle"]["preStop"]["exec"]["command"]
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
