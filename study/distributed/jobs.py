"""A study as a job of a Ray cluster: one job per study, however often it is sent. Nothing here imports Ray.

The job's id is the study's name. Ray gives an id to one job alone, so of two that are sent at once one is refused; a
job that has ended keeps its id until it is deleted. Ray's watcher of a job looks once a second, also for a moment after
its end, and would take a new job of the same id for the one that it saw end: hence ``QUIET_S``.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

from study.errors import InputError, StudyError

JobState = Literal["pending", "running", "stopped", "failed", "succeeded"]
ACTIVE: Final = ("pending", "running")
OURS: Final = "study"  # the key of the metadata that tells our jobs from others
STORAGE: Final = "storage"
FILE: Final = "file"
QUIET_S: Final = 5.0
START_S: Final = 20.0
LOOK_S: Final = 0.5
ATTEMPTS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the cluster tells of it.

    ``cause`` is Ray's name for what ended it, ``exit_code`` that of our program, where it ran. ``started`` and
    ``ended`` are seconds since 1970 by the cluster's clock; ``ended`` is 0 while it goes on.
    """

    name: str
    state: JobState
    entrypoint: str = ""
    message: str = ""
    cause: str = ""
    exit_code: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state not in ACTIVE

    @property
    def storage(self) -> str:
        """Where the study lies, as the cluster sees it; empty when the job does not say."""
        return self.metadata.get(STORAGE, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What travels: a folder with our code and the study file, the command, and names for the cluster to see.

    ``environment`` and ``metadata`` are readable for everybody who can open the cluster's dashboard.
    """

    name: str
    folder: Path
    entrypoint: str
    environment: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


class JobServer(Protocol):
    """The jobs of one cluster."""

    @property
    def address(self) -> str:
        """Where it listens, without a token."""

    def now(self) -> float:
        """Seconds since 1970 by the cluster's clock."""

    def find(self, name: str) -> Job | None:
        """The job of that name, if there is one."""

    def send(self, parcel: Parcel) -> bool:
        """Start a job; False when another one has that name."""

    def delete(self, name: str) -> bool:
        """Forget a job that has ended; False when there is none that has."""

    def stop(self, name: str) -> bool:
        """Ask a job to save and stop; False when it was not running."""

    def log(self, name: str) -> str:
        """All that jobs of that name have printed since the cluster began."""

    def follow(self, name: str, *, skip: int) -> Iterator[str]:
        """What a job prints, as it comes, without the first ``skip`` characters; ends with the job or the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of sending a study: a job began, went on after an earlier one, or was there and runs."""

    how: Literal["started", "resumed", "running"]
    job: Job


def send_once(server: JobServer, parcel: Parcel, *, wait: Callable[[float], None] = time.sleep) -> Sent:
    """Make sure that a study's job runs: one that runs stays, one that has ended is followed by a new one.

    Raises:
        InputError: the name belongs to a job that is not this study.
        StudyError: others send and stop the same study all the time.
        EnvironmentFault: the cluster does not answer.
    """
    for _ in range(ATTEMPTS):
        found = server.find(parcel.name)
        if found is not None:
            check_ours(found, parcel.metadata.get(STORAGE, ""))
            if not found.is_over:
                return Sent(how="running", job=found)
            wait(min(QUIET_S, max(0.0, found.ended + QUIET_S - server.now())))
            if not server.delete(parcel.name):
                continue
        if not server.send(parcel):
            continue
        job = _settled(server, parcel, wait)
        if job is not None and not _was_taken(job):
            return Sent(how="resumed" if found is not None else "started", job=job)
        wait(QUIET_S)
    raise StudyError(
        f"the job {parcel.name} at {server.address} changed each of {ATTEMPTS} times that it was looked at",
        "somebody else sends or stops it: look again in a minute",
    )


def check_ours(job: Job, storage: str) -> None:
    """A job of a study's name is that study: sent by this program, with the same storage.

    Raises:
        InputError: it is something else.
    """
    fix = f"--set study=NAME gives this study another name; `ray job delete {job.name}` forgets a job that has ended"
    if OURS not in job.metadata:
        raise InputError(f"the cluster has a job {job.name} that is no study of this program", fix)
    if storage and job.storage != storage:
        raise InputError(f"the cluster has a job {job.name} whose study lies in {job.storage}; expected {storage}", fix)


def end_of(job: Job) -> str:
    """How a job ended, in words."""
    if job.state != "failed":
        return job.state
    return f"failed with exit code {job.exit_code}" if job.exit_code is not None else "failed before it began"


def advice(job: Job) -> str:
    """What to do about a job that failed; empty where the study's own message says it."""
    text = job.message
    if job.cause == "RUNTIME_ENV_SETUP_FAILURE":
        return "the nodes could not install what --package asks for; they need a package index, or the packages"
    if job.exit_code == 127 or "python: not found" in text:
        return "activate the environment of study on the head node before `ray start`, so that `python` is found"
    if "ModuleNotFoundError" in text and "'study" not in text:
        return "install the packages of requirements.lock on every node, or name the one that is missing: --package"
    if job.exit_code is None and job.cause:
        return "look at the nodes: `ray status`, and the logs of the head node"
    return ""


def log_start(log: str, entrypoint: str) -> int:
    """Where the output of a command begins in a log that earlier jobs of the same name have written, too; -1: not yet.

    Ray writes the command before it starts it, and each of our commands is another one.
    """
    mark = f": {entrypoint}\n"
    at = log.rfind(mark)
    return at if at < 0 else at + len(mark)


def _settled(server: JobServer, parcel: Parcel, wait: Callable[[float], None]) -> Job | None:
    """The job once it runs, has failed to, or has waited for long; None when somebody has deleted it."""
    job = server.find(parcel.name)
    for _ in range(int(START_S / LOOK_S)):
        if job is None or job.entrypoint != parcel.entrypoint or job.state != "pending":
            break
        wait(LOOK_S)
        job = server.find(parcel.name)
    return job


def _was_taken(job: Job) -> bool:
    """Whether the place of the job was still, or again, taken by another of its name."""
    return job.cause == "JOB_SUPERVISOR_ACTOR_START_FAILURE" and "already" in job.message
