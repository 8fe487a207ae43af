"""Speed of training on a GPU, as ratios within one run: the step, its parts, the losses, the compiler.

Run ``python tests/bench/bench_gpu.py [--tiny] [--out FILE]`` with the repository on Python's path. It needs torch, timm
and a GPU (``--tiny`` tries the code on a CPU) and takes about five minutes, 1.5 of them for the compiler; it prints a
table and writes the numbers as JSON. EfficientNet-B3, 512 px, grey, random images that lie on the GPU.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from study.losses import LOSSES, make_criterion
from study.models import make_model
from study.models.inputs import to_input
from study.optimisation import TrainSettings, WeightAverage, seed_step
from study.training import Batch, Hooks, RunParts
from study.training.compiling import CACHE_VARIABLE
from study.training.loop import _train_epoch
from study.training.state import prepare_run
from study.types import EpochResult

CLASSES = 3
ROUNDS = 5
SETTINGS = TrainSettings(
    epochs=1000,
    steps_per_epoch=10,
    batch_size=1,
    seed=0,
    metric="m",
    mode="max",
    lr=1e-4,
    ema_decay=0.999,
    checkpoint_seconds=0,
)


class Bench:
    """Sizes, device, and what was measured."""

    def __init__(self, *, tiny: bool) -> None:
        self.is_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.is_gpu else "cpu")
        self.name = "test_efficientnet" if tiny else "efficientnet_b3"
        self.size, self.batch, self.steps, self.warm = (64, 4, 2, 1) if tiny else (512, 64, 10, 4)
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, 1, self.size, self.size)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        self.labels = torch.arange(self.batch) % CLASSES
        self.results: dict[str, object] = {}

    def on_device(self):
        return Batch(images_nchw=self.images.to(self.device), labels_n=self.labels.to(self.device))

    def model(self, make_head=None, num_outputs=CLASSES):
        seed_step(0)
        return make_model(self.name, num_outputs=num_outputs, drop_rate=0.2, make_head=make_head).to(self.device)

    def wait(self):
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds(self, work):
        """Wall seconds of some work, the GPU's part included."""
        self.wait()
        begun = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - begun

    def keep(self, key, value, text):
        self.results[key] = value
        print(f"  {text}", flush=True)

    def free(self):
        if self.is_gpu:
            torch.cuda.empty_cache()


def bare_loop(bench, *, precision="bf16", nhwc=False, fused=False, foreach_ema=False, compiled=False, from_host=False):
    """A training loop as one writes it by hand; gives the function that makes some steps."""
    model = bench.model().train()
    if nhwc:
        model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused or None)
    scaler = torch.amp.GradScaler(bench.device.type, enabled=precision == "fp16" and bench.is_gpu)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    average = WeightAverage(model, 0.999) if foreach_ema else [p.detach().clone() for p in model.parameters()]
    forward = torch.compile(model, dynamic=False) if compiled else model
    given = bench.on_device()

    def step(number):
        optimiser.zero_grad(set_to_none=True)
        images = to_input(bench.images.to(bench.device) if from_host else given.images_nchw)
        if nhwc:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(bench.device.type, dtype=dtype):
            loss = F.cross_entropy(forward(images), given.labels_n)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        if foreach_ema:
            average.update(number)
        else:
            with torch.no_grad():
                for mean, parameter in zip(average, model.parameters(), strict=True):
                    mean.mul_(0.999).add_(parameter, alpha=0.001)

    def steps(count):
        for number in range(count):
            step(number)

    return steps


def our_loop(bench, *, loss="cross_entropy", batches=None, **changes):
    """The loop of a run; gives the function that makes some steps, checks and bookkeeping included."""
    criterion = make_criterion(loss, num_classes=CLASSES, class_counts=[50, 30, 20])
    network = bench.model(criterion.make_head, criterion.num_outputs)
    settings = replace(SETTINGS, batch_size=bench.batch, steps_per_epoch=bench.steps, **changes)
    parts = RunParts(network=network, criterion=criterion, dataset=SimpleNamespace(), settings=settings)
    folder = Path(tempfile.mkdtemp(prefix="bench"))
    run = prepare_run(parts, directory=folder, attempt=1, device=bench.device)
    given = bench.on_device()

    def endless():
        while True:
            yield batches() if batches else given

    stream = endless()

    def steps(count):
        run.parts = replace(run.parts, settings=replace(settings, steps_per_epoch=count))
        run.step = run.epoch * count
        assert _train_epoch(run, stream, hooks=Hooks())
        run.history.append(EpochResult(epoch=run.epoch + 1, metrics={}, images=0, seconds=0.0))

    return steps


def step_time(bench, steps):
    """Median seconds of a step after the first ones."""
    steps(bench.warm)
    return statistics.median(bench.seconds(lambda: steps(bench.steps)) / bench.steps for _ in range(3))


def alternating(bench, first, second):
    """Step times of two loops in turn; the ratio first : second, its range over rounds, and both medians."""
    first(bench.warm), second(bench.warm)
    pairs = []
    for _ in range(ROUNDS):
        pairs.append([bench.seconds(lambda: steps(bench.steps)) / bench.steps for steps in (first, second)])  # noqa: B023 - called at once
    ratios = sorted(one / other for one, other in pairs)
    one, other = (statistics.median(values) for values in zip(*pairs, strict=True))
    return one / other, (ratios[0], ratios[-1]), one, other


def bench_stack(bench):
    """From eager mixed precision to the whole stack, one piece after the other."""
    print("\nstep, one piece after the other")
    rungs = {
        "eager AMP (fp16, scaler)": {"precision": "fp16"},
        "eager AMP (bf16)": {},
        "+ channels-last": {"nhwc": True},
        "+ fused optimiser, foreach EMA": {"nhwc": True, "fused": True, "foreach_ema": True},
    }
    times = {}
    for name, options in rungs.items():
        times[name] = step_time(bench, bare_loop(bench, **options))
        bench.free()
    first = times["eager AMP (fp16, scaler)"]
    for name, taken in times.items():
        bench.keep(
            name, taken, f"{name:34s}{1e3 * taken:8.2f} ms {bench.batch / taken:8.1f} img/s {first / taken:6.2f} x"
        )
    return first, times["eager AMP (bf16)"], times["+ fused optimiser, foreach EMA"]


def bench_compiled(bench, eager_fp16, eager_bf16, uncompiled):
    """The compiler's cost and gain; our loop against a bare one; timm's benchmark."""
    print("\ncompiler")
    stack = {"nhwc": True, "fused": True, "foreach_ema": True, "compiled": True}
    os.environ[CACHE_VARIABLE] = tempfile.mkdtemp(prefix="bench-cache")
    bare = bare_loop(bench, **stack)
    cold = bench.seconds(lambda: bare(1))
    bench.keep("compile_cold_s", cold, f"first step, empty cache            {cold:8.1f} s")
    ours = our_loop(bench, compile=True)  # forgets what this process compiled, keeps what lies on the disk
    warm = bench.seconds(lambda: ours(1))
    bench.keep("compile_warm_s", warm, f"first step, the cache of other runs {warm:7.1f} s")
    again = bench.seconds(lambda: bare(1))
    bench.keep("compile_again_s", again, f"the other network once more        {again:8.1f} s")
    print("\nour loop against a bare one (the same stack, images on the device)")
    ratio, (low, high), bare_s, ours_s = alternating(bench, bare, ours)
    bench.keep(
        "loop_ratio", ratio, f"bare : ours                        {ratio:8.4f} ({low:.4f} to {high:.4f}; goal 0.99)"
    )
    for name, taken in (("bare", bare_s), ("ours", ours_s)):
        bench.keep(f"{name}_s", taken, f"{name:34s}{1e3 * taken:8.2f} ms {bench.batch / taken:8.1f} img/s")
    for key, eager in (("fp16", eager_fp16), ("bf16", eager_bf16)):
        bench.keep(
            f"stack_ratio_{key}", eager / ours_s, f"ours : eager AMP in {key:15s}{eager / ours_s:8.2f} x (goal 1.5)"
        )
    gain = (uncompiled - bare_s) / (bench.batch * bench.size**2 / 1e6)
    bench.keep(
        "compile_gain_s_per_megapixel", gain, f"gain of compiling                  {1e3 * gain:8.3f} ms a megapixel"
    )
    host = our_loop(bench, compile=True, batches=lambda: Batch(images_nchw=bench.images, labels_n=bench.labels))
    ratio, (low, high), _, _ = alternating(bench, ours, host)
    text = f"images on the device : on the host {ratio:8.4f} ({low:.4f} to {high:.4f}; goal 0.97)"
    bench.keep("host_ratio", ratio, text)
    bench.free()
    return ours_s


def timm_train_benchmark(bench, *, compiled):
    """Images per second by the protocol of timm's ``benchmark.py --bench train --amp --channels-last``.

    ``TrainBenchmarkRunner`` of huggingface/pytorch-image-models, ``benchmark.py``: random float images, targets
    drawn at every step, cross-entropy inside autocast, SGD at 1e-4, the GPU awaited after each step, 10 steps to warm
    up and 40 that count. The model is the one that we train (one channel, three classes).
    """
    model = bench.model().train().to(memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    shape = (bench.batch, 1, bench.size, bench.size)
    images = torch.randn(shape, device=bench.device).contiguous(memory_format=torch.channels_last)
    loss_of = nn.CrossEntropyLoss().to(bench.device)

    def step():
        optimiser.zero_grad()
        with torch.autocast(bench.device.type, dtype=torch.bfloat16):
            output = forward(images)
            target = torch.empty(len(output), device=bench.device, dtype=torch.long).random_(CLASSES)
            loss_of(output, target).backward()
        optimiser.step()
        bench.wait()

    warm, counted = (1, 2) if bench.batch < 10 else (10, 40)
    for _ in range(warm):
        step()
    taken = bench.seconds(lambda: [step() for _ in range(counted)])
    return counted * bench.batch / taken


def bench_timm(bench, ours_s):
    """Our images per second beside timm's."""
    print("\ntimm's training benchmark: the same model, batch, layout and number format")
    for compiled in (False, True):
        rate = timm_train_benchmark(bench, compiled=compiled)
        name = "compiled" if compiled else "eager"
        ratio = bench.batch / ours_s / rate
        text = f"{name:34s}{rate:8.1f} img/s; ours, compiled, {bench.batch / ours_s:8.1f}: {ratio:6.3f} x"
        bench.keep(f"timm_{name}_img_s", rate, text)
        bench.free()


def cost_of(bench, name):
    """Seconds of a loss, forward and backward: on the GPU alone, and until Python has queued it."""
    criterion = make_criterion(name, num_classes=CLASSES, class_counts=[50, 30, 20]).to(bench.device)
    criterion.start_epoch(0, 10)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(bench.batch, criterion.num_outputs, generator=generator)
    logits = logits.to(bench.device, torch.bfloat16).requires_grad_()
    labels = bench.labels.to(bench.device)
    count = 4 if bench.is_gpu else 2  # a GPU's queue holds about a thousand kernels, and then makes Python wait

    def work():
        for _ in range(count):
            logits.grad = None
            criterion(logits, labels).backward()

    work()
    if not bench.is_gpu:
        taken = bench.seconds(work) / count
        return taken, taken
    bench.wait()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(200_000_000)  # about 0.1 s, in which Python queues everything: the kernels then run back to back
    begin.record()
    begun = time.perf_counter()
    work()
    queued = (time.perf_counter() - begun) / count
    end.record()
    bench.wait()
    return begin.elapsed_time(end) / 1e3 / count, queued


def bench_losses(bench, step_s):
    """What each loss costs of a step."""
    print(f"\nlosses: share of a step of {1e3 * step_s:.1f} ms (goal: below 1 %)")
    costs = {name: cost_of(bench, name) for name in LOSSES}
    for name, (taken, queued) in sorted(costs.items(), key=lambda item: -item[1][0]):
        text = f"{name:26s}{1e3 * taken:8.3f} ms {100 * taken / step_s:6.2f} %   queued in {1e3 * queued:6.2f} ms"
        bench.keep(f"loss_{name}_s", taken, text)
    worst = max(costs, key=lambda name: costs[name][0])
    bench.keep("worst_loss_share", costs[worst][0] / step_s, f"worst: {worst}, {100 * costs[worst][0] / step_s:.2f} %")
    return worst


def bench_worst_loss(bench, worst):
    """The dearest loss inside the whole loop, where the GPU may wait for Python."""
    plain, dear = our_loop(bench, compile=True), our_loop(bench, compile=True, loss=worst)
    ratio, (low, high), one, other = alternating(bench, dear, plain)
    text = (
        f"step with {worst}: {1e3 * one:.2f} ms, with cross_entropy: {1e3 * other:.2f} ms, {100 * (ratio - 1):+.2f} %"
    )
    bench.keep("worst_loss_step_ratio", ratio, f"{text} ({100 * (low - 1):+.2f} to {100 * (high - 1):+.2f})")
    bench.free()


def bench_parts(bench):
    """Optimiser and average alone."""
    print("\noptimiser and average alone")
    model = bench.model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for name, options in {
        "for loop": {"foreach": False},
        "foreach": {"foreach": True},
        "fused": {"fused": True},
    }.items():
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, **options)
        optimiser.step()
        taken = bench.seconds(lambda: [optimiser.step() for _ in range(5)]) / 5  # noqa: B023 - called at once
        bench.keep(f"adamw_{name}_s", taken, f"AdamW, {name:27s}{1e3 * taken:8.2f} ms")
    average = WeightAverage(model, 0.999)
    taken = bench.seconds(lambda: [average.update(step) for step in range(5)]) / 5
    bench.keep("ema_foreach_s", taken, f"EMA, foreach                      {1e3 * taken:8.2f} ms")
    means = [parameter.detach().clone() for parameter in model.parameters()]

    def one_by_one():
        with torch.no_grad():
            for mean, parameter in zip(means, model.parameters(), strict=True):
                mean.mul_(0.999).add_(parameter, alpha=0.001)

    one_by_one()
    taken = bench.seconds(lambda: [one_by_one() for _ in range(5)]) / 5
    bench.keep("ema_loop_s", taken, f"EMA, one by one                   {1e3 * taken:8.2f} ms")


def main() -> int:
    """Measure everything; 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on a CPU too, to try the code")
    parser.add_argument("--losses", action="store_true", help="the losses alone, beside an uncompiled step (20 s)")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        print("no GPU; --tiny tries the code without one")
        return 2
    if args.tiny:
        torch.compile = functools.partial(torch.compile, backend="eager")
    bench = Bench(tiny=args.tiny)
    about = {"torch": torch.__version__, "timm": version("timm"), "model": bench.name, "size": bench.size}
    about |= {"batch": bench.batch, "gpu": torch.cuda.get_device_name() if bench.is_gpu else "none"}
    bench.results["about"] = about
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            if args.losses:
                bench_losses(bench, step_time(bench, our_loop(bench, compile=False)))
            else:
                measure(bench)
    finally:
        if args.out:
            args.out.write_text(json.dumps(bench.results, indent=1))
    return 0


def measure(bench):
    """All rows; what was measured is kept when a later row breaks."""
    begun = time.perf_counter()
    bench_parts(bench)
    eager_fp16, eager_bf16, uncompiled = bench_stack(bench)
    ours_s = bench_compiled(bench, eager_fp16, eager_bf16, uncompiled)
    worst = bench_losses(bench, ours_s)
    bench_timm(bench, ours_s)
    bench_worst_loss(bench, worst)
    if bench.is_gpu:
        peak = torch.cuda.max_memory_allocated() / 2**30
        bench.keep("peak_gib", peak, f"\n  memory at most {peak:.1f} GiB")
    bench.keep("seconds", time.perf_counter() - begun, f"all of it took {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
