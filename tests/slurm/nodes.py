"""Pretended nodes: namespaces with an address, a name, processes, /tmp and /dev/shm of their own, joined by a cable."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The first process of a node takes in the orphans of its daemons, as init does.
INIT = """
mount -t tmpfs none /tmp && mount -t tmpfs -o size=8g none /dev/shm
mount --bind "$1/hosts" /etc/hosts && hostname "$2" && ip link set lo up
touch "$1/$2.up"
while :; do sleep 1000 & wait; done
"""
SPACES = ["unshare", "--net", "--pid", "--uts", "--mount", "--mount-proc", "--fork", "--kill-child"]


class Slurm:
    """One or two nodes of a job, `srun` and `scontrol` for them, and the folder that they share."""

    def __init__(self, names):
        if os.geteuid() != 0 or not shutil.which("nsenter") or not shutil.which("ip"):
            pytest.skip("nodes are made of namespaces, which needs root, nsenter and ip")
        # Not below /tmp, which the nodes do not share.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/var/tmp"))
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        self.holders, self.pids = [], {}
        try:
            self._start(names)
        except BaseException:
            self.close()
            raise

    def _start(self, names):
        for name in names:
            holder = subprocess.Popen([*SPACES, "bash", "-c", INIT, "node", self.folder, name])
            self.holders.append(holder)
            self.wait(lambda name=name: (self.folder / f"{name}.up").exists(), 20, alive=holder)
            children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
            self.pids[name] = int(children[0])
        ends = [names[0], names[-1]]  # a cable from the first node to the second, or back to itself
        peer = "eth0" if len(names) > 1 else "eth1"
        cable = ["type", "veth", "peer", "name", peer, "netns", str(self.pids[ends[1]])]
        subprocess.run(["ip", "link", "add", "eth0", "netns", str(self.pids[ends[0]]), *cable], check=True)
        self.run(ends[1], "ip", "link", "set", peer, "up")
        for name, address in self.addresses.items():
            self.run(name, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
            self.run(name, "ip", "link", "set", "eth0", "up")
        (self.folder / "nodes.json").write_text(json.dumps(self.pids))

    def enter(self, name):
        return ["nsenter", f"--target={self.pids[name]}", "--net", "--pid", "--uts", "--mount"]

    def run(self, name, *words):
        return subprocess.run([*self.enter(name), *words], check=True, capture_output=True, text=True).stdout

    def sbatch(self, script, *arguments, programs, env, restarts=0):
        """Start a batch script as slurmd does; its output comes into ``log``, behind what is there."""
        surroundings = {
            **env,
            "PATH": f"{HERE}:{programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PRETENDED_SLURM": str(self.folder),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": ",".join(self.pids),
            "SLURM_JOB_NUM_NODES": str(len(self.pids)),
            "SLURM_CPUS_ON_NODE": "2",
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_RESTART_COUNT": str(restarts),
        }
        start = f'mount --bind "{self.folder}/hosts" /etc/hosts; exec bash "$@"'
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                ["unshare", "--mount", "bash", "-c", start, "slurmd", script, *map(str, arguments)],
                cwd=self.folder,
                env=surroundings,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self):
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def requeued(self):
        path = self.folder / "requeued"
        return path.read_text().split() if path.exists() else []

    def processes(self, name):
        """Command lines of what runs on a node, without its first process and that one's sleep."""
        space = Path(f"/proc/{self.pids[name]}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                inside = int(entry.name) != self.pids[name] and (entry / "ns/pid").readlink() == space
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if inside and line and line != "sleep 1000":
                    found.append(line)
        return found

    def wait(self, until, seconds, alive=None):
        """Wait until something holds, while a process lives."""
        end = time.monotonic() + seconds
        while not until():
            assert alive is None or alive.poll() is None, f"it ended with {alive.returncode}\n{self.log[-4000:]}"
            assert time.monotonic() < end, f"not within {seconds} s\n{self.log[-4000:]}"
            time.sleep(0.2)

    def close(self):
        """End the nodes with all that runs on them, and remove the folder."""
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # the kernel ends everything in its space with it
        for holder in self.holders:
            holder.kill()
            holder.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
