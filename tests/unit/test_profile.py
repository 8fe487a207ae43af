"""A profile: its numbers add up to the time that passed, on a CPU and by a GPU's events, and say what to change."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from study.cli.profiling import profile as verb
from study.config import StudyConfig
from study.console.profile_table import profile_text
from study.distributed import stream
from study.distributed.loading import TIMES, StreamSettings, load_rows
from study.distributed.profiling import (
    TRACED_STEPS,
    WARM_UP_STEPS,
    ProfileRequest,
    _profiled,
    _Session,
    whole_trace,
)
from study.errors import InputError
from study.losses import make_criterion
from study.optimisation import seed_step
from study.report.profile_figure import COLOURS, write_profile_figure
from study.training import RunParts, train_run
from study.training.clock import PHASES
from study.training.profile import (
    ROWS,
    Interval,
    Loading,
    Profile,
    Recorder,
    Request,
    hint_for,
    loading_of,
    rows_of,
)
from tests.unit.test_training import Bench, TinyNet

CPU = torch.device("cpu")
LOADING = Loading(blocks=2, images=64, processes=2, read_ms=0.5, augment_ms=1.5, other_ms=0.25, images_per_second=444.0)


def profile_with(**seconds):
    """A profile of 10 steps with so many seconds in some rows, named with ``_`` for ``/``."""
    intervals, requests = [], []
    waits = {key: seconds.pop(f"wait_{key}", 0.0) for key in ("read", "augment", "hand_over")}
    if sum(waits.values()):
        intervals.append(Interval(phase="wait", began=0, ended=sum(waits.values())))
        loading = waits["read"] + waits["augment"]
        requests.append(
            Request(
                asked_s=100, got_s=100 + sum(waits.values()), began_s=0, ended_s=100 + loading,
                read_s=waits["read"], augment_s=waits["augment"], images=8, pid=1,
            )
        )  # fmt: skip
    intervals += [Interval(phase=phase, began=0, ended=value) for phase, value in seconds.items()]
    rows = rows_of(intervals, requests, steps=10)
    found = Profile(
        run="mine/4-s0", network="resnet", device="cpu", node="node-3", image_hw=(96, 64), batch_size=8, workers=1,
        steps=10, is_epoch=True, warm_up_steps=3, first_batch_s=1.2, warm_up_s=2.0,
        wall_s=sum(row.seconds for row in rows), images_per_second=80.0, rows=rows, loading=LOADING,
    )  # fmt: skip
    return replace(found, hint=hint_for(found))


def seconds_of(profile):
    return {row.key: row.seconds for row in profile.rows}


def test_waiting_is_parted_by_what_was_waited_for():
    """By hand: 4 s of waiting, 3 s for a task (2 : 1 reading and augmenting), 1 s after its end; a block that was
    ready before it was asked for costs its hand-over alone."""
    common = {"images": 8, "pid": 1, "read_s": 2.0, "augment_s": 1.0}
    requests = [
        Request(asked_s=10, got_s=14, began_s=9, ended_s=13, **common),
        Request(asked_s=20, got_s=20.5, began_s=11, ended_s=15, **common),
    ]
    intervals = [Interval(phase="wait", began=0, ended=4.5), Interval(phase="forward", began=4.5, ended=9)]
    rows = {row.key: row for row in rows_of(intervals, requests, steps=3)}
    assert list(rows) == list(ROWS) == list(COLOURS)
    assert [rows[key].seconds for key in ("wait/read", "wait/augment", "wait/hand_over")] == pytest.approx([2, 1, 1.5])
    assert rows["forward"].share == pytest.approx(0.5)
    assert rows["forward"].ms_per_step == pytest.approx(1500)
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    loading = loading_of(requests)
    assert (loading.blocks, loading.images, loading.processes) == (2, 16, 1)
    assert (loading.read_ms, loading.augment_ms, loading.other_ms) == pytest.approx((250, 125, 125))
    assert loading.images_per_second == pytest.approx(2)


def test_clocks_of_two_machines_make_no_negative_time():
    """A task on a machine whose clock is ahead ends after its block came."""
    request = Request(asked_s=10, got_s=11, began_s=30, ended_s=40, read_s=1, augment_s=0, images=8, pid=1)
    rows = {row.key: row.seconds for row in rows_of([Interval(phase="wait", began=0, ended=1)], [request], steps=1)}
    assert (rows["wait/read"], rows["wait/hand_over"]) == (1, 0)
    early = replace(request, began_s=1, ended_s=2)
    assert early.loading_s == 0


class FakeGpu:
    """A GPU that computes what is queued, one thing after the other, while Python runs ahead."""

    def __init__(self):
        self.python = self.device = 0.0

    def queue(self, python, device):
        """Python spends some time on queueing work of the device."""
        self.python += python
        self.device = max(self.device, self.python) + device

    def event(self):
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu):
        self.gpu, self.at = gpu, None

    def record(self):
        self.at = max(self.gpu.device, self.gpu.python)

    def synchronize(self):
        self.gpu.python = max(self.gpu.python, self.at)

    def elapsed_time(self, other):
        return 1000 * (other.at - self.at)


def test_a_gpu_is_asked_for_its_own_times():
    """What Python waits while the GPU still computes costs nothing; what the GPU computes counts for its phase."""
    gpu = FakeGpu()
    clock = Recorder(CPU, make_event=gpu.event)
    clock.mark("forward")  # before the window
    clock.open()
    for wait in (0.0, 2.0, 9.0):
        gpu.python += wait  # for a batch
        clock.mark("wait")
        gpu.queue(0.001, 3.0)
        clock.mark("forward")
        gpu.queue(0.001, 2.0)
        clock.mark("backward")
        clock.count_step()
    clock.shut()
    sums = dict.fromkeys(PHASES, 0.0)
    for each in clock.intervals():
        sums[each.phase] += each.ended - each.began
    assert sums["forward"] == pytest.approx(9, abs=0.01)
    assert sums["backward"] == pytest.approx(6, abs=0.01)
    assert sums["wait"] == pytest.approx(
        1, abs=0.02
    )  # 2 s lay behind work that was queued; 9 s came when 8 s were left
    assert clock.intervals()[-1].ended == pytest.approx(sum(sums.values()))
    assert gpu.python == pytest.approx(clock.intervals()[-1].ended, abs=0.01)  # the window ends when the GPU does
    assert clock.steps == 3


def session_of(tiny_dataset, tmp_path, *, loss="cross_entropy", accumulate=1, steps=0):
    """A session over the tiny dataset, after its run, without Ray."""
    bench = Bench(tiny_dataset, loss=loss, accumulate=accumulate)
    seed_step(0, 2**32)
    criterion = make_criterion(loss, num_classes=3)
    parts = RunParts(
        network=TinyNet(criterion.num_outputs), criterion=criterion, dataset=tiny_dataset, settings=bench.settings
    )
    session = _Session(ProfileRequest(run="r", config={}, seed=0, steps=steps), parts, device=CPU)
    bench.plan = bench.plan.lasting(100)
    train_run(
        session.parts,
        stream=lambda start: session.begun(bench.stream(start)),
        directory=tmp_path / "run",
        attempt=1,
        hooks=session.hooks,
        device=CPU,
    )
    session.profiler.stop()
    return session, bench.settings.steps_per_epoch


@pytest.mark.parametrize(
    ("loss", "accumulate", "steps"), [("cross_entropy", 1, 0), ("cross_entropy", 2, 7), ("wk", 2, 4)]
)
def test_parts_add_up_to_the_wall_time(tiny_dataset, tmp_path, loss, accumulate, steps):
    """Within 2 % (and 2 ms), whole batches and micro-batches; an epoch has its validation, steps alone have not."""
    session, epoch = session_of(tiny_dataset, tmp_path, loss=loss, accumulate=accumulate, steps=steps)
    intervals = session.clock.intervals()
    rows = {row.key: row for row in rows_of(intervals, [], steps=session.steps)}
    assert sum(row.seconds for row in rows.values()) == pytest.approx(session.clock.wall_s, rel=0.02, abs=0.002)
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    assert session.steps == (steps or epoch)
    assert all(rows[key].seconds > 0 for key in ("wait/hand_over", "forward", "loss", "backward", "optimiser", "rest"))
    assert (rows["validation"].seconds > 0, rows["checkpoint"].seconds > 0) == (not steps, not steps)
    assert sum(each.phase == "optimiser" for each in intervals) == session.steps
    events = session.profiler.events()
    assert sum(event.name == "Optimizer.step#AdamW.step" for event in events) == TRACED_STEPS
    assert session._done == WARM_UP_STEPS + session.steps + TRACED_STEPS


def test_the_trace_has_steps_tasks_and_operators_on_one_clock(tiny_dataset, tmp_path):
    """JSON as Chrome and Perfetto read it: complete events with microseconds, ours within the time of the session."""
    began = time.time()
    session, _ = session_of(tiny_dataset, tmp_path, steps=4)
    session.profiler.export_chrome_trace(str(tmp_path / "t.json"))
    task = Request(
        asked_s=began, got_s=began + 1, began_s=began, ended_s=began + 0.5, read_s=0.1, augment_s=0.2, images=8, pid=77
    )
    trace = json.loads(json.dumps(whole_trace(json.loads((tmp_path / "t.json").read_text()), session.clock, [task])))
    base = trace["baseTimeNanoseconds"] / 1000
    ours = [event for event in trace["traceEvents"] if event.get("cat") == "study"]
    assert {event["name"] for event in ours} >= {"forward", "backward", "8 images"}
    for event in ours:
        assert event["ph"] == "X"
        assert event["dur"] >= 0
        assert began - 1e-3 <= (event["ts"] + base) / 1e6 <= time.time()
    operators = [event for event in trace["traceEvents"] if event.get("cat") == "cpu_op"]
    steps = [event for event in ours if event["pid"] == "study"]
    assert len(operators) > 50
    assert max(e["ts"] + e["dur"] for e in steps) <= min(e["ts"] for e in operators) + 1e4  # traced after the window
    assert str(tmp_path) not in json.dumps(trace)


def test_loading_tasks_time_themselves(tiny_dataset):
    """A timed block says what reading and augmenting took, which is no more than its task; others carry nothing."""
    plain = StreamSettings(
        root=str(tiny_dataset.root), fingerprint=tiny_dataset.fingerprint, policy="mammogram", seed=0
    )
    block = {"row": np.arange(8), "draw": np.arange(8)}
    blank = tiny_dataset.pixels(np.empty(0, dtype=np.int64))
    made = load_rows(block, plain, blank)
    timed = load_rows(block, replace(plain, timed=True), blank)
    assert set(timed) - set(made) == set(TIMES)
    np.testing.assert_array_equal(made["image"], timed["image"])
    read, augment, began, ended, pid = (timed[name] for name in TIMES)
    assert all(len(set(column)) == 1 for column in (read, augment, began, ended, pid))
    assert 0 < read[0] + augment[0] <= ended[0] - began[0] + 1e-3


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ({"wait_read": 4.3, "forward": 5.7}, "the network waits 43% of the time for data: reading holds it up"),
        ({"wait_augment": 4.0, "wait_read": 1.0, "backward": 5.0}, "waits 50% of the time for data: augmenting"),
        ({"wait_hand_over": 2.0, "backward": 8.0}, "waits 20% of the time for data: Ray's hand-over"),
        ({"transfer": 2.0, "forward": 8.0}, "copies to the device take 20% of the time"),
        ({"augment": 3.0, "forward": 7.0}, "augmenting on the device takes 30% of the time"),
        ({"optimiser": 3.0, "forward": 7.0}, "the optimiser takes 30% of the time"),
        ({"rest": 3.0, "forward": 7.0}, "Python takes 30% of the time"),
        ({"forward": 3.0, "backward": 6.5, "rest": 0.5, "validation": 90.0}, "the network computes 95% of the time"),
    ],
)
def test_hints(seconds, words):
    """The largest loss is named, as a share of the steps (validation is none), with a knob that exists."""
    hint = profile_with(**seconds).hint
    assert words in hint
    assert hint in profile_text(profile_with(**seconds))


def test_a_hint_fits_the_device():
    """Only who has a GPU is told to let it augment, or to compile."""
    slow = profile_with(wait_augment=5.0, forward=5.0)
    assert "augment.device" not in slow.hint
    assert "augment.device: train" in hint_for(replace(slow, device="cuda"))
    quick = profile_with(forward=5.0)
    assert "train.compile" not in quick.hint
    assert "train.compile" in hint_for(replace(quick, device="cuda"))


def test_table_and_figure(tmp_path):
    """The table has every part and their sum; the picture is a PNG; the JSON has it all."""
    profile = profile_with(wait_read=1.0, forward=3.0, loss=0.1, backward=5.0, optimiser=0.5, rest=0.4)
    text = profile_text(profile)
    assert "mine/4-s0: resnet, 96 x 64 px, batch 8, cpu on node-3" in text
    assert [line.split() for line in text.splitlines() if line.startswith(("forward", "loss", "in all"))] == [
        ["forward", "30.0%", "300.00", "3.00", "█" * 9],
        ["loss", "1.0%", "10.00", "0.10"],
        ["in", "all", "100.0%", "1000.00", "10.00"],
    ]
    assert "validation  " not in text
    assert "one of 2 workers" in profile_text(replace(profile, workers=2))
    assert write_profile_figure(profile, tmp_path / "a" / "p.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(profile.to_json()))["rows"][0]["seconds"] == 1.0


class InProcess:
    """Stands for Ray Data: loads the blocks of some tables here, one after the other."""

    def __init__(self, tables, share):
        self.tables, self.share = tables, share

    def iter_batches(self, **_):
        blank = self.share.dataset.pixels(np.empty(0, dtype=np.int64))
        for table in self.tables:
            block = {name: table[name].to_numpy() for name in table.column_names}
            yield load_rows(block, self.share.settings, blank)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_profile_from_study_file_to_hint(make_dataset, tmp_path, monkeypatch, workers):
    """All of it but Ray: the plan, the stream's batches, one worker's share, the table that adds up, the trace."""
    config = StudyConfig.model_validate(
        {
            "study": "profiled",
            "data": {
                "prepared": str(make_dataset(tmp_path / "tiny")),
                "image_size": 32,
                "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}],
            },
            "model": {"name": "test_efficientnet"},
            "augment": {"policy": "mammogram"},
            "train": {"epochs": 3, "batch_size": 12},
            "resources": {"workers": workers},
        }
    ).model_dump(mode="json")
    monkeypatch.setattr(stream, "_dataset", InProcess)
    found, text = _profiled(ProfileRequest(run="r", config=config, seed=0, steps=4))
    seconds = seconds_of(found)
    assert sum(seconds.values()) == pytest.approx(found.wall_s, rel=0.02, abs=0.002)
    assert (found.steps, found.batch_size, found.workers) == (4, 12 // workers, workers)
    assert found.loading.read_ms > 0
    assert found.loading.augment_ms > 0
    assert found.loading.images > 0
    assert found.hint in profile_text(found)
    names = {event["name"] for event in json.loads(text)["traceEvents"] if event.get("cat") == "study"}
    assert {"wait", "forward", "backward", "optimiser"} <= names


def test_refusals(tmp_path):
    """What cannot be profiled is refused before Ray is started."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"study: mine\ndata:\n  prepared: {tmp_path}/prepared\n"
        "  sources: [{kind: phantom, name: a, patients: 30, seed: 1}]\n"
    )
    options = {"storage": str(tmp_path / "studies"), "steps": 0, "out": None, "as_json": False}
    with pytest.raises(InputError, match="not prepared"):
        verb(str(file), overrides=(), **options)
    with pytest.raises(InputError, match="no study is called"):
        verb("nobody/3", overrides=(), **options)
    with pytest.raises(InputError, match="--set goes with a study file"):
        verb("nobody/3", overrides=("train.batch_size=4",), **options)
    assert not Path(options["storage"]).exists()
