"""Want of memory: what counts as one, what a worker reports, what the ledger keeps and the tables show."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from study.config import StudyConfig
from study.console.tables import trials_table
from study.distributed import adapters, worker
from study.distributed.deaths import kind_of
from study.distributed.specs import Job, make_spec
from study.errors import TrainingFault
from study.ledger import Ledger
from study.standing import read_result
from study.training.memory import is_out_of_memory
from study.types import Retry, RunOutcome

RAW = {
    "study": "memory",
    "data": {"prepared": "nowhere", "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}]},
    "train": {"epochs": 3, "batch_size": 8, "accumulate": 2},
    "search": {"trials": 2, "space": {"optim.lr": {"float": [1e-4, 1e-2]}}},
}


@pytest.fixture
def config():
    return StudyConfig.model_validate(RAW)


def raised_from(cause):
    try:
        raise ValueError("reported elsewhere") from cause
    except ValueError as error:
        return error


def test_what_is_a_lack_of_memory():
    """An error of a GPU, of a CPU or of Python is not recognised, or any error counts as one."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(raised_from(MemoryError()))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_what_ray_tells():
    """Ray's killing of a worker for memory is not seen through its wrapping, or a crash counts as one."""
    killed = ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.")
    assert kind_of(killed) == "out_of_memory"
    assert kind_of(WorkerHealthCheckFailedError("failed", failure=killed)) == "out_of_memory"
    assert kind_of(WorkerHealthCheckFailedError("failed", failure=ray.exceptions.ActorDiedError())) == "crash"


class Link:
    """Hears what a worker says."""

    def __init__(self, world_size=1):
        self.rank, self.world_size, self.heard = 0, world_size, []

    def report_end(self, outcome):
        self.heard.append((outcome.state, outcome.reason))

    def report_fault(self, kind, reason, *, can_shrink=True):
        self.heard.append((kind, reason, can_shrink))


def reported(monkeypatch, config, error, *, parts=1, world_size=1):
    """What a worker says of a run that ends with an error, and whether it takes another one."""

    def execute(spec, link):
        raise error

    monkeypatch.setattr(worker, "execute", execute)
    link = Link(world_size)
    spec = make_spec(Path("studies/memory"), "0", 0, config=config, attempt=1)
    return worker._execute_reported(replace(spec, parts=parts), link), link.heard


def test_a_worker_asks_for_smaller_parts_and_stays(monkeypatch, config):
    """A lack of memory ends the run or the process."""
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
    stays, heard = reported(monkeypatch, config, error)
    assert stays
    assert heard == [("out_of_memory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB", True)]
    assert reported(monkeypatch, config, RuntimeError("bug")) == (False, [("crash", "RuntimeError: bug", True)])
    fault = ("bad_configuration", "nan at step 3", True)
    assert reported(monkeypatch, config, TrainingFault("nan at step 3")) == (True, [fault])
    wrong = ("bad_configuration", "ValueError: no such head", True)
    assert reported(monkeypatch, config, ValueError("no such head")) == (False, [wrong])


def test_single_images_cannot_get_smaller(monkeypatch, config):
    """A run of one image at a time is tried again in the same size."""
    single = config.model_copy(update={"train": config.train.model_copy(update={"accumulate": 8})})
    stays, heard = reported(monkeypatch, single, MemoryError("no room"))
    assert stays
    assert heard == [("out_of_memory", "MemoryError: no room", False)]


def test_with_several_ranks_the_group_starts_again(monkeypatch, config):
    """One rank goes on alone while the others wait for it."""
    with pytest.raises(MemoryError):
        reported(monkeypatch, config, MemoryError("no room"), world_size=2)


def test_one_of_several_ranks_leaves_a_crash_to_ray(monkeypatch, config):
    """The echo of another rank's death is taken for the run's own fault, before anybody knows of the death."""
    heard = []
    monkeypatch.setattr(Link, "report_fault", lambda _, kind, reason, **options: heard.append(kind))
    with pytest.raises(RuntimeError):
        reported(monkeypatch, config, RuntimeError("Connection closed by peer [127.0.0.1]:4242"), world_size=2)
    assert heard == []
    with pytest.raises(ValueError, match="no such head"):
        reported(monkeypatch, config, ValueError("no such head"), world_size=2)
    assert heard == ["bad_configuration"]


def test_micro_batches_of_a_retry(config):
    """The parts of a retry replace those of the study file, or are more than there are images."""
    assert [worker._smaller(config, parts) for parts in (1, 2, 4, 8)] == [2, 4, 8, 8]


def test_the_ledger_keeps_it_and_the_tables_show_it(config, tmp_path):
    """After a kill the run begins with too large parts again, or nobody learns that it was cut smaller."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger.open(url, config=config)
    trial = ledger.next_trial()
    retry = Retry(parts=2, text="out of memory, tried again with 2 times as many micro-batches", epoch=1)
    crash = Retry(kind="crash", text="the worker process died", attempt=3, epoch=2)
    assert ledger.parts_of("0") == 1
    ledger.record_retry("0", 0, retry)
    ledger.record_retry("baseline", 2, retry)
    ledger.finish(trial.number, RunOutcome(state="failed", reason="something else"))
    ledger.close()
    again = Ledger.open(url, config=config)
    assert again.retries() == {("0", 0): (retry,), ("baseline", 2): (retry,)}
    assert [again.parts_of(name) for name in ("0", "1", "baseline")] == [2, 1, 2]
    table = trials_table(read_result(again, config), width=140)
    assert "reason: something else; note: out of memory, tried again with 2 times as many micro-batches" in table
    again.record_retry("0", 0, crash)
    assert again.retries()["0", 0] == (retry, crash)
    assert [again.failed_since("0", 0, epoch=epoch) for epoch in (1, 2, 3)] == [
        {"out_of_memory": 1, "crash": 1},
        {"crash": 1},
        {},
    ]
    row = read_result(again, config).rows[0]
    assert (row.attempts, row.retries) == (3, (retry, crash))
    assert "tried again 2 times (1 out of memory, 1 crash); last: the worker process died" in row.note
    again.close()


class Board:
    """A switchboard whose calls answer at once."""

    def __init__(self, events):
        self.next_of = SimpleNamespace(remote=lambda _: ("0-s0", *events.pop(0)))
        self.submit = self.decide = SimpleNamespace(remote=lambda *_, **__: None)


def test_a_retry_reaches_the_desk_through_tune(monkeypatch, config):
    """Tune takes the news for an epoch, or drops it."""
    monkeypatch.setattr(adapters.ray, "get", lambda value: value)
    retry = Retry(parts=2, text="out of memory")
    spec = make_spec(Path("studies/memory"), "0", 0, config=config, attempt=1)
    trainable = object.__new__(adapters.RunTrainable)
    outcome = RunOutcome(state="complete")
    job = Job(trial="0", runs=(spec,))
    trainable.setup({"job": job.to_json()}, Board([("started", None), ("retry", retry), ("end", outcome)]))
    heard = []
    desk = SimpleNamespace(on_retry=lambda *what: heard.append(what))
    scheduler = adapters.LedgerScheduler(desk, {"tune-id": job}, refuse=lambda *_: heard.append("refused"))
    answer = scheduler.on_trial_result(None, SimpleNamespace(trial_id="tune-id"), trainable.step())
    assert answer == "CONTINUE"
    assert heard == [(spec, retry)]
    assert trainable.step()["done"]
