"""One line per event, for logs, pipes and continuous integration: no colours, no boxes, nothing overwritten."""

import logging
import threading
from typing import Self, TextIO

from study.console.board import Board, ending
from study.report.words import duration, number, params_text, rate
from study.types import Event

_GAP = "  "

logger = logging.getLogger("study.events")  # the study's log tells the story too, between the libraries' notes


def event_line(event: Event, board: Board) -> str:
    """The event as one line; ``board``, before it took the event in, gives the metric's name and the epochs."""
    match event.kind:
        case "stage" | "warning":
            return event.text if event.kind == "stage" else f"warning: {event.text}"
        case "progress":
            return _progress_line(event, board)
        case "started":
            return _GAP.join(filter(None, [board.label(event), "started", params_text(event.params)]))
        case "epoch":
            return _epoch_line(event, board)
        case "tested":
            return _GAP.join([board.label(event), "tested", f"{board.test_metric} {number(event.value)}"])
        case _:
            return _ended_line(event, board)


class PlainView:
    """Writes a line for every event to a stream; of a stage's progress, a line for each tenth of the way."""

    def __init__(self, stream: TextIO, board: Board) -> None:
        self._stream = stream
        self._board = board
        self._lock = threading.Lock()
        self._tenth = 0
        self._part = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def observe(self, event: Event) -> None:
        """Write the event's line."""
        with self._lock:
            line = event_line(event, self._board) if self._is_news(event) else ""
            self._board.observe(event)
            if line:
                logger.info(line.strip())
                self._write(line)

    def note(self, text: str) -> None:
        """Write a line that no event carries."""
        with self._lock:
            self._write(text)

    def _is_news(self, event: Event) -> bool:
        if event.kind == "stage" or event.text != self._part:
            self._tenth, self._part = 0, event.text
        if event.kind != "progress":
            return True
        tenth = 10 * event.done // event.total if event.total > 0 else 0
        is_news = tenth > self._tenth
        self._tenth = max(tenth, self._tenth)
        return is_news

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _progress_line(event: Event, board: Board) -> str:
    elapsed = board.clock() - board.began_of(event)
    left = elapsed / event.done * (event.total - event.done) if event.done else 0.0
    notes = [event.note, f"about {duration(left)} left" if left >= 1 else ""]
    parts = [" ".join(filter(None, [event.text, f"{event.done} of {event.total}"])), *filter(None, notes)]
    return f"  {', '.join(parts)}"


def _epoch_line(event: Event, board: Board) -> str:
    result = event.result
    total = event.total or board.epochs
    epoch = result.epoch if result else event.done
    of_total = f"/{total}" if total else ""
    speed = rate(result.images, result.seconds) if result else ""
    return _GAP.join(
        filter(None, [board.label(event), f"epoch {epoch}{of_total}", f"{board.metric} {number(event.value)}", speed])
    )


def _ended_line(event: Event, board: Board) -> str:
    value = f"{board.metric} {number(board.value_of(event))}" if event.state in ("complete", "pruned") else ""
    return _GAP.join(filter(None, [board.label(event), ending(event), value, event.text]))
