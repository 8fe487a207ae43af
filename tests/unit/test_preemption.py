"""The watcher for cloud notices, against a metadata service of our own on this machine."""

import json
import logging
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from ray.exceptions import RpcError

from study.distributed import preemption
from study.distributed.preemption import CLOUDS, NOTICE_S, Metadata, Notice, main, watch
from tests.metadata import MetadataService


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which a metadata service is never asked through
    service = MetadataService()
    yield service
    service.server.shutdown()


def soon(seconds, form):
    return form(datetime.now(UTC) + timedelta(seconds=seconds))


def iso(when):
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


ACTION = "/latest/meta-data/spot/instance-action"
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
PREEMPTED = "/computeMetadata/v1/instance/preempted"


def test_aws_wants_a_token_which_may_run_out(service):
    """The service of the first version is asked, or a token that has run out ends the watch."""
    service.pages["/latest/api/token"] = service.token
    metadata = Metadata(service.url)
    assert CLOUDS["aws"](metadata) is None
    service.pages[ACTION] = service.guarded(json.dumps({"action": "terminate", "time": soon(100, iso)}))
    service.tokens = 7  # the service has forgotten the token that it gave
    notice = CLOUDS["aws"](metadata)
    assert notice.text == "spot instance: terminate"
    assert 90 < notice.seconds <= 100
    assert service.tokens == 8
    service.pages[ACTION] = json.dumps({"action": "stop", "time": soon(-50, iso)})
    assert CLOUDS["aws"](metadata) == Notice(text="spot instance: stop", seconds=1.0)


def test_gcp_says_true(service):
    """FALSE is a notice, or the header is missing, without which the service does not answer."""
    service.pages[PREEMPTED] = lambda request: "FALSE" if request.headers["Metadata-Flavor"] == "Google" else 403
    metadata = Metadata(service.url)
    assert CLOUDS["gcp"](metadata) is None
    service.pages[PREEMPTED] = "TRUE\n"
    assert CLOUDS["gcp"](metadata) == Notice(text="spot machine: preempted", seconds=NOTICE_S["gcp"])


def test_azure_tells_of_the_neighbours_as_well(service):
    """This machine is drained since its neighbour goes, or for a reboot."""
    metadata = Metadata(service.url)
    service.pages[NAME] = "worker-1"

    def happens(kind, machine, when):
        event = {"EventId": "1", "EventType": kind, "Resources": [machine], "NotBefore": when}
        service.pages[EVENTS] = json.dumps({"DocumentIncarnation": 1, "Events": [event]})
        return CLOUDS["azure"](metadata)

    service.pages[EVENTS] = json.dumps({"DocumentIncarnation": 1, "Events": []})
    assert CLOUDS["azure"](metadata) is None
    assert happens("Reboot", "worker-1", "") is None
    assert happens("Preempt", "worker-2", "") is None
    assert happens("Preempt", "Worker-1", "") == Notice(text="scheduled event: Preempt", seconds=NOTICE_S["azure"])
    assert (
        20 < happens("Terminate", "worker-1", soon(25, lambda when: format_datetime(when, usegmt=True))).seconds <= 25
    )
    assert all(headers["metadata"] == "true" for _, _, headers in service.asked)


def test_a_service_that_does_not_answer_is_told_of_once(service, caplog, monkeypatch):
    """The watch ends with the first error, floods the log, or does not come back."""
    looks = []

    def sleep(_):
        looks.append(len(looks))
        service.pages[PREEMPTED] = [500, 500, "FALSE", "TRUE"][min(len(looks), 3)]

    monkeypatch.setattr(preemption.time, "sleep", sleep)
    service.pages[PREEMPTED] = 500
    with caplog.at_level(logging.INFO, "study.preemption"):
        assert watch("gcp", Metadata(service.url), every_s=0.1).text == "spot machine: preempted"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]
    assert len(looks) == 3


@pytest.mark.parametrize("text", ["[1]", '{"Events": [1]}', '{"Events": {}', "<html>"])
def test_answers_of_another_form_do_not_end_the_watch(service, monkeypatch, text):
    """The node goes without notice, since the watcher had died of something odd before."""
    service.pages |= {EVENTS: text, NAME: "worker-1"}
    event = {"EventType": "Preempt", "Resources": ["worker-1"], "NotBefore": ""}
    monkeypatch.setattr(
        preemption.time, "sleep", lambda _: service.pages.update({EVENTS: json.dumps({"Events": [event]})})
    )
    assert watch("azure", Metadata(service.url), every_s=0.1).text == "scheduled event: Preempt"


def answers(monkeypatch, *codes):
    """`ray drain-node` as a program that ends with these codes; the commands that it was called with."""
    called, left = [], list(codes)

    def run(command, **options):
        assert options["timeout"] > 0
        called.append(command)
        return preemption.subprocess.CompletedProcess(command, left.pop(0), "", "Error: not accepted")

    monkeypatch.setattr(preemption.subprocess, "run", run)
    monkeypatch.setattr(preemption.time, "sleep", lambda _: None)
    return called


def test_every_node_of_the_machine_is_drained_until_the_cluster_agrees(service, monkeypatch, capsys):
    """A cluster that is busy for a moment keeps the node, or the deadline is not passed on."""
    service.pages[PREEMPTED] = "TRUE"
    called = answers(monkeypatch, 0, 1, 0, 0)
    words = ["--cloud", "gcp", "--url", service.url, "--address", "127.0.0.1:1", "--every", "0.1"]
    assert main([*words, "--node-id", "aa", "--node-id", "bb"]) == 0
    assert [command[command.index("--node-id") + 1] for command in called] == ["aa", "bb", "aa", "bb"]
    assert called[0][called[0].index("--reason") + 1] == "DRAIN_NODE_REASON_PREEMPTION"
    assert 25 <= int(called[0][-1]) <= 30


@pytest.mark.parametrize(("failures", "code"), [(2, 0), (1000, 1)])
def test_a_head_that_is_away_is_asked_again(service, monkeypatch, failures, code):
    """The notice comes while the head is started anew, and the watcher ends with a traceback; or never ends."""
    service.pages[PREEMPTED] = "TRUE"
    called, left, clock = answers(monkeypatch, 0), iter(range(failures)), iter(range(0, 10_000, 5))
    monkeypatch.setattr(preemption.time, "monotonic", lambda: float(next(clock)))

    def own_nodes(address, ip):
        if next(left, None) is not None:
            raise RpcError("timed out")
        return ["aa"]

    monkeypatch.setattr(preemption, "own_nodes", own_nodes)
    assert main(["--cloud", "gcp", "--url", service.url, "--address", "127.0.0.1:1"]) == code
    assert len(called) == 1 - code


def test_a_machine_without_a_node_says_so(service, monkeypatch):
    """The watcher reports a success although nothing was drained."""
    service.pages[PREEMPTED] = "TRUE"
    called = answers(monkeypatch)
    monkeypatch.setattr(preemption, "own_nodes", lambda address, ip: [])
    assert main(["--cloud", "gcp", "--url", service.url, "--address", "127.0.0.1:1"]) == 1
    assert not called


@pytest.mark.parametrize(("looks", "code"), [([["aa"], ["aa"], []], 0), ([["aa"]] * 1000, 1)])
def test_now_waits_until_the_node_has_left(monkeypatch, looks, code):
    """No notice is waited for; it returns while runs still save, or waits for ever for a node that stays."""
    called, left = answers(monkeypatch, 1, 0), iter(looks)
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(preemption.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(preemption, "_listens", lambda address: True)
    monkeypatch.setattr(preemption, "alive_nodes", lambda address: dict.fromkeys(next(left)))
    assert main(["--now", "90", "--address", "127.0.0.1:1", "--node-id", "aa"]) == code
    assert len(called) == 2
    assert 80 <= int(called[0][-1]) <= 90


def test_now_does_not_wait_for_a_cluster_that_goes(monkeypatch):
    """The head is stopped at the same time: whoever waits for its answer is killed before the end of its own."""
    answers(monkeypatch, 0)
    listens = iter([True, True, False])
    monkeypatch.setattr(preemption, "_listens", lambda address: next(listens))
    monkeypatch.setattr(preemption, "alive_nodes", lambda address: {"aa": None})
    assert main(["--now", "90", "--address", "127.0.0.1:1", "--node-id", "aa"]) == 1


def test_now_without_a_cluster_ends_at_once(monkeypatch):
    """A pod whose head is gone waits for it until it is killed."""
    called = answers(monkeypatch)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert main(["--now", "90", "--address", f"127.0.0.1:{silent.getsockname()[1]}"]) == 1
    assert not called


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--cloud", "gcp", "--url", "file:///etc/passwd"],
        ["--cloud", "aws", "--every", "0"],
        ["--cloud", "aws", "--now", "5"],
        ["--now", "0"],
    ],
)
def test_arguments_that_make_no_sense_are_refused(words, capsys):
    """Files are read as if they were a metadata service, or the service is asked without a pause."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err
