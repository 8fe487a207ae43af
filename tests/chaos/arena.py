"""Where a study is shot at: its servers, its processes by their roles, and the record of every shot."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from study.config import load_config
from study.ledger import Ledger
from tests.processes import descendants, title
from tests.servers import PostgresServer

STUDY = str(Path(sys.executable).parent / "study")
ROOT = str(Path(__file__).parents[2])
TARGETS = ("driver", "worker", "controller", "data task", "node", "PostgreSQL")
# How the processes of each role call themselves; Ray names a process by what it runs.
TITLES = {
    "worker": ("ray::RayTrainWorker",),
    "controller": ("ray::SlotController",),
    "data task": ("ray::MapBatches", "ray::Map", "ray::Read", "ray::FlatMap"),
}
PATIENCE_S = 300  # for the study to make progress again
FIND_S = 90  # for a process of a role to appear
AWAY_S = 3.0  # how long a node or the server stays away


@dataclass
class Kill:
    """One line of the table."""

    number: int
    target: str
    process: str
    moment: str
    happened: str = ""
    recovery_s: float = 0.0


class Arena:
    """A folder, a PostgreSQL server with the ledgers, a Ray cluster whose second node has all CPUs."""

    def __init__(self, folder: Path, *, file: Path, seed: int) -> None:
        from ray.cluster_utils import Cluster

        self.folder, self.file, self._random = folder, file, random.Random(seed)
        self._ray_folder = tempfile.mkdtemp(prefix="chaos-", dir="/tmp")
        os.environ["PYTHONPATH"] = ROOT
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_TMPDIR"] = self._ray_folder
        self.server = PostgresServer()
        self.server.start()
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._node = self._cluster.add_node(num_cpus=2)
        self.address = self._cluster.address
        self._process = None

    def close(self):
        """Stop all that was started."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._cluster.shutdown()
        self.server.remove()
        shutil.rmtree(self._ray_folder, ignore_errors=True)

    def directory(self, name):
        """The directory of a study."""
        return self.folder / "studies" / name

    @contextlib.contextmanager
    def ledger(self, name):
        """The ledger of a study, for reading."""
        config = load_config(self.directory(name) / "study.yaml")
        ledger = Ledger.open(self.server.url, config=config, read_only=True)
        try:
            yield ledger
        finally:
            ledger.close()

    def run_calmly(self, name):
        """Run the study undisturbed; its exit code."""
        self._begin(name)
        code = self._process.wait(timeout=1500)
        assert code == 0, self._tail(name)
        return code

    def run_under_fire(self, name, *, kills):
        """Run the study and shoot: first every role once, then roles at random; afterwards let it end."""
        order = self._random.sample(TARGETS, len(TARGETS))
        while len(order) < kills:
            order += self._random.sample(TARGETS, len(TARGETS))
        self._begin(name)
        done = []
        self._wait_for_progress(name, 0, note=[])
        for number, target in enumerate(order[:kills], start=1):
            time.sleep(self._random.uniform(0.0, 2.0))
            self._keep_alive(name, note=[])
            kill = self._shoot(name, number, target)
            done.append(kill)
            print(f"{time.strftime('%H:%M:%S')} {_line(kill)} {kill.process}", flush=True)
        self._finish(name)
        return done

    def write_table(self, path, kills, *, calm_s, rough_s, command):
        """The table as Markdown."""
        lines = [
            "| kill | target | moment | what happened | time to recovery |",
            "|---|---|---|---|---|",
            *map(_line, kills),
        ]
        waits = sorted(kill.recovery_s for kill in kills)
        summary = (
            f"`{command} make chaos`: {len(kills)} kills; undisturbed {calm_s:.0f} s, under fire {rough_s:.0f} s; "
        )
        summary += f"time to recovery: median {waits[len(waits) // 2]:.0f} s, largest {waits[-1]:.0f} s."
        lines += ["", summary]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")

    def _shoot(self, name, number, target):
        """Kill one process of a role, bring back what only an administrator could, and wait for progress."""
        before, note = _count(self.directory(name)), []
        process, what = self._victim(name, target, note)
        kill = Kill(number=number, target=target, process=what, moment=self._moment(name))
        started = time.monotonic()
        if target == "PostgreSQL":
            self.server.stop(signal.SIGKILL)
            time.sleep(AWAY_S)
            self._restart_server()
            note.append("server back after a crash recovery")
        elif target == "node":
            os.kill(process, signal.SIGKILL)
            time.sleep(AWAY_S)
            with contextlib.suppress(Exception):
                self._cluster.remove_node(self._node, allow_graceful=False)
            self._node = self._cluster.add_node(num_cpus=2)
            note.append("another node joined")
        else:
            os.kill(process, signal.SIGKILL)
        before = max(before, _count(self.directory(name)))
        self._wait_for_progress(name, before, note=note)
        kill.recovery_s = time.monotonic() - started
        kill.happened = "; ".join(dict.fromkeys(note)) or "went on by itself"
        return kill

    def _victim(self, name, target, note):
        """Number and title of a process with the role, as soon as there is one."""
        if target == "PostgreSQL":
            return self.server.process.pid, "postgres"
        if target == "driver":
            return self._process.pid, "study"
        if target == "node":
            return self._raylets()[-1], "raylet"
        deadline = time.monotonic() + FIND_S
        while time.monotonic() < deadline:
            self._keep_alive(name, note=note)
            pids = [pid for each in self._raylets() for pid in descendants(each)]
            fresh = time.monotonic() + 0.3
            while time.monotonic() < fresh:  # tasks take milliseconds, and their processes are used again
                found = next(((pid, title(pid)) for pid in pids if title(pid).startswith(TITLES[target])), None)
                if found is not None:
                    return found
                time.sleep(0.002)
        raise AssertionError(f"no {target} process appeared within {FIND_S} s\n{self._tail(name)}")

    def _raylets(self):
        """Ray's daemon on the head node, where controllers may be, and on the node that has the CPUs."""
        from ray._private import ray_constants

        nodes = (self._cluster.head_node, self._node)
        return [node.all_processes[ray_constants.PROCESS_TYPE_RAYLET][0].process.pid for node in nodes]

    def _restart_server(self):
        for _ in range(50):
            with contextlib.suppress(AssertionError):
                self.server.start()
                return
            time.sleep(0.2)
        raise AssertionError("PostgreSQL does not come back")

    def _begin(self, name):
        verb = ["resume", name]
        if not (self.directory(name) / "study.yaml").exists():
            verb = ["run", str(self.file), "--set", f"study={name}"]
        env = {**os.environ, "STUDY_LEDGER_URL": self.server.url, "RAY_ADDRESS": self.address, "OMP_NUM_THREADS": "1"}
        env.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / f"{name}.txt").open("ab") as out:
            self._process = subprocess.Popen(
                [STUDY, *verb], cwd=self.folder, env=env, stdout=out, stderr=out, start_new_session=True
            )

    def _keep_alive(self, name, *, note):
        """Resume the study when its driver has ended."""
        code = self._process.poll()
        if code is None:
            return
        if code == 0:
            raise AssertionError("the study was done before all shots were fired: give it more trials")
        note.append(
            "driver resumed" if code == -signal.SIGKILL else f"driver ended with {code}: {self._last(name)}; resumed"
        )
        self._begin(name)

    def _wait_for_progress(self, name, before, *, note):
        deadline = time.monotonic() + PATIENCE_S
        while _count(self.directory(name)) <= before:
            self._keep_alive(name, note=note)
            assert time.monotonic() < deadline, f"no progress in {PATIENCE_S} s\n{self._tail(name)}"
            time.sleep(0.1)

    def _finish(self, name):
        deadline, note = time.monotonic() + 1500, []
        while self._process.poll() != 0:  # by now it may end
            self._keep_alive(name, note=note)
            assert time.monotonic() < deadline, self._tail(name)
            time.sleep(0.2)

    def _moment(self, name):
        """Where the study was, by the last epoch or test that its journal has."""
        last = None
        for record in _records(self.directory(name)):
            last = record if record["kind"] in ("epoch", "test", "start") else last
        if last is None:
            return "before the first trial"
        run = f"trial {last['trial']}" if last["trial"].isdecimal() else last["trial"]
        after = {"epoch": f"after epoch {last['payload'].get('epoch')}", "test": "tested", "start": "started"}
        return f"{run} seed {last['seed']}, {after[last['kind']]}"

    def _last(self, name):
        lines = (self.folder / f"{name}.txt").read_text(errors="replace").splitlines()
        found = [line for line in lines if line.startswith(("error:", "stopped:"))]
        return found[-1][:160] if found else (lines[-1][:160] if lines else "")

    def _tail(self, name):
        log = self.directory(name) / "study.log"
        text = (self.folder / f"{name}.txt").read_text(errors="replace")[-3000:]
        return f"{text}\n--- log\n{log.read_text(errors='replace')[-6000:] if log.exists() else ''}"


def _records(directory):
    path = directory / "journal.jsonl"
    text = path.read_text(errors="replace") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _count(directory):
    """Epochs and tests so far: what grows when a study gets on."""
    return sum(record["kind"] in ("epoch", "test") for record in _records(directory))


def _line(kill):
    cells = [str(kill.number), kill.target, kill.moment, kill.happened, f"{kill.recovery_s:.0f} s"]
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
