"""What the clock of a run adds up to, and that it changes nothing that it measures."""

import time

import pytest
import torch

from study import checkpoint
from study.training import Hooks
from study.training.clock import BESIDE, PHASES, StepClock, Usage, gpu_meter, system_numbers
from tests.unit.test_training import Bench, curve, same

NAMES = {"images_per_second", "data_wait_share", "step_seconds", "validation_seconds", "cpu_cores", "memory_gib"}


def slow(stream, seconds):
    """The stream with a pause before each batch."""

    def batches(start_step):
        for batch in stream(start_step):
            time.sleep(seconds)
            yield batch

    return batches


class Counting(StepClock):
    """Keeps the phases in the order in which they were marked."""

    def __init__(self):
        super().__init__()
        self.marked = []

    def mark(self, phase):
        super().mark(phase)
        self.marked.append(phase)


def test_phases_add_up_to_the_time_that_passed():
    """No moment between two restarts is counted twice or not at all."""
    clock = StepClock()
    clock.restart()
    began = time.perf_counter()
    for phase in PHASES:
        time.sleep(0.002)
        clock.mark(phase)
    passed = time.perf_counter() - began
    assert sum(clock.seconds.values()) == pytest.approx(passed, rel=0.01, abs=1e-4)
    assert all(seconds >= 0.002 for seconds in clock.seconds.values())
    assert clock.in_steps == pytest.approx(sum(clock.seconds.values()) - sum(clock.seconds[p] for p in BESIDE))


def test_numbers_by_hand():
    """Four steps of 8 images in 2 s, half of it waiting."""
    clock = StepClock()
    clock.seconds |= {"wait": 1.0, "forward": 0.75, "rest": 0.25, "validation": 3.0, "checkpoint": 9.0}
    clock.steps = 4
    found = system_numbers(clock, Usage(torch.device("cpu")), images=8)
    assert found["system/images_per_second"] == pytest.approx(16)
    assert found["system/data_wait_share"] == pytest.approx(0.5)
    assert found["system/step_seconds"] == pytest.approx(0.5)
    assert found["system/validation_seconds"] == pytest.approx(3)
    assert found["system/memory_gib"] > 0.05
    assert {name.removeprefix("system/") for name in found} == NAMES


def test_without_a_step_there_are_no_numbers():
    """An epoch whose steps an earlier process has done tells nothing of this one."""
    assert system_numbers(StepClock(), Usage(torch.device("cpu")), images=8) == {}


def test_cores_in_use():
    """Processor time by the time that passed: half a core, and none in a process that does nothing meanwhile."""
    now = [0.0]
    usage = Usage(torch.device("cpu"), clock=lambda: now[0])
    began = time.process_time()
    while time.process_time() - began < 0.05:
        pass
    now[0] += 0.1
    assert 0.5 <= usage.read()["system/cpu_cores"] < 1.0
    usage.restart()
    now[0] += 10.0
    assert usage.read()["system/cpu_cores"] < 0.01
    assert gpu_meter(torch.device("cpu")) is None
    assert usage.utilisation() is None


def test_a_gpu_is_looked_at_now_and_then(monkeypatch):
    """Every five seconds, whatever the number of steps; the mean is kept, and one look is made where none fell due."""
    now, shares = [0.0], iter([0.2, 0.8, 0.4])
    monkeypatch.setattr("study.training.clock.gpu_meter", lambda _: lambda: next(shares))
    usage = Usage(torch.device("cpu"), clock=lambda: now[0])
    for _ in range(12):
        now[0] += 1.0
        usage.look()
    assert usage.utilisation() == pytest.approx(0.5)
    usage.restart()
    assert usage.utilisation() == pytest.approx(0.4)


def test_a_slow_stream_shows(tiny_dataset, tmp_path):
    """The share of waiting holds each pause of the stream; the curve is that without pauses."""
    found = {}
    for name, seconds in (("quick", 0.0), ("slow", 0.005)):
        bench = Bench(tiny_dataset, epochs=2)
        bench.run(tmp_path / name, stream=slow(bench.stream, seconds))
        found[name] = checkpoint.load_last(tmp_path / name).history
    assert same(curve(tmp_path / "quick"), curve(tmp_path / "slow"))
    last = found["slow"][1]
    assert last.system["system/data_wait_share"] * last.system["system/step_seconds"] >= 0.005
    assert last.system["system/images_per_second"] == pytest.approx(8 / last.system["system/step_seconds"])
    assert (last.step, bool(last.node)) == (2 * bench.settings.steps_per_epoch, True)
    assert not any(name.startswith("system/") for name in last.metrics)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("loss", ["cross_entropy", "wk"])
def test_every_step_marks_its_phases(tiny_dataset, tmp_path, loss, accumulate):
    """Whole batches, sums of parts, and losses of the whole batch in two passes: none leaves a phase to another."""
    clock = Counting()
    bench = Bench(tiny_dataset, loss=loss, epochs=1, accumulate=accumulate)
    bench.run(tmp_path / "run", hooks=Hooks(clock=clock))
    steps = bench.settings.steps_per_epoch
    counts = {phase: clock.marked.count(phase) for phase in PHASES}
    assert (counts["wait"], counts["transfer"], counts["optimiser"]) == (steps, steps, steps)
    parts = {("cross_entropy", 2): (2, 2, 2), ("wk", 2): (4, 1, 2)}.get((loss, accumulate), (1, 1, 1))
    assert (counts["forward"], counts["loss"], counts["backward"]) == tuple(steps * count for count in parts)
    assert (counts["validation"], counts["checkpoint"]) == (1, 1)
