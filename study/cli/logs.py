"""The verb logs: the end of a study's log, once or as it grows; on a cluster that of its job."""

import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import typer

from study.cli.cluster_address import check_name, cluster_address
from study.cli.folders import is_copy, ledger_url, study_directory
from study.cli.following import exit_code_of, follow_job
from study.cli.invocation import program, storage_option
from study.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError

if TYPE_CHECKING:
    from study.distributed.jobs import JobServer

LOOK_EVERY_S: Final = 0.5
STORED_EVERY_S: Final = 5.0


def show_logs(name: str, *, storage: str, lines: int, follow: bool = False, address: str | None = None) -> int:
    """Print the last lines of a log to standard output, and with ``follow`` what comes; returns the exit code.

    With ``address`` it is the log of the study's job on a cluster, whose exit code comes back.

    Raises:
        InputError: there is no such study or job, or it has no log yet.
        EnvironmentFault: the cluster does not answer.
    """
    try:
        if address is not None:
            check_name(name)
            return _job_log(name, cluster_address(address), lines, follow=follow)
        _file_log(name, storage, lines, follow=follow)
    except KeyboardInterrupt:
        typer.echo(f"\nstudy {name} goes on", err=True)
        return EXIT_INTERRUPTED
    return EXIT_DONE


def _file_log(name: str, storage: str, lines: int, *, follow: bool) -> None:
    directory = study_directory(name, storage)
    path = directory / "study.log"
    if is_copy(directory):
        _stored_log(path, lines, follow=follow)
        return
    if not path.exists():
        raise InputError(f"study {name!r} has no log yet", f"{program()} resume {name}{storage_option(storage)}")
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in deque(file, maxlen=lines):
            typer.echo(line, nl=False)
        if follow:
            _tail(file, directory)
            typer.echo(f"note: nobody drives study {name} now", err=True)


def _stored_log(path: Path, lines: int, *, follow: bool) -> None:
    """The log of a study in a store, where its driver brings it every few seconds."""
    from study.ledger import lock_holder
    from study.remote import bring_file

    directory, seen, is_driven = path.parent, -1, True
    while is_driven:
        is_driven = follow and lock_holder(directory, url=ledger_url(directory)) is not None
        bring_file(directory, path.name)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        _write("".join(text.splitlines(keepends=True)[-lines:]) if seen < 0 else text[seen:])
        seen = len(text)
        if is_driven:
            time.sleep(STORED_EVERY_S)
    if not seen:
        raise InputError(f"study {directory.name!r} has no log in its store yet", "it comes there every 15 s")


def _tail(file: TextIO, directory: Path) -> None:
    """Print what is added to a file until nobody drives the study."""
    from study.ledger import lock_holder

    url = ledger_url(directory)
    is_driven = True
    while is_driven:
        is_driven = lock_holder(directory, url=url) is not None
        _write(file.read())  # after the question, so that the last lines of a driver are read
        if is_driven:
            time.sleep(LOOK_EVERY_S)


def _job_log(name: str, address: str, lines: int, *, follow: bool) -> int:
    from study.distributed.job_client import RayJobs
    from study.distributed.jobs import log_start

    server: JobServer = RayJobs(address)
    job = server.find(name)
    if job is None:
        raise InputError(
            f"the cluster at {address} has no job {name}",
            f"{program()} logs {name} --storage ROOT shows the study's own log, where its storage can be reached",
        )
    log = server.log(name)
    start = log_start(log, job.entrypoint)
    own = log[start:] if start >= 0 else log
    _write("".join(own.splitlines(keepends=True)[-lines:]))
    if not follow:
        return EXIT_DONE
    skip = len(log) if start >= 0 else None  # its output has not begun
    return exit_code_of(follow_job(server, job, write=_write, note=_note, skip=skip))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)
