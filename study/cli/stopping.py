"""The verb stop: the driver of a study saves a checkpoint and ends; the study can go on later."""

import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from study.cli.cluster_address import check_name, cluster_address
from study.cli.folders import ledger_url
from study.cli.invocation import program, storage_option
from study.cli.looking import Found, find
from study.errors import EXIT_DONE, EXIT_INTERRUPTED, EnvironmentFault, InputError, StudyError

if TYPE_CHECKING:
    from study.distributed.jobs import Job, JobServer
    from study.ledger import LockHolder

LOOK_EVERY_S: Final = 0.3
PATIENCE_S: Final = 60.0  # a cluster that does not answer for so long has gone, which is an end of the job, too


def stop_study(name: str, *, storage: str, address: str | None, wait_s: float) -> int:
    """Ask a study's driver to save and stop, and wait until it has; returns the exit code.

    With ``address`` the driver is a job of that cluster, else whoever holds the study's lock.

    Raises:
        InputError: there is no such study or job, or its driver cannot be asked from here.
        EnvironmentFault: the cluster, or the ledger's database, does not answer.
        StudyError: it has not ended within ``wait_s`` seconds.
    """
    try:
        return _stop_job(name, address, wait_s) if address is not None else _stop_driver(name, storage, wait_s)
    except KeyboardInterrupt:
        typer.echo(f"\nstudy {name} was asked to stop, and goes on saving", err=True)
        return EXIT_INTERRUPTED


def _stop_driver(name: str, storage: str, wait_s: float) -> int:
    found = find(name, storage)
    holder = _holder(found)
    if holder is None:
        typer.echo(f"study {name} is not running; nothing to stop", err=True)
        return EXIT_DONE
    _ask(found, holder)
    typer.echo(f"study {name}: asked process {holder.pid} on {holder.host} to save and stop", err=True)
    if not wait_s:
        return EXIT_DONE

    def is_over() -> bool:
        now = _holder(found)
        return now is None or now.owner != holder.owner

    _await(is_over, wait_s, name=name, again=f"{program()} status {name}{storage_option(storage)}")
    typer.echo(f"stopped; go on with: {program()} resume {name}{storage_option(storage)}", err=True)
    return EXIT_DONE


def _ask(found: Found, holder: "LockHolder") -> None:
    """A signal where it can be sent, else a request where the driver looks for one."""
    from study.ledger import ask_to_stop, is_here

    name = found.config.study
    if is_here(holder) and _is_signalled(holder.pid):
        return
    if not holder.pid:
        raise InputError(
            f"study {name} runs on {holder.host} as an unknown process", "stop it there with Ctrl-C, or kill -TERM"
        )
    try:
        ask_to_stop(found.directory or Path(name), holder, url=_url(found))
    except OSError as error:
        raise InputError(
            f"study {name} runs as process {holder.pid} on {holder.host}, and a request cannot be left in "
            f"{found.directory}: {type(error).__name__}",
            f"stop it on {holder.host}: kill -TERM {holder.pid}",
        ) from error


def _is_signalled(pid: int) -> bool:
    """Whether a process was told to stop, or has just ended; another user's is not, and may find a request."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def _holder(found: Found) -> "LockHolder | None":
    from study.ledger import lock_holder

    return lock_holder(found.directory or Path(found.config.study), url=_url(found))


def _url(found: Found) -> str:
    return ledger_url(found.directory) if found.directory else os.environ.get("STUDY_LEDGER_URL", "")


def _stop_job(name: str, address: str, wait_s: float) -> int:
    check_name(name)
    url = cluster_address(address)
    from study.distributed.job_client import RayJobs
    from study.distributed.jobs import check_ours, end_of

    server = RayJobs(url)
    job = server.find(name)
    if job is None:
        raise InputError(
            f"the cluster at {url} has no job {name}", f"{program()} stop {name} stops what drives it elsewhere"
        )
    check_ours(job, "")
    if job.is_over:
        typer.echo(f"job {name} is not running ({end_of(job)}); nothing to stop", err=True)
        return EXIT_DONE
    server.stop(name)
    typer.echo(f"study {name}: asked its job at {url} to save and stop", err=True)
    if not wait_s:
        return EXIT_DONE

    waiting = _WaitingForJob(server, name)
    _await(waiting.is_over, wait_s, name=name, again=f"{program()} status {name} --address {url}")
    ended = end_of(waiting.last) if waiting.last is not None else "stopped"
    again = f"{program()} submit {name} --address {url} --storage {shlex.quote(job.storage)}"
    typer.echo(f"{ended}; go on with: {again}", err=True)
    return EXIT_DONE


class _WaitingForJob:
    """Looks whether a job has ended, over connections that break; ``last`` is the job as it was seen last."""

    def __init__(self, server: "JobServer", name: str) -> None:
        self._server, self._name = server, name
        self._away_since: float | None = None
        self.last: Job | None = None

    def is_over(self) -> bool:
        """Whether it has.

        Raises:
            EnvironmentFault: the cluster has not answered for a minute.
        """
        try:
            self.last = self._server.find(self._name)
        except EnvironmentFault as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                typer.echo(f"note: {error.message}; trying again", err=True)
            if time.monotonic() - self._away_since > PATIENCE_S:
                raise
            return False
        self._away_since = None
        return self.last is None or self.last.is_over


def _await(is_over: Callable[[], bool], wait_s: float, *, name: str, again: str) -> None:
    """Wait until something is over.

    Raises:
        StudyError: it is not after ``wait_s`` seconds.
    """
    deadline = time.monotonic() + wait_s
    while not is_over():
        if time.monotonic() > deadline:
            raise StudyError(
                f"study {name} was asked to stop, and still runs after {wait_s:g} s", f"look again: {again}"
            )
        time.sleep(LOOK_EVERY_S)
