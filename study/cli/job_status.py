"""``study status --address``: where a study stands, and what the cluster says of its job."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

from study.cli.cluster_address import check_name, cluster_address
from study.cli.invocation import DEFAULT_STORAGE, program
from study.cli.looking import find
from study.cli.showing import print_json
from study.cli.status import show_status
from study.errors import EXIT_DONE, InputError

if TYPE_CHECKING:
    from study.distributed.jobs import Job

TAIL: Final = 5


def show_job_status(name: str, *, storage: str, address: str, as_json: bool, watch: bool) -> int:
    """The job's state, then the study's, where its storage can be seen from here; returns the exit code.

    Without ``--storage`` it is looked for where the job says that it lies.

    Raises:
        InputError: neither the cluster nor the storage knows of it.
        EnvironmentFault: the cluster, or the ledger's database, does not answer.
    """
    check_name(name)
    url = cluster_address(address)
    from study.distributed.job_client import RayJobs

    job = RayJobs(url).find(name)
    place = job.storage if job is not None and job.storage and storage.rstrip("/") == DEFAULT_STORAGE else storage
    try:
        find(name, place)
    except InputError as error:
        unseen = error.message
    else:
        unseen = ""
    if job is None and unseen:
        raise InputError(
            f"the cluster at {url} has no job {name}, and {unseen}",
            f"{program()} submit FILE --address {url} --storage ROOT sends it",
        )
    told: dict[str, Any] = {"job": None if job is None else _record(job)}
    if not as_json:
        typer.echo(_text(name, job, url), err=True)
    if not unseen:
        return show_status(name, storage=place, as_json=as_json, watch=watch, extra=told)
    if as_json:
        print_json({"study": name, "state": None, "storage": place} | told)
    else:
        typer.echo(
            f"\nThe study cannot be seen from here: {unseen}.\n"
            f"{program()} logs {name} --address {url} shows what its job prints.",
            err=True,
        )
    return EXIT_DONE


def _text(name: str, job: "Job | None", url: str) -> str:
    """A line about the job, and the reason of a failure."""
    from study.distributed.jobs import advice, end_of

    if job is None:
        return f"job {name} at {url}: none; the cluster has begun anew, or the study was never sent there"
    if not job.is_over:
        return f"job {name} at {url}: {job.state} since {_time(job.started)}"
    lines = [f"job {name} at {url}: {end_of(job)}, ended {_time(job.ended)}"]
    if job.state == "failed":
        lines += [f"  {line}" for line in job.message.rstrip().splitlines()[-TAIL:]]
        lines += [f"  fix: {fix}" for fix in [advice(job)] if fix]
    return "\n".join(lines)


def _record(job: "Job") -> dict[str, Any]:
    return {
        "state": job.state,
        "since": _time(job.started),
        "ended": _time(job.ended) if job.is_over else None,
        "exit_code": job.exit_code,
        "cause": job.cause or None,
        "storage": job.storage or None,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
