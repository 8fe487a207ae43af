"""What the loop, the stream and the losses cost of a training step, as ratios within one run on a CPU.

Run with `make bench`. The bare loop is what one writes by hand: the same network, optimiser and clipping, images in
memory. Both sides take turns, and CPU seconds of this process are compared where other work on the machine would show.
The GPU's numbers come from ``bench_gpu.py``.
"""

import statistics
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from study.config import StudyConfig
from study.losses import LOSSES, make_criterion
from study.models import make_model
from study.models.inputs import to_input
from study.optimisation import TrainSettings, make_optimiser, seed_step
from study.training import Batch, Hooks, RunParts
from study.training.loop import _train_epoch
from study.training.state import prepare_run
from study.types import EpochResult

CLASSES, SIZE, BATCH = 3, 128, 8
ROUNDS = 15
SETTINGS = TrainSettings(
    epochs=10_000, steps_per_epoch=1, batch_size=BATCH, seed=0, metric="m", mode="max", lr=1e-4,
    checkpoint_seconds=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other would count as work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(size=SIZE, batch=BATCH):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images_nchw=torch.randint(0, 256, (batch, 1, size, size), dtype=torch.uint8, generator=generator),
        labels_n=torch.arange(batch) % CLASSES,
    )


def small_network():
    return make_model("efficientnet_b0", num_outputs=CLASSES, drop_rate=0.2)


def no_network():
    """Hardly any work, so that what a loop adds to it shows."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, CLASSES))


def bare_steps(given, make=small_network, count=1):
    """Some steps of a loop as it is written by hand."""
    seed_step(0)
    model = make().train()
    optimiser = make_optimiser(model, SETTINGS)

    def steps():
        for _ in range(count):
            optimiser.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(to_input(given.images_nchw)), given.labels_n)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()

    return steps


def our_steps(folder, stream, make=small_network, *, count=1):
    """The same number of steps of a run, with its checks and bookkeeping."""
    seed_step(0)
    criterion = make_criterion("cross_entropy", num_classes=CLASSES)
    settings = replace(SETTINGS, steps_per_epoch=count)
    parts = RunParts(network=make(), criterion=criterion, dataset=SimpleNamespace(), settings=settings)
    run = prepare_run(parts, directory=folder, attempt=1, device=torch.device("cpu"))

    def steps():
        assert _train_epoch(run, stream, hooks=Hooks())
        run.history.append(EpochResult(epoch=run.epoch + 1, metrics={}, images=0, seconds=0.0))

    return steps


def endless(given):
    while True:
        yield given


def cpu_seconds(work):
    begun = time.process_time()
    work()
    return time.process_time() - begun


def in_turn(first, second, rounds=ROUNDS):
    """Median CPU seconds of both, which take turns."""
    first(), second()
    taken = [[], []]
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            taken[side].append(cpu_seconds((first, second)[side]))
    return [statistics.median(values) for values in taken]


def test_loop(tmp_path):
    """Our loop takes more than 1.01 of a bare one; the difference shows where the network is nothing."""
    given, count = images(), 100
    alone = in_turn(bare_steps(images(4), no_network, count), our_steps(
        tmp_path / "nothing", endless(images(4)), no_network, count=count), rounds=7)  # fmt: skip
    added = (alone[1] - alone[0]) / count
    bare, ours = in_turn(bare_steps(given), our_steps(tmp_path / "run", endless(given)))
    print(f"\nour loop adds {1e3 * added:.2f} ms to a step (CPU seconds, median of 7 times {count} steps in turn)")
    print(f"  EfficientNet-B0, {SIZE} px, batch {BATCH}: bare {1e3 * bare:.0f} ms, ours {1e3 * ours:.0f} ms a step")
    print(f"  bare : ours  {bare / (bare + added):.4f} by what it adds (goal 0.99), {bare / ours:.4f} by these clocks")
    assert bare / (bare + added) >= 0.99


def test_losses(tmp_path):
    """A loss costs 2 % of a step of EfficientNet-B3 at 512 px, batch 4, or more."""
    batch = 4
    model = make_model("efficientnet_b3", num_outputs=CLASSES).train()
    given = images(512, batch)

    def step():
        model(to_input(given.images_nchw)).sum().backward()

    step()
    step_s = statistics.median(cpu_seconds(step) for _ in range(3))
    print(f"\nEfficientNet-B3, 512 px, batch {batch}: {step_s:.2f} s a step (CPU seconds, forward and backward)")
    costs = {}
    for name in LOSSES:
        criterion = make_criterion(name, num_classes=CLASSES, class_counts=[50, 30, 20])
        logits = torch.randn(batch, criterion.num_outputs, requires_grad=True)
        work = lambda: [criterion(logits, given.labels_n).backward() for _ in range(20)]  # noqa: B023, E731 - called at once
        work()
        costs[name] = statistics.median(cpu_seconds(work) / 20 for _ in range(5))
    for name, taken in sorted(costs.items(), key=lambda item: -item[1])[:5]:
        print(f"  {name:24s}{1e3 * taken:7.3f} ms  {100 * taken / step_s:6.3f} %")
    print(f"  {len(costs)} losses; goal below 2 %")
    assert max(costs.values()) < 0.02 * step_s


def test_stream(make_dataset, tmp_path):
    """Steps fed by the real stream come slower than those of a mock loader that gives the same batches from memory."""
    from study.data.shards import open_dataset
    from study.distributed.cluster import connected
    from study.distributed.objective import targets_for
    from study.distributed.runs import plan_run
    from study.distributed.stream import StreamSettings, batch_stream

    root = make_dataset(tmp_path / "data", size=SIZE)
    raw = {
        "study": "bench",
        "data": {
            "prepared": str(root),
            "image_size": SIZE,
            "sources": [{"kind": "phantom", "name": "a", "patients": 4}],
        },
        "model": {"name": "efficientnet_b0"},
        "augment": {"policy": "none"},
        "train": {"epochs": 400, "batch_size": BATCH},
    }
    config = StudyConfig.model_validate(raw)
    dataset = open_dataset(root)
    targets = targets_for(config, dataset)
    plan, _ = plan_run(config, dataset, seed=0, targets=targets)
    settings = StreamSettings(root=str(root), fingerprint=dataset.fingerprint, policy="none", seed=0)
    with connected():
        real = batch_stream(plan, settings, rank=0, world_size=1, start_step=0, targets=targets)
        first = next(real)
        ours = our_steps(tmp_path / "real", real)
        mock = our_steps(tmp_path / "mock", endless(replace(first)))
        mock(), ours()
        taken = [[], []]
        for _ in range(ROUNDS):
            for side, steps in enumerate((mock, ours)):
                begun = time.perf_counter()
                steps()
                taken[side].append(time.perf_counter() - begun)
        real.close()
    ratio = statistics.median(taken[0]) / statistics.median(taken[1])
    print(f"\nmock loader : real stream (wall)  {ratio:.4f}; goal 0.97")
    assert ratio > 0.8


if __name__ == "__main__":
    pytest.main(["-q", "-s", __file__])
