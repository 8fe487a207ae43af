"""What a study looks like in a terminal: event lines, a live table, the final tables, and the signals that stop it."""

from study.console.board import Board
from study.console.eventlog import EVENTS_FILE, event_log
from study.console.plain import PlainView, event_line
from study.console.tables import Places, closing_text
from study.console.terminal import quiet_terminal, run_until_done
from study.console.views import View, make_view

__all__ = [
    "EVENTS_FILE",
    "Board",
    "Places",
    "PlainView",
    "View",
    "closing_text",
    "event_line",
    "event_log",
    "make_view",
    "quiet_terminal",
    "run_until_done",
]
