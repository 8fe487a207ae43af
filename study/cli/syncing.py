"""The verb that writes MLflow anew from what the study itself holds."""

import contextlib
import time
from typing import TYPE_CHECKING

import typer

from study.cli.folders import ledger_url, open_ledger, stored_config, study_directory, tracking_uri
from study.cli.invocation import program, storage_option
from study.cli.running import mirrored, tell
from study.errors import EnvironmentFault, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from study.tracking import SentRow, Tracker

TELL_S = 10.0
SILENCE_S = 60.0


def sync_study(name: str, *, storage: str) -> None:
    """Deliver everything that ledger, journal and checkpoints hold to MLflow; what is there already stays as it is.

    Raises:
        InputError: there is no such study, it has not begun, or a driver runs it, which mirrors it anyway.
        EnvironmentFault: the ledger or MLflow does not answer; records that were delivered stay.
        StudyError: the journal is damaged.
    """
    from study.distributed.specs import artifacts
    from study.ledger import Ledger, lock_study
    from study.retelling import retell, tracker_of
    from study.standing import is_done
    from study.tracking import check_answers

    directory = study_directory(name, storage, drive=True)
    config, url, uri = stored_config(directory), ledger_url(directory), tracking_uri(directory)
    with lock_study(directory, url=url, tell=tell) as held, mirrored(directory, held):
        if open_ledger(config, directory) is None:
            raise InputError(
                f"study {name} has not begun: there is nothing to send",
                f"{program()} resume {name}{storage_option(storage)}",
            )
        check_answers(uri)
        with contextlib.closing(Ledger.open(url, config=config)) as ledger:
            tracker = tracker_of(ledger, config, study_dir=directory.absolute(), tracking_uri=uri, from_start=True)
            try:
                retell(ledger, tracker, config, study_dir=directory.absolute(), artifacts=artifacts)
                left = _deliver(tracker)
            finally:
                left = tracker.close(state="done" if is_done(ledger, config) else "interrupted")
            typer.echo(_table(tracker.tally(), left=left), err=True)
    if left:
        raise EnvironmentFault(
            f"MLflow did not take {left} records; they wait in the journal",
            f"look at its server, then run `{program()} sync {name}{storage_option(storage)}` again",
        )


def _deliver(tracker: "Tracker") -> int:
    """Wait as long as records are taken, and say every few seconds how many are left."""
    left, moved = tracker.wait(TELL_S), time.monotonic()
    while left and time.monotonic() - moved < SILENCE_S:
        typer.echo(f"sending to MLflow: {left} records left", err=True)
        now = tracker.wait(TELL_S)
        moved = time.monotonic() if now != left else moved
        left = now
    return left


def _table(rows: "Sequence[SentRow]", *, left: int) -> str:
    from study.console.tables import Column, aligned

    columns = [
        Column("what"),
        Column("in the journal", right=True),
        Column("already in MLflow", right=True),
        Column("sent", right=True),
    ]
    lines = aligned(columns, [[row.what, str(row.told), str(row.there), str(row.sent)] for row in rows], width=100)
    return "\n".join([*lines, f"not taken: {left}"] if left else lines)
