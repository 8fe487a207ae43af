"""Whether the nodes of a cluster share the folders that a study writes: tried out with files, before anything starts.

The driver writes a file with a random word into the folder, and a short task on each node reads it there and answers
with a file of its own, which the driver has to find. A path that exists on every node may be another folder on each;
only the words tell. Nodes that join later are asked as well: loading tasks run on any node, so a study may not go on
beside one that does not see its folders.
"""

import contextlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.config import DataConfig, Fault, PartialStudy
from study.data.files import is_remote, local_path
from study.distributed.cluster import connected, expected_capacity
from study.distributed.preflight import check_world
from study.errors import InputError, StudyError
from study.remote import is_copy

logger = logging.getLogger(__name__)

STORAGE: Final = "--storage"
WAIT_S: Final = 60.0  # for a node to start a process and answer
SEEN_S: Final = 5.0  # within which a network file system has to show what another machine wrote
POLL_S: Final = 0.1
LOOK_S: Final = 2.0  # between two looks whether nodes have joined
QUESTION: Final = "question"
MARK_FILE: Final = "mark"
SILENT: Final = f"nothing answered within {WAIT_S:g} s"
FIX: Final = "name a folder that all nodes mount, or a store such as s3://bucket/folder"


class NotShared(InputError):
    """A node does not see the folder of the study: nothing may run there."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A folder to be tried: what asks for it, the folder of the question, and the random word in it."""

    name: str
    place: Path
    folder: Path
    word: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node as messages name it: its number in the cluster's list, from 1, and its address."""

    number: int
    ray_id: str
    address: str

    def __str__(self) -> str:
        return f"node {self.number} ({self.address})"


def folders_to_share(study_dir: Path | None, data: DataConfig | None) -> dict[str, Path]:
    """The local folders that every node has to see, by what names them; places in a store are seen from everywhere."""
    found = {} if study_dir is None or is_copy(study_dir) else {STORAGE: study_dir.absolute()}
    if data is not None and not is_remote(data.prepared):
        found["data.prepared"] = local_path(data.prepared)
    return found


def faults_here(partial: PartialStudy, *, study_dir: Path) -> list[Fault]:
    """Faults of a study file against its data and the cluster that ``RAY_ADDRESS`` names, else this machine.

    Raises:
        EnvironmentFault: the cluster does not answer.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return check_world(partial, available=expected_capacity())
    with connected():
        faults = check_world(partial, available=expected_capacity())
        return faults + sharing_faults(folders_to_share(study_dir, partial.data))


def sharing_faults(folders: Mapping[str, Path]) -> list[Fault]:
    """One fault for each folder that some node does not share with this machine; call inside ``connected``.

    A cluster that was started for this study alone is one machine and is not asked.
    """
    nodes = _nodes() if os.environ.get("RAY_ADDRESS") and folders else []
    return _asked(folders, nodes)[0]


@contextlib.contextmanager
def kept_shared(
    folders: Mapping[str, Path], *, stop: threading.Event, tell: Callable[[str], None] = logger.warning
) -> Iterator[None]:
    """Refuse folders that some node does not share with this machine, also while open: nodes that join are asked, too.

    For one that joins and does not share them ``stop`` is set, so that runs save and end. Call inside ``connected``.

    Raises:
        NotShared: the message names folder, nodes and what was found there.
    """
    if not os.environ.get("RAY_ADDRESS") or not folders:
        yield
        return
    nodes = _nodes()
    faults = _asked(folders, nodes)[0]
    if faults:
        raise NotShared(_told(faults), FIX)
    watch = _Newcomers(folders, [node.ray_id for node in nodes], stop=stop, tell=tell)
    try:
        with watch:
            yield
    except StudyError as error:
        if not watch.fault:
            raise
        raise NotShared(
            f"{watch.fault}; what had begun has saved", "take the node out of the cluster, or mount it, then resume"
        ) from error


class _Newcomers:
    """While open, asks each node that joins the cluster; ``fault`` is what is wrong with one, empty if nothing."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        known: Collection[str],
        *,
        stop: threading.Event,
        tell: Callable[[str], None],
    ) -> None:
        self.fault = ""
        self._folders, self._known, self._stop, self._tell = folders, set(known), stop, tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="newcomers", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            try:
                self._look()
            except StudyError as error:
                self.fault = error.message
            except (ray.exceptions.RayError, OSError) as error:
                logger.warning("nodes that have joined could not be asked: %s", _cause(error))
            if self.fault:
                self._tell(f"{self.fault}; the study saves and ends")
                self._stop.set()
                return

    def _look(self) -> None:
        """Ask those that are new; one that does not answer in time is asked again."""
        nodes = _nodes()
        joined = [node for node in nodes if node.ray_id not in self._known]
        faults, answers = _asked(self._folders, joined, total=len(nodes), give_up=self._over.is_set)
        silent = {ray_id for ray_id, words in answers.items() if SILENT in words}
        self._known |= answers.keys() - silent
        if not silent:
            self.fault = _told(faults)


def _asked(
    folders: Mapping[str, Path],
    nodes: Sequence[Node],
    *,
    total: int = 0,
    give_up: Callable[[], bool] = lambda: False,
) -> tuple[list[Fault], Mapping[str, Sequence[str]]]:
    """The faults of the folders on some nodes, and the answers of these by their ids."""
    if not nodes:
        return [], {}
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(_asking(name, place)) for name, place in folders.items()]
        words = _ask(nodes, probes, give_up)
        answers = {ray_id: _checked(probes, said, ray_id) for ray_id, said in words.items()}
        return faults_of(probes, nodes, answers, total=total), answers


def _told(faults: Sequence[Fault]) -> str:
    return "; ".join(f"{fault.path}: {fault.message}" for fault in faults)


def faults_of(
    probes: Sequence[Probe], nodes: Sequence[Node], answers: Mapping[str, Sequence[str]], *, total: int = 0
) -> list[Fault]:
    """What the answers mean. ``answers`` has for each node, by its id, a word of fault for each probe, empty if none.

    A node without an entry has left the cluster meanwhile. ``total`` is how many nodes there are, if more than asked.
    """
    faults = []
    for index, probe in enumerate(probes):
        found = [(node, answers[node.ray_id][index]) for node in nodes if node.ray_id in answers]
        unlike = [(node, text) for node, text in found if text]
        if not unlike:
            continue
        told = "; ".join(f"on {node} {text}" for node, text in unlike[:3])
        more = f", and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        text = f"{probe.place} is not shared by all {total or len(nodes)} nodes of the cluster: {told}{more}"
        faults.append(Fault(probe.name, f"{text}; expected a folder that all of them mount, or one in a store (s3://)"))
    return faults


def _nodes() -> list[Node]:
    """The nodes on which a study may place something: those with processors or GPUs, and the driver's own."""
    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [
        Node(number, node["NodeID"], node["NodeManagerAddress"])
        for number, node in enumerate(alive, start=1)
        if node["NodeID"] == here or node["Resources"].get("CPU") or node["Resources"].get("GPU")
    ]


@contextlib.contextmanager
def _asking(name: str, place: Path) -> Any:
    """A question in the folder, or in the nearest one above that exists; it is gone afterwards."""
    above = next(folder for folder in (place, *place.parents) if folder.is_dir())
    word = secrets.token_hex(16)
    folder = above / f".study-{word}"
    try:
        folder.mkdir()
        (folder / QUESTION).write_text(word)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            f"{name}: {above} cannot be written to ({error.strerror})", "name a folder of yours"
        ) from error
    try:
        yield Probe(name, place, folder, word)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ask(nodes: Sequence[Node], probes: Sequence[Probe], give_up: Callable[[], bool]) -> dict[str, list[str]]:
    """A task on each node; its word of fault for each probe. ``give_up`` ends the waiting early."""
    remote: Any = ray.remote(num_cpus=0, max_retries=0)
    question = [(str(probe.folder), probe.word) for probe in probes]
    waiting = {
        remote(answer)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.ray_id, soft=False))
        .remote(question, node.ray_id): node
        for node in nodes
    }
    until, found = time.monotonic() + WAIT_S, dict[str, list[str]]()
    while True:
        ready, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=1.0)
        if not late or time.monotonic() > until or give_up():
            break
    for future in ready:
        try:
            found[waiting[future].ray_id] = ray.get(future)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue  # it has left the cluster
        except (ray.exceptions.RayError, ImportError) as error:
            raise StudyError(
                f"{waiting[future]} could not look at the folders of the study: {_cause(error)}",
                "install the same release of study there, or take the node out of the cluster",
            ) from error
    for future in late:
        ray.cancel(future, force=True)
        found[waiting[future].ray_id] = [SILENT] * len(probes)
    return found


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '')[:200]}"


def answer(question: Sequence[tuple[str, str]], ray_id: str) -> list[str]:
    """What a node does: read the word of each probe and leave an answer; what was found instead, empty if nothing."""
    return [_answer_one(Path(folder), word, ray_id) for folder, word in question]


def _answer_one(folder: Path, word: str, ray_id: str) -> str:
    if _read_soon(folder / QUESTION) != word:
        above = folder.parent
        return f"{above} is another folder" if above.is_dir() else f"there is no {above}"
    try:
        (folder / ray_id).write_text(word)
    except OSError as error:
        return f"it cannot be written to ({error.strerror})"
    return ""


def _checked(probes: Sequence[Probe], words: Sequence[str], ray_id: str) -> list[str]:
    """The words of a node, and where it had none whether its answers have arrived here."""
    return [
        text or ("" if _read_soon(probe.folder / ray_id) == probe.word else "what is written does not arrive here")
        for probe, text in zip(probes, words, strict=True)
    ]


def _read_soon(path: Path) -> str:
    """The content of a file that another machine may just have written; empty when it does not appear."""
    deadline = time.monotonic() + (SEEN_S if path.parent.parent.is_dir() else 0.0)
    while True:
        try:
            found = path.read_text()
        except OSError:
            found = ""
        if found or time.monotonic() > deadline:
            return found
        time.sleep(POLL_S)


def leave_mark(folder: Path) -> tuple[str, str]:
    """A file by which workers know the study's folder, also on nodes that join later: its path, and the word in it."""
    word = secrets.token_hex(16)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK_FILE).write_text(word)
    return str(folder / MARK_FILE), word


def check_mark(mark: tuple[str, str]) -> None:
    """Make sure that this process sees the folder of the study's driver.

    Raises:
        NotShared: it does not; nothing was written.
    """
    path, word = Path(mark[0]), mark[1]
    if _read_soon(path) != word:
        study_dir = path.parent.parent
        found = "is another folder there" if study_dir.is_dir() else "is not there"
        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        raise NotShared(f"a worker was started on a node ({address}) that does not share {study_dir}: it {found}", FIX)
