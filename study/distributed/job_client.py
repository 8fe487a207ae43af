"""The jobs of a Ray cluster over HTTP, with errors that say what does not fit."""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from platform import python_version
from typing import Any, Final

import aiohttp
import pydantic
import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from study.distributed.credentials import authority, headers
from study.distributed.jobs import Job, JobState, Parcel
from study.errors import EnvironmentFault, StudyError

QUIET: Final = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
ADDRESSES: Final = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
ANSWER_S: Final = 60.0
FIRST_ANSWER_S: Final = 15.0
UPLOAD_S: Final = 600.0
STATES: Final[dict[JobStatus, JobState]] = {
    JobStatus.PENDING: "pending",
    JobStatus.RUNNING: "running",
    JobStatus.STOPPED: "stopped",
    JobStatus.FAILED: "failed",
    JobStatus.SUCCEEDED: "succeeded",
}
GATEWAYS: Final = (502, 503, 504)  # what stands before a cluster answers, the cluster itself does not
JOBS: Final = "/api/jobs/"
LAST_S: Final = 253_402_300_799.0  # the last second of the year 9999
CONNECTIONS: Final = (requests.exceptions.RequestException, aiohttp.ClientError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What a cluster runs; ``python`` is empty when it does not tell. ``ahead_s`` is its clock before ours."""

    ray: str
    python: str
    ahead_s: float = 0.0


class _Client(JobSubmissionClient):
    """Ray's client, which would wait for ever for an answer, and take any for the right one."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", UPLOAD_S if method == "PUT" else ANSWER_S)
        response: requests.Response = super()._do_request(method, endpoint, **options)
        _check_gateway(response, self._address)
        if response.status_code == 200 and endpoint.startswith(JOBS) and not isinstance(_json(response), dict):
            raise _no_dashboard(self._address, response)
        return response


class RayJobs:
    """The jobs of the cluster at ``address``, an URL of http or https; see `study.distributed.jobs.JobServer`.

    Every method raises EnvironmentFault when the cluster does not answer or refuses the token.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._headers = headers()
        self.versions = ask_versions(self.address, self._headers)
        for module in QUIET:
            logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)
        with _telling(self.address), _without(ADDRESSES):  # Ray would prefer them to the address that it is given
            self._client = _Client(self.address, headers=self._headers, verify=authority())

    def now(self) -> float:
        """Seconds since 1970 by the cluster's clock, to a second."""
        return time.time() + self.versions.ahead_s

    def find(self, name: str) -> Job | None:
        """The job of that name, if there is one."""
        with _telling(self.address):
            try:
                return _job(name, self._client.get_job_info(name))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise

    def send(self, parcel: Parcel) -> bool:
        """Start a job; False when another one has that name."""
        surroundings: dict[str, Any] = {"working_dir": str(parcel.folder), "env_vars": dict(parcel.environment)}
        if parcel.packages:
            surroundings["pip"] = {"packages": list(parcel.packages), "pip_check": False}
        with _telling(self.address):
            try:
                self._client.submit_job(
                    entrypoint=parcel.entrypoint,
                    submission_id=parcel.name,
                    runtime_env=surroundings,
                    metadata=dict(parcel.metadata),
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                raise
        return True

    def delete(self, name: str) -> bool:
        """Forget a job that has ended; False when there is none that has."""
        with _telling(self.address):
            try:
                return bool(self._client.delete_job(name))
            except RuntimeError as error:
                if "non-terminal state" in str(error) or "status code 404" in str(error):
                    return False
                raise

    def stop(self, name: str) -> bool:
        """Ask a job to save and stop; False when it was not running."""
        with _telling(self.address):
            try:
                return bool(self._client.stop_job(name))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return False
                raise

    def log(self, name: str) -> str:
        """All that jobs of that name have printed since the cluster began; empty when nothing was."""
        with _telling(self.address):
            try:
                return str(self._client.get_job_logs(name))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return ""
                raise

    def follow(self, name: str, *, skip: int) -> Iterator[str]:
        """What a job prints, as it comes, without the first ``skip`` characters; ends with the job or the line."""
        chunks = self._client.tail_job_logs(name)

        async def following() -> str | None:
            return await anext(chunks, None)

        with _telling(self.address), asyncio.Runner() as runner:
            while (text := runner.run(following())) is not None:
                kept, skip = text[skip:], max(0, skip - len(text))
                if kept:
                    yield kept


def check_versions(found: Versions, *, address: str) -> None:
    """A cluster runs our Ray, to the release, and our Python, to the second number.

    Raises:
        EnvironmentFault: it does not; the message has both.
    """
    ours = Versions(ray=ray.__version__, python=python_version())
    is_python_right = not found.python or found.python.split(".")[:2] == ours.python.split(".")[:2]
    if found.ray == ours.ray and is_python_right:
        return
    python = f"Python {found.python}" if found.python else "an unknown Python"
    raise EnvironmentFault(
        f"the cluster at {address} runs Ray {found.ray} with {python}; "
        f"expected Ray {ours.ray} with Python {'.'.join(ours.python.split('.')[:2])}, as here",
        f"install ray=={ours.ray} and that Python on the nodes, or send from an environment like theirs",
    )


def ask_versions(address: str, headers: dict[str, str]) -> Versions:
    """What the cluster runs; also finds out whether anybody listens, and whether the token fits.

    Raises:
        EnvironmentFault: nobody listens there, it is not Ray, or the token does not fit.
    """
    with _telling(address):
        trusted = authority()
        answer = requests.get(f"{address}/api/version", headers=headers, timeout=FIRST_ANSWER_S, verify=trusted)
        _check_token(answer, address)
        _check_gateway(answer, address)
        found = _json(answer)
        version = found.get("ray_version") if isinstance(found, dict) else None
        if not isinstance(version, str) or not version:
            raise _no_dashboard(address, answer)
        place = f"{address}/api/v0/cluster_metadata"
        about = requests.get(place, headers=headers, timeout=FIRST_ANSWER_S, verify=trusted)
        try:
            python = str(about.json()["data"]["pythonVersion"])
        except (ValueError, KeyError, TypeError):
            python = ""
    ahead = 0.0
    with contextlib.suppress(KeyError, ValueError, TypeError):
        ahead = parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()
    return Versions(ray=version, python=python, ahead_s=ahead)


def _json(answer: requests.Response) -> Any:
    """The content of an answer; None where it is something else than JSON."""
    try:
        return answer.json()
    except ValueError:
        return None


def _no_dashboard(address: str, answer: requests.Response) -> EnvironmentFault:
    return EnvironmentFault(
        f"what answers at {address} is not the dashboard of a Ray cluster (status {answer.status_code})",
        "name the address of the dashboard: --address http://HEAD:8265",
    )


def _check_gateway(answer: requests.Response, address: str) -> None:
    if answer.status_code in GATEWAYS:
        raise EnvironmentFault(
            f"no Ray cluster answers behind {address} (status {answer.status_code})",
            "what stands before the cluster cannot reach it: is the head node up, with its dashboard?",
        )


def _check_token(answer: requests.Response, address: str) -> None:
    if answer.status_code in (401, 403):
        raise _refused(address, is_missing=answer.status_code == 401)


def _refused(address: str, *, is_missing: bool) -> EnvironmentFault:
    fix = "RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token, in this order"
    if is_missing:
        return EnvironmentFault(f"the cluster at {address} asks for a token and got none", f"put it into {fix}")
    return EnvironmentFault(
        f"the cluster at {address} refuses the token",
        f"`ray get-auth-token` on its head node shows it; put it into {fix}",
    )


@contextlib.contextmanager
def _telling(address: str) -> Iterator[None]:
    """Makes errors of the connection and of the server ours."""
    try:
        yield
    except (requests.exceptions.SSLError, aiohttp.ClientSSLError) as error:
        raise _untrusted(address, error) from error
    except AuthenticationError as error:
        raise _refused(address, is_missing="required" in str(error)) from error
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403):
            raise _refused(address, is_missing=error.status == 401) from error
        raise EnvironmentFault(f"{address} does not give the log: status {error.status}", "try again") from error
    except (*CONNECTIONS, ConnectionError, TimeoutError) as error:
        raise EnvironmentFault(
            f"no Ray cluster answers at {address}: {type(error).__name__}",
            "is the head node up, and its dashboard reachable from here? "
            "--dashboard-host of `ray start` lets others in, `ssh -L` and `kubectl port-forward` lead to it",
        ) from error
    except pydantic.ValidationError as error:
        parts = ", ".join(sorted({str(part) for fault in error.errors() for part in fault["loc"][:1]}))
        raise EnvironmentFault(
            f"the cluster at {address} tells of a job in an unknown way: {parts}",
            "is it a Ray cluster, of the version that is installed here?",
        ) from error
    except RuntimeError as error:
        if "WebSocket" in str(error):
            raise EnvironmentFault(f"the connection to {address} broke", "is the head node still up?") from error
        raise StudyError(
            f"the cluster at {address} refused: {_reason(error)}", "look at the head node's dashboard and its logs"
        ) from error


def _untrusted(address: str, error: Exception) -> EnvironmentFault:
    if any(phrase in str(error) for phrase in ("WRONG_VERSION_NUMBER", "RECORD_LAYER", "record layer")):
        return EnvironmentFault(
            f"what answers at {address} does not speak TLS", f"name it as http://{address.partition('://')[2]}"
        )
    found = re.search(r"certificate verify failed: ([^(']+)", str(error))
    return EnvironmentFault(
        f"the certificate of {address} is not trusted here: {found[1].strip() if found else _first_line(error)}",
        "REQUESTS_CA_BUNDLE or SSL_CERT_FILE names a file with the certificate of its authority (with its own, where "
        "it has signed itself)",
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def _reason(error: Exception) -> str:
    """The last line of what a server answered, which is a traceback in most cases."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return (lines[-1] if lines else type(error).__name__)[:300]


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _job(name: str, details: JobDetails) -> Job:
    return Job(
        name=name,
        state=STATES[details.status],
        entrypoint=details.entrypoint or "",
        message=details.message or "",
        cause=str(details.error_type or ""),
        exit_code=details.driver_exit_code,
        metadata=dict(details.metadata or {}),
        started=_seconds(details.start_time),
        ended=_seconds(details.end_time),
    )


def _seconds(milliseconds: int | None) -> float:
    """A time of Ray's in seconds, within what a date can be: a clock may be wrong, or tell microseconds."""
    return min(max(0.0, (milliseconds or 0) / 1000), LAST_S)
