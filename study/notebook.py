"""Studies from a notebook: start one, and watch one in a table that updates in place.

    from study.notebook import start, watch

    start("search_spaces/quickstart.yaml")
    watch("quickstart")

IPython is there when a notebook runs, and is not needed otherwise: outside of a notebook `watch` prints one line for
each event. A study that was started here runs in a process of its own and goes on when the kernel ends.
"""

import html
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from study.cli.looking import Found, Looker, find, log_of, looking
from study.cli.status import next_snapshot, status_record
from study.console import Board, PlainView, event_line
from study.errors import StudyError
from study.secrecy import take_secret_files

STORAGE: Final = "studies"
REFRESH_S: Final = 2.0
STARTING_S: Final = 120.0  # within which a study that was started has its directory, or has failed

Show = Callable[[str, bool], None]


class Started:
    """A study that `start` has begun; the process goes on by itself.

    Attributes:
        name: of the study.
        process: its driver.
        output: what it prints, an event a line.
    """

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.name, self.process, self.output = name, process, output

    def __repr__(self) -> str:
        code = self.process.poll()
        state = "running" if code is None else f"ended with exit code {code}"
        return f"study {self.name}: {state}, process {self.process.pid}, output in {self.output}"

    def stop(self) -> int:
        """Ask the study to save and end, as Ctrl-C does; waits for it and returns its exit code, usually 130."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait()


def start(file: str | Path, *, overrides: Sequence[str] = (), storage: str = STORAGE) -> Started:
    """Run a study file in a process of its own, as ``study run FILE`` does; returns when the study has begun.

    Args:
        file: study file (YAML).
        overrides: values to replace, as in ``["search.trials=40"]``.
        storage: directory in which studies live.

    Raises:
        ConfigError: the file has faults.
        StudyError: the study ended before it had begun; the message is what it printed.
    """
    from study.cli.folders import STUDY_FILE, storage_root
    from study.config import load_config

    name = load_config(Path(file), overrides).study
    directory = storage_root(storage, drive=True) / name
    output = directory / "run.out"
    directory.mkdir(parents=True, exist_ok=True)
    options = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-c", "from study.cli import main; main()", "run", str(file), *options]
    began = time.time()
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--storage", storage], stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
        )
    resolved = directory / STUDY_FILE
    while process.poll() is None and time.time() - began < STARTING_S:
        if resolved.exists() and resolved.stat().st_mtime >= began - 1:
            break
        time.sleep(0.1)
    if process.poll() not in (None, 0):
        told = output.read_text(encoding="utf-8", errors="replace").strip()
        raise StudyError(f"study {name} ended with exit code {process.returncode}:\n{told}", "remove the cause")
    return Started(name, process, output)


def watch(
    name: str, *, storage: str = STORAGE, refresh_s: float = REFRESH_S, timeout_s: float | None = None
) -> dict[str, Any]:
    """Show a study until it ends: in a notebook as a table that updates in place, elsewhere as a line for each event.

    Interrupting the kernel leaves the study alone, and so does ``timeout_s``.

    Args:
        name: of the study; it may be driven by another machine, if ``STUDY_LEDGER_URL`` names its ledger.
        storage: directory in which studies live.
        refresh_s: seconds between two looks.
        timeout_s: seconds after which to return although the study runs.

    Returns:
        Where the study stands, as ``study status NAME --json`` prints it.

    Raises:
        InputError: there is no such study.
        EnvironmentFault: the ledger's database does not answer.
    """
    take_secret_files(os.environ)
    found = find(name, storage)
    show = _display()
    with looking(found) as looker:
        looks = _looks(looker, refresh_s=refresh_s, timeout_s=timeout_s)
        try:
            last = _show_table(looks, found, show) if show is not None else _print_lines(looks, found)
        except KeyboardInterrupt:
            last = looker.look()
        return status_record(last, log=log_of(found, last))


def _looks(looker: Looker, *, refresh_s: float, timeout_s: float | None) -> Iterator[Any]:
    began = time.monotonic()
    now = looker.look()
    yield now
    while now.result.state == "running" and (timeout_s is None or time.monotonic() - began < timeout_s):
        now = next_snapshot(looker, every_s=refresh_s)
        yield now


def _show_table(looks: Iterator[Any], found: Found, show: Show) -> Any:
    """Draw every look in the place of the one before; returns the last."""
    last, is_first = None, True
    for last in looks:
        show(table_html(last, log=log_of(found, last), name=found.config.study), is_first)
        is_first = False
    return last


def _print_lines(looks: Iterator[Any], found: Found) -> Any:
    from study.console.watched import board_of, head_lines
    from study.watching import events_between

    last: Any = None
    view: PlainView | None = None
    board: Board | None = None
    for now in looks:
        if view is None or board is None:
            board = board_of(now, log=log_of(found, now))
            view = PlainView(sys.stdout, board)
            for line in head_lines(now, resume=f"study resume {found.config.study}"):
                view.note(line)
            for event in events_between(None, now):
                view.note(event_line(event, board))
        else:
            for event in events_between(last, now):
                view.observe(event)
        last = now
    return last


def table_html(snapshot: Any, *, log: str, name: str) -> str:
    """A snapshot as HTML: state and stage, the runs in progress, the best trials, and where the log is."""
    from study.console.watched import board_of, head_lines
    from study.report.ranking import ranked
    from study.report.words import UNKNOWN, duration, number, params_text

    board = board_of(snapshot, log=log)
    now = board.clock()
    head = "".join(f"<div>{html.escape(line)}</div>" for line in head_lines(snapshot, resume=f"study resume {name}"))
    running = [
        [
            run.label,
            f"{run.epoch}/{run.epochs}" if run.epochs else str(run.epoch),
            number(run.value),
            f"{run.rate:.0f}" if run.rate else UNKNOWN,
            UNKNOWN if (left := run.left_s(now)) is None else duration(left),
            run.params,
        ]
        for run in board.running.values()
    ]
    best = [
        [row.trial, number(row.value), str(row.epochs), row.state, params_text(row.params)]
        for row in ranked(snapshot.result)[:10]
    ]
    blocks = [f"<div style='font-family: monospace'>{head}"]
    if running:
        blocks.append(_table(["running", "epoch", board.metric, "images/s", "ends in", "parameters"], running))
    if best:
        blocks.append(_table(["trial", board.metric, "epochs", "state", "parameters"], best))
    blocks.append(f"<div>log: {html.escape(log)}</div></div>")
    return "".join(blocks)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    text.write("<table><thead><tr>")
    text.write("".join(f"<th style='text-align: left'>{html.escape(cell)}</th>" for cell in heading))
    text.write("</tr></thead><tbody>")
    for row in rows:
        text.write("<tr>" + "".join(f"<td style='text-align: left'>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    text.write("</tbody></table>")
    return text.getvalue()


def _display() -> Show | None:
    """What draws HTML in the place of the last drawing, in a kernel that can; None elsewhere."""
    if "IPython" not in sys.modules:  # nothing has loaded it, so no notebook runs this
        return None
    from IPython import get_ipython
    from IPython.display import HTML, display

    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    handle: list[Any] = []

    def show(text: str, is_first: bool) -> None:
        if is_first or not handle:
            handle[:] = [display(HTML(text), display_id=True)]
        else:
            handle[0].update(HTML(text))

    return show
