"""Memory of a warm worker over 50 runs of different configurations: it comes back to its level.

Run with `make bench`. Prints resident and private memory (MiB) after every tenth run, when the worker waits for the
next one; asserts only that the runs were complete and in one process.
"""

import threading
from pathlib import Path

import pytest
import ray

from study.config import StudyConfig
from study.distributed.cluster import connected
from study.distributed.slots import SlotPool, run_directly
from study.distributed.specs import make_spec

RUNS = 50
KINDS = (
    {},
    {"loss": {"name": "corn"}, "sampler": {"name": "periodic"}},
    {"loss": {"name": "soft_f1"}, "augment": {"policy": "mammogram"}},
    {"loss": {"name": "coral"}, "augment": {"policy": "fundus"}, "train": {"ema_decay": 0.9}},
    {"loss": {"name": "emd"}, "optim": {"name": "sgd"}, "train": {"accumulate": 2}},
)


@pytest.fixture
def configs(make_dataset, tmp_path):
    """Runs of one epoch on 32-pixel images, with different losses, samplers, augmentations and optimisers."""
    base = {
        "study": "bench",
        "data": {
            "prepared": str(make_dataset(tmp_path / "tiny")),
            "image_size": 32,
            "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}],
        },
        "model": {"name": "test_efficientnet"},
        "augment": {"policy": "none"},
    }
    train = {"epochs": 1, "batch_size": 12}
    return [StudyConfig.model_validate({**base, **kind, "train": train | kind.get("train", {})}) for kind in KINDS]


def memory_mib(pid):
    """Resident memory of a process, and the part that it shares with none: what it would give back by leaving."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Private_Clean", "Private_Dirty"):
            found[name] = int(rest.split()[0]) / 1024
    return found["Rss"], found["Private_Clean"] + found["Private_Dirty"]


def worker_pid():
    """The process of the only training worker."""
    living = [actor for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE"]
    (pid,) = [actor["Pid"] for actor in living if actor["ActorClassName"] == "RayTrainWorker"]
    return pid


def test_memory_of_a_warm_worker(configs, tmp_path):
    """What runs leave in a worker's memory does not add up."""
    ends, levels, pids = [], {}, set()

    def hear(_, kind, payload):
        if kind == "end":
            ends.append(payload.state)

    with connected():
        pool = SlotPool(1, workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
        for number in range(1, RUNS + 1):
            config = configs[number % len(configs)]
            spec = make_spec(tmp_path, str(number), number, config=config, attempt=1)
            run_directly(pool, [spec], concurrent=1, on_event=hear, stop=threading.Event())
            if number % 10 == 0 or number in (1, 5):
                pids.add(worker_pid())
                levels[number] = memory_mib(worker_pid())
        pool.close()
    for number, (resident, private) in levels.items():
        print(f"\nafter {number:2d} runs: {resident:7.1f} MiB resident, {private:7.1f} MiB private", end="")
    print()
    assert ends == ["complete"] * RUNS
    assert len(pids) == 1
