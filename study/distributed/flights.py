"""A run between its submission and the moment that the driver heard of its end."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from study.types import FailureKind, Retry, RunOutcome, RunSpec


@dataclass(frozen=True)
class Events:
    """What a run tells, in a queue that it may share with the other runs of its trial."""

    run_id: str
    queue: asyncio.Queue[tuple[str, str, Any]]

    def put_nowait(self, event: tuple[str, Any]) -> None:
        """Tell one event: its kind, and what comes with it."""
        self.queue.put_nowait((self.run_id, *event))


@dataclass(kw_only=True)
class Flight:
    """A run that has not ended for the driver: where it is, how often it has failed, and what is decided of it."""

    spec: RunSpec
    slot: int | None = None
    last_epoch: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    kills: tuple[str, int] = ("", 0)
    workers: int = 0
    ended: bool = False
    feed: str = ""
    events: Events
    dropped: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    decisions: dict[int, asyncio.Future[bool]] = field(default_factory=dict)

    def decision(self, epoch: int) -> asyncio.Future[bool]:
        """The driver's answer to an epoch, which may be yet to come."""
        return self.decisions.setdefault(epoch, asyncio.get_running_loop().create_future())

    def retry(self, kind: FailureKind, text: str) -> Retry:
        """What is kept of the attempt that has failed, when the run is tried again as ``spec`` now says."""
        return Retry(
            kind=kind,
            text=text,
            parts=self.spec.parts,
            attempt=self.spec.attempt,
            epoch=self.last_epoch,
            workers=self.workers,
        )


def finish(flight: Flight, outcome: RunOutcome) -> None:
    """End a run, once."""
    if not flight.ended:
        flight.ended, flight.slot = True, None
        if not flight.dropped.done():
            flight.dropped.set_result(False)
        flight.events.put_nowait(("end", outcome))
