"""The stream of training batches against torch's DataLoader: same shards, augmentation, order, batches and cores.

Run with `make bench`. Four contestants take turns, each with as many loading processes as there are cores:

- ours: Ray Data through ``batch_stream``, one execution for each turn;
- tuned: DataLoader with persistent workers, whole batches made in the worker, one OpenCV thread, malloc as ours;
- usual: DataLoader as people run it: albumentations' own pipeline, an image at a time, default collation, malloc and
  OpenCV threads as they come;
- half: the same with our augmentation, which nobody has who does not use this project.

Rates count in the middle of a stream, where all processes are busy. Prints ratios of one run (median of turns, and
their range), and ratios of processor time, which neighbours on the machine disturb less; Ray's daemons count as ours.
Then waiting times, and memory under a consumer that stops reading.
"""

import gc
import itertools
import logging
import os
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import ray
import ray.train.torch
import torch
from torch.utils.data import DataLoader, Dataset

from study.data.augment import make_augment, tune_malloc
from study.data.sampling import make_plan
from study.data.shards import MANIFEST_FILE, SHARD_FOLDER, open_dataset
from study.distributed.cluster import connected
from study.distributed.stream import StreamSettings, batch_stream
from tests.bench.bench_shards import breast, write_set

SIDE, PICTURES, BATCH, TURNS, SEED = 512, 192, 32, 4, 1
WARM, STEPS, SPARE = 24, 96, 64  # batches of a turn: before the clock runs, while it runs, and planned beyond
CORES = len(os.sched_getaffinity(0))
IS_COUNTED = {
    "ours": lambda command: "multiprocessing" not in command,
    "tuned": lambda command: "multiprocessing" in command,
    "usual": lambda command: "multiprocessing" in command,
    "half": lambda command: "multiprocessing" in command,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared dataset of pictures like breasts."""
    root = Path(tmp_path_factory.mktemp("bench") / "set")
    (root / SHARD_FOLDER).mkdir(parents=True)
    rng = np.random.default_rng(7)
    write_set(root, [breast(rng, side=SIDE, bits=8) for _ in range(PICTURES)], side=SIDE, bits=8, encoding="raw")
    table = pd.read_parquet(root / MANIFEST_FILE)
    table.assign(image_id=[f"{i:016x}" for i in range(len(table))]).to_parquet(root / MANIFEST_FILE)
    return open_dataset(root)


def plan_of(dataset, steps):
    labels = np.zeros(len(dataset), dtype=np.int64)
    return make_plan("none", labels=labels, segments=labels.astype(str), batch_size=BATCH, num_steps=steps, seed=SEED)


class Images(Dataset):
    """Draws of the plan, one image or one whole batch an item."""

    def __init__(self, dataset, plan, mode="fast"):
        self.dataset, self.rows_n = dataset, plan.indices().ravel()
        self.augment = make_augment("mammogram", image_hw=(SIDE, SIDE), mode=mode)

    def __getitem__(self, item):
        if isinstance(item, int):
            image = self.augment(self.dataset.pixels(self.rows_n[item : item + 1])[0], seed=SEED, draw=item)
            return torch.from_numpy(image[None]), 0
        draws = np.asarray(item)
        images = self.dataset.pixels(self.rows_n[draws])
        for place, draw in enumerate(item):
            images[place] = self.augment(images[place], seed=SEED, draw=draw)
        return torch.from_numpy(images[:, None]), 0

    def __len__(self):
        return len(self.rows_n)


def as_tuned(_):
    tune_malloc()
    cv2.setNumThreads(0)


def as_usual(_):
    torch.utils.data.get_worker_info().dataset.augment.pipeline  # noqa: B018 - sets OpenCV's threads when first used
    cv2.setNumThreads(-1)


def tuned_loader(dataset, plan):
    batches = [range(start, start + BATCH) for start in range(0, plan.num_steps * BATCH, BATCH)]
    return DataLoader(
        Images(dataset, plan),
        batch_size=None,
        sampler=batches,
        num_workers=CORES,
        persistent_workers=True,
        prefetch_factor=4,
        worker_init_fn=as_tuned,
        multiprocessing_context="spawn",
    )


def usual_loader(dataset, plan, mode):
    return DataLoader(
        Images(dataset, plan, mode),
        batch_size=BATCH,
        num_workers=CORES,
        worker_init_fn=as_usual,
        multiprocessing_context="spawn",
    )


def settings_of(dataset, policy="mammogram"):
    return StreamSettings(root=str(dataset.root), fingerprint=dataset.fingerprint, policy=policy, seed=SEED)


def cpu_seconds(is_counted):
    """Processor time of this process, and of its descendants that ``is_counted`` by their command line."""
    parents, spent, names = {}, {}, {}
    for entry in Path("/proc").iterdir():
        try:
            pid, fields = int(entry.name), (entry / "stat").read_text().rsplit(")", 1)[1].split()
            names[pid] = (entry / "cmdline").read_text()
        except (ValueError, OSError, IndexError):
            continue
        parents[pid], spent[pid] = int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    total = spent[os.getpid()]
    for pid in parents:
        line = [pid]
        while line[-1] in parents and line[-1] != os.getpid():
            line.append(parents[line[-1]])
        if len(line) > 1 and line[-1] == os.getpid() and is_counted(names[pid]):
            total += spent[pid]
    return total


def turn(batches, is_counted):
    """One contestant in the middle of a long stream.

    Returns images a second, processor time of one image in ms, seconds to the first batch, and the batches' sums.
    """
    begun = time.perf_counter()
    times, sums, spent = [], [], []
    for place, images in enumerate(itertools.islice(batches, WARM + STEPS + 1)):
        if place in (WARM, WARM + STEPS):
            spent.append(cpu_seconds(is_counted))
        times.append(time.perf_counter())
        sums.append(int(images[::8, :, ::16, ::16].sum()))
    batches.close()
    images = STEPS * BATCH
    return images / (times[-1] - times[WARM]), 1000 * (spent[1] - spent[0]) / images, times[0] - begun, sums


def test_rates(prepared):
    """Ours against the others, by turns; all with our augmentation make the same pictures."""
    plan = plan_of(prepared, WARM + STEPS + SPARE)
    tuned = tuned_loader(prepared, plan)
    rates, costs, firsts, sums = {}, {}, {}, set()
    with connected():
        contestants = {
            "ours": lambda: (b.images_nchw for b in batch_stream(plan, settings_of(prepared), rank=0, world_size=1)),
            "tuned": lambda: (images for images, _ in tuned),
            "usual": lambda: (images for images, _ in usual_loader(prepared, plan, "compatible")),
            "half": lambda: (images for images, _ in usual_loader(prepared, plan, "fast")),
        }
        for number in range(TURNS + 1):
            for name, start in contestants.items():
                rate, spent, first, found = turn(start(), IS_COUNTED[name])
                firsts.setdefault(name, []).append(first)
                if name != "usual":
                    sums.add(tuple(found))
                if number:  # the first turn of each only starts its processes
                    rates.setdefault(name, []).append(rate)
                    costs.setdefault(name, []).append(spent)
    assert len(sums) == 1
    print(f"\n{SIDE} px, batch {BATCH}, policy mammogram, {CORES} cores, {TURNS} turns of {STEPS} batches")
    for name, found in rates.items():
        ratios = sorted(ours / other for ours, other in zip(rates["ours"], found, strict=True))
        cost = statistics.median(costs[name])
        of_cost = statistics.median(b / a for a, b in zip(costs["ours"], costs[name], strict=True))
        print(
            f"  {name:6s} {statistics.median(found):6.0f} images/s, ours is {statistics.median(ratios):.2f} of it "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}); {cost:.2f} ms of processor an image, by which ours is "
            f"{of_cost:.2f}; first batch {firsts[name][0]:.2f} s, later {max(firsts[name][1:]):.2f} s"
        )


def store_bytes():
    """Bytes in Ray's object store."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    return get_memory_info_reply(get_state_from_address(None)).store_stats.object_store_bytes_used


def resident(pid="self"):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_waiting_and_memory(prepared):
    """Epochs follow each other without a gap; a consumer that stops reading fills the store to its bound alone."""
    with connected():
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        list(batch_stream(plan_of(prepared, 4), settings_of(prepared), rank=0, world_size=1))
        steps = PICTURES // BATCH
        long = plan_of(prepared, 10_000 * steps)
        begun = time.perf_counter()
        stream = batch_stream(long, settings_of(prepared), rank=0, world_size=1)
        times = [time.perf_counter() for _, _ in zip(stream, range(4 * steps), strict=False)]
        gaps = np.diff(times)
        print(f"\nfirst batch of a run after the first: {times[0] - begun:.2f} s, of {long.num_steps} steps")
        print(
            f"first batch of epochs 2 to 4: {max(gaps[steps - 1 :: steps]):.3f} s; median batch {np.median(gaps):.3f} s"
        )
        before, held = resident(), []
        for _ in range(20):
            time.sleep(0.5)
            held.append(store_bytes())
        print(
            f"a consumer that stops: store {max(held) / 2**20:.0f} MiB, {held[-1] - held[-8]:+d} bytes in the last 4 s"
        )
        print(f"its own memory {(resident() - before) / 2**20:+.0f} MiB")
        begun = time.perf_counter()
        stream.close()
        del stream
        gc.collect()
        print(f"closed in {time.perf_counter() - begun:.2f} s")
        ray.get(ray.put(0))
