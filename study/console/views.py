"""Which view a stream gets: a live table on a terminal, plain lines elsewhere."""

import os
from typing import Protocol, Self, TextIO

from study.console.board import Board
from study.console.plain import PlainView
from study.types import Event


class View(Protocol):
    """Something that shows a study while it runs; a context manager, safe to call from several threads."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def observe(self, event: Event) -> None:
        """Show one event."""

    def note(self, text: str) -> None:
        """Show a line that no event carries."""


def make_view(stream: TextIO, board: Board) -> View:
    """A live table when ``stream`` is a terminal that can move its cursor, plain lines otherwise."""
    if not stream.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        return PlainView(stream, board)
    from study.console.live import LiveView

    return LiveView(stream, board)
