"""A cluster of two nodes started by `ray start`, one of them in a mount namespace of its own."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from tests.e2e.conftest import surroundings
from tests.servers import free_port

RAY = str(Path(sys.executable).parent / "ray")


def _can_unshare():
    return os.geteuid() == 0 and not subprocess.run(["unshare", "-m", "true"], check=False).returncode


def _ports():
    """Ports that two nodes of one machine would both take."""
    agent = [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    return [*agent, "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]


class TwoNodes:
    """A head without CPUs, and a worker node before which some folders are hidden by empty ones of its own."""

    def __init__(self, folder, env):
        self.folder, self.address, self.processes = folder, f"{get_node_ip_address()}:{free_port()}", []
        self.joining = {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.env = surroundings({**(env or {}), **self.joining})
        del self.env["RAY_ADDRESS"]

    def start(self, hidden):
        port = self.address.rpartition(":")[2]
        head = ["--head", "--port", port, "--temp-dir", str(self.folder), "--include-dashboard=false", "--num-cpus=0"]
        self._start([RAY, "start", "--block", *head, *_ports()])
        self._wait(1)
        options = ["--num-cpus=2", "--object-store-memory=100000000", *_ports()]
        worker = f"exec {RAY} start --block --address={self.address} --node-ip-address=127.0.0.3 {' '.join(options)}"
        mounts = "".join(f"mount -t tmpfs none {place} && " for place in hidden)
        self._start(["unshare", "-m", "--propagation", "private", "sh", "-c", mounts + worker])
        self._wait(2)

    def _start(self, words):
        with (self.folder / "nodes.out").open("ab") as out:
            process = subprocess.Popen(words, env=self.env, stdout=out, stderr=out, start_new_session=True)
        self.processes.append(process)

    def _wait(self, count):
        code = f"""
import ray, sys, time
ray.init({self.address!r}, logging_level="ERROR")
for _ in range(300):
    if sum(node["Alive"] for node in ray.nodes()) == {count}:
        sys.exit(0)
    time.sleep(0.2)
sys.exit(1)
"""
        for _ in range(20):
            if not subprocess.run([sys.executable, "-c", code], env=self.env, check=False, timeout=120).returncode:
                return
            time.sleep(0.5)
        raise AssertionError((self.folder / "nodes.out").read_text()[-3000:])

    def seen_there(self, place):
        """The names in a folder as the worker node sees it."""
        words = ["nsenter", "-m", "-t", str(self.processes[1].pid), "find", str(place), "-mindepth", "1"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    def stop(self):
        for process in reversed(self.processes):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextlib.contextmanager
def two_nodes(hidden, env=None):
    """The cluster, with folders that the worker node does not share; skips where no namespace can be made."""
    if not _can_unshare():
        pytest.skip("needs root and unshare(1) for a mount namespace")
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    nodes = TwoNodes(folder, env)
    try:
        nodes.start(hidden)
        yield nodes
    finally:
        nodes.stop()
        shutil.rmtree(folder, ignore_errors=True)
