"""Showing what a job prints until it ends, over connections that break."""

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from study.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EnvironmentFault, StudyError

if TYPE_CHECKING:
    from study.distributed.jobs import Job, JobServer

LOOK_EVERY_S: Final = 1.0
PATIENCE_S: Final = 300.0  # a cluster that does not answer for so long ends the watching


def follow_job(
    server: "JobServer",
    job: "Job",
    *,
    write: Callable[[str], None],
    note: Callable[[str], None],
    wait: Callable[[float], None] = time.sleep,
    skip: int | None = None,
) -> "Job":
    """Write what a job prints, from its beginning or after ``skip`` characters of the log, until it has ended.

    Returns the job as it ended.

    Raises:
        StudyError: the job was forgotten, or another one took its place.
        EnvironmentFault: the cluster did not answer for minutes.
    """
    away_since: float | None = None
    at = skip
    while True:
        try:
            at = _beginning(server, job, wait) if at is None else at
            for text in server.follow(job.name, skip=at):
                away_since = None
                at += len(text)
                write(text)
            now = _same(server, job)
            if now.is_over:
                # A job's last words come after Ray's last look at its log, when it ends with them.
                if rest := server.log(job.name)[at:]:
                    write(rest)
                return now
            # Else something between here and there has ended a silent connection.
        except EnvironmentFault as error:
            if away_since is None:
                note(f"{error.message}; trying again")
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise
            # A proxy that lets no WebSocket through gives the log to whoever asks for all of it.
            with contextlib.suppress(EnvironmentFault):
                at = _beginning(server, job, wait) if at is None else at
                now = _same(server, job)
                if rest := server.log(job.name)[at:]:
                    at += len(rest)
                    write(rest)
                away_since = time.monotonic()
                if now.is_over:
                    return now
        wait(LOOK_EVERY_S)


def exit_code_of(job: "Job") -> int:
    """The exit code that a job which has ended stands for: its own, where it told one."""
    if job.state == "succeeded":
        return EXIT_DONE
    if job.state == "stopped":
        return EXIT_INTERRUPTED
    return job.exit_code or EXIT_FAILED


def _beginning(server: "JobServer", job: "Job", wait: Callable[[float], None]) -> int:
    """Where the job's own output begins, once it has begun; behind everything when it never did."""
    from study.distributed.jobs import log_start

    while True:
        is_over = _same(server, job).is_over
        log = server.log(job.name)
        at = log_start(log, job.entrypoint)
        if at >= 0:
            return at
        if is_over:
            return len(log)
        wait(LOOK_EVERY_S)


def _same(server: "JobServer", job: "Job") -> "Job":
    now = server.find(job.name)
    if now is None or now.entrypoint != job.entrypoint:
        raise StudyError(
            f"the job {job.name} that was followed is no more: it was {'deleted' if now is None else 'sent anew'}",
            f"study logs {job.name} --follow --address {server.address}",
        )
    return now
