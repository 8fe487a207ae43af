"""The simulation beside a real study on this machine; called by `simulate_cluster.py --validate`.

A pilot of four small trials gives the times of this machine, from its `events.jsonl`: until the first run begins, an
epoch, what a trial takes beside its epochs, the end. With them a study of twelve trials is predicted before it is run.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

from tests.bench.simulate_cluster import Plan, simulate

FOLLOWERS = ("ResourceTrainable", "SlotController", "SynchronizationActor", "Switchboard")
EPOCHS, PILOT, TRIALS, SLOTS, LIMIT = 3, 4, 12, 2, 0.15
# `bench_overhead.py -k "2 and not 60"` on two idle cores (docs/LOG.md): a study, and its trials in one process.
RECORDED: dict[str, Any] = {"trials": 100, "training_s": 200.9, "study_s": 251.1}
TEXT = """\
study: {name}
data:
  prepared: data/phantom-64
  image_size: 64
  sources: [{{kind: phantom, name: site_a, patients: 16}}]
model: {{name: test_efficientnet}}
sampler: {{name: none, epoch_draws: 640}}
train: {{epochs: 3, batch_size: 32}}
search:
  trials: {trials}
  algorithm: random
  pruner: {{name: none}}
  space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}
resources: {{concurrent: 2, cpus_per_worker: 0.5}}
"""


def run_study(folder: Path, name: str, trials: int) -> tuple[float, list[dict[str, Any]], dict[str, float]]:
    """Seconds from the start to the end of `study run`, its events with ``at`` in seconds, and memory (MB)."""
    (folder / f"{name}.yaml").write_text(TEXT.format(name=name, trials=trials))
    memory: dict[str, float] = {}
    over = threading.Event()
    watcher = threading.Thread(target=_watch_memory, args=(memory, over))
    watcher.start()
    began = time.time()
    with (folder / f"{name}.txt").open("w") as out:
        subprocess.run(
            [Path(sys.executable).parent / "study", "run", f"{name}.yaml"],
            cwd=folder,
            stdout=out,
            stderr=out,
            check=True,
        )
    seconds = time.time() - began
    over.set()
    watcher.join()
    lines = [json.loads(line) for line in (folder / "studies" / name / "events.jsonl").read_text().splitlines()]
    for line in lines:
        line["at"] = datetime.fromisoformat(line["time"]).timestamp() - began
    return seconds, lines, memory


def _watch_memory(found: dict[str, float], over: threading.Event) -> None:
    """The largest proportional share (MB) of each kind of process that follows runs on the driver's node."""
    while not over.wait(2.0):
        for path in Path("/proc").glob("[0-9]*"):
            try:
                title = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if not title.startswith(tuple(f"ray::{kind}" for kind in FOLLOWERS)):
                    continue
                pss = next(x for x in (path / "smaps_rollup").read_text().splitlines() if x.startswith("Pss:"))
            except (OSError, StopIteration):
                continue
            kind = title.split("::")[1].split(".")[0].split("_")[0]
            found[kind] = max(found.get(kind, 0.0), int(pss.split()[1]) / 1e3)


def times_of(seconds: float, lines: list[dict[str, Any]]) -> dict[str, float]:
    """The constants of a pilot: start, an epoch, a trial beside its epochs (cold and warm), the end."""
    runs: dict[str, dict[str, Any]] = defaultdict(lambda: {"epochs": []})
    for line in lines:
        if line["event"] == "run.started":
            runs[line["run"]]["began"] = line["at"]
        elif line["event"] == "run.epoch":
            runs[line["run"]]["epochs"].append(line["numbers"]["seconds"])
        elif line["event"] == "run.ended":
            runs[line["run"]]["ended"] = line["at"]
    in_order = sorted(runs.values(), key=lambda run: run["began"])
    beside = [run["ended"] - run["began"] - sum(run["epochs"]) for run in in_order]
    first = in_order[0]["began"]
    return {
        "epoch_s": median([each for run in in_order for each in run["epochs"]]),
        "start_s": first + mean(beside[:SLOTS]) - mean(beside[SLOTS:]),
        "beside_s": mean(beside[SLOTS:]),
        "end_s": seconds - max(run["ended"] for run in in_order),
    }


def _plain_plan(gpus: int, trials: int) -> Plan:
    """Equal trials of 1,000 images an epoch, without pruning and a confirmation; data cost nothing."""
    return Plan(
        gpus=gpus,
        trials=trials,
        epochs=EPOCHS,
        is_pruned=False,
        confirm_runs=0,
        train_images=1000,
        val_images=0,
        stored_bytes=0.0,
        cores_per_gpu=1e9,
    )


def predicted_s(times: dict[str, float], *, trials: int) -> float:
    """Seconds of a study of equal trials on this machine."""
    plan = _plain_plan(SLOTS, trials)
    answer = simulate(
        plan,
        gpu_images_per_s=1000 / times["epoch_s"],
        trial_start_s=times["beside_s"],
        slot_start_s=times["start_s"],
        start_cpu_s=0.0,
        compile_s=0.0,
        checkpoint_mb=0.0,
        report_ms=0.0,  # what the driver does is in the times of the trials
        finish_ms=0.0,
        tell_ms=0.0,
        suggest_0_ms=0.0,
        suggest_n_ms=0.0,
    )
    return 3600 * answer.hours + times["end_s"]


def recorded_s() -> float:
    """Seconds that the study of `RECORDED` takes by the simulation, from its trials' times in one process."""
    plan = _plain_plan(1, RECORDED["trials"])
    epoch_s = RECORDED["training_s"] / plan.trials / EPOCHS
    # A trial's first batch and its checkpoints are in its time; all else is the simulation's own.
    answer = simulate(
        plan, gpu_images_per_s=1000 / epoch_s, trial_start_s=0.0, compile_s=0.0, checkpoint_mb=0.0, start_cpu_s=0.0
    )
    return 3600 * answer.hours


def compare() -> None:
    """Print what was predicted and what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared, _, _ = run_study(folder, "prepare", 1)  # the data, and the caches of the machine
        seconds, lines, memory = run_study(folder, "pilot", PILOT)
        times = times_of(seconds, lines)
        guess = predicted_s(times, trials=TRIALS)
        took, lines, more = run_study(folder, "real", TRIALS)
    print(f"preparing and a first trial: {prepared:.1f} s; a pilot of {PILOT} trials: {seconds:.1f} s")
    print("from the pilot: " + ", ".join(f"{key} {value:.2f}" for key, value in times.items()))
    print("in the study:   " + ", ".join(f"{key} {value:.2f}" for key, value in times_of(took, lines).items()))
    print(f"memory, MB of each: { {kind: round(max(mb, memory.get(kind, 0.0))) for kind, mb in more.items()} }")
    off = guess / took - 1
    print(f"{TRIALS} trials of {EPOCHS} epochs, {SLOTS} slots: predicted {guess:.1f} s, took {took:.1f} s: {off:+.1%}")
    print("within 15 %" if abs(off) <= LIMIT else "NOT within 15 %")
