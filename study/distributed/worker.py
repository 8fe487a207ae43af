"""What runs inside a slot's Ray Train workers: take a run, execute it, report, take the next."""

import logging
import platform
import shutil
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ray
import torch
import torch.distributed as dist

from study import remote
from study.config import StudyConfig
from study.data.augment import tune_malloc
from study.data.pseudo import PSEUDO_FILE
from study.data.sampling import Plan
from study.distributed.deaths import kind_of, one_line
from study.distributed.loading import TASK_CPUS
from study.distributed.objective import classes_to_draw
from study.distributed.runs import build_run, evaluate_best, mc_dropout_of, write_plan
from study.distributed.sharing import check_mark
from study.distributed.stream import StreamSettings, batch_stream
from study.distributed.switchboard import Taken
from study.errors import StudyError, TrainingFault
from study.stochastic import McDropout
from study.training import Batch, Hooks, RunParts, train_run
from study.training.memory import give_back_memory, is_out_of_memory, kernel_kills, resident_bytes
from study.types import EpochResult, FailureKind, RunOutcome, RunSpec

logger = logging.getLogger(__name__)

GROWTH_BYTES: Final = 4 * 2**30  # a worker that has grown by so much since its first run leaves, and is replaced
AGREE_EVERY: Final = 8  # steps between two votes of several ranks on whether to stop


def slot_loop(config: dict[str, Any]) -> None:
    """The train loop of a slot: executes runs until the switchboard closes.

    Raises:
        NotShared: this node does not see the study's folder; nothing was written.
    """
    from ray.train import get_context

    if config.get("mark"):
        check_mark(config["mark"])

    context = get_context()
    switchboard, slot = config["switchboard"], config["slot"]
    rank, world_size = context.get_world_rank(), context.get_world_size()
    tune_malloc()
    interrupted = threading.Event()
    threading.Thread(target=_watch_stop, args=(switchboard, slot, interrupted), daemon=True).start()
    first_bytes = 0
    while True:
        has_grown = first_bytes and resident_bytes() > first_bytes + GROWTH_BYTES
        taken: Taken = ("close", None)
        if rank == 0 and not has_grown:
            kills = (platform.node(), kernel_kills())
            taken = ray.get(switchboard.take.remote(slot, kills=kills, workers=world_size))
        order, spec = _same_on_all_ranks(taken, world_size)
        if order == "close":
            return
        if order == "again":
            continue
        link = _Link(switchboard, spec, rank=rank, world_size=world_size, interrupted=interrupted)
        if not _execute_reported(spec, link):
            return
        first_bytes = first_bytes or resident_bytes()


def _watch_stop(switchboard: Any, slot: int, interrupted: threading.Event) -> None:
    try:
        ray.get(switchboard.wait_stop.remote(slot))
        interrupted.set()
    except ray.exceptions.RayError:
        logger.info("the switchboard is gone; the slot is being closed")


def _same_on_all_ranks(value: Any, world_size: int) -> Any:
    """Rank 0's value on every rank."""
    if world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


class _Link:
    """A run's line to the switchboard; every rank gets the same answers."""

    def __init__(
        self,
        switchboard: Any,
        spec: RunSpec,
        *,
        rank: int,
        world_size: int,
        interrupted: threading.Event,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self._switchboard, self._spec, self._interrupted = switchboard, spec, interrupted
        self._dropped = threading.Event()
        self._asked = 0
        if rank == 0 and spec.kind == "train":
            threading.Thread(target=self._watch_dropped, daemon=True).start()

    def on_epoch(self, result: EpochResult) -> bool:
        answer = None
        if self.rank == 0:
            answer = ray.get(self._switchboard.epoch.remote(self._spec.run_id, self._spec.attempt, result))
        return bool(_same_on_all_ranks(answer, self.world_size))

    def report_end(self, outcome: RunOutcome) -> None:
        """Rank 0 reports how the run ended."""
        if self.rank == 0:
            ray.get(self._switchboard.end.remote(self._spec.run_id, self._spec.attempt, outcome))

    def report_fault(self, kind: FailureKind, reason: str, *, can_shrink: bool = True) -> None:
        """This rank cannot go on with the run; the switchboard counts the first report of an attempt alone."""
        spec = self._spec
        ray.get(self._switchboard.fault.remote(spec.run_id, spec.attempt, (kind, reason), can_shrink=can_shrink))

    def _watch_dropped(self) -> None:
        """A run whose trial is over stops at its next step, not only at the end of its epoch."""
        try:
            if ray.get(self._switchboard.wait_dropped.remote(self._spec.run_id, self._spec.attempt)):
                self._dropped.set()
        except ray.exceptions.RayError:
            logger.info("the switchboard is gone; run %s is not watched any more", self._spec.run_id)

    def _is_unwanted(self) -> bool:
        return self._interrupted.is_set() or self._dropped.is_set()

    def should_stop(self) -> bool:
        if self.world_size == 1:
            return self._is_unwanted()
        self._asked += 1
        if self._asked % AGREE_EVERY:
            return False
        vote = torch.tensor([float(self._is_unwanted())], device=_device() if dist.get_backend() == "nccl" else None)
        dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        return bool(vote.item())


def _execute_reported(spec: RunSpec, link: _Link) -> bool:
    """Execute a run and report its end; false when this process should not take another one.

    A fault costs the study one run. After an error that is not ours the process may be damaged (a CUDA context, for
    example). With several ranks only a fault that all of them have at the same step may be returned: after any other
    the ranks would answer each other's collectives, so the group is started again.
    """
    is_sound, ran_out = True, False
    try:
        link.report_end(execute(spec, link))
    except TrainingFault as error:
        if link.rank == 0:
            link.report_fault("bad_configuration", error.message)
    except Exception as error:
        logger.warning("run %s failed\n%s", spec.run_id, traceback.format_exc())
        ran_out = is_out_of_memory(error)
        is_sound = ran_out or isinstance(error, StudyError)
        _report_fault(spec, link, error)
        if link.world_size > 1:
            raise
    if ran_out:
        give_back_memory()  # after the error, whose stack holds all that the run had
    return is_sound


def _report_fault(spec: RunSpec, link: _Link, error: Exception) -> None:
    """Tell the kind of a fault. One of several ranks leaves a crash to Ray: it may be the echo of another's death."""
    kind = kind_of(error)
    if kind in ("crash", "preempted") and link.world_size > 1:
        return
    reason = error.message if isinstance(error, StudyError) else one_line(error)
    config = StudyConfig.model_validate(dict(spec.config))
    link.report_fault(kind, reason, can_shrink=_smaller(config, 2 * spec.parts) > _smaller(config, spec.parts))


def _smaller(config: StudyConfig, parts: int) -> int:
    """Micro-batches of a rank's share of a batch, ``parts`` times those of the study file; at least an image each."""
    return min(parts * config.train.accumulate, max(1, config.train.batch_size // config.resources.most_workers))


def execute(spec: RunSpec, link: _Link) -> RunOutcome:
    """Train or evaluate one run in this worker.

    Raises:
        StudyError: the run cannot go on; the study can.
    """
    if spec.kind == "label":
        return _label(spec, link)
    directory = remote.at_work(spec.directory, spec.store)
    try:
        outcome = _execute_in(directory, spec, link)
    finally:
        remote.forget(directory)
    if not spec.store:
        return outcome
    if link.world_size == 1 and outcome.state != "waiting":
        shutil.rmtree(directory)  # all of it is in the store, which has more room than this machine
    return replace(outcome, checkpoint=spec.place)


def _label(spec: RunSpec, link: _Link) -> RunOutcome:
    from study.distributed.teacher import label_images  # with the ledger and its database, which no other run needs

    study_dir = remote.at_work(spec.directory, spec.store, depth=1)
    study_dir.mkdir(parents=True, exist_ok=True)
    teacher = dict(spec.teacher)
    teacher["directory"] = str(remote.at_work(teacher["directory"], teacher.get("store", "")))
    spec = replace(spec, directory=str(study_dir), teacher=teacher)
    outcome = label_images(spec, device=_device(), rank=link.rank)
    if link.rank == 0:
        remote.push_file(study_dir, PSEUDO_FILE)
    return outcome


def _execute_in(directory: Path, spec: RunSpec, link: _Link) -> RunOutcome:
    """Train or evaluate in a directory of this machine; whoever comes back finds all of it where the study is kept."""
    config = StudyConfig.model_validate(dict(spec.config))
    if config.pseudo:
        remote.bring_file(directory.parent.parent, PSEUDO_FILE)
    pseudo = directory.parent.parent / PSEUDO_FILE if config.pseudo else None
    parts, plan = build_run(config, seed=spec.seed, fold=spec.fold, fingerprint=spec.fingerprint, pseudo=pseudo)
    shares = max(config.resources.most_workers, link.world_size)
    parts = replace(parts, settings=replace(parts.settings, accumulate=_smaller(config, spec.parts), shares=shares))
    is_first = link.rank == 0
    if spec.kind == "evaluate":
        return _test(parts, directory, link, sampling=mc_dropout_of(config, seed=spec.seed))
    stream_settings = _stream_settings(config, parts, seed=spec.seed)

    def stream(start_step: int) -> Iterator[Batch]:
        return batch_stream(
            plan,
            stream_settings,
            rank=link.rank,
            world_size=link.world_size,
            start_step=start_step,
            targets=parts.targets,
            train_rows=parts.dataset.rows("train"),
        )

    outcome = train_run(
        parts,
        stream=stream,
        directory=directory,
        attempt=spec.attempt,
        reported_epoch=spec.reported_epoch,
        hooks=Hooks(on_epoch=link.on_epoch, should_stop=link.should_stop),
        device=_device(),
    )
    if is_first:
        remote.settle(directory)
    _same_on_all_ranks(None, link.world_size)  # others read what this rank has written
    if outcome.state == "complete" and outcome.best_epoch:
        evaluate_best(parts, directory, split="val", device=_device(), write=is_first)
        if is_first:
            _write_plan(plan, directory, classes_to_draw(parts.dataset))
    _keep(directory, link)
    return outcome


def _test(parts: RunParts, directory: Path, link: _Link, *, sampling: McDropout | None) -> RunOutcome:
    """Read the test split; what rank 0 writes goes beside the checkpoint."""
    is_first = link.rank == 0
    if is_first:
        remote.adopt(directory)
    outcome = evaluate_best(parts, directory, split="test", device=_device(), write=is_first, mc_dropout=sampling)
    _keep(directory, link)
    return outcome


def _keep(directory: Path, link: _Link) -> None:
    """Rank 0 brings the files of a run to the store, where the study lies in one, and waits until they are there."""
    if link.rank == 0:
        remote.send(directory)
        remote.settle(directory)


def _stream_settings(config: StudyConfig, parts: RunParts, *, seed: int) -> StreamSettings:
    return StreamSettings(
        root=config.data.prepared,
        fingerprint=parts.dataset.fingerprint,
        policy="none" if parts.augment else config.augment.policy,
        mode=config.augment.mode,
        seed=seed,
        task_cpus=TASK_CPUS * min(1.0, config.resources.cpus_per_worker),
    )


def _write_plan(plan: Plan, directory: Path, classes: Sequence[str]) -> None:
    """A full disk or a font that is missing must not cost a trained run."""
    try:
        write_plan(plan, directory, classes=classes)
    except (OSError, ValueError, RuntimeError):
        logger.exception("the plan of run %s could not be written", directory.name)


def _device() -> torch.device:
    from ray.train.torch import get_device

    device: torch.device = get_device()
    return device
