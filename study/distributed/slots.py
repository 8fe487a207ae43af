"""Warm slots: long-lived Ray Train worker groups that execute one training run after another.

A ``TorchTrainer`` for every trial costs about ten seconds of new processes and imports; a slot pays them once.
"""

import contextlib
import logging
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Final

import ray

from study.config import ResourcesConfig
from study.distributed.cluster import Capacity, capacity
from study.distributed.deaths import DeathWatch, draining_nodes, gone_nodes, lost_its_place
from study.distributed.room import find_size, has_free, lacking, remove_group, start_actor
from study.distributed.sharing import leave_mark
from study.distributed.sizes import Need, Sizing, arrange, fewest
from study.distributed.switchboard import Switchboard
from study.errors import StudyError
from study.remote import is_copy
from study.types import RunSpec

logger = logging.getLogger(__name__)

MAX_STARTS: Final = 4  # times that one slot is started without an epoch in between, before it is given up
MAX_DEATHS: Final = 8  # times that Ray Train starts the workers of a slot again
POLL_S: Final = 1.0
LOOK_S: Final = 2.0  # between two looks at what the cluster has
LEAN_LOOKS: Final = 3  # looks in a row without any room, before it is waited for in earnest
WAIT_S: Final = 600.0
GRACE_S: Final = 60.0  # for workers that are being started when the wait is over
DOUBT_S: Final = 60.0  # after a slot has lost its place
MOVE_S: Final = 120.0  # for a run that is to save and leave, before its workers' places are taken from it
LEFT: Final = "left"  # the loop ended by itself: the study is over, or the worker has grown
PARKED: Final = "parked"  # the cluster has no room for the slot


class SlotPool:
    """A number of slots that serve one switchboard; replaced when they break, closed together.

    Each slot is a ``TorchTrainer`` whose ``fit`` blocks a thread of this process: a process of its own for that would
    import torch and Ray Train for half of a slot's cold start. Slots come and go with the cluster: up to ``most`` are
    started while there is room, and one that finds none waits for it, or goes when there are others.

    ``resources`` are fields of `ResourcesConfig`: workers, cpus_per_worker, gpus_per_worker, concurrent.

    Attributes:
        failure: why no slot can work any more; empty while one can.
        lacks_room: it is room in the cluster that was missing for ``wait_s`` seconds.
        most: slots that there may be.
        need: how many of them are of use; the others are for studies that share the cluster.
    """

    def __init__(
        self,
        count: int,
        *,
        scratch: Path,
        most: int | None = None,
        wait_s: float = WAIT_S,
        tell: Callable[[str], None] = logger.warning,
        share: Callable[[Capacity, int], Capacity] = lambda available, _: available,
        **resources: Any,
    ) -> None:
        self.switchboard = start_actor(Switchboard, max_concurrency=10_000)
        self._resources = ResourcesConfig(**resources)
        self._scratch, self._wait_s, self._tell, self._share = scratch, wait_s, tell, share
        self._mark = None if is_copy(scratch) else leave_mark(scratch)
        self.most = count if most is None else most
        self.failure, self.lacks_room = "", False
        self._starts: dict[int, int] = {}
        self._epochs: dict[int, int] = {}
        self._fits: dict[int, threading.Thread] = {}
        self._seeking: set[int] = set()
        self._parked: set[int] = set()
        self._sizes: dict[int, int] = {}
        self._sizing, self.need = Sizing(), Need(most=self.most)
        self._moving: dict[int, float] = {}
        self._without_room_since: float | None = None
        self._was_too_wide, self._lean_looks = False, 0
        self._lost_at, self._last_end = -math.inf, ""
        self._looked = time.monotonic()
        self._ended: queue.Queue[tuple[int, str]] = queue.Queue()
        self._closing = threading.Event()
        sizes = arrange(self._resources, share(capacity(), self.most), count)
        for slot in range(count):
            self._start(slot, sizes[slot] if slot < len(sizes) else self._resources.sizes[0])
        self._watcher = threading.Thread(target=self._watch, name="slot-watcher", daemon=True)
        self._watcher.start()

    @property
    def width(self) -> int:
        """Slots that there are now: as many runs go on at a time."""
        return max(1, len(self._fits))

    def interrupt(self) -> None:
        """Ask every run to save a checkpoint and end, and start no other."""
        ray.get(self.switchboard.interrupt.remote())

    def open_room(self) -> None:
        """No further trial begins: idle slots may take runs that were held back; with one slot there is none idle."""
        self.need.is_last = True
        if self.most > 1:
            self.switchboard.open_room.remote()

    def abandon(self, trial: str) -> None:
        """Let the workers of a trial go that nobody follows any more; without a switchboard no slot is of use."""
        try:
            ray.get(self.switchboard.drop.remote(trial))
        except ray.exceptions.RayError as error:
            self.failure = f"the switchboard between driver and workers died ({type(error).__name__})"

    def close(self, timeout_s: float = 10.0) -> None:
        """End the loops and wait for the worker groups to leave; what has not left by then gives its places back."""
        self._closing.set()
        self._watcher.join(POLL_S * 2)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.switchboard.close.remote())
        deadline = time.monotonic() + timeout_s
        for thread in list(self._fits.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ray.exceptions.RayError):
            for slot in [slot for slot, thread in self._fits.items() if thread.is_alive()]:
                self._give_back(slot)
        ray.kill(self.switchboard)

    def _start(self, slot: int, size: int) -> None:
        self._sizes[slot] = size
        self._starts[slot] = self._starts.get(slot, 0) + 1
        thread = threading.Thread(target=self._fit, args=(slot,), name=f"slot-{slot}", daemon=True)
        self._fits[slot] = thread
        thread.start()

    def _fit(self, slot: int) -> None:
        """Blocks until the slot's loop ends; the watcher hears ``LEFT``, or the reason why the slot broke."""
        reason = LEFT
        try:
            self._seeking.add(slot)
            name = f"slot-{slot}-{uuid.uuid4().hex[:8]}"
            size = find_size(
                self._resources,
                self._sizes[slot],
                name=name,
                give_up=lambda: self._closing.is_set() or slot in self._parked,
            )
            if size:
                self._sizes[slot] = size
                self._seeking.discard(slot)
                self._trainer(slot).fit()
            else:
                reason = PARKED
        except Exception as error:  # noqa: BLE001 - whatever broke the slot is reported, and the slot replaced
            error = getattr(error, "controller_failure", error)
            reason = PARKED if lost_its_place(error) else f"{type(error).__name__}: {error}"
        self._ended.put((slot, reason))

    def _trainer(self, slot: int) -> Any:
        from study.distributed.trainer import slot_trainer  # with torch and Ray Train, while the slot seeks its room

        return slot_trainer(
            _loop,
            {"slot": slot, "switchboard": self.switchboard, "mark": self._mark},
            resources=self._resources.sized(self._sizes[slot]),
            name=f"slot-{slot}-{uuid.uuid4().hex[:8]}",
            scratch=str(self._scratch),
            watch=DeathWatch(self.switchboard, slot),
            max_deaths=MAX_DEATHS,
        )

    def _watch(self) -> None:
        """Replace slots that end, and follow the cluster; when none can work any more, say so to every run."""
        while not self._closing.is_set() and not self.failure:
            ended: tuple[int, str] | None = None
            with contextlib.suppress(queue.Empty):
                ended = self._ended.get(timeout=POLL_S)
            if self._closing.is_set():
                return
            try:
                if ended is not None:
                    self._end(*ended)
                if ended is not None or time.monotonic() - self._looked > LOOK_S:
                    self._follow_cluster()
            except Exception as error:  # noqa: BLE001 - a watcher that is gone would leave every run waiting for ever
                self.failure = f"the slots cannot be watched any more: {type(error).__name__}: {error}"
                with contextlib.suppress(ray.exceptions.RayError):
                    self._give_up(self.failure)

    def _end(self, slot: int, reason: str) -> None:
        """Take a slot out; whether it is started again is decided by what the cluster has, and what it has brought."""
        logger.warning("slot %d ended: %s", slot, reason)
        del self._fits[slot]
        self._seeking.discard(slot)
        self._parked.discard(slot)
        self._moving.pop(slot, None)
        epochs = self._give_back(slot)
        ray.get(self.switchboard.retire.remote(slot))
        if reason == PARKED:
            self._starts[slot] -= 1
            self._lost_at = time.monotonic()
        elif reason == LEFT or epochs > self._epochs.get(slot, 0):
            self._starts[slot] = 0
        self._epochs[slot], self._last_end = epochs, reason

    def _give_back(self, slot: int) -> int:
        """Remove the placement group of a slot that ended, whatever became of its controller; its epochs so far."""
        group, epochs = ray.get(self.switchboard.vacate.remote(slot))
        if group:
            remove_group(group)
        return int(epochs)

    def _follow_cluster(self) -> None:
        """Start slots for which there is room, send those away that wait for none, and wait no longer than allowed."""
        self._looked = time.monotonic()
        # The cluster's own table learns of a lost node after many seconds; who asks the nodes knows at once.
        in_doubt = time.monotonic() - self._lost_at < DOUBT_S
        leaving = draining_nodes()
        if leaving:
            self._leaving(ray.get(self.switchboard.leave.remote(leaving)), since=math.inf)  # until the node goes
        available = capacity(without=leaving | (gone_nodes() if in_doubt else set()))
        placed, busy, open_runs = ray.get(self.switchboard.standing.remote())
        share = self._share(available, need := self.need.slots(open_runs, now=self._looked))
        wanted = arrange(self._resources, share, max(need, len(self._staying()))) or [self._resources.sizes[0]]
        self._resize(wanted, available)
        if not self._fits:
            self._give_up(self._last_end)
            return
        self._shrink(len(self._staying()) - len(wanted), busy)
        if placed:
            self._without_room_since = None
        else:
            self._watch_wait(available)

    def _staying(self) -> dict[int, int]:
        """The slots that do not have to go, with their workers."""
        return {slot: self._sizes[slot] for slot in self._fits if slot not in self._moving}

    def _leaving(self, slots: Iterable[int], *, since: float) -> None:
        """These slots go when their runs have saved."""
        self._moving |= {slot: since for slot in slots if slot in self._fits and slot not in self._moving}

    def _move(self, slot: int, *, at_epoch: bool = False) -> None:
        """Let a slot's run save and go on in the next slot that is free."""
        ray.get(self.switchboard.move.remote(slot, at_epoch))
        if not at_epoch:
            self._leaving([slot], since=time.monotonic())

    def _resize(self, wanted: list[int], available: Capacity) -> None:
        """Start slots for which there is room, and move runs that have more workers than fit, or fewer."""
        staying = self._staying()
        settled = frozenset(staying) - self._seeking
        has_room = len(self._resources.sizes) > 1 and has_free(self._resources)
        changes = self._sizing.changes(wanted, staying, available, settled=settled, has_room=has_room, now=self._looked)
        idle = [slot for slot in range(len(wanted)) if slot not in self._fits]
        sound = [slot for slot in idle if self._starts.get(slot, 0) < MAX_STARTS]
        for slot, size in zip(sound, changes.start, strict=False):
            self._start(slot, size)
        for slot in changes.too_large:
            self._move(slot)
        if changes.grow is not None:
            self._move(changes.grow, at_epoch=True)

    def _shrink(self, surplus: int, busy: Collection[int]) -> None:
        """Send slots away for which there is no room: those that wait for some first, then the idle, then the busy.

        When a node is lost, a slot may work where the loading tasks of another one need the processor. It goes when
        two looks in a row agree, with a checkpoint, and without one when its run does not come to a step's end.
        """
        waiting = sorted(self._seeking, reverse=True)[: max(0, surplus)]
        self._parked |= set(waiting)
        rest = surplus - len(waiting)
        if rest > 0 and self._was_too_wide:
            for slot in sorted(set(self._staying()) - self._seeking, key=lambda slot: (slot in busy, -slot))[:rest]:
                self._move(slot)
        self._was_too_wide = rest > 0
        for slot, since in self._moving.items():
            if time.monotonic() - since > MOVE_S:
                group = ray.get(self.switchboard.dismiss.remote(slot))
                if group:
                    remove_group(group)

    def _watch_wait(self, available: Capacity) -> None:
        """The time without any slot that has found room is counted, and ends the study when it is too long."""
        is_seeking = set(self._fits) <= self._seeking
        self._lean_looks = self._lean_looks + 1 if is_seeking else 0
        if self._without_room_since is None and self._lean_looks < LEAN_LOOKS:
            return  # workers are being started, or the cluster is still making up its mind
        missing = lacking(fewest(self._resources), available, ray.available_resources())  # type: ignore[no-untyped-call]
        if self._without_room_since is None:
            self._without_room_since = time.monotonic()
            self._tell(f"no room for the workers of a run: {missing}; waiting for up to {self._wait_s:g} s")
        waited = time.monotonic() - self._without_room_since
        if waited > self._wait_s + (0.0 if is_seeking else GRACE_S):
            self.lacks_room = True
            self._give_up(f"no room for the workers of a run for {self._wait_s:g} s: {missing}")

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        ray.get(self.switchboard.give_up.remote(reason))


def _loop(config: dict[str, Any]) -> None:
    """The workers' train loop, imported there alone: neither driver nor controller need all that it imports."""
    from study.distributed.worker import slot_loop

    slot_loop(config)


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
    """Run what nothing prunes, ``concurrent`` at a time where there are slots, and hand on each event of each run."""
    waiting, live, board = list(specs), dict[Any, RunSpec](), pool.switchboard
    while live or (waiting and not stop.is_set()):
        pool.need.left = len(waiting) + len(live)
        while waiting and len(live) < min(concurrent, pool.width) and not stop.is_set():
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
    pool.need.left = None
