"""Failures: which kind an error is, what of its text may leave the machine, the table, and when it is enough."""

import socket
from types import SimpleNamespace

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from study.config import ResourcesConfig, StudyConfig, span_seconds
from study.console.failure_tables import attempt_records, failure_records, failures_table
from study.distributed import deaths
from study.distributed.adapters import LedgerSearcher
from study.distributed.cluster import Capacity
from study.distributed.room import lacking
from study.distributed.searching import Search
from study.distributed.specs import Job
from study.distributed.tuner import _check_any_complete, _check_failures
from study.errors import EnvironmentFault, InputError, StudyError, TrainingFault
from study.failures import failure_table, public_text
from study.ledger import Ledger
from study.types import Retry, RunOutcome, RunSpec, StudyResult, TrialRow

# As Ray 2.60 wrote them.
KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n\tactor_id: 495bfea41e5\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
NODE = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\nThe actor died because its "
    "node has died. Node Id: dceaf61489e0\n\tthe actor's node was terminated expectedly: received SIGTERM"
)


def died(text, *, preempted=False):
    error = ActorDiedError()
    error.error_msg, error._preempted = text, preempted
    return error


def checked(error):
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=error)


def from_task(cause):
    return RayTaskError("load_rows", "Traceback", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (checked(died(KILLED)), "crash"),
        (checked(died(NODE)), "preempted"),
        (checked(died(KILLED, preempted=True)), "preempted"),
        (NodeDiedError("Node is either dead or unreachable"), "preempted"),
        (checked(OutOfMemoryError("Task was killed due to the node running low on memory.")), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (from_task(MemoryError()), "out_of_memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "crash"),
        (RuntimeError("its node has died"), "crash"),  # anybody may say so; only Ray knows
        (WorkerCrashedError(), "crash"),
        (OSError("Stale file handle"), "crash"),
        (EnvironmentFault("no weights", "download them"), "crash"),
        (StudyError("Ray Data ended 3 steps too early", "resume the study"), "crash"),
        (InputError("shard b.arrow has checksum 1", "prepare again"), "bad_configuration"),
        (TrainingFault("the loss is nan at step 3"), "bad_configuration"),
        (ValueError("Target size must be the same"), "bad_configuration"),
        (from_task(KeyError("view")), "bad_configuration"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_kind_of_a_failure(error, kind):
    """A failure is retried that will come again, or is not although another machine would do."""
    assert deaths.kind_of(error) == kind


def test_of_several_ranks_the_one_that_was_killed_tells():
    """The survivors' broken connections hide what broke them."""
    echo = RuntimeError("Connection closed by peer")
    assert deaths.cause_of([echo, checked(died(NODE))])[0] == "preempted"
    assert deaths.cause_of([checked(OutOfMemoryError("low on memory")), echo])[0] == "out_of_memory"
    assert deaths.cause_of([echo, ValueError("no such head")]) == ("bad_configuration", "ValueError: no such head")
    kind, text = deaths.cause_of([echo, checked(died(KILLED))])
    assert kind == "crash"
    assert "actor_id" not in text


@pytest.mark.parametrize("is_alive", [True, False])
@pytest.mark.parametrize("answers", [True, False])
def test_a_node_that_does_not_answer_is_gone(monkeypatch, is_alive, answers):
    """A node is taken for alive until Ray has missed its heartbeats, or one that answers is given up."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if answers:
            listening.listen()
        host, port = listening.getsockname()
        node = {"NodeID": "n", "Alive": is_alive, "NodeManagerAddress": host, "NodeManagerPort": port}
        monkeypatch.setattr(ray, "nodes", lambda: [node])
        assert deaths.is_gone("n") == (not is_alive or not answers)
        assert not deaths.is_gone("unknown")


def test_a_slot_on_a_lost_node_is_not_started_there_again(monkeypatch):
    """Ray Train starts the workers again where there is no room for them, and takes that of the loading tasks."""
    told = []
    board = SimpleNamespace(lose=SimpleNamespace(remote=lambda *what: told.append(what) or "dismissed" in what))
    monkeypatch.setattr(deaths.ray, "get", lambda value: value)
    monkeypatch.setattr(deaths, "is_gone", lambda node: node == "gone")
    watch = deaths.DeathWatch(board, 3)
    watch._nodes = {0: "gone", 1: "there"}
    watch.after_worker_group_poll_status(SimpleNamespace(errors={}))
    watch.after_worker_group_poll_status(SimpleNamespace(errors={1: checked(died(KILLED))}))
    with pytest.raises(deaths.SlotLost):
        watch.after_worker_group_poll_status(SimpleNamespace(errors={0: checked(died(KILLED))}))
    with pytest.raises(deaths.SlotLost):
        watch.after_worker_group_poll_status(SimpleNamespace(errors={1: checked(died(NODE))}))
    monkeypatch.setattr(deaths, "cause_of", lambda _: ("crash", "dismissed"))
    with pytest.raises(deaths.SlotLost):
        watch.after_worker_group_poll_status(SimpleNamespace(errors={1: checked(died(KILLED))}))
    assert [(slot, kind) for slot, kind, _ in told][:-1] == [(3, "crash"), (3, "preempted"), (3, "preempted")]


@pytest.mark.parametrize(
    "text",
    [
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/My Patients/Doe John/p1.dcm'",
        "OSError: cannot read /mnt/pacs/DOE^JOHN/19700101/1.2.840.dcm: truncated",
        "OSError: cannot read ~/pacs/DOE/1.dcm",
        "ValueError: C:\\scans\\DOE\\1.dcm is empty",
        "bad magic in scans/DOE/0001.png",
        "bad magic in DOE.dcm",
        "cannot reach s3://AKIDEXAMPLE:secret@DOE/manifest.parquet?x=1 now",
        "peer [10.0.17.3]:4242 closed; pid 4711, actor 495bfea41e569e3bfeaf09ec01000000",
    ],
)
def test_what_may_leave_the_machine(text):
    """A patient's name in a path, a server or a process reaches MLflow."""
    public = public_text(text)
    for secret in ("DOE", "Doe", "John", "secret", "10.0.17.3", "4711", "495bfea4", "pacs", "scans", "Patients"):
        assert secret not in public
    assert "<" in public


@pytest.mark.parametrize(
    "text",
    [
        "the loss CrossEntropy is nan at step 1240 (epoch 3)",
        "val/auroc_macro is nan at epoch 3",
        "epoch 2 has no val/segment/site_a/auroc_macro",
        "out of memory, tried again with 2 times as many micro-batches of the same batch (CUDA out of memory)",
        "mean / max and 3/4",
    ],
)
def test_what_stays_in_words(text):
    """Metrics and numbers are taken for places, and the reason cannot be read any more."""
    assert public_text(text) == text


def row(trial, state="failed", reason="", failure="", **options):
    return TrialRow(
        trial=str(trial),
        state=state,
        value=None,
        params={},
        metrics={},
        seeds=(0,),
        epochs=0,
        reason=reason,
        failure=failure,
        **options,
    )


ROWS = [
    row(0, "complete", retries=(Retry(kind="preempted", text="lost", epoch=2),), attempts=2),
    row(1, reason="the loss is nan at step 7 (epoch 1)", failure="bad_configuration"),
    row(2, reason="the loss is nan at step 1240 (epoch 3)", failure="bad_configuration"),
    row(
        3, reason="cannot read /pacs/doe.dcm", failure="crash", retries=(Retry(kind="crash", text="x"),) * 2, attempts=3
    ),
    row(4, reason="the trial was put into the ledger by another program"),
    row(5, "pruned"),
]


def test_the_table_of_failures_by_cause():
    """Failures that differ in a number are told one by one, or causes of different kinds as one."""
    result = StudyResult(study="s", state="done", metric="val/qwk", mode="max", rows=tuple(ROWS))
    table = failure_table(ROWS)
    assert [(one.kind, one.trials, one.retries) for one in table] == [
        ("bad_configuration", ("1", "2"), 0),
        ("crash", ("3",), 2),
        ("", ("4",), 0),
    ]
    text = failures_table(result, width=100)
    assert max(map(len, text.splitlines())) <= 100
    for part in (
        "bad configuration",
        "the loss is nan at step 7",
        "cannot read <path>",
        "search.space",
        "end of the log",
    ):
        assert part in text
    assert "1 other trial went on after a failure (once in all)" in text
    records = failure_records(result)
    assert [(one["kind"], one["count"], one["trials"]) for one in records] == [
        ("bad_configuration", 2, ["1", "2"]),
        ("crash", 1, ["3"]),
        ("other", 1, ["4"]),
    ]
    assert all(one["fix"] for one in records)
    assert attempt_records(result)["0"] == {
        "attempts": 2,
        "retries": [{"kind": "preempted", "epoch": 2, "text": "lost", "workers": 0}],
    }
    assert set(attempt_records(result)) == {"0", "3"}
    calm = StudyResult(study="s", state="done", metric="val/qwk", mode="max", rows=(row(0, "complete"),))
    assert failures_table(calm) == ""


def config_of(trials, **search):
    raw = {
        "study": "failures",
        "data": {"prepared": "nowhere", "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}]},
        "search": {"trials": trials, "space": {"optim.lr": {"float": [1e-4, 1e-2]}}, **search},
    }
    return StudyConfig.model_validate(raw)


@pytest.mark.parametrize(("trials", "asked", "most"), [(4, None, 10), (60, None, 30), (60, 3, 3), (60, 0, 0)])
def test_how_many_failures_a_study_bears(trials, asked, most):
    """A small study stops at its first failures, or a large one goes on when all of its trials fail."""
    assert config_of(trials, max_failures=asked).max_failures == most


def test_too_many_failures_stop_a_study_also_when_it_is_resumed(tmp_path):
    """The trial after the last one that is borne begins all the same, or a resume begins as if nothing had been."""
    config = config_of(9, max_failures=1)
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger.open(url, config=config)
    search = Search(
        config=config,
        study_dir=tmp_path,
        ledger=ledger,
        tracker=SimpleNamespace(),
        observe=print,
        stop=SimpleNamespace(),
    )
    for number in range(2):
        assert not search.has_failed
        _check_failures(search)
        ledger.finish(ledger.next_trial().number, RunOutcome(state="failed", reason=f"nan {number}", failure="crash"))
    assert search.has_failed
    ledger.close()
    search.ledger = Ledger.open(url, config=config)
    search.ledger.rows()
    with pytest.raises(StudyError, match=r"2 of 2 trials failed, more than search.max_failures, which is 1") as caught:
        _check_failures(search)
    assert "2 x crash: nan 0 (trial 0, 1)" in caught.value.message
    assert "--set search.max_failures=3" in caught.value.fix
    assert caught.value.exit_code == 1
    with pytest.raises(StudyError, match="none of the 2 trials was completed"):
        _check_any_complete(search.ledger)
    search.ledger.close()


@pytest.mark.parametrize(
    ("resources", "node", "total", "free", "words"),
    [
        (
            {"gpus_per_worker": 1.0},
            (4, 0),
            (4, 0),
            (4, 0),
            "a worker needs 1 GPU, the largest node has 0: 1 GPU",
        ),
        (
            {"cpus_per_worker": 8.0},
            (4, 0),
            (16, 0),
            (16, 0),
            "a worker needs 8 CPUs, the largest node has 4: 4 CPUs",
        ),
        (
            {"workers": 2},
            (2, 0),
            (2, 0),
            (2, 0),
            "needs 3 CPUs with its data loading, the cluster has 2: 1 CPU missing",
        ),
        (
            {"workers": 4, "gpus_per_worker": 1.0},
            (8, 1),
            (16, 3),
            (16, 3),
            "one run needs 4 GPUs, the cluster has 3: 1 GPU missing",
        ),
        ({"workers": 2}, (4, 0), (4, 0), (0.5, 0), "2 CPUs, 0.5 of 4 are free: 1.5 CPUs missing, in use by other work"),
        ({"workers": 2}, (4, 0), (4, 0), (4, 0), "no nodes have room for 2 workers of a run at the same time"),
    ],
)
def test_what_the_cluster_lacks_is_named(resources, node, total, free, words):
    """A study ends for want of room without a word about what would help."""
    available = Capacity(node_cpus=node[0], node_gpus=node[1], cpus=total[0], gpus=total[1])
    text = lacking(ResourcesConfig(**resources), available, {"CPU": free[0], "GPU": free[1]})
    assert words in text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90 seconds", 90), ("1 minute", 60), ("1.5 hours", 5400), ("0 seconds", None), ("10", None), ("10 m", None)],
)
def test_how_long_a_study_waits_for_room(text, seconds):
    """A time is read otherwise than it is written, or a wait without end or of no time is taken."""
    assert span_seconds(text) == seconds
    assert ResourcesConfig().wait == "10 minutes"
    if seconds is None:
        with pytest.raises(ValueError, match="90 seconds"):
            ResourcesConfig(wait=text)
    else:
        assert ResourcesConfig(wait=text).wait == text


def test_no_trial_begins_without_a_slot(monkeypatch):
    """Trials are drawn beyond the slots that there are, without knowing how those before them end."""
    given, desk = iter("abcd"), SimpleNamespace(width=1)

    def next_job():
        name = next(given)
        return Job(trial=name, runs=(RunSpec(trial=name, seed=0, attempt=1, directory="", config={}),))

    desk.next_job = next_job
    searcher = LedgerSearcher(desk, {})
    assert searcher.suggest("0")
    assert searcher.suggest("1") is None
    desk.width = 2
    assert searcher.suggest("1")
    assert searcher.suggest("2") is None
    searcher._jobs.pop("0")
    assert Job.from_json(searcher.suggest("2")["job"]).trial == "c"
