"""Training on a GPU: number formats, no waiting inside steps, the exact step of a fault, memory that runs out."""

import gc
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from study import checkpoint
from study.errors import TrainingFault
from study.losses import LOSSES, make_criterion
from study.optimisation import WeightAverage, seed_step
from study.training import Batch, Hooks, RunParts, train_run
from study.training.losswatch import EVERY
from study.training.state import prepare_run, set_mode
from study.training.step import train_step
from tests.unit.test_accumulation import COUNTS, SETTINGS
from tests.unit.test_training import Bench, TinyNet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def prepared(directory, name="cross_entropy", net=None, **changes):
    seed_step(0)
    criterion = make_criterion(name, num_classes=3, class_counts=COUNTS)
    network = net or Wide(criterion)
    parts = RunParts(network=network, criterion=criterion, dataset=None, settings=replace(SETTINGS, **changes))
    run = prepare_run(parts, directory=directory, attempt=1, device=GPU)
    set_mode(run)
    return run


class Wide(nn.Module):
    """Normalisation, dropout, and the head that a loss wants."""

    def __init__(self, criterion):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.body.append(nn.Flatten()).append(nn.Dropout(0.2))
        self.head = criterion.make_head(64) or nn.Linear(64, criterion.num_outputs)

    def forward(self, x):
        return self.head(self.body(x))


def batch(size=10, *, pixels=32, device=CPU):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 1, pixels, pixels), dtype=torch.uint8, generator=generator)
    return Batch(images_nchw=images.to(device), labels_n=(torch.arange(size) % 3).to(device))


def train(bench, directory, *, device=GPU, attempt=1, hooks=None, net=None):
    """The run of a test bench on a device."""
    seed_step(bench.settings.seed, 2**32)
    criterion = make_criterion(bench.loss, num_classes=3)
    network = (net or TinyNet)(criterion.num_outputs)
    return train_run(
        RunParts(network=network, criterion=criterion, dataset=bench.dataset, settings=bench.settings),
        stream=bench.stream,
        directory=directory,
        attempt=attempt,
        hooks=hooks,
        device=device,
    )


def test_what_auto_means_here(tmp_path):
    """A GPU that has bf16 trains in something else, in the wrong layout, or updates weights one by one."""
    run = prepared(tmp_path / "run")
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    assert run.precision == ("bf16" if has_bf16 else "fp16")
    assert run.scaler.is_enabled() is not has_bf16
    assert run.channels_last
    assert all(group["fused"] for group in run.optimiser.param_groups)
    assert not run.is_compiled


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_step_waits_for_the_gpu(tmp_path, precision, accumulate):
    """Something in a step asks the GPU for a number, which idles until Python has queued the next one."""
    for name in LOSSES:
        run = prepared(tmp_path / name, name, precision=precision, accumulate=accumulate, ema_decay=0.9, clip_norm=1.0)
        given = batch(device=GPU)
        for number in range(2):
            run.step = number
            train_step(run, given)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for number in range(2, EVERY - 1):
                run.step = number
                train_step(run, given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        run.losses.settle()
        assert math.isfinite(run.losses.total)


@pytest.mark.parametrize("bad", [0, 7, 20, 37])
def test_a_fault_names_its_step_and_is_not_saved(tiny_dataset, tmp_path, bad):
    """A GPU's fault is found late, and then told for the step at which it was found, or after a checkpoint."""

    class Poisoned(TinyNet):
        calls = 0

        def forward(self, x):
            out = super().forward(x)
            if self.training:
                Poisoned.calls += 1
                if Poisoned.calls == bad + 1:
                    out = out * math.nan
            return out

    bench = Bench(tiny_dataset, epochs=4, steps_per_epoch=6 if bad < 24 else 40)
    bench.plan = bench.plan.lasting(4 * bench.settings.steps_per_epoch)
    epoch = bad // bench.settings.steps_per_epoch + 1
    with pytest.raises(TrainingFault, match=rf"the loss CrossEntropy is nan at step {bad} \(epoch {epoch}\)"):
        train(bench, tmp_path / "run", net=Poisoned)
    last = checkpoint.load_last(tmp_path / "run")
    assert last is None or last.step <= bad


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_learns_and_goes_on_elsewhere(tiny_dataset, tmp_path, precision):
    """Half precision does not learn, or a checkpoint of a GPU cannot be used on a CPU and back."""
    bench = Bench(tiny_dataset, lr=1e-2, precision=precision, ema_decay=0.9)
    steps = bench.settings.steps_per_epoch
    left = iter([False] * (steps + 1) + [True])
    assert train(bench, tmp_path / "run", hooks=Hooks(should_stop=lambda: next(left))).state == "waiting"
    saved = checkpoint.load_last(tmp_path / "run")
    assert bool(saved.scaler) is (precision == "fp16")
    again = iter([False] * steps + [True])
    hooks = Hooks(should_stop=lambda: next(again))
    assert train(bench, tmp_path / "run", device=CPU, attempt=2, hooks=hooks).state == "waiting"
    outcome = train(bench, tmp_path / "run", attempt=3)
    assert outcome.state == "complete"
    assert outcome.metrics["val/auroc_macro"] > 0.8


def test_the_average_is_that_of_a_loop():
    """Averaging all weights at once gives other numbers than one after the other."""
    network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).to(GPU)
    average = WeightAverage(network, 0.5)
    means = [parameter.detach().clone() for parameter in network.parameters()]
    for number in range(3):
        with torch.no_grad():
            for mean, parameter in zip(means, network.parameters(), strict=True):
                parameter.add_(0.1 * (number + 1))
                mean.lerp_(parameter, 1.0 - min(0.5, (1 + number) / (10 + number)))
        average.update(number)
    with average.applied():
        assert all(torch.allclose(a, b) for a, b in zip(means, network.parameters(), strict=True))


class Fat(nn.Module):
    """Few weights, and 256 MiB of activations for every image of 1024 pixels."""

    def __init__(self, outputs=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, outputs)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize("name", ["cross_entropy", "wk"])
def test_parts_fit_into_memory_that_the_batch_does_not(tmp_path, name):
    """A real lack of memory is not told as one, damages the process, or accumulation saves none."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(4 * 2**30 / total)
    try:
        given = batch(16, pixels=1024)
        whole = prepared(tmp_path / "whole", name, net=Fat(), precision="fp32")
        with pytest.raises(torch.OutOfMemoryError):
            train_step(whole, given)
        del whole
        gc.collect()
        torch.cuda.empty_cache()
        parts = prepared(tmp_path / "parts", name, net=Fat(), precision="fp32", accumulate=8)
        train_step(parts, given)
        parts.losses.settle()
        assert math.isfinite(parts.losses.total)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_compiled_it_is_the_same_run(tiny_dataset, tmp_path, monkeypatch):
    """Compiled training ends elsewhere, or is not compiled. Without dropout, as the compiler draws other numbers."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    losses = []
    for compiled in (True, False):
        bench = Bench(tiny_dataset, compile=compiled, precision="fp32", epochs=1)
        train(bench, tmp_path / str(compiled), net=Sober)
        losses.append(checkpoint.load_last(tmp_path / str(compiled)).history[0].metrics["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert any((tmp_path / "cache").iterdir())


class Sober(TinyNet):
    """Without dropout."""

    def __init__(self, outputs):
        super().__init__(outputs)
        self.head[1].p = 0.0
