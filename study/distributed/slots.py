"""Warm slots: long-lived Ray Train worker groups that execute one training run after another.

A ``TorchTrainer`` for every trial costs about ten seconds of new processes and imports; a slot pays them once.
"""

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.distributed.switchboard import Switchboard
from study.distributed.worker import slot_loop
from study.errors import StudyError
from study.types import RunSpec

logger = logging.getLogger(__name__)

MAX_STARTS: Final = 4  # times that one slot is started before it is given up
MAX_DEATHS: Final = 8  # times that Ray Train starts the workers of a slot again
POLL_S: Final = 1.0
LEFT: Final = "left"  # the loop ended by itself: the study is over, or the worker has grown


class SlotHost:
    """Runs one slot's ``TorchTrainer`` in a process of its own; used as a Ray actor without a CPU."""

    def run(self, settings: dict[str, Any]) -> str:
        """Blocks until the slot's loop ends; returns ``LEFT``, or the reason why the slot broke."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        gpus = settings["gpus_per_worker"]
        per_worker = {"CPU": settings["cpus_per_worker"]} | ({"GPU": gpus} if gpus else {})
        trainer = TorchTrainer(
            slot_loop,
            train_loop_config={"slot": settings["slot"], "switchboard": settings["switchboard"]},
            scaling_config=ScalingConfig(
                num_workers=settings["workers"], use_gpu=gpus > 0, resources_per_worker=per_worker
            ),
            run_config=RunConfig(
                name=settings["name"],
                storage_path=settings["scratch"],
                # A worker group that dies is started again by Ray Train; the switchboard counts the tries of each run.
                failure_config=FailureConfig(max_failures=MAX_DEATHS, controller_failure_limit=2),  # type: ignore[call-arg]  # of Train v2
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - whatever broke the slot is reported, and the slot replaced
            return f"{type(error).__name__}: {error}"
        return LEFT


class SlotPool:
    """A number of slots that serve one switchboard; replaced when they break, closed together.

    Attributes:
        failure: why the last slot was given up; empty while there is one.
    """

    def __init__(
        self, count: int, *, workers: int, cpus_per_worker: float, gpus_per_worker: float, scratch: Path
    ) -> None:
        self.switchboard = _start_actor(Switchboard, max_concurrency=10_000)
        self._settings = {
            "workers": workers,
            "cpus_per_worker": cpus_per_worker,
            "gpus_per_worker": gpus_per_worker,
            "scratch": str(scratch),
            "switchboard": self.switchboard,
        }
        self._starts = dict.fromkeys(range(count), 0)
        self._futures: dict[Any, int] = {}
        self._hosts: dict[int, Any] = {}
        self._closing = threading.Event()
        self.failure = ""
        for slot in range(count):
            self._start(slot)
        self._watcher = threading.Thread(target=self._watch, name="slot-watcher", daemon=True)
        self._watcher.start()

    def interrupt(self) -> None:
        """Ask every run to save a checkpoint and end, and start no other."""
        ray.get(self.switchboard.interrupt.remote())

    def abandon(self, run_id: str) -> None:
        """Let the worker of a run go that nobody follows any more; without a switchboard no slot is of use."""
        try:
            ray.get(self.switchboard.abandon.remote(run_id))
        except ray.exceptions.RayError as error:
            self.failure = f"the switchboard between driver and workers died ({type(error).__name__})"

    def close(self, timeout_s: float = 10.0) -> None:
        """End the loops, wait for the worker groups to leave, and kill what has not left by then."""
        self._closing.set()
        self._watcher.join(POLL_S * 2)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.switchboard.close.remote())
        if self._futures:
            ray.wait(list(self._futures), num_returns=len(self._futures), timeout=timeout_s)
        for host in self._hosts.values():
            ray.kill(host)
        ray.kill(self.switchboard)

    def _start(self, slot: int) -> None:
        self._starts[slot] += 1
        host = _start_actor(SlotHost)
        name = f"slot-{slot}-{uuid.uuid4().hex[:8]}"
        self._hosts[slot] = host
        self._futures[host.run.remote(self._settings | {"slot": slot, "name": name})] = slot

    def _watch(self) -> None:
        """Replace slots that end by themselves; when none is left, say so to every run."""
        while not self._closing.is_set():
            if not self._futures:
                return
            ended, _ = ray.wait(list(self._futures), timeout=POLL_S)
            for future in ended:
                if self._closing.is_set():
                    return
                slot = self._futures.pop(future)
                try:
                    self._replace(slot, _reason(future))
                except ray.exceptions.RayError as error:
                    self.failure = f"{type(error).__name__}: {error}"
                    return

    def _replace(self, slot: int, reason: str) -> None:
        logger.warning("slot %d ended: %s", slot, reason)
        ray.kill(self._hosts.pop(slot))
        ray.get(self.switchboard.retire.remote(slot))
        if reason == LEFT:
            self._starts[slot] -= 1
        if self._starts[slot] < MAX_STARTS:
            self._start(slot)
        elif not self._futures:
            self.failure = reason
            ray.get(self.switchboard.give_up.remote(reason))


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


def _reason(future: Any) -> str:
    try:
        return str(ray.get(future))
    except Exception as error:  # noqa: BLE001 - the actor itself died; any reason will do for the log
        return f"{type(error).__name__}: {error}"


def run_directly(
    pool: SlotPool,
    specs: list[RunSpec],
    *,
    concurrent: int,
    on_event: Callable[[RunSpec, str, Any], None],
    stop: threading.Event,
) -> None:
    """Run what nothing prunes, ``concurrent`` at a time, and hand each event of each run to ``on_event``."""
    queue, live, board = list(specs), dict[Any, RunSpec](), pool.switchboard
    while live or (queue and not stop.is_set()):
        while queue and len(live) < concurrent and not stop.is_set():
            spec = queue.pop(0)
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
