"""A cluster of nodes started by `ray start`, all but the head in mount namespaces of their own."""

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
from tests.processes import descendants
from tests.servers import free_port

RAY = str(Path(sys.executable).parent / "ray")


def _can_unshare():
    return os.geteuid() == 0 and not subprocess.run(["unshare", "-m", "true"], check=False).returncode


def _ports():
    """Ports that two nodes of one machine would both take."""
    agent = [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    return [*agent, "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]


class NodesApart:
    """A head, and a worker node before which some folders are hidden by empty ones of its own; others may join."""

    def __init__(self, folder, env):
        self.folder, self.address, self.processes = folder, f"{get_node_ip_address()}:{free_port()}", []
        self.joining = {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.env = surroundings({**(env or {}), **self.joining})
        del self.env["RAY_ADDRESS"]

    def start(self, *, cpus=0):
        """Start the head."""
        port = self.address.rpartition(":")[2]
        head = ["--head", "--port", port, "--temp-dir", str(self.folder), "--include-dashboard=false"]
        options = [f"--num-cpus={cpus}", "--object-store-memory=100000000"]
        self._start([RAY, "start", "--block", *head, *options, *_ports()])
        self.wait_for(1)

    def join(self, hidden, *, cpus=2):
        """Start a worker node; its number."""
        number = len(self.processes)
        options = [f"--num-cpus={cpus}", "--object-store-memory=100000000", f"--node-ip-address=127.0.0.{2 + number}"]
        worker = f"exec {RAY} start --block --address={self.address} {' '.join([*options, *_ports()])}"
        mounts = "".join(f"mount -t tmpfs none {place} && " for place in hidden)
        self._start(["unshare", "-m", "--propagation", "private", "sh", "-c", mounts + worker])
        return number

    def _start(self, words):
        with (self.folder / "nodes.out").open("ab") as out:
            process = subprocess.Popen(words, env=self.env, stdout=out, stderr=out, start_new_session=True)
        self.processes.append(process)

    def wait_for(self, count):
        """Wait until so many nodes are alive."""
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

    def seen_there(self, place, number=1):
        """The names below a folder as a worker node sees it."""
        words = ["nsenter", "-m", "-t", str(self.processes[number].pid), "find", str(place), "-mindepth", "1"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    def leave(self, number, sig=signal.SIGTERM):
        """End a node, in good order or, with SIGKILL, all of its processes at once."""
        process = self.processes[number]
        own = [process.pid, *descendants(process.pid)]
        if process.poll() is None and sig != signal.SIGKILL:
            os.killpg(process.pid, sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
        for pid in own if process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def stop(self):
        """End all nodes."""
        for number in reversed(range(len(self.processes))):
            self.leave(number)


@contextlib.contextmanager
def nodes_apart(*, env=None, cpus=0):
    """A head of a cluster to which nodes can be joined; skips where no namespace can be made."""
    if not _can_unshare():
        pytest.skip("needs root and unshare(1) for a mount namespace")
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    nodes = NodesApart(folder, env)
    try:
        nodes.start(cpus=cpus)
        yield nodes
    finally:
        nodes.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def two_nodes(hidden, env=None):
    """A cluster of a head without CPUs and a worker node, with folders that the two do not share."""
    with nodes_apart(env=env) as nodes:
        nodes.join(hidden)
        nodes.wait_for(2)
        yield nodes
