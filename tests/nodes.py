"""A Ray cluster of one head and two workers, each started with `ray start` as processes of their own, with a token."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.processes import descendants

RAY = str(Path(sys.executable).parent / "ray")
TOKEN = "0123456789abcdef0123456789abcdef"
HEAD, WORKERS = "127.0.0.2", ("127.0.0.3", "127.0.0.4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """A running cluster: where its dashboard is, its token's file, and the folder of its sessions."""

    address: str
    token_file: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What somebody who may use the cluster has."""
        return {"RAY_AUTH_TOKEN_PATH": str(self.token_file), "HOME": str(self.folder)}

    def ask(self, path: str, method: str = "GET") -> requests.Response:
        """An answer of the dashboard."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return requests.request(method, f"{self.address}{path}", headers=headers, timeout=30)

    def log(self, name: str) -> str:
        """A file below the logs of the session."""
        return (self.folder / "ray" / "session_latest" / "logs" / name).read_text()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def started_nodes(*, cpus: int = 2) -> Iterator[Nodes]:
    """Start the nodes, wait until all are there, and end every process of them afterwards.

    The head runs drivers alone. Every node has a broken package `study`, so what works has come with the job.
    """
    with tempfile.TemporaryDirectory(prefix="nodes", dir="/tmp", ignore_cleanup_errors=True) as name, ended() as run:
        folder = Path(name)
        (folder / "study").mkdir()
        (folder / "study" / "__init__.py").write_text("raise ImportError('the study of the node, not of the job')\n")
        token_file = folder / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(TOKEN)
        port, dashboard, client = free_ports(3)
        run(
            folder,
            ["--head", f"--port={port}", f"--node-ip-address={HEAD}", "--num-cpus=0", f"--temp-dir={folder / 'ray'}"],
            [f"--dashboard-host={HEAD}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"],
        )
        nodes = Nodes(address=f"http://{HEAD}:{dashboard}", token_file=token_file, folder=folder)
        wait_for(lambda: is_up(nodes), "the head node does not answer")
        for index, address in enumerate(WORKERS):
            # Nodes that share a folder would unpack a job's files over each other's.
            place = ["--temp-dir", str(folder / f"ray{index}")]
            run(folder, [f"--address={HEAD}:{port}", f"--node-ip-address={address}", f"--num-cpus={cpus}"], place)
        wait_for(lambda: alive(nodes) == 1 + len(WORKERS), "the workers do not join")
        yield nodes


def is_up(nodes: Nodes) -> bool:
    """Whether the dashboard answers."""
    with contextlib.suppress(requests.RequestException):
        return nodes.ask("/api/version").ok
    return False


def alive(nodes: Nodes) -> int:
    """How many nodes the head knows."""
    summary = nodes.ask("/nodes?view=summary").json()["data"]["summary"]
    return sum(node["raylet"]["state"] == "ALIVE" for node in summary)


def wait_for(condition, why: str, timeout: float = 120) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.2)


@contextlib.contextmanager
def ended() -> Iterator:
    """A function that starts a node; all that it has started is killed in the end."""
    started: list[subprocess.Popen] = []

    def run(folder: Path, *options: list[str]) -> None:
        environment = {
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            **{name: os.environ[name] for name in ("RAY_worker_niceness",) if name in os.environ},  # on a busy machine
        }
        (agent, agent_grpc), own = free_ports(2), [word for part in options for word in part]
        shared = ["--block", "--disable-usage-stats", "--object-store-memory=120000000"]
        ports = [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
        ports += ["--min-worker-port=0", "--max-worker-port=0"]
        with (folder / "nodes.txt").open("ab") as out:
            words = [RAY, "start", *own, *ports, *shared]
            started.append(
                subprocess.Popen(words, env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True)
            )

    try:
        yield run
    finally:
        pids = [pid for process in started for pid in (process.pid, *descendants(process.pid))]
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in started:
            process.wait(timeout=30)
