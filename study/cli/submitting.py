"""The verb submit: a study goes to a Ray cluster as a job, once, and goes on there when it exists."""

import os
import secrets
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from study.cli.cluster_address import cluster_address
from study.cli.folders import is_study_name
from study.cli.following import exit_code_of, follow_job
from study.cli.invocation import DEFAULT_STORAGE, program
from study.cli.parcel_rules import check_changes, check_file, check_packages, check_storage, forwarded
from study.cli.showing import print_json
from study.cli.staging import STUDY_FILE, Luggage, pack
from study.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError, StudyError

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.distributed.jobs import Job, Parcel, Sent

# Ray sends a job that is stopped SIGTERM, and SIGKILL after 3 s unless the job's environment says how long it may save.
STOP_WAIT: Final = ("RAY_JOB_STOP_WAIT_TIME_S", "600")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of the verb, as they were given."""

    address: str | None
    storage: str
    overrides: Sequence[str] = ()
    scale: str | None = None
    environment: Sequence[str] = ()
    packages: Sequence[str] = ()
    excludes: Sequence[str] = ()
    follow: bool = False
    dry_run: bool = False
    as_json: bool = False


def submit_study(what: str, wishes: Wishes) -> int:
    """Send a study file, or an existing study by its name, to a cluster; returns the exit code.

    Raises:
        ConfigError: the study file has faults.
        InputError: an option cannot be used, or something would travel that may not.
        EnvironmentFault: the cluster does not answer, refuses the token, or runs other versions.
        StudyError: the job could not begin.
    """
    luggage, parcel = _prepare(what, wishes)
    if wishes.dry_run:
        _show_plan(luggage, parcel, wishes)
        return EXIT_DONE
    address = cluster_address(wishes.address)
    _warn_of_what_stays(wishes.environment)
    from study.distributed.credentials import open_token
    from study.distributed.job_client import RayJobs, check_versions
    from study.distributed.jobs import send_once

    server = RayJobs(address)
    if file := open_token():
        typer.echo(f"warning: everybody here can read the cluster's token, {file}: chmod 600", err=True)
    check_versions(server.versions, address=address)
    if not server.versions.python:
        typer.echo(f"warning: the cluster at {address} does not tell its version of Python", err=True)
    with tempfile.TemporaryDirectory(prefix="study-submit-") as folder:
        luggage.write(Path(folder))
        sent = send_once(server, replace(parcel, folder=Path(folder)))
    _tell(sent, luggage, address=address, wishes=wishes)
    job = sent.job
    if not wishes.follow:
        if job.is_over:
            raise_failed(job)
        return EXIT_DONE
    try:
        job = follow_job(server, job, write=_write, note=_note)
    except KeyboardInterrupt:
        again = f"{program()} logs {job.name} --follow --address {address}"
        typer.echo(f"\nthe study goes on at {address}; {again} shows it again", err=True)
        return EXIT_INTERRUPTED
    return told_end(job)


def _warn_of_what_stays(forwarded: Sequence[str]) -> None:
    """Addresses that the study would use here, and that its driver on the cluster does not know."""
    for name in ("STUDY_LEDGER_URL", "MLFLOW_TRACKING_URI"):
        if os.environ.get(name) and name not in forwarded:
            typer.echo(
                f"warning: {name} is set here and does not travel; the head node's environment decides", err=True
            )


def told_end(job: "Job") -> int:
    """Say how a job ended, where its own output did not, and return the exit code."""
    from study.distributed.jobs import advice, end_of

    if job.state == "failed":
        if job.exit_code is None:
            raise_failed(job)
        typer.echo(f"job {job.name}: {end_of(job)}", err=True)
        if fix := advice(job):
            typer.echo(f"  fix: {fix}", err=True)
    elif job.state == "stopped":
        typer.echo(f"job {job.name}: stopped; the same command goes on with the study", err=True)
    return exit_code_of(job)


def raise_failed(job: "Job") -> None:
    """Tell of a job that could not begin; one that is over otherwise is nothing to tell of.

    Raises:
        StudyError: with the end of what Ray says.
    """
    from study.distributed.jobs import advice, end_of

    if job.state != "failed":
        return
    lines = [line.strip() for line in job.message.splitlines() if line.strip()]
    raise StudyError(
        f"job {job.name}: {end_of(job)}: " + "\n  ".join(lines[-5:] or ["Ray gives no reason"]),
        advice(job) or "the job's log has more: study logs NAME --address URL",
    )


def _prepare(what: str, wishes: Wishes) -> "tuple[Luggage, Parcel]":
    """What travels, and its parcel, still without a folder; all that can be wrong on this side is told here."""
    from study.distributed.jobs import FILE, OURS, STORAGE, Parcel

    place = check_storage(wishes.storage, is_default=wishes.storage.rstrip("/") == DEFAULT_STORAGE)
    environment = {**_environment(wishes.environment), STOP_WAIT[0]: STOP_WAIT[1]}
    packages = check_packages(wishes.packages)
    storage = shlex.quote(place)
    if _is_name(what):
        if wishes.scale is not None:
            raise InputError(
                f"--scale goes with a study file; {what} is a study", "name the file, or leave --scale out"
            )
        check_changes(wishes.overrides)
        name, luggage = what, pack(excludes=wishes.excludes)
        changes = "".join(f" --set {shlex.quote(change)}" for change in wishes.overrides)
        command = f"resume {name} --storage {storage}{changes}"
    else:
        config, text = _checked(Path(what), wishes)
        name, luggage = config.study, pack(text, excludes=wishes.excludes)
        command = f"run {STUDY_FILE} --storage {storage}"
    # Tells the output of this job from that of an earlier one in the log that they share.
    mark = f"STUDY_JOB={datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    return luggage, Parcel(
        name=name,
        folder=Path(),
        entrypoint=f"{mark} python -m study {command}",
        environment=environment,
        packages=packages,
        metadata={OURS: name, STORAGE: place, FILE: luggage.digest},
    )


def _is_name(what: str) -> bool:
    """Whether an argument is the name of a study: no such file is there, and it does not end like one."""
    return is_study_name(what) and Path(what).suffix not in (".yaml", ".yml") and not Path(what).is_file()


def _environment(names: Sequence[str]) -> dict[str, str]:
    from study.distributed.cluster import RAY_ENVIRONMENT

    return forwarded(names, own=tuple(RAY_ENVIRONMENT))


def _checked(file: Path, wishes: Wishes) -> "tuple[StudyConfig, str]":
    """The study file, without faults of its own, and as it travels: resolved. Data are the cluster's to look at."""
    from study.config import check_study_file, config_yaml, load_config, raise_faults

    partial, faults = check_study_file(file, wishes.overrides, scale=wishes.scale)
    raise_faults(file, faults, places=partial.places)
    for warning in partial.warnings:
        typer.echo(f"warning: {warning}", err=True)
    config = load_config(file, wishes.overrides, scale=wishes.scale)
    check_file(config)
    return config, config_yaml(config)


def _show_plan(luggage: Luggage, sent: "Parcel", wishes: Wishes) -> None:
    """What would be sent; nobody is asked."""
    if wishes.as_json:
        files = [{"file": file, "bytes": size} for file, _, size in luggage.files]
        plan = {
            "study": sent.name,
            "state": "not sent",
            "storage": sent.metadata["storage"],
            "entrypoint": sent.entrypoint,
        }
        print_json(
            plan
            | {"bytes": luggage.size, "files": files, "env": sorted(sent.environment), "packages": list(sent.packages)}
        )
        return
    typer.echo(f"job {sent.name} would run: {sent.entrypoint}", err=True)
    typer.echo(f"{_weight(luggage)} would travel; the largest:", err=True)
    for file, size in luggage.largest():
        typer.echo(f"  {size / 1000:8.1f} kB  {file}", err=True)
    typer.echo(f"variables: {', '.join(sorted(sent.environment))}", err=True)
    if sent.packages:
        typer.echo(f"packages: {', '.join(sent.packages)}", err=True)


def _weight(luggage: Luggage) -> str:
    extra = 1 if luggage.text else 0
    return f"{len(luggage.files) + extra} files, {luggage.size / 1e6:.1f} MB"


def _tell(sent: "Sent", luggage: Luggage, *, address: str, wishes: Wishes) -> None:
    """One line about what became of it, and the commands that go on from here."""
    job = sent.job
    command = f"{program()} logs {job.name} --follow --address {address}"
    if wishes.as_json:
        state = {"study": job.name, "how": sent.how, "state": job.state, "address": address, "storage": job.storage}
        print_json(state | {"follow": command})
    if sent.how == "running":
        since = datetime.fromtimestamp(job.started, UTC).isoformat(timespec="seconds")
        typer.echo(f"study {job.name} is there and {job.state} since {since}: nothing was sent", err=True)
        if luggage.digest and job.metadata.get("file") != luggage.digest:
            typer.echo(
                f"warning: it runs with another study file; {program()} stop {job.name} --address {address}, "
                "then submit again, takes this one",
                err=True,
            )
    else:
        word = "sent" if sent.how == "started" else "sent again, to go on where it stopped"
        typer.echo(f"study {job.name}: {word} ({_weight(luggage)}); {job.state} at {address}", err=True)
    if not wishes.follow and not job.is_over:
        typer.echo(f"  follow:  {command}", err=True)
        typer.echo(f"  look:    {program()} status {job.name} --address {address}", err=True)
        typer.echo(f"  stop:    {program()} stop {job.name} --address {address}", err=True)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)
