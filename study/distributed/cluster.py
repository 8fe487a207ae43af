"""Starting or joining Ray, quietly, and knowing what it can give."""

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from study.distributed.access import private_token
from study.errors import EnvironmentFault
from study.secrecy import SECRETS

logger = logging.getLogger(__name__)

SETTLE_S: Final = 3.0
QUIET_S: Final = 0.5

# Each with its reason; a value that the user has set already wins.
RAY_ENVIRONMENT: Final = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a study file keep their meaning in workers
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a dead worker is noticed after half a second instead of two
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # room was found before; who lost it to others looks again
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less per slot
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger and MLflow hold the results
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # Tune's own snapshots are never read back
    "TUNE_WARN_THRESHOLD_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the hospital
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # as Ray Train sets it for its controller, which asks in this way
    "NO_ALBUMENTATIONS_UPDATE": "1",  # it would ask the network for newer releases
}


_leaving = threading.Event()  # the local cluster is being shut down, and its daemons end


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a cluster has in all: CPU cores, GPUs, and the largest node's share of each."""

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float
    address: str = "local"


def local_capacity() -> Capacity:
    """This machine's cores and GPUs, without starting Ray."""
    import torch

    cpus = float(len(os.sched_getaffinity(0)))
    gpus = float(torch.cuda.device_count())
    return Capacity(cpus=cpus, gpus=gpus, node_cpus=cpus, node_gpus=gpus)


def expected_capacity() -> Capacity:
    """What a study would get: the cluster that ``RAY_ADDRESS`` names, else this machine.

    Raises:
        EnvironmentFault: ``RAY_ADDRESS`` names a cluster that does not answer.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return local_capacity()
    with connected():
        return capacity()


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster that ``RAY_ADDRESS`` names, or start a local one, for the duration; nests.

    Raises:
        EnvironmentFault: Ray does not start, or the named cluster does not answer.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    _start()
    _leaving.clear()
    try:
        yield
    finally:
        if not lost_daemon():
            _leaving.set()
        _settle_data_threads()
        ray.shutdown()


def lost_daemon() -> str:
    """The daemon of the local cluster that has died, by name; empty while all live, and for a cluster of others.

    Ray notices after 60 s and then aborts this process, in words that say nothing about the study. Daemons that end
    because the cluster is being left are not lost.
    """
    if _leaving.is_set():
        return ""
    worker = sys.modules.get("ray._private.worker")
    node = getattr(worker, "_global_node", None)
    dead = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    return next((kind for kind in ("gcs_server", "raylet") if kind in dead), "")


def leave_lost_cluster() -> None:
    """End what is left of a local cluster of which a daemon has died; this process must end itself by ``os._exit``."""
    import psutil  # type: ignore[import-untyped]  # Ray brings it along

    node = getattr(sys.modules.get("ray._private.worker"), "_global_node", None)
    if node is None:
        return
    # A raylet that is killed leaves its agents behind, which go on for more than a minute.
    children = psutil.Process().children(recursive=True)
    node.kill_all_processes(check_alive=False, allow_graceful=False)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _settle_data_threads() -> None:
    """Let the threads of Ray Data in this process end; one that asks Ray after the shutdown ends the whole process."""
    if not any(map(_is_data_thread, threading.enumerate())):
        return
    gc.collect()  # an iterator that was left half-way closes its executor when it goes
    stop_prefetchers()
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline and any(map(_is_data_thread, threading.enumerate())):
        time.sleep(0.05)
    time.sleep(QUIET_S)


def stop_prefetchers(known: Collection[threading.Thread] = ()) -> None:
    """End the prefetching threads of Ray Data that are not among ``known``.

    Ray Data ends such a thread only when its iteration is read to the end. One that is left half-way, as by a pruned
    run, would stay parked for ever and hold the blocks that it fetched last.
    """
    for thread in threading.enumerate():
        owner = getattr(getattr(thread, "_target", None), "__self__", None)
        if thread.name == "Prefetcher" and thread not in known and owner is not None:
            owner.stop()
            _wake_until_ended(thread, owner._condition)  # noqa: SLF001 - Ray offers no other way to it


def _wake_until_ended(thread: threading.Thread, condition: threading.Condition) -> None:
    """Wake a stopped thread that parked just after the stop: Ray's one notification went out before it waited."""
    deadline = time.monotonic() + SETTLE_S
    while thread.is_alive() and time.monotonic() < deadline:
        with condition:
            condition.notify_all()
        thread.join(0.02)


def _is_data_thread(thread: threading.Thread) -> bool:
    module = getattr(getattr(thread, "_target", None), "__module__", None) or ""
    return module.startswith("ray.data") or thread.name.startswith(("iter_threaded", "StreamingExecutor"))


def _start() -> None:
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": logging.WARNING}
    if address:
        told = {name for name in os.environ if name in RAY_ENVIRONMENT or name.startswith("RAY_TRAIN_")}
        options["runtime_env"] = {"env_vars": {name: os.environ[name] for name in sorted(told)}}
    else:
        # Workers inherit this process's environment; a runtime environment would start Python twice for each of them.
        # Without an address Ray would join whatever cluster somebody else has started on this machine.
        private_token()
        options |= {"address": "local", "include_dashboard": False, "num_cpus": int(local_capacity().cpus)}
    # Ray's daemons inherit the mask: a terminal that closes must not take them before the study has saved.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        with _without_secrets():
            ray.init(**options)
    except Exception as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        if address:
            text, fix = f"Ray could not reach the cluster at {address}", "check RAY_ADDRESS and RAY_AUTH_TOKEN"
        else:
            text, fix = "Ray could not start a local cluster", "look at the end of the log, or run `study doctor`"
        raise EnvironmentFault(f"{text}: {why}", fix) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _without_secrets() -> Iterator[None]:
    """While open, the environment holds nothing that only the driver needs; what is started now never learns of it."""
    kept = {name: os.environ.pop(name) for name in SECRETS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def own_node_resource() -> str:
    """The resource that only nodes of this process's address have, ``node:10.0.0.1``; call inside ``connected``."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes: dict[str, dict[str, float]] = {node["NodeID"]: node["Resources"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
    return next(name for name in nodes[here] if name.startswith("node:") and not name.startswith("node:__"))


def capacity(without: Collection[str] = ()) -> Capacity:
    """What the connected cluster has, but for some nodes; call inside ``connected``."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in alive if node["NodeID"] not in without]
    return Capacity(
        cpus=sum(float(node.get("CPU", 0.0)) for node in nodes),
        gpus=sum(float(node.get("GPU", 0.0)) for node in nodes),
        node_cpus=max((float(node.get("CPU", 0.0)) for node in nodes), default=0.0),
        node_gpus=max((float(node.get("GPU", 0.0)) for node in nodes), default=0.0),
        address=os.environ.get("RAY_ADDRESS", "local"),
    )
