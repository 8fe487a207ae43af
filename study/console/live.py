"""The live table of a running study, on a terminal."""

import threading
from typing import Final, Self, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from study.console.board import Board
from study.console.plain import event_line, logger
from study.console.tables import Column, aligned
from study.report.words import UNKNOWN, duration, number
from study.types import Event

REFRESH_PER_S: Final = 4
_BAR_WIDTH: Final = 24


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
            yield board_picture(self._board, width=options.max_width)

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


def board_picture(board: Board, *, width: int) -> RenderableType:
    """The board as lines of at most ``width`` columns: stage, best, running runs, last finished ones, counts, log."""
    parts: list[RenderableType] = [_stage_line(board)]
    if board.best_label:
        parts.append(
            _field("best", f"{board.best_label}  {board.metric} {number(board.best_value)}", style="bold green")
        )
    if board.running:
        parts.extend(_running_lines(board, width))
    parts.extend(_field("last" if i == 0 else "", line) for i, line in enumerate(reversed(board.last)))
    parts.append(_field("trials", _counts(board)))
    if board.log:
        parts.append(_field("log", board.log, style="dim"))
    return Group(*parts)


def _stage_line(board: Board) -> RenderableType:
    done, total = (board.done, board.total) if board.total else (len(board.finished), board.trials_planned)
    line = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [Text(_stage_text(board), style="bold", overflow="ellipsis", no_wrap=True)]
    if total:
        cells += [ProgressBar(total=total, completed=done, width=_BAR_WIDTH), Text(f"{done}/{total}", no_wrap=True)]
    if board.note:
        cells.append(Text(board.note, style="dim", no_wrap=True))
    eta = board.eta_s()
    if eta is not None:
        cells.append(Text(f"about {duration(eta)} left", style="dim", no_wrap=True))
    line.add_row(*cells)
    return line


def _stage_text(board: Board) -> str:
    return f"{board.stage}: {board.part}" if board.part else board.stage or board.study


def _running_lines(board: Board, width: int) -> list[Text]:
    """The runs in progress, a line each; parameters are cut where the room ends, numbers never."""
    columns = [Column("running"), Column("epoch", right=True), Column(board.metric, right=True)]
    columns += [Column("images/s", right=True), Column("parameters")]
    cells = []
    for run in board.running.values():
        epoch = f"{run.epoch}/{run.epochs}" if run.epochs else str(run.epoch)
        cells.append([run.label, epoch, number(run.value), f"{run.rate:.0f}" if run.rate else UNKNOWN, run.params])
    lines = aligned(columns, cells, width=width)
    return [
        Text(line, style="dim" if i == 0 else "", overflow="ellipsis", no_wrap=True) for i, line in enumerate(lines)
    ]


def _counts(board: Board) -> str:
    counts = ", ".join(f"{board.counts[state]} {state}" for state in ("complete", "pruned", "failed"))
    return f"{counts}, {board.trials_left} of {board.trials_planned} left" if board.trials_planned else counts


def _field(name: str, text: str, *, style: str = "") -> Text:
    line = Text(f"{name:<8}", style="dim", overflow="ellipsis", no_wrap=True)
    return line.append(text, style=style or "default")
