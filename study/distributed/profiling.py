"""A profile of a run: the real loop over the real stream, one worker, in a folder that is thrown away.

What is measured is what a slot does: the worker is a Ray task with the resources of a slot's worker, the same
``train_run`` trains, and Ray Data loads in tasks of their own, which time themselves (`StreamSettings.timed`). Of a run
with several workers one worker's share of each batch is trained; the exchange of gradients is not measured.
"""

import json
import platform
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from study.config import StudyConfig
from study.data.augment import tune_malloc
from study.distributed.cluster import capacity
from study.distributed.loading import TASK_CPUS, Columns
from study.distributed.preflight import count_slots
from study.distributed.runs import build_run
from study.distributed.stream import StreamSettings, batch_stream
from study.errors import InterruptedStudy, StudyError
from study.training import Batch, Hooks, RunParts, train_run
from study.training.clock import BESIDE
from study.training.profile import Interval, Profile, Recorder, Request, hint_for, loading_of, rows_of
from study.types import EpochResult

WARM_UP_STEPS: Final = (
    3  # the first steps set up memory, cuDNN, a compiled network, and empty a stream that has just begun
)
TRACED_STEPS: Final = 3  # an operator's event takes 200 bytes, a step of EfficientNet-B3 has 5,000
LOOK_S: Final = 0.2
MOST_MARKS: Final = 20_000  # of our phases in the trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """Which run is profiled, and for how long: ``steps`` of it, or with 0 a whole epoch with its validation."""

    run: str
    config: Mapping[str, Any]
    seed: int
    fold: int = 0
    fingerprint: str = ""
    pseudo: str = ""
    steps: int = 0


def profile_run(request: ProfileRequest, *, stop: threading.Event) -> tuple[Profile, dict[str, Any]]:
    """The profile, and the trace as Chrome's and Perfetto's JSON; call inside ``connected``.

    Raises:
        InterruptedStudy: ``stop`` was set.
        InputError: the cluster has no room for a worker and its loading.
        StudyError: the data or the network cannot be used.
    """
    import ray

    config = StudyConfig.model_validate(dict(request.config))
    resources = config.resources
    alone = config.model_copy(update={"resources": resources.model_copy(update={"workers": 1, "concurrent": 1})})
    count_slots(alone, capacity())
    task = ray.remote(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=0)(_profiled)
    running = task.remote(request)
    while not ray.wait([running], timeout=LOOK_S)[0]:
        if stop.is_set():
            ray.cancel(running, force=True)
            raise InterruptedStudy("the profile was stopped; it leaves nothing", "start it again")
    try:
        record, trace = ray.get(running)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, StudyError) else error) from None
    return record, json.loads(trace)


def _profiled(request: ProfileRequest) -> tuple[Profile, str]:
    """The work of :func:`profile_run`, in a worker's process."""
    tune_malloc()
    config = StudyConfig.model_validate(dict(request.config))
    device = torch.device("cuda" if config.resources.gpus_per_worker and torch.cuda.is_available() else "cpu")
    pseudo = Path(request.pseudo) if request.pseudo else None
    parts, plan = build_run(
        config, seed=request.seed, fold=request.fold, fingerprint=request.fingerprint, pseudo=pseudo
    )
    steps = request.steps or parts.settings.steps_per_epoch
    # No shorter than the run: its loading goes on beside the last step of the window, too.
    plan = plan.lasting(max(plan.num_steps, WARM_UP_STEPS + steps + TRACED_STEPS))
    session = _Session(request, parts, device=device)
    settings = StreamSettings(
        root=config.data.prepared,
        fingerprint=parts.dataset.fingerprint,
        policy="none" if parts.augment else config.augment.policy,
        mode=config.augment.mode,
        seed=request.seed,
        task_cpus=TASK_CPUS * min(1.0, config.resources.cpus_per_worker),
        timed=True,
    )

    def stream(start_step: int) -> Iterator[Batch]:
        batches = batch_stream(
            plan,
            settings,
            rank=0,
            world_size=config.resources.most_workers,
            start_step=start_step,
            targets=parts.targets,
            train_rows=parts.dataset.rows("train"),
            watch=session.watched,
        )
        return session.begun(batches)

    with tempfile.TemporaryDirectory(prefix="study-profile-") as scratch:
        train_run(
            session.parts, stream=stream, directory=Path(scratch) / "run", attempt=1, hooks=session.hooks, device=device
        )
        session.profiler.stop()
        traced = Path(scratch) / "trace.json"
        session.profiler.export_chrome_trace(str(traced))
        trace = json.loads(traced.read_text(encoding="utf-8"))
    record = session.result(config)
    return record, json.dumps(whole_trace(trace, session.clock, session.requests))


class _Session:
    """What is watched while a run goes through its warm-up, its window and the steps that are traced."""

    def __init__(self, request: ProfileRequest, parts: RunParts, *, device: torch.device) -> None:
        steps = request.steps or parts.settings.steps_per_epoch
        # The warm-up comes before an epoch's own steps; where only steps are wanted, no epoch ends among them.
        length = WARM_UP_STEPS + steps + (TRACED_STEPS + 1 if request.steps else 0)
        # Its batches are one share already, that of one worker of the most there may be.
        settings = replace(parts.settings, epochs=2, steps_per_epoch=length, patience=None, shares=1)
        self.parts = replace(parts, settings=settings)
        self.clock = Recorder(device)
        self.hooks = Hooks(on_epoch=self._on_epoch, should_stop=self._should_stop, clock=self.clock)
        self.requests: list[Request] = []
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
        self.profiler = torch.profiler.profile(activities=activities)
        self._request, self._device, self._steps = request, device, steps
        self._done = self.steps = 0
        self._began, self._first_batch, self._warm = time.perf_counter(), 0.0, 0.0

    def begun(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; when the first one comes is kept."""
        asked = time.perf_counter()
        try:
            for batch in batches:
                self._first_batch = self._first_batch or time.perf_counter() - asked
                yield batch
        finally:
            batches.close()  # type: ignore[attr-defined]  # a generator

    def watched(self, blocks: Iterator[Columns]) -> Iterator[Columns]:
        """The blocks; when each was asked for and came is kept, and what its task told."""
        while True:
            asked = time.time()
            block = next(blocks, None)
            if block is None:
                return
            told = {name: float(block[name][0]) for name in ("began_s", "ended_s", "read_s", "augment_s")}
            pid, images = int(block["pid"][0]), len(block["row"])
            self.requests.append(Request(asked_s=asked, got_s=time.time(), images=images, pid=pid, **told))
            yield block

    def _should_stop(self) -> bool:
        """Asked after each step: opens the window after the warm-up, and ends it where no epoch is to be finished."""
        self._done += 1
        if self._done == WARM_UP_STEPS:
            self._warm = time.perf_counter() - self._began
            self.clock.open()
        if self._request.steps and self._done == WARM_UP_STEPS + self._steps:
            self._shut()
        return self._done == WARM_UP_STEPS + self._steps + TRACED_STEPS

    def _on_epoch(self, _: EpochResult) -> bool:
        if self.clock.is_open:
            self._shut()
        return True

    def _shut(self) -> None:
        self.steps = self.clock.steps
        self.clock.shut()
        self.profiler.start()

    def result(self, config: StudyConfig) -> Profile:
        """The profile of the window."""
        clock, intervals = self.clock, self.clock.intervals()
        ended = clock.began_unix_s + clock.wall_s
        inside = [each for each in self.requests if clock.began_unix_s <= each.asked_s <= ended]
        rows = rows_of(intervals, inside, steps=self.steps)
        batch = config.train.batch_size // config.resources.most_workers
        in_steps = sum(row.seconds for row in rows if row.key not in BESIDE)
        found = Profile(
            run=self._request.run,
            network=config.model.name,
            device=self._device.type,
            node=platform.node(),
            image_hw=self.parts.dataset.image_hw,
            batch_size=batch,
            workers=config.resources.most_workers,
            steps=self.steps,
            is_epoch=not self._request.steps,
            warm_up_steps=WARM_UP_STEPS,
            first_batch_s=self._first_batch,
            warm_up_s=self._warm,
            wall_s=clock.wall_s,
            images_per_second=self.steps * batch / max(in_steps, 1e-9),
            rows=rows,
            loading=loading_of(inside or self.requests),
        )
        return replace(found, hint=hint_for(found))


def whole_trace(traced: dict[str, Any], clock: Recorder, requests: Sequence[Request]) -> dict[str, Any]:
    """The operators of torch's trace, with the phases of all steps and the loading tasks as processes of their own.

    Torch counts microseconds from a base of its own; all times are brought to it.
    """
    base_us = float(traced.get("baseTimeNanoseconds", 0)) / 1000

    def event(name: str, began_s: float, ended_s: float, **more: Any) -> dict[str, Any]:
        return {"ph": "X", "name": name, "ts": began_s * 1e6 - base_us, "dur": (ended_s - began_s) * 1e6, **more}

    start = clock.began_unix_s
    phases: list[Interval] = [each for each in clock.intervals() if each.ended > each.began][:MOST_MARKS]
    events = [_named("process_name", "study: steps", pid="study"), _named("process_name", "study: loading", pid="load")]
    events += [
        event(each.phase, start + each.began, start + each.ended, pid="study", tid=0, cat="study") for each in phases
    ]
    events += [
        event(
            f"{each.images} images", each.began_s, each.ended_s, pid="load", tid=each.pid, cat="study", args=_args(each)
        )
        for each in requests
    ]
    traced["traceEvents"] = [*traced.get("traceEvents", []), *events]
    traced.pop("traceName", None)  # a path of this machine
    return traced


def _named(name: str, value: str, **more: Any) -> dict[str, Any]:
    return {"ph": "M", "name": name, "args": {"name": value}, **more}


def _args(request: Request) -> dict[str, float]:
    return {"read and decode (s)": request.read_s, "augment (s)": request.augment_s}
