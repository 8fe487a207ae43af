"""The `mammogram` policy on the device that trains: whole batches, on a GPU where there is one, else on the CPU.

`python tests/bench/bench_augment_device.py` in the root of the repository needs numpy and torch alone; `make bench`
runs it too. Pictures are half ellipses of noise on black, uint8 with one channel. Prints images a second, where the
time goes, what the host does of it, and on a GPU how far the result is from that of the CPU.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from study.data import augment_device
from study.data.augment_device import DeviceAugment, carried_out
from study.data.augment_map import is_exact, source_map
from study.data.augment_recipe import draw_recipe
from study.data.augment_spec import SPECS

BATCHES = {512: 32, 1024: 16}
STEPS = ("_moved", "_equalised", "_mapped", "_sharpened", "_dropped")


def pictures(count, side):
    """uint8 [N, 1, H, W]."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:side, :side] / side
    inside = ((x - 0.25) / 0.5) ** 2 + ((y - 0.5) / 0.5) ** 2 < 1
    inside &= x >= 0.25
    noise = rng.normal(128, 40, size=(count, side, side)).clip(1, 255).astype(np.uint8)
    return torch.from_numpy((noise * inside)[:, None])


def seconds(work, *, device, repetitions):
    """Median wall time of one call, with the device's work done."""
    times = []
    for _ in range(repetitions):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def measure(side, device):
    """Print one size; returns images a second."""
    is_gpu = device.type == "cuda"
    size = BATCHES[side] if is_gpu else BATCHES[side] // 4
    repetitions = 20 if is_gpu else 3
    host = pictures(size, side)
    images = host.to(device)
    augment = DeviceAugment("mammogram", seed=0)
    batch = iter(range(10**6))

    def draws():
        return next(batch) * size + np.arange(size)

    for _ in range(3 if is_gpu else 1):
        augment(images, draws_n=draws())
    whole = seconds(lambda: augment(images, draws_n=draws()), device=device, repetitions=repetitions)

    def recipes_of():
        return [draw_recipe(SPECS["mammogram"], image_hw=(side, side), seed=0, draw=int(draw)) for draw in draws()]

    def of_host():
        for recipe in recipes_of():
            if not is_exact(recipe):
                source_map(recipe, (side, side))

    drawn = seconds(of_host, device=torch.device("cpu"), repetitions=repetitions)
    print(f"{side} px, batch {size}: {size / whole:9.0f} images/s, {1e3 * whole:.2f} ms a batch")
    print(f"  recipes and maps on the host  {1e3 * drawn:8.2f} ms")
    if is_gpu:
        pinned = host.pin_memory()
        copied = seconds(lambda: pinned.to(device, non_blocking=True), device=device, repetitions=repetitions)
        print(f"  copy of the batch to the GPU  {1e3 * copied:8.2f} ms")
    parts = dict.fromkeys(STEPS, 0.0)
    kept = {name: getattr(augment_device, name) for name in STEPS}
    rounds = 5 if is_gpu else 2
    try:
        for name, step in kept.items():
            setattr(augment_device, name, timed(step, name, parts, is_gpu=is_gpu))
        for _ in range(rounds):
            carried_out(images, recipes_of())
    finally:
        for name, step in kept.items():
            setattr(augment_device, name, step)
    for name, spent in parts.items():
        print(f"  {name[1:]:28s}  {1e3 * spent / rounds:8.2f} ms")
    if is_gpu:
        recipes = recipes_of()
        ours, theirs = carried_out(images, recipes).cpu().int(), carried_out(host, recipes).int()
        apart = (ours - theirs).abs()
        share, mean = (apart > 1).float().mean(), apart.float().mean()
        print(f"  from the CPU's: {share:.6f} of the pixels by more than 1, {mean:.6f} on average")
        print(f"  most memory: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
    return size / whole


def timed(step, name, parts, *, is_gpu):
    def work(*args):
        if is_gpu:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        result = step(*args)
        if is_gpu:
            torch.cuda.synchronize()
        parts[name] += time.perf_counter() - begun
        return result

    return work


def test_on_this_machine():
    """Augmenting on the device gives nothing, or fails."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"\ntorch {torch.__version__}, {torch.cuda.get_device_name() if device.type == 'cuda' else 'one CPU thread'}")
    if device.type == "cpu":
        torch.set_num_threads(1)
    for side in BATCHES:
        assert measure(side, device) > 1


if __name__ == "__main__":
    test_on_this_machine()
