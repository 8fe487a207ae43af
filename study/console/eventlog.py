"""``events.jsonl``: what a study's driver lived through, one JSON object a line, for programs that watch it.

The driver alone writes it, beside ``study.log``, which also holds whatever Ray and the workers print. Messages carry no
place, address or identifier (`study.failures.public_text`), and no part of the study file but a trial's parameters.
"""

import contextlib
import json
import logging
import math
import os
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

from study.errors import InterruptedStudy, StudyError
from study.failures import public_text
from study.types import Event

EVENTS_FILE: Final = "events.jsonl"
MOST_BYTES: Final = 32 * 2**20  # of one file; an epoch with 60 metrics takes 2 to 3 KB
KEPT_FILES: Final = 3  # older ones beside it: events.jsonl.1 is the youngest
MESSAGE_CHARS: Final = 2000
VERSION: Final = 1

NAMES: Final[Mapping[str, str]] = {
    "log.opened": "a driver begins; `pid`",
    "log.closed": "it ends; `state` is done, interrupted or failed",
    "stage": "a phase of the study begins",
    "run.started": "a run begins or goes on; `params`",
    "run.epoch": "an epoch is done; `epoch`, `step`, `rank`, `node`, `numbers`",
    "run.retried": "a run goes on after a failure; `attempt`",
    "run.ended": "a run is over; `state`, and the study's metric in `numbers`",
    "trial.ended": "a trial of several runs is over; the same",
    "run.tested": "a run was read on the test split; `numbers`",
    "warning": "what a person is to know",
    "log.record": "a warning of Python's logging in the driver; `logger`",
}
FIELDS: Final[Mapping[str, str]] = {
    "v": "1, the version of this table",
    "time": "UTC, ISO 8601, milliseconds",
    "level": "info, warning or error",
    "event": "one of the names above",
    "study": "its name",
    "message": "in words, without places, addresses and identifiers",
    "trial": "number in the ledger, or baseline",
    "run": "folder below `runs/`: 4-s0, 4-f2-s0",
    "attempt": "of the run, from 1",
    "epoch": "from 1",
    "step": "steps that the run has done",
    "rank": "worker that reports, 0",
    "node": "machine of that worker; of the driver in log.opened",
    "state": "complete, pruned, failed, waiting; of log.closed: see there",
    "params": "what the search proposed, by path",
    "numbers": "metrics, `images`, `seconds` and `system/...`; what is not finite is null",
    "pid": "process of the driver",
    "logger": "who said it",
}
_LEVELS: Final = {"warning": logging.WARNING, "failed": logging.ERROR}


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: of an event its fields, of any other its level, logger and message."""

    def __init__(self, study: str) -> None:
        super().__init__()
        self._study = study

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: Mapping[str, Any] | None = getattr(record, "fields", None)
        if fields is None:
            fields = {"event": "log.record", "logger": record.name}
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            message += f" ({record.exc_info[0].__name__})"
        time = datetime.fromtimestamp(record.created, UTC)
        line = {
            "v": VERSION,
            "time": f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z",
            "level": record.levelname.lower(),
            "event": fields["event"],
            "study": self._study,
            "message": _shown(message),
            **fields,
        }
        return json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)


class EventLog:
    """Writes events as records of Python's logging; made by :func:`event_log`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._attempts: dict[str, int] = {}
        self.has_begun = False

    def observe(self, event: Event) -> None:
        """Write one event; progress within a stage is left out."""
        if event.kind == "progress":
            return
        name = _name(event)
        if event.attempt:
            self._attempts[event.run] = event.attempt
        fields: dict[str, Any] = {"event": name}
        known = {"trial": event.trial, "run": event.run, "attempt": self._attempts.get(event.run, 0)}
        fields |= {key: value for key, value in known.items() if value}
        result = event.result
        if result is not None:
            fields |= {"epoch": result.epoch, "step": result.step, "rank": 0, "node": result.node}
        if event.kind == "ended":
            fields["state"] = event.state
        if event.kind == "started":
            fields["params"] = {key: _plain(value) for key, value in event.params.items()}
        numbers = _numbers(event)
        if numbers:
            fields["numbers"] = numbers
        level = _LEVELS.get(event.kind, _LEVELS.get(event.state, logging.INFO))
        self.write(level, event.text or name.replace(".", " "), fields)

    def write(self, level: int, message: str, fields: Mapping[str, Any]) -> None:
        """Write a line of any kind; ``fields`` has ``event``, one of :data:`NAMES`. The first one opens the log."""
        if not self.has_begun:
            self.has_begun = True
            opened = {"event": "log.opened", "pid": os.getpid(), "node": platform.node()}
            self._logger.info("a driver begins", extra={"fields": opened})
        self._logger.log(level, "%s", message, extra={"fields": fields})


@contextlib.contextmanager
def event_log(path: Path, *, study: str) -> Iterator[EventLog]:
    """Append to the event log of a study while open; call it in the process that holds the study's lock.

    A line that a kill has torn is closed, so that the next one stands alone. Where nothing happens, as in a study that
    is done already, nothing is written. Warnings that modules of this package log meanwhile are written as well. A file
    that cannot be written costs lines, never the study: Python's logging says so in ``study.log``.
    """
    handler = _Appending(path)
    handler.setFormatter(JsonLines(study))
    handler.addFilter(_is_ours)
    logger, package = logging.getLogger("study.eventlog"), logging.getLogger("study")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # `study.log` has its own words for events
    for each in (logger, package):
        each.addHandler(handler)
    log, state, reason, level = EventLog(logger), "done", "", logging.INFO
    try:
        yield log
    except InterruptedStudy as error:
        state, reason, level = "interrupted", error.message, logging.WARNING
        raise
    except BaseException as error:
        state, level = "failed", logging.ERROR
        reason = error.message if isinstance(error, StudyError) else type(error).__name__
        raise
    finally:
        if log.has_begun or state != "done":
            log.write(level, reason or "the driver ends", {"event": "log.closed", "state": state})
        for each in (logger, package):
            each.removeHandler(handler)
        handler.close()


class _Appending(RotatingFileHandler):
    """A file of bounded size whose every record is a line of its own, whatever a killed process left at its end."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MOST_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True)

    def _open(self) -> TextIOWrapper:
        file = super()._open()
        if file.tell() > 0:
            with Path(self.baseFilename).open("rb") as before:
                before.seek(-1, os.SEEK_END)
                if before.read(1) != b"\n":
                    file.write("\n")
        return file


def _is_ours(record: logging.LogRecord) -> bool:
    """Events, and warnings of modules; the lines that tell of events in ``study.log`` are not told twice."""
    return hasattr(record, "fields") or (record.levelno >= logging.WARNING and record.name != "study.events")


def _name(event: Event) -> str:
    match event.kind:
        case "stage":
            return "stage"
        case "warning":
            return "run.retried" if event.run else "warning"
        case "ended":
            return "run.ended" if event.run else "trial.ended"
        case _:
            return f"run.{event.kind}"


def _numbers(event: Event) -> dict[str, float | None]:
    found: dict[str, float] = {}
    if event.result is not None:
        result = event.result
        found = {**result.metrics, **result.system, "images": result.images, "seconds": result.seconds}
    elif event.value is not None:
        found = {"value": event.value}
    return {key: _finite(value) for key, value in found.items()}


def _shown(message: str) -> str:
    """At most ``MESSAGE_CHARS`` of a message; cut before it is looked through, which takes long for long words."""
    if len(message) > MESSAGE_CHARS:
        message = message[:MESSAGE_CHARS].rpartition(" ")[0] or message[:MESSAGE_CHARS]  # no half of an identifier
    return public_text(message)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    return _finite(value) if isinstance(value, float) else value
