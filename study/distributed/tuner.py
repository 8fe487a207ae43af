"""A study from start to end: prepare, search, confirm; and the same again after any interruption.

The order of writes makes a resumed study equal to an uninterrupted one: a worker saves its checkpoint before it reports
an epoch, the driver keeps it before it answers, and on every start MLflow's journal is told what the ledger knows.
"""

import contextlib
import math
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from study.config import StudyConfig, config_yaml, span_seconds
from study.data.files import shown
from study.data.folds import fold_problem
from study.data.shards import open_dataset
from study.distributed.claims import Share, shared_cluster
from study.distributed.cluster import capacity, connected
from study.distributed.confirming import run_confirm
from study.distributed.preflight import count_slots
from study.distributed.preparing import PrepareProgress, plan_preparation, prepare_dataset
from study.distributed.searching import Observe, Search, run_search, warner
from study.distributed.sharing import folders_to_share, kept_shared
from study.distributed.sizes import most_slots
from study.distributed.slots import SlotPool, run_directly
from study.distributed.specs import RETRY_ROOM, make_spec
from study.distributed.warming import warm_loading
from study.errors import EnvironmentFault, InputError, InterruptedStudy, StudyError
from study.failures import advice, failure_lines, failure_table
from study.ledger import Ledger, Teller
from study.remote import bring_file
from study.retelling import tracker_of
from study.standing import CONFIRMED, DATASET, confirm_key, is_done, left_to_search, read_result
from study.tracking import Tracker, has_undelivered
from study.types import Event, RunOutcome, StudyResult

SEARCHED = "search finished"
PSEUDO_LABELS = "pseudo labels"


def run_study(
    config: StudyConfig,
    *,
    study_dir: Path,
    ledger_url: str,
    tracking_uri: str,
    observe: Observe,
    stop: threading.Event,
) -> StudyResult:
    """Run a study, or what is left of it; blocks until it is done, fails, or ``stop`` is set.

    Raises:
        InterruptedStudy: ``stop`` was set; every running trial has a checkpoint and is adopted on resume.
        InputError: the data changed since the study began, the resources cannot be given, or nodes of the cluster do
            not share the folders of study and data.
        StudyError: the study cannot go on.
    """
    study_dir = study_dir.absolute()
    with contextlib.closing(Ledger.open(ledger_url, config=config)) as ledger:
        if not left_to_search(ledger):
            _check_any_complete(ledger)
        is_over = is_done(ledger, config)
        if is_over and not has_undelivered(study_dir, tracking_uri):
            return read_result(ledger, config, did_work=False)
        with (
            _telling(None if is_over else ledger, config, study_dir=study_dir, observe=observe) as tell,
            _tracker(ledger, study_dir, tracking_uri, config=config, observe=tell) as tracker,
        ):
            search = Search(config=config, study_dir=study_dir, ledger=ledger, tracker=tracker, observe=tell, stop=stop)
            search.mirror_ledger()
            if is_over:
                return read_result(ledger, config, did_work=False)
            _check_failures(search)
            folders = folders_to_share(study_dir, config.data)
            with connected(), kept_shared(folders, stop=stop, tell=warner(tell)):
                prepare_if_needed(config, observe=tell, stop=stop)
                search.fingerprint = _check_dataset(config, ledger)
                _run_stages(search)
        return read_result(ledger, config)


@contextlib.contextmanager
def _telling(ledger: Ledger | None, config: StudyConfig, *, study_dir: Path, observe: Observe) -> Iterator[Observe]:
    """Events for ``observe`` also become the ledger's note of what happens now, beside the study file.

    Without a ledger nothing is noted: one that is over stays as it is.
    """
    if ledger is None:
        yield observe
        return
    ledger.outage.tell = warner(observe)
    ledger.record_file(config_yaml(config))
    with Teller(ledger, epochs=config.train.epochs, mode=config.mode, directory=study_dir) as teller:

        def both(event: Event) -> None:
            teller.observe(event)
            observe(event)

        yield both


@contextlib.contextmanager
def _tracker(
    ledger: Ledger, study_dir: Path, tracking_uri: str, *, config: StudyConfig, observe: Observe
) -> Iterator[Tracker]:
    """The mirror of the study; on leaving, MLflow is told how the study stands."""
    tracker = tracker_of(ledger, config, study_dir=study_dir, tracking_uri=tracking_uri, tell=warner(observe))
    state: Literal["done", "interrupted", "failed"] = "failed"
    try:
        yield tracker
        state = "done"
    except InterruptedStudy:
        state = "interrupted"
        raise
    finally:
        observe(Event(kind="stage", text="writing to MLflow"))
        left = tracker.close(state=state)
        if left:
            text = f"MLflow did not take {left} records; they wait in the journal and go there on the next resume"
            observe(Event(kind="warning", text=text))


def prepare_if_needed(config: StudyConfig, *, observe: Observe, stop: threading.Event) -> None:
    """Prepare what is missing of the dataset; call inside ``connected``.

    Raises:
        InterruptedStudy: ``stop`` was set meanwhile; what is prepared stays.
    """
    plan = plan_preparation(config.data)
    if plan.warning:
        observe(Event(kind="warning", text=plan.warning))
    if plan.is_complete:
        return
    observe(Event(kind="stage", text="preparing images"))

    def progress(now: PrepareProgress) -> None:
        if stop.is_set():
            raise InterruptedStudy("while images were prepared; what is done stays")
        note = f"{now.rate:.3g} files/s" if now.rate else ""
        note += f", {now.quarantined} in quarantine" if now.quarantined else ""
        observe(Event(kind="progress", text=now.stage, done=now.done, total=now.total, note=note))

    summary = prepare_dataset(config.data, progress=progress)
    if summary.quarantined:
        count = sum(summary.quarantined.values())
        observe(Event(kind="warning", text=f"{count} files are in quarantine; see quarantine.parquet of the dataset"))


def _check_dataset(config: StudyConfig, ledger: Ledger) -> str:
    dataset = open_dataset(config.data.prepared)
    fingerprint = dataset.fingerprint
    known = ledger.stage(DATASET)
    if known and known != fingerprint:
        raise InputError(
            f"the prepared dataset {shown(config.data.prepared)} is not the one that study {config.study} began with "
            f"(fingerprint {fingerprint[:12]}, expected {known[:12]})",
            "give the study another name, or restore the data",
        )
    if config.search is not None and config.search.folds is not None:
        seed, folds = config.data.splits.seed, config.search.folds
        problem = fold_problem(dataset.manifest, folds=folds, seed=seed, classes=dataset.classes)
        if problem:
            raise InputError(f"search.folds: {problem}", "correct the study file, or add data")
    ledger.record_stage(DATASET, fingerprint)
    return fingerprint


def _run_stages(search: Search) -> None:
    config = search.config
    remaining = left_to_search(search.ledger)
    with (
        _scratch(search.study_dir) as scratch,
        shared_cluster(config, tell=warner(search.observe)) as share,
        _pool(config, share, scratch=scratch, observe=search.observe) as pool,
        _interrupting(search, pool),
    ):
        if config.pseudo is not None:
            _label_images(search, pool)
            _check_stopped(search, pool)
        if remaining:
            search.observe(Event(kind="stage", text="searching", total=config.num_trials))
            run_search(search, pool, scratch=scratch)
        _check_failures(search)
        _check_stopped(search, pool)
        _check_over(search.ledger)
        _check_any_complete(search.ledger)
        search.ledger.record_stage(SEARCHED, search.ledger.over)
        if config.confirm is not None:
            search.observe(Event(kind="stage", text="confirming on the test split"))
            run_confirm(search, pool)
            _check_stopped(search, pool)
            search.ledger.record_stage(CONFIRMED, confirm_key(config))


def _label_images(search: Search, pool: SlotPool) -> None:
    """Let the teacher label images, once per study; its labels are part of what every run is trained on."""
    from study.data.pseudo import PSEUDO_FILE, pseudo_digest, read_pseudo_labels
    from study.distributed.teacher import find_teacher  # with what it imports, torch and more

    config = search.config
    path, known = search.study_dir / PSEUDO_FILE, search.ledger.stage(PSEUDO_LABELS)
    if known and path.exists():
        if pseudo_digest(read_pseudo_labels(path)) != known["digest"]:
            raise StudyError(
                f"the pseudo-labels {PSEUDO_FILE} of study {config.study} are not those that it began with",
                "put the file back, or give the study another name",
            )
        return
    assert config.pseudo is not None  # noqa: S101 - the caller has checked
    search.observe(Event(kind="stage", text="labelling images by the teacher"))
    teacher = find_teacher(config.pseudo.teacher, storage=search.study_dir.parent)
    attempt = search.ledger.claim_run("pseudo", teacher.seed) * RETRY_ROOM
    spec = make_spec(
        search.study_dir, "pseudo", teacher.seed, config=config, attempt=attempt, fingerprint=search.fingerprint
    )
    spec = replace(spec, kind="label", directory=str(search.study_dir), teacher=teacher.to_spec())
    ended: list[RunOutcome] = []
    run_directly(
        pool,
        [spec],
        concurrent=1,
        on_event=lambda _, kind, payload: ended.append(payload) if kind == "end" else None,
        stop=search.stop,
    )
    if search.stop.is_set() or not ended or ended[0].state == "waiting":
        return
    if ended[0].state == "failed":
        raise StudyError(f"the teacher could not label images: {ended[0].reason}", "remove the cause, then resume")
    bring_file(search.study_dir, PSEUDO_FILE)
    counts = {key.removeprefix("pseudo/"): int(value) for key, value in ended[0].metrics.items()}
    digest = pseudo_digest(read_pseudo_labels(path))
    if known and known["digest"] != digest:
        raise StudyError(
            f"the teacher labels images otherwise than when study {config.study} began", "give the study another name"
        )
    search.ledger.record_stage(
        PSEUDO_LABELS, {"teacher": config.pseudo.teacher, "seed": teacher.seed, "digest": digest, **counts}
    )
    text = f"the teacher labelled {counts['labelled']} of {counts['images']} training images that had no label"
    search.observe(Event(kind="stage", text=text))


def _check_over(ledger: Ledger) -> None:
    left = left_to_search(ledger)
    if left:
        raise StudyError(f"the search ended with {left} trials open", "resume the study")


def _check_any_complete(ledger: Ledger) -> None:
    rows = ledger.rows()
    if any(row.state == "complete" for row in rows):
        return
    table = failure_table(rows)
    pruned = sum(row.state == "pruned" for row in rows)
    lines = [*([f"{pruned} x pruned"] if pruned else []), *failure_lines(table)]
    listed = f" {lines[0]}" if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
    raise StudyError(
        f"none of the {len(rows)} trials was completed:{listed}",
        "; ".join(filter(None, [advice(table), "then run the study file under another name"])),
    )


def _check_failures(search: Search) -> None:
    """More failures than the study file bears end the study, before it begins again as well."""
    if not search.has_failed:
        return
    rows, most = search.ledger.rows(), search.config.max_failures
    table = failure_table(rows)
    listed = "".join(f"\n  {line}" for line in failure_lines(table))
    count = sum(len(row.trials) for row in table)
    raise StudyError(
        f"{count} of {len(rows)} trials failed, more than search.max_failures, which is {most}:{listed}",
        f"{advice(table)}; then resume the study with --set search.max_failures={max(2 * most, count + 1)}",
    )


def _check_stopped(search: Search, pool: SlotPool) -> None:
    if pool.lacks_room:
        raise EnvironmentFault(
            pool.failure,
            "add to the cluster what is missing, or ask for less (--set resources....), then resume the study",
        )
    if pool.failure:
        raise StudyError(
            f"no worker group could be kept alive; the last one ended with: {pool.failure}",
            "look at the end of the log, remove the cause, then resume the study",
        )
    if search.stop.is_set():
        raise InterruptedStudy(f"study {search.config.study}; a run that had begun has a checkpoint")


@contextlib.contextmanager
def _scratch(study_dir: Path) -> Iterator[Path]:
    """A directory for what Ray insists on writing; nothing in it is read back, and a killed driver's is removed."""
    path = study_dir / ".scratch"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _pool(config: StudyConfig, share: Share, *, scratch: Path, observe: Observe) -> Iterator[SlotPool]:
    resources = config.resources
    available = capacity()
    count = count_slots(config, available, share(available, most_slots(config)))
    observe(Event(kind="stage", text=f"starting {count} worker slot{'s' if count > 1 else ''}"))
    pool = SlotPool(
        count,
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        share=share,
        scratch=scratch,
        most=most_slots(config),
        concurrent=resources.concurrent,
        wait_s=span_seconds(resources.wait) or 0.0,
        tell=warner(observe),
    )
    warm_loading(math.ceil(available.cpus / 2))
    try:
        yield pool
    finally:
        pool.close()


@contextlib.contextmanager
def _interrupting(search: Search, pool: SlotPool) -> Iterator[None]:
    """While open, setting ``search.stop`` asks every run to save and end."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if search.stop.wait(0.2):
                pool.interrupt()
                return

    thread = threading.Thread(target=watch, name="interrupt-watcher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
