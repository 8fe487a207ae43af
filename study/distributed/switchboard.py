"""Where the driver and the workers of all slots meet."""

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final, Literal

from study.distributed.flights import Events, Flight, finish
from study.failures import last_words, retry_words
from study.types import EpochResult, FailureKind, RunOutcome, RunSpec

TAKE_S: Final = 20.0  # a slot asks again after this time; ranks that wait for rank 0 must not wait for half an hour

PARTS: Final = 2  # times as many micro-batches each time that memory ran out
DRAINED: Final[tuple[FailureKind, str]] = ("preempted", "a node of its workers is being drained")

Taken = tuple[Literal["run", "close", "again"], RunSpec | None]


class Switchboard:
    """Queue of runs, their events for the driver, and the driver's decisions for the workers.

    Used as a Ray actor without a CPU; all methods are coroutines, so that many callers can wait at once. A worker waits
    for the decision on an epoch before it starts the next one: a pruned run costs nothing beyond its last epoch, and a
    study with one slot is deterministic.
    """

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._spare: deque[str] = deque()
        self._has_room = False
        self._feeds: dict[str, asyncio.Queue[tuple[str, str, Any]]] = {}
        self._flights: dict[str, Flight] = {}
        self._turns: dict[int, int] = {}
        self._changed = asyncio.Condition()
        self._interrupted = asyncio.Event()
        self._closing = False
        self._causes: dict[int, tuple[FailureKind, str]] = {}
        self._groups: dict[int, str] = {}
        self._nodes: dict[int, frozenset[str]] = {}
        self._dismissed: set[int] = set()
        self._moves: dict[int, tuple[FailureKind, str] | None] = {}
        self._ripe: set[int] = set()
        self._progress: dict[int, int] = {}

    # Called by the driver.

    async def submit(self, spec: RunSpec, feed: str = "", spare: bool = False) -> None:
        """Queue a run for the next free slot.

        Args:
            spec: the run.
            feed: name of the queue of events, for runs that are followed together; else each has its own.
            spare: hold the run back until `advance` calls it, or `open_room` lets idle slots take it.
        """
        feed = feed or spec.run_id
        events = Events(spec.run_id, self._feeds.setdefault(feed, asyncio.Queue()))
        flight = self._flights[spec.run_id] = Flight(
            spec=spec, last_epoch=spec.reported_epoch, failed=dict(spec.failed), feed=feed, events=events
        )
        if self._interrupted.is_set():
            finish(flight, RunOutcome(state="waiting", reason="interrupted before it started"))
            return
        async with self._changed:
            (self._spare if spare else self._waiting).append(spec.run_id)
            self._changed.notify_all()

    async def advance(self, feed: str) -> None:
        """Queue the next run of a feed that was held back; nothing when none is."""
        async with self._changed:
            run_id = next((run_id for run_id in self._spare if self._flights[run_id].feed == feed), None)
            if run_id is not None:
                self._spare.remove(run_id)
                self._waiting.append(run_id)
                self._changed.notify_all()

    async def open_room(self) -> None:
        """No further trial begins: from now on idle slots also take runs that are held back."""
        self._has_room = True
        await self._tell()

    async def next_event(self, run_id: str) -> tuple[str, Any]:
        """What happened next: ``started`` (with None), ``epoch`` (EpochResult), ``retry`` or ``end`` (RunOutcome)."""
        _, kind, payload = await self.next_of(run_id)
        return kind, payload

    async def next_of(self, feed: str) -> tuple[str, str, Any]:
        """What happened next among the runs of a feed: the run's name, then as `next_event`."""
        event = await self._feeds[feed].get()
        if event[1] == "end":
            self._close_flight(event[0])
        return event

    async def drop(self, feed: str) -> None:
        """Let the workers of all runs of a feed go, within a step, and forget the runs."""
        for run_id in [run_id for run_id, flight in self._flights.items() if flight.feed == feed]:
            await self.abandon(run_id)

    async def wait_dropped(self, run_id: str, attempt: int) -> bool:
        """Returns when a run is over: whether nobody wants it any more and its worker has to stop."""
        flight = self._flights.get(run_id)
        if flight is None or flight.spec.attempt != attempt:
            return True
        return await asyncio.shield(flight.dropped)

    async def decide(self, run_id: str, epoch: int, go_on: bool) -> None:
        """Answer an epoch of a run; after a refusal the run is forgotten."""
        flight = self._flights.get(run_id)
        if flight is None:
            return
        decision = flight.decision(epoch)
        if not decision.done():
            decision.set_result(go_on)
        if not go_on:
            self._forget(run_id)

    async def abandon(self, run_id: str) -> None:
        """Nobody listens to this run any more: let its worker go, and forget it."""
        flight = self._flights.get(run_id)
        if flight is None:
            return
        for decision in flight.decisions.values():
            if not decision.done():
                decision.set_result(False)
        self._forget(run_id)

    async def placed(self, slot: int, group: str, nodes: Collection[str] = ()) -> None:
        """The workers of a slot have started, in this placement group, on these nodes."""
        self._groups[slot], self._nodes[slot] = group, frozenset(nodes)

    async def vacate(self, slot: int) -> tuple[str, int]:
        """A slot has ended: the placement group that it may have left, and how many epochs it has brought."""
        self._dismissed.discard(slot)
        self._moves.pop(slot, None)
        self._ripe.discard(slot)
        self._nodes.pop(slot, None)
        return self._groups.pop(slot, ""), self._progress.get(slot, 0)

    async def dismiss(self, slot: int) -> str:
        """There is no room for a slot any more: the placement group that is to be taken from it."""
        self._dismissed.add(slot)
        return self._groups.get(slot, "")

    async def nodes_of(self, slot: int) -> list[str]:
        """The nodes on which the workers of a slot are; empty while they are not there."""
        return sorted(self._nodes.get(slot, ()))

    async def leave(self, nodes: Collection[str]) -> list[int]:
        """Nodes are being drained: the slots on them, whose runs save at their next step and go on elsewhere."""
        for slot, own in self._nodes.items():
            if own & set(nodes):
                self._moves.setdefault(slot, DRAINED)
        await self._tell()
        return [slot for slot, cause in self._moves.items() if cause == DRAINED]

    async def move(self, slot: int, at_epoch: bool = False) -> None:
        """A slot has to go, by no fault of its run: that saves, at once or at an epoch's end, and goes on elsewhere."""
        if at_epoch:
            self._ripe.add(slot)
        else:
            self._moves.setdefault(slot, None)
        await self._tell()

    async def standing(self) -> tuple[int, frozenset[int], int]:
        """How many slots have their workers, which ones have a run in hand, and how many runs are not over."""
        flights = [flight for flight in self._flights.values() if not flight.ended]
        return len(self._groups), frozenset(each.slot for each in flights if each.slot is not None), len(flights)

    async def interrupt(self) -> None:
        """Ask every run to save and end, and start no other."""
        self._interrupted.set()
        await self._tell()
        self._end_waiting(RunOutcome(state="waiting", reason="interrupted before it started"))

    async def give_up(self, reason: str) -> None:
        """No slot is left: whatever waits or runs stays open, to be adopted when the study is resumed."""
        self._interrupted.set()
        outcome = RunOutcome(state="waiting", reason=reason)
        self._end_waiting(outcome)
        for flight in self._flights.values():
            finish(flight, outcome)

    async def close(self) -> None:
        """Let the slots leave their loops."""
        self._closing = True
        await self._tell()

    # Called by workers.

    async def take(
        self, slot: int, wait_s: float = TAKE_S, *, kills: tuple[str, int] = ("", 0), workers: int = 0
    ) -> Taken:
        """The next run for ``slot``; ``close`` when the study is over, ``again`` when there was none for a while.

        ``kills`` are the worker's machine and how many processes it has killed for want of memory so far; ``workers``
        is how many the slot has.

        Ray does not cancel the call of a worker that died, so a newer ``take`` of a slot ends the older ones, which
        would swallow a run otherwise.
        """
        turn = await self.retire(slot, kills)
        try:
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(lambda: self._has_news(slot, turn))
                if self._closing:
                    return "close", None
                if self._turns[slot] != turn:
                    return "again", None
                if self._has_to_go(slot):
                    return "close", None
                flight = self._flights[(self._waiting or self._spare).popleft()]
        except TimeoutError:
            return "again", None
        flight.slot, flight.kills, flight.workers = slot, kills, workers
        flight.events.put_nowait(("started", None))
        return "run", flight.spec

    async def retire(self, slot: int, kills: tuple[str, int] = ("", 0)) -> int:
        """End every older ``take`` of a slot and release its run; the number of the turn that begins now."""
        turn = self._turns[slot] = self._turns.get(slot, 0) + 1
        await self._tell()
        await self.release(slot, kills)
        return turn

    async def release(self, slot: int, kills: tuple[str, int] = ("", 0)) -> None:
        """Queue again, or give up, the run that ``slot`` had in hand when its workers died."""
        kind, text = self._causes.pop(slot, ("crash", "the worker process died"))
        for flight in list(self._flights.values()):
            if flight.slot != slot or flight.ended:
                continue
            if kind == "crash" and kills[0] == flight.kills[0] and kills[1] > flight.kills[1]:
                kind, text = "out_of_memory", "the machine ran out of memory and killed the worker process"
            await self._try_again(flight, kind, text)

    async def lose(self, slot: int, kind: FailureKind, text: str) -> bool:
        """The workers of a slot died; whether it may not be started again where it was.

        What may also have been the kernel is settled when new workers ask for a run.
        """
        is_dismissed = slot in self._dismissed
        if is_dismissed:
            kind, text = "preempted", "the cluster has become smaller and has no room for the slot any more"
        self._causes[slot] = (kind, text)
        if kind != "crash":
            await self.release(slot)
        return is_dismissed

    async def fault(
        self, run_id: str, attempt: int, failure: tuple[FailureKind, str], *, can_shrink: bool = True
    ) -> None:
        """A worker could not go on with a run; of several reports of an attempt the first counts.

        ``can_shrink``: a batch can be cut into smaller parts, which alone helps against want of memory.
        """
        flight = self._flights.get(run_id)
        if flight is not None and flight.spec.attempt == attempt and not flight.ended:
            await self._try_again(flight, *failure, can_shrink=can_shrink)

    async def _try_again(self, flight: Flight, kind: FailureKind, reason: str, *, can_shrink: bool = True) -> None:
        """Once more from its last checkpoint, as often as the study file says; then the run has failed."""
        spec, used, allowed = flight.spec, flight.failed.get(kind, 0), flight.spec.retries.get(kind, 0)
        if used >= allowed or (kind == "out_of_memory" and not can_shrink):
            text = last_words(kind, reason, tries=used + 1, parts=spec.parts)
            outcome = RunOutcome(state="failed", reason=text, failure=kind, checkpoint=spec.place)
            finish(flight, outcome)
            return
        flight.failed[kind] = used + 1
        parts = spec.parts * PARTS if kind == "out_of_memory" else spec.parts
        text = retry_words(kind, reason, turn=f"{used + 1} of {allowed}", parts=parts)
        flight.spec = replace(spec, parts=parts)
        flight.events.put_nowait(("retry", flight.retry(kind, text)))
        await self._queue_again(flight)

    async def _queue_again(self, flight: Flight) -> None:
        """From its last checkpoint; what an older attempt still reports counts no more."""
        flight.slot = None
        decided = [epoch for epoch, decision in flight.decisions.items() if decision.done()]
        known = max([flight.spec.reported_epoch, *decided])
        flight.spec = replace(flight.spec, attempt=flight.spec.attempt + 1, reported_epoch=known)
        async with self._changed:
            self._waiting.appendleft(flight.spec.run_id)
            self._changed.notify_all()

    async def epoch(self, run_id: str, attempt: int, result: EpochResult) -> bool:
        """A worker reports an epoch and waits for the answer: go on, or not."""
        flight = self._flights.get(run_id)
        if flight is None or flight.spec.attempt != attempt:
            return False
        if result.epoch <= flight.spec.reported_epoch:
            return True  # decided long ago: its checkpoint was lost, and the run had to begin further back
        if result.epoch > flight.last_epoch:
            flight.last_epoch = result.epoch
            flight.failed.clear()
            if flight.slot is not None:
                self._progress[flight.slot] = self._progress.get(flight.slot, 0) + 1
            flight.events.put_nowait(("epoch", result))
        go_on = await flight.decision(result.epoch)
        if go_on and flight.slot in self._ripe:
            await self.move(flight.slot)
        return go_on

    async def end(self, run_id: str, attempt: int, outcome: RunOutcome) -> None:
        """A worker reports how a run ended; reports of attempts that were replaced are dropped."""
        flight = self._flights.get(run_id)
        if flight is None or flight.spec.attempt != attempt or flight.ended:
            return
        has_moved = outcome.state == "waiting" and flight.slot in self._moves and not self._interrupted.is_set()
        cause = self._moves.get(flight.slot) if has_moved and flight.slot is not None else None
        if not has_moved:
            finish(flight, outcome)
        elif cause is not None:
            await self._try_again(flight, *cause)
        else:
            await self._queue_again(flight)

    async def wait_stop(self, slot: int) -> bool:
        """Returns when the run of a slot is to save and end: the study is being interrupted, or the slot has to go."""
        async with self._changed:
            return await self._changed.wait_for(lambda: self._interrupted.is_set() or slot in self._moves)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _has_news(self, slot: int, turn: int) -> bool:
        is_work = bool(self._waiting) or (self._has_room and bool(self._spare))
        return self._closing or self._turns[slot] != turn or self._has_to_go(slot) or is_work

    def _has_to_go(self, slot: int) -> bool:
        return slot in self._moves or slot in self._ripe

    def _forget(self, run_id: str) -> None:
        flight = self._flights.get(run_id)
        if flight is not None and not flight.dropped.done():
            flight.dropped.set_result(True)
        self._close_flight(run_id)
        for queue in (self._waiting, self._spare):
            if run_id in queue:
                queue.remove(run_id)

    def _close_flight(self, run_id: str) -> None:
        flight = self._flights.pop(run_id, None)
        if flight is not None and not any(other.feed == flight.feed for other in self._flights.values()):
            self._feeds.pop(flight.feed, None)

    def _end_waiting(self, outcome: RunOutcome) -> None:
        for queue in (self._waiting, self._spare):
            while queue:
                finish(self._flights[queue.popleft()], outcome)
