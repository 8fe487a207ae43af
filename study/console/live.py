"""The live table of a running study, on a terminal."""

import textwrap
import threading
import time
from datetime import datetime
from typing import Final, Self, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from study.console.board import Board
from study.console.plain import event_line, logger
from study.console.spending import budget_text
from study.console.tables import Column, aligned
from study.report.words import UNKNOWN, duration, number
from study.types import Event

REFRESH_PER_S: Final = 4
_BAR_WIDTH: Final = 24
_WIDE: Final = 80  # columns from which on the bar has its full width
_MIN_RUNNING: Final = 4  # lines of running runs that even a low terminal has
_NAME_WIDTH: Final = 8


class LiveView:
    """Redraws the board in place; notes scroll above it, and the last picture stays when it ends."""

    def __init__(self, stream: TextIO, board: Board, *, width: int | None = None) -> None:
        self._board = board
        self._lock = threading.RLock()
        self._console = Console(file=stream, width=width, highlight=False)
        self._live = Live(
            self,
            console=self._console,
            refresh_per_second=REFRESH_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="ellipsis",
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            yield board_picture(self._board, width=options.max_width, height=console.size.height)

    def observe(self, event: Event) -> None:
        """Take the event into the picture; a warning also stays in the scroll-back."""
        with self._lock:
            if event.kind != "progress":
                logger.info(event_line(event, self._board))
            self._board.observe(event)
        if event.kind == "warning":
            self.note(f"warning: {event.text}")

    def note(self, text: str) -> None:
        """Write a line above the table."""
        self._console.print(Text(text))


def board_picture(board: Board, *, width: int, height: int = 0) -> RenderableType:
    """The board as lines of at most ``width`` columns: stage, best, running runs, last finished ones, counts, log.

    With a ``height``, so many lines at most: the last finished runs give way first, then the running ones, by number.
    """
    head: list[RenderableType] = [_stage_line(board, width)]
    if board.best_label:
        head.append(
            _field("best", f"{board.best_label}  {board.metric} {number(board.best_value)}", style="bold green")
        )
    tail: list[RenderableType] = [_field("trials", _counts(board))]
    budget = budget_text(board.limits, board.spent, trials_left=board.trials_left, hours=board.hours_run)
    tail += [_field("budget" if i == 0 else "", line) for i, line in enumerate(_wrapped(budget, width))]
    tail += [_field("log", board.log, style="dim")] if board.log else []
    room = height - len(head) - len(tail) - 1 if height else len(board.running) + len(board.last) + 2
    running = _running_lines(board, width, room=max(_MIN_RUNNING, room)) if board.running else []
    num_last = max(0, min(len(board.last), room - len(running)))
    last = [_field("last" if i == 0 else "", line) for i, line in enumerate(list(reversed(board.last))[:num_last])]
    return Group(*head, *running, *last, *tail)


def _stage_line(board: Board, width: int) -> RenderableType:
    done, total = (board.done, board.total) if board.total else (len(board.finished), board.trials_planned)
    line = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [Text(_stage_text(board), style="bold", overflow="ellipsis", no_wrap=True)]
    if total:
        bar = _BAR_WIDTH if width >= _WIDE else _BAR_WIDTH // 3
        cells += [ProgressBar(total=total, completed=done, width=bar), Text(f"{done}/{total}", no_wrap=True)]
    if board.note:
        cells.append(Text(board.note, style="dim", no_wrap=True))
    eta = board.eta_s()
    if eta is not None:
        at = f" ({datetime.fromtimestamp(time.time() + eta).astimezone():%H:%M})" if 600 <= eta < 86_400 else ""
        cells.append(Text(f"about {duration(eta)} left{at}", style="dim", no_wrap=True))
    line.add_row(*cells)
    return line


def _stage_text(board: Board) -> str:
    return f"{board.stage}: {board.part}" if board.part else board.stage or board.study


def _running_lines(board: Board, width: int, *, room: int) -> list[Text]:
    """The runs in progress, a line each, at most ``room`` with the heading; what is left out is counted.

    Parameters are cut where the room ends, numbers never; where even they do not fit, the parameters are left out, then
    the speed.
    """
    now = board.clock()
    runs = list(board.running.values())
    shown = runs if len(runs) < room else runs[: room - 2]
    columns = [Column("running"), Column("epoch", right=True), Column(board.metric, right=True)]
    columns += [Column("images/s", right=True), Column("ends in", right=True), Column("parameters")]
    cells = []
    for run in shown:
        epoch = f"{run.epoch}/{run.epochs}" if run.epochs else str(run.epoch)
        left = run.left_s(now)
        ends = UNKNOWN if left is None else duration(left)
        cells.append([run.label, epoch, number(run.value), _rate(run.rate), ends, run.params])
    for name in ("parameters", "images/s"):
        if max(map(len, aligned(columns, cells, width=width))) > width:
            keep = [i for i, column in enumerate(columns) if column.name != name]
            columns, cells = [columns[i] for i in keep], [[row[i] for i in keep] for row in cells]
    lines = aligned(columns, cells, width=width)
    lines += [f"and {len(runs) - len(shown)} more"] if len(shown) < len(runs) else []
    return [
        Text(line, style="dim" if i == 0 or i > len(shown) else "", overflow="ellipsis", no_wrap=True)
        for i, line in enumerate(lines)
    ]


def _rate(rate: float) -> str:
    if not rate:
        return UNKNOWN
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def _counts(board: Board) -> str:
    counts = ", ".join(f"{board.counts[state]} {state}" for state in ("complete", "pruned", "failed"))
    return f"{counts}, {board.trials_left} of {board.trials_planned} left" if board.trials_planned else counts


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(20, width - _NAME_WIDTH)) if text else []


def _field(name: str, text: str, *, style: str = "") -> Text:
    line = Text(f"{name:<{_NAME_WIDTH}}", style="dim", overflow="ellipsis", no_wrap=True)
    return line.append(text, style=style or "default")
