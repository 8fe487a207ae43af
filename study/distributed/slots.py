"""Warm slots: long-lived Ray Train worker groups that execute one training run after another.

A ``TorchTrainer`` for every trial costs about ten seconds of new processes and imports; a slot pays them once.
"""

import contextlib
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.distributed.switchboard import Switchboard
from study.errors import StudyError
from study.types import RunSpec

logger = logging.getLogger(__name__)

MAX_STARTS: Final = 4  # times that one slot is started before it is given up
MAX_DEATHS: Final = 8  # times that Ray Train starts the workers of a slot again
POLL_S: Final = 1.0
LEFT: Final = "left"  # the loop ended by itself: the study is over, or the worker has grown


class SlotPool:
    """A number of slots that serve one switchboard; replaced when they break, closed together.

    Each slot is a ``TorchTrainer`` whose ``fit`` blocks a thread of this process: a process of its own for that would
    import torch and Ray Train for half of a slot's cold start.

    Attributes:
        failure: why the last slot was given up; empty while there is one.
    """

    def __init__(
        self, count: int, *, workers: int, cpus_per_worker: float, gpus_per_worker: float, scratch: Path
    ) -> None:
        self.switchboard = _start_actor(Switchboard, max_concurrency=10_000)
        self._workers, self._cpus, self._gpus, self._scratch = workers, cpus_per_worker, gpus_per_worker, scratch
        self._starts = dict.fromkeys(range(count), 0)
        self._fits: dict[int, threading.Thread] = {}
        self._ended: queue.Queue[tuple[int, str]] = queue.Queue()
        self._closing = threading.Event()
        self.failure = ""
        for slot in range(count):
            self._start(slot)
        self._watcher = threading.Thread(target=self._watch, name="slot-watcher", daemon=True)
        self._watcher.start()

    def interrupt(self) -> None:
        """Ask every run to save a checkpoint and end, and start no other."""
        ray.get(self.switchboard.interrupt.remote())

    def open_room(self) -> None:
        """No further trial begins: idle slots may take runs that were held back; with one slot there is none idle."""
        if len(self._starts) > 1:
            self.switchboard.open_room.remote()

    def abandon(self, trial: str) -> None:
        """Let the workers of a trial go that nobody follows any more; without a switchboard no slot is of use."""
        try:
            ray.get(self.switchboard.drop.remote(trial))
        except ray.exceptions.RayError as error:
            self.failure = f"the switchboard between driver and workers died ({type(error).__name__})"

    def close(self, timeout_s: float = 10.0) -> None:
        """End the loops and wait for the worker groups to leave; what has not left by then dies with the driver."""
        self._closing.set()
        self._watcher.join(POLL_S * 2)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.switchboard.close.remote())
        deadline = time.monotonic() + timeout_s
        for thread in self._fits.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        ray.kill(self.switchboard)

    def _start(self, slot: int) -> None:
        self._starts[slot] += 1
        thread = threading.Thread(target=self._fit, args=(slot,), name=f"slot-{slot}", daemon=True)
        self._fits[slot] = thread
        thread.start()

    def _fit(self, slot: int) -> None:
        """Blocks until the slot's loop ends; the watcher hears ``LEFT``, or the reason why the slot broke."""
        reason = LEFT
        try:
            self._trainer(slot).fit()
        except Exception as error:  # noqa: BLE001 - whatever broke the slot is reported, and the slot replaced
            reason = f"{type(error).__name__}: {error}"
        self._ended.put((slot, reason))

    def _trainer(self, slot: int) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from study.distributed.deaths import DeathWatch

        per_worker = {"CPU": self._cpus} | ({"GPU": self._gpus} if self._gpus else {})
        return TorchTrainer(
            _loop,
            train_loop_config={"slot": slot, "switchboard": self.switchboard},
            scaling_config=ScalingConfig(
                num_workers=self._workers, use_gpu=self._gpus > 0, resources_per_worker=per_worker
            ),
            run_config=RunConfig(
                name=f"slot-{slot}-{uuid.uuid4().hex[:8]}",
                storage_path=str(self._scratch),
                # A worker group that dies is started again by Ray Train; the switchboard counts the tries of each run.
                failure_config=FailureConfig(max_failures=MAX_DEATHS, controller_failure_limit=2),  # type: ignore[call-arg]  # of Train v2
                callbacks=[DeathWatch(self.switchboard, slot)],  # type: ignore[list-item]  # of Train v2
            ),
        )

    def _watch(self) -> None:
        """Replace slots that end by themselves; when none is left, say so to every run."""
        while not self._closing.is_set() and self._fits:
            with contextlib.suppress(queue.Empty):
                slot, reason = self._ended.get(timeout=POLL_S)
                if self._closing.is_set():
                    return
                try:
                    self._replace(slot, reason)
                except ray.exceptions.RayError as error:
                    self.failure = f"{type(error).__name__}: {error}"
                    return

    def _replace(self, slot: int, reason: str) -> None:
        logger.warning("slot %d ended: %s", slot, reason)
        del self._fits[slot]
        ray.get(self.switchboard.retire.remote(slot))
        if reason == LEFT:
            self._starts[slot] -= 1
        if self._starts[slot] < MAX_STARTS:
            self._start(slot)
        elif not self._fits:
            self.failure = reason
            ray.get(self.switchboard.give_up.remote(reason))


def _loop(config: dict[str, Any]) -> None:
    """The workers' train loop, imported there alone: neither driver nor controller need all that it imports."""
    from study.distributed.worker import slot_loop

    slot_loop(config)


def _start_actor(kind: type, **options: Any) -> Any:
    """An actor on the driver's node, which lives as long as the study, that takes no CPU from the workers."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote
    make = remote(num_cpus=0, scheduling_strategy=here, **options)
    return make(kind).remote()


def _answer(future: Any) -> tuple[str, Any]:
    try:
        kind, payload = ray.get(future)
    except ray.exceptions.RayError as error:
        raise StudyError(
            f"the switchboard between driver and workers died ({type(error).__name__})", "resume the study"
        ) from error
    return kind, payload


def run_directly(
    pool: SlotPool,
    specs: list[RunSpec],
    *,
    concurrent: int,
    on_event: Callable[[RunSpec, str, Any], None],
    stop: threading.Event,
) -> None:
    """Run what nothing prunes, ``concurrent`` at a time, and hand each event of each run to ``on_event``."""
    waiting, live, board = list(specs), dict[Any, RunSpec](), pool.switchboard
    while live or (waiting and not stop.is_set()):
        while waiting and len(live) < concurrent and not stop.is_set():
            spec = waiting.pop(0)
            ray.get(board.submit.remote(spec))
            live[board.next_event.remote(spec.run_id)] = spec
        ready, _ = ray.wait(list(live), timeout=0.5)
        for future in ready:
            spec = live.pop(future)
            kind, payload = _answer(future)
            on_event(spec, kind, payload)
            if kind == "epoch":
                ray.get(board.decide.remote(spec.run_id, payload.epoch, True))
            if kind != "end":
                live[board.next_event.remote(spec.run_id)] = spec
