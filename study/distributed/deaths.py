"""Why a run failed or its workers died, told from what Ray and torch say, never from a guess.

A worker process that is gone leaves one of three traces: Ray's memory monitor names itself in the error; a node that
was drained or lost is dead in the cluster's table, or its raylet does not answer; and the kernel counts the processes
that it killed for want of memory (`study.training.memory.kernel_kills`). What has none of them is a crash.
"""

import contextlib
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import ray
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import remove_placement_group

from study.distributed.sharing import NotShared
from study.errors import InputError, TrainingFault
from study.training.memory import is_out_of_memory
from study.types import FailureKind

MONITOR: Final = ("OutOfMemoryError", "running low on memory")  # how Ray's memory monitor speaks
NODE_LOST: Final = ("its node has died", "node was terminated", "node is either dead or unreachable")
PROBE_S: Final = 2.0  # a raylet that takes no connection for so long is gone
# Errors that the same configuration meets again, on any machine.
DETERMINISTIC: Final = (
    InputError,
    TrainingFault,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    ArithmeticError,
    AssertionError,
)
RANKING: Final[tuple[FailureKind, ...]] = ("preempted", "out_of_memory", "bad_configuration", "crash")


class SlotLost(Exception):
    """A slot's node is gone: the slot has to find another place, or wait for one."""


class DeathWatch(WorkerGroupCallback):
    """Part of a slot's Ray Train controller: tells the switchboard where the workers are, and why they died."""

    def __init__(self, switchboard: Any, slot: int) -> None:
        self._switchboard, self._slot = switchboard, slot
        self._nodes: dict[int, str] = {}

    def after_worker_group_start(self, worker_group: Any) -> None:
        """The workers are there: on which nodes, and in which placement group."""
        self._nodes = {rank: worker.metadata.node_id for rank, worker in enumerate(worker_group.get_workers())}
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        try:
            ray.get(self._switchboard.placed.remote(self._slot, group.id.hex(), [*self._nodes.values()]))
        except ray.exceptions.RayError:
            # The pool was closed while the workers started. It never knew their places, and Ray Train keeps those of
            # a group that fails at this point; loading tasks of whoever comes next would wait for them for ever.
            remove_placement_group(group)
            raise

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Name the cause before Ray Train starts the workers again, which it may not do on a node that is gone.

        Raises:
            NotShared: a node does not see the study's folder; Ray Train ends.
            SlotLost: a node is gone, or the slot has to go. Ray Train ends, and the pool looks for what still has room.
        """
        errors: Mapping[int, BaseException] = worker_group_status.errors
        if not errors:
            return
        foreign = next(
            (link for error in errors.values() for link in _chain(error) if isinstance(link, NotShared)), None
        )
        if foreign is not None:
            raise foreign  # the same workers would be started there again and again
        kind, text = cause_of(errors.values())
        if kind == "crash" and any(is_gone(self._nodes.get(rank, "")) for rank in errors):
            kind, text = "preempted", "the node of a worker is gone"
        is_dismissed = ray.get(self._switchboard.lose.remote(self._slot, kind, text))
        if kind == "preempted" or is_dismissed:
            raise SlotLost(text)


def cause_of(errors: Iterable[BaseException]) -> tuple[FailureKind, str]:
    """Kind and words for the deaths of one group of workers.

    When one rank dies, the others fail with errors of the connection to it, so the most telling kind counts.
    """
    found = {kind_of(error): error for error in reversed(list(errors))}
    kind = next(kind for kind in RANKING if kind in found)
    return kind, death_text(kind, found[kind])


def death_text(kind: FailureKind, error: BaseException) -> str:
    """Why a worker died, in a few words without what Ray says about the machine."""
    if kind == "preempted":
        return "the node of a worker was drained or lost"
    if kind == "out_of_memory" and not is_out_of_memory(error):
        return "the machine ran out of memory and Ray killed the worker process"
    if any(isinstance(link, ray.exceptions.RayActorError) for link in _chain(error)):
        return "the worker process died"
    return one_line(error)


def kind_of(error: BaseException) -> FailureKind:
    """The kind of a failure by the error that a run or its worker ended with, or by what that was raised from."""
    chain = list(_chain(error))
    if any(_is_node_lost(link) for link in chain):
        return "preempted"
    if any(_is_monitor(link) for link in chain) or is_out_of_memory(error):
        return "out_of_memory"
    own = next((link for link in chain if not isinstance(link, ray.exceptions.RayError)), None)
    return "bad_configuration" if isinstance(own, DETERMINISTIC) else "crash"


def lost_its_place(error: BaseException) -> bool:
    """Whether a slot ended because its node is gone, or because its workers found no place: no fault of its own."""
    ended = getattr(error, "controller_failure", error)
    return isinstance(ended, SlotLost | WorkerGroupStartupTimeoutError)


def is_gone(node_id: str) -> bool:
    """Whether a node of the cluster is dead, or does not answer although the cluster has not noticed yet."""
    return any(node["NodeID"] == node_id and _is_silent(node) for node in ray.nodes())  # type: ignore[no-untyped-call]


def draining_nodes() -> set[str]:
    """Nodes that somebody has asked to leave: a cloud's notice, an autoscaler, ``ray drain-node``."""
    return set(ray._private.state.state.get_draining_nodes())  # noqa: SLF001 - Ray offers no other way to them


def gone_nodes() -> set[str]:
    """All nodes of which `is_gone` holds."""
    return {node["NodeID"] for node in ray.nodes() if _is_silent(node)}  # type: ignore[no-untyped-call]


def _is_silent(node: Mapping[str, Any]) -> bool:
    if not node["Alive"]:
        return True
    with contextlib.suppress(OSError):
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=PROBE_S).close()
        return False
    return True


def one_line(error: BaseException) -> str:
    """Type and first line of an error; its text may be long, the reason column is not."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _is_node_lost(error: BaseException) -> bool:
    if isinstance(error, ray.exceptions.NodeDiedError) or getattr(error, "preempted", False) is True:
        return True
    return isinstance(error, ray.exceptions.RayError) and any(phrase in str(error) for phrase in NODE_LOST)


def _is_monitor(error: BaseException) -> bool:
    """Whether Ray's memory monitor speaks; only Ray's own errors count, for any text could quote it."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return True
    return isinstance(error, ray.exceptions.RayError) and any(phrase in str(error) for phrase in MONITOR)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was made from, the causes that Ray keeps included."""
    waiting, seen = [error], set[int]()
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inner = [getattr(link, name, None) for name in ("health_check_failure", "cause", "_base_exc", "__cause__")]
        if not link.__suppress_context__:
            inner.append(link.__context__)
        waiting += [one for one in inner if isinstance(one, BaseException)]
