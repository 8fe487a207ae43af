"""A watcher for the notice with which a cloud takes a machine back: it asks Ray to drain the nodes of this machine.

Runs beside a raylet, outside of any study: ``python -m study.distributed.preemption --cloud aws``. A study on the
cluster then leaves those nodes with a checkpoint (`study.distributed.slots`). It needs no rights in the cloud, for it
reads the machine's own metadata alone, and speaks to nobody but that and the cluster. With ``--now SECONDS`` it waits
for no notice, but until the nodes have left: for whoever is about to stop the machine. See docs/preemption.md.
"""

import argparse
import contextlib
import json
import logging
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger("study.preemption")

REQUEST_S: Final = 2.0  # the metadata service is on the machine itself
DRAIN_S: Final = 60.0
LEFT_S: Final = 0.5  # between two looks whether a drained node has left
NOTHING: Final = (404, 410)  # how a metadata service says that there is no notice

# No answer, half of one, no JSON, or JSON of another form.
UNREADABLE: Final = (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError)

# How much earlier each cloud tells, where it names no time; those of their own documentation.
NOTICE_S: Final = {"aws": 120.0, "gcp": 30.0, "azure": 30.0}
ADDRESSES: Final = {
    "aws": "http://169.254.169.254",
    "gcp": "http://metadata.google.internal",
    "azure": "http://169.254.169.254",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The machine is to go: what the cloud calls it, and in how many seconds."""

    text: str
    seconds: float


class Metadata:
    """The metadata service of a machine, asked without any proxy and never for longer than ``REQUEST_S``.

    Raises:
        OSError: from every method, when it does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._token = ""

    def get(self, path: str, headers: Mapping[str, str], *, method: str = "GET") -> str | None:
        """What stands at a path; None where nothing does."""
        request = urllib.request.Request(f"{self._url}{path}", headers=dict(headers), method=method)  # noqa: S310 - http alone: the arguments are checked
        try:
            with self._opener.open(request, timeout=REQUEST_S) as answer:
                return str(answer.read(1 << 20).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            if error.code in NOTHING:
                return None
            raise

    def get_by_token(self, path: str) -> str | None:
        """The same from AWS's service of the second version, which wants a token that may have run out."""
        for is_last in (False, True):
            if not self._token:
                lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
                self._token = self.get("/latest/api/token", lifetime, method="PUT") or ""
            try:
                return self.get(path, {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                self._token = ""
                if error.code != 401 or is_last:
                    raise
        return None


def aws_notice(service: Metadata) -> Notice | None:
    """A spot instance's ``instance-action``: ``{"action": "terminate", "time": "2026-11-26T08:22:00Z"}``."""
    text = service.get_by_token("/latest/meta-data/spot/instance-action")
    if text is None:
        return None
    action = json.loads(text)
    return Notice(text=f"spot instance: {action['action']}", seconds=_seconds_until(action.get("time"), "aws"))


def gcp_notice(service: Metadata) -> Notice | None:
    """``instance/preempted`` of a spot machine: TRUE from the moment that it is taken back."""
    text = service.get("/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    if text is None or text.strip().upper() != "TRUE":
        return None
    return Notice(text="spot machine: preempted", seconds=NOTICE_S["gcp"])


def azure_notice(service: Metadata) -> Notice | None:
    """The scheduled events ``Preempt`` and ``Terminate`` of this machine; its neighbours' stand there, too."""
    headers = {"Metadata": "true"}
    text = service.get("/metadata/scheduledevents?api-version=2020-07-01", headers)
    events = [event for event in json.loads(text or "{}").get("Events", []) if _takes_away(event)]
    if not events:
        return None
    name = service.get("/metadata/instance/compute/name?api-version=2021-02-01&format=text", headers) or ""
    for event in events:
        machines = [machine.casefold() for machine in event.get("Resources", [])]
        if not name or not machines or name.strip().casefold() in machines:
            seconds = _seconds_until(event.get("NotBefore"), "azure")
            return Notice(text=f"scheduled event: {event['EventType']}", seconds=seconds)
    return None


def _takes_away(event: Mapping[str, Any]) -> bool:
    return event.get("EventType") in ("Preempt", "Terminate")


CLOUDS: Final[Mapping[str, Callable[[Metadata], Notice | None]]] = {
    "aws": aws_notice,
    "gcp": gcp_notice,
    "azure": azure_notice,
}


def _seconds_until(text: object, cloud: str) -> float:
    """Seconds until a time as a cloud writes it, at least one; its usual notice where it writes none."""
    if not isinstance(text, str) or not text.strip():
        return NOTICE_S[cloud]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = parsedate_to_datetime(text)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(1.0, (when - datetime.now(UTC)).total_seconds())


def alive_nodes(address: str) -> dict[str, Any]:
    """What a cluster tells of its living nodes, by their ids."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without stubs

    nodes = GcsClient(address=address).get_all_node_info(timeout=DRAIN_S).items()
    return {node_id.hex(): node for node_id, node in nodes if node.state == 0}  # 0: alive


def own_nodes(address: str, ip: str) -> list[str]:
    """Ids of the living nodes of a cluster that are on the machine with an address, but for the head.

    The head holds the cluster together: it cannot be drained, and belongs on a machine that stays.
    """
    found = []
    for node_id, node in alive_nodes(address).items():
        if node.node_manager_address == ip:
            if node.is_head_node:
                logger.warning("node %s is the head of the cluster, which cannot be drained", node_id)
            else:
                found.append(node_id)
    return found


def drain(address: str, node_id: str, notice: Notice) -> bool:
    """Ask the cluster to drain a node until the machine goes; whether it has agreed."""
    command = [_ray(), "drain-node", "--address", address, "--node-id", node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", notice.text]
    command += ["--deadline-remaining-seconds", str(int(notice.seconds))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DRAIN_S, check=False)
    except subprocess.TimeoutExpired:
        logger.error("node %s: the cluster has not answered within %g s", node_id, DRAIN_S)  # noqa: TRY400 - one line
        return False
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        logger.error("node %s is not drained: %s", node_id, lines[-1] if lines else f"exit code {done.returncode}")
        return False
    logger.info("node %s is drained, %g s before the machine goes", node_id, notice.seconds)
    return True


def _ray() -> str:
    beside = Path(sys.executable).with_name("ray")
    return str(beside) if beside.exists() else shutil.which("ray") or "ray"


def watch(cloud: str, service: Metadata, *, every_s: float) -> Notice:
    """Ask until there is a notice; a service that does not answer is told of once, until it does again."""
    fault = ""
    while True:
        try:
            notice = CLOUDS[cloud](service)
            if fault:
                logger.info("the metadata service answers again")
                fault = ""
        except UNREADABLE as error:
            notice, said = None, f"{type(error).__name__}: {error}"
            if said != fault:
                logger.warning("the metadata service gives no answer that can be read: %s", said)
                fault = said
        if notice is not None:
            logger.info("notice: %s, in %g s", notice.text, notice.seconds)
            return notice
        time.sleep(every_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until there is a notice, and drain; 0 when all nodes of the machine are drained, 1 when one is not.

    With ``--now`` 0 when they have left, too.
    """
    asked = _parsed(arguments)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from ray._private.services import canonicalize_bootstrap_address_or_die, get_node_ip_address
    from ray.exceptions import RpcError

    address = canonicalize_bootstrap_address_or_die(asked.address)
    if asked.now:
        if not _listens(address):
            logger.error("no cluster answers at %s: nothing can be drained", address)
            return 1
        notice = Notice(text="the machine is to stop", seconds=asked.now)
    else:
        logger.info("watching for a notice of %s, every %g s", asked.cloud, asked.every)
        notice = watch(asked.cloud, Metadata(asked.url or ADDRESSES[asked.cloud]), every_s=asked.every)
    until = time.monotonic() + notice.seconds
    while True:
        here = asked.node_ip or get_node_ip_address()  # type: ignore[no-untyped-call]
        try:
            nodes = asked.node_id or own_nodes(address, here)
        except RpcError as error:  # Ray has tried for 40 s: the head may be back before the machine goes
            logger.error("the cluster at %s does not tell its nodes: %s", address, error)  # noqa: TRY400 - one line
            if time.monotonic() > until:
                return 1
            time.sleep(asked.every)
            continue
        if not nodes:
            logger.error("no node of the cluster at %s that could be drained is on this machine", address)
            return 1
        left = Notice(text=notice.text, seconds=max(1.0, until - time.monotonic()))
        refused = [node for node in nodes if not drain(address, node, left)]
        if not refused or left.seconds <= 1.0:
            break
        time.sleep(min(asked.every, left.seconds))
    has_left = not asked.now or wait_until_left(address, nodes, until=until)
    return 1 if refused or not has_left else 0


def _listens(address: str) -> bool:
    """Whether anybody takes connections there; Ray's own client would try for 40 s."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        socket.create_connection((host, int(port)), timeout=REQUEST_S).close()
        return True
    return False


def wait_until_left(address: str, nodes: Sequence[str], *, until: float) -> bool:
    """Wait until drained nodes have ended by themselves, which they do when nothing runs there; whether they have."""
    while _listens(address):
        staying = alive_nodes(address).keys() & set(nodes)
        if not staying:
            logger.info("nothing runs on this machine any more")
            return True
        if time.monotonic() > until:
            logger.error("still there: node %s", ", ".join(sorted(staying)))
            return False
        time.sleep(LEFT_S)
    logger.error("the cluster at %s has gone meanwhile", address)
    return False


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m study.distributed.preemption", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cloud", choices=sorted(CLOUDS), help="whose notices to watch for")
    what.add_argument("--now", type=float, metavar="SECONDS", help="drain at once, and wait until the nodes have left")
    parser.add_argument("--address", help="of the cluster, HOST:PORT; default: RAY_ADDRESS, or the one on this machine")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks (5)")
    parser.add_argument("--url", default="", help="of the metadata service, for tests")
    parser.add_argument("--node-ip", default="", help="this machine's address, where it has several")
    parser.add_argument("--node-id", action="append", help="a node to drain instead of those of this machine")
    asked = parser.parse_args(arguments)
    if asked.url and not asked.url.startswith(("http://", "https://")):
        parser.error(f"--url {asked.url}: expected http:// or https://")
    if asked.now is not None and not 1 <= asked.now <= 86400:
        parser.error(f"--now {asked.now:g}: expected 1 to 86400 seconds")
    if not 0.1 <= asked.every <= 60:
        parser.error(f"--every {asked.every:g}: expected 0.1 to 60 seconds")
    return asked


if __name__ == "__main__":
    sys.exit(main())
