"""The verb status: where a study stands, once or as long as it runs. JSON alone goes to standard output."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import typer

from study.cli.invocation import program, storage_option
from study.cli.looking import Found, Looker, find, log_of, looking
from study.cli.showing import finite, print_json, table_width, trial_record
from study.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EnvironmentFault

if TYPE_CHECKING:
    from study.ledger import RunNow
    from study.watching import Snapshot

LOOK_EVERY_S: Final = 1.0
PATIENCE_S: Final = 300.0  # a database that does not answer for so long ends the watching


def show_status(
    name: str, *, storage: str, as_json: bool, watch: bool, extra: Mapping[str, object] | None = None
) -> int:
    """Where one study stands; with ``watch`` until it ends. Returns the exit code. ``extra`` goes into the JSON.

    A study that was watched and ended without being done gives 1, an interrupted watch 130.

    Raises:
        InputError: there is no such study.
        EnvironmentFault: the ledger's database does not answer.
    """
    from study.console.watched import status_text

    found = find(name, storage)
    with looking(found) as looker:
        try:
            last = _watch(looker, found, storage=storage, as_json=as_json) if watch else looker.look()
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
    if as_json and not watch:
        print_json(status_record(last, log=log_of(found, last)) | dict(extra or {}))
    elif not as_json:
        resume = _resume(found, storage)
        typer.echo(status_text(last, log=log_of(found, last), resume=resume, width=table_width()), err=True)
    return EXIT_FAILED if watch and last.result.state != "done" else EXIT_DONE


def _watch(looker: Looker, found: Found, *, storage: str, as_json: bool) -> "Snapshot":
    """Show what happens until nobody drives the study any more; the last snapshot."""
    from study.console import make_view
    from study.console.plain import PlainView, event_line
    from study.console.watched import board_of, head_lines
    from study.watching import events_between

    now = looker.look()
    if as_json:
        return _watch_as_json(looker, found, now)
    if not _is_running(now):
        return now
    board = board_of(now, log=log_of(found, now))
    with make_view(sys.stderr, board) as view:
        if isinstance(view, PlainView):
            for line in head_lines(now, resume=_resume(found, storage)):
                view.note(line)
            for event in events_between(None, now):
                view.note(event_line(event, board))
        while _is_running(now):
            before, now = now, next_snapshot(looker, note=view.note)
            for event in events_between(before, now):
                view.observe(event)
    typer.echo("", err=True)
    return now


def _watch_as_json(looker: Looker, found: Found, now: "Snapshot") -> "Snapshot":
    """One line of JSON whenever something has changed."""
    told = ""
    while True:
        record = status_record(now, log=log_of(found, now))
        line = json.dumps(finite(record), allow_nan=False)
        without_clock = json.dumps(finite({key: value for key, value in record.items() if key != "last_sign"}))
        if without_clock != told:
            typer.echo(line)
            sys.stdout.flush()
            told = without_clock
        if not _is_running(now):
            return now
        now = next_snapshot(looker)


def _is_running(now: "Snapshot") -> bool:
    return now.result.state == "running"


def next_snapshot(
    looker: Looker, *, note: Callable[[str], None] | None = None, every_s: float = LOOK_EVERY_S
) -> "Snapshot":
    """The next snapshot, after ``every_s`` seconds; a database that is away for a moment is waited for.

    Raises:
        EnvironmentFault: it did not answer for minutes.
    """
    away_since = None
    while True:
        time.sleep(every_s)
        try:
            return looker.look()
        except EnvironmentFault as error:
            if away_since is None and note is not None:
                note(f"{error.message}; trying again")
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise


def status_record(snapshot: "Snapshot", *, log: str) -> dict[str, Any]:
    """A study as scripts read it: state, counts, what runs, the best; and until it is done what its driver does."""
    from study.console.failure_tables import attempt_records, failure_records
    from study.console.watched import running_now
    from study.ledger.now import utc_text
    from study.report.ranking import ranked

    result, now = snapshot.result, snapshot.now
    complete = [row for row in ranked(result) if row.state == "complete" and row.is_feasible]
    found: dict[str, Any] = {
        "study": result.study,
        "state": result.state,
        "trials": dict(Counter(row.state for row in result.rows)),
        "running": [row.trial for row in result.rows if row.state == "running"],
    }
    notes = {row.trial: row.note for row in result.rows if row.note}
    found |= {"notes": notes} if notes else {}
    troubles = {"failures": failure_records(result), "attempts": attempt_records(result)}
    found |= {name: records for name, records in troubles.items() if records}
    found["best"] = trial_record(complete[0]) if complete else None
    if result.state not in ("running", "interrupted"):
        return found
    found["trials_planned"] = result.trials_planned
    found["driver"] = snapshot.driver if result.state == "running" else None
    found["last_sign"] = snapshot.last_sign or None
    is_told = now is not None and now.stage and result.state == "running"
    found["stage"] = (
        {"name": now.stage, "since": utc_text(now.stage_since), "part": now.part, "done": now.done, "total": now.total}
        if is_told and now is not None
        else None
    )
    found["runs"] = [_run_record(run) for run in running_now(snapshot)]
    found["log"] = log
    return found


def _resume(found: Found, storage: str) -> str:
    return f"{program()} resume {found.config.study}{storage_option(storage)}"


def _run_record(run: "RunNow") -> dict[str, Any]:
    """One run in progress as scripts read it."""
    told = {
        "trial": run.trial,
        "seed": run.seed,
        "epoch": run.epoch,
        "epochs": run.epochs,
        "value": run.value,
        "best": run.best,
        "images_per_second": run.rate,
        "seconds_per_epoch": run.seconds,
    }
    return told | ({"part": run.part} if run.part else {})
