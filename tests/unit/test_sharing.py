"""What the answers of a cluster's nodes mean, and what a probe leaves; the nodes themselves are stood in for."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from study.config import DataConfig
from study.distributed import sharing
from study.distributed.deaths import kind_of
from study.distributed.loading import DatasetUnseen, StreamSettings, load_rows
from study.distributed.preparing_blocks import BLOCK_FIELDS, prepare_block
from study.distributed.sharing import Node, NotShared, Probe, answer, check_mark, faults_of, kept_shared, leave_mark
from study.distributed.stream import _raise_fault
from study.errors import InterruptedStudy, StudyError

NODES = [Node(number, f"id{number}", f"10.0.0.{number}") for number in (1, 2, 3, 4, 5)]
PROBES = [
    Probe("--storage", Path("/a/s"), Path("/a/.study-1"), "1"),
    Probe("data.prepared", Path("/b"), Path("/.study-2"), "2"),
]


def test_a_folder_that_all_share_is_no_fault():
    """Also when a node has left before it could answer."""
    assert faults_of(PROBES, NODES, {node.ray_id: ["", ""] for node in NODES[:4]}) == []


def test_each_folder_is_judged_by_itself():
    """The fault names the folder, what asked for it, the nodes by number and address, and what is there instead."""
    answers = {node.ray_id: ["", ""] for node in NODES} | {"id3": ["", "there is no /b"]}
    (fault,) = faults_of(PROBES, NODES, answers)
    assert fault.path == "data.prepared"
    assert "/b is not shared by all 5 nodes of the cluster: on node 3 (10.0.0.3) there is no /b;" in fault.message
    assert "s3://" in fault.message


def test_many_nodes_are_not_listed_one_by_one():
    """Three are named, the rest is counted."""
    answers = {node.ray_id: ["/a is another folder", ""] for node in NODES}
    (fault,) = faults_of(PROBES, NODES, answers)
    assert "node 3 (10.0.0.3) /a is another folder, and 2 more" in fault.message
    assert "node 4" not in fault.message


def test_a_node_that_sees_the_question_answers_where_it_was_asked(tmp_path):
    """The probe lies in the nearest folder that exists, the answer beside it, and nothing of either stays."""
    with sharing._asking("--storage", tmp_path / "not" / "yet") as probe:
        assert probe.folder.parent == tmp_path
        assert answer([(str(probe.folder), probe.word)], "n1") == [""]
        assert sharing._checked([probe], [""], "n1") == [""]
    assert list(tmp_path.iterdir()) == []


def test_what_a_node_finds_instead(tmp_path, monkeypatch):
    """No such folder; another one of the same name; one whose answer does not come back."""
    monkeypatch.setattr(sharing, "SEEN_S", 0.05)
    with sharing._asking("--storage", tmp_path) as probe:
        assert answer([(str(tmp_path / "none" / "x"), probe.word)], "n") == [f"there is no {tmp_path / 'none'}"]
        assert answer([(str(tmp_path / ".study-0"), probe.word)], "n") == [f"{tmp_path} is another folder"]
        assert answer([(str(probe.folder), "another word")], "n") == [f"{tmp_path} is another folder"]
        assert sharing._checked([probe], [""], "silent") == ["what is written does not arrive here"]


def test_only_local_folders_need_sharing(tmp_path):
    """A dataset in a store is seen from everywhere; a relative study directory is one of this process."""
    sources = [{"kind": "phantom", "name": "a", "patients": 3}]
    local = DataConfig.model_validate({"prepared": f"file://{tmp_path}/x", "sources": sources})
    stored = DataConfig.model_validate({"prepared": "s3://bucket/x", "sources": sources})
    assert sharing.folders_to_share(Path("s"), local) == {
        "--storage": Path.cwd() / "s",
        "data.prepared": tmp_path / "x",
    }
    assert sharing.folders_to_share(None, stored) == {}


def test_a_worker_knows_the_folder_by_its_mark(tmp_path, monkeypatch):
    """A mark that is missing or another driver's is refused, and no folder is made in its place."""
    monkeypatch.setattr(sharing, "SEEN_S", 0.05)
    mark = leave_mark(tmp_path / "study" / ".scratch")
    check_mark(mark)
    with pytest.raises(NotShared, match="is another folder there"):
        check_mark((mark[0], "0"))
    with pytest.raises(NotShared, match=r"does not share .*gone: it is not there"):
        check_mark((str(tmp_path / "gone" / ".scratch" / "mark"), mark[1]))
    assert not (tmp_path / "gone").exists()


def test_a_block_is_not_prepared_where_the_folder_is_missing(tmp_path):
    """Its fault names the folder, and no empty one is made in its place."""
    fields = {name: ["x"] for name in BLOCK_FIELDS}
    work = {"shards": str(tmp_path / "set.partial/shards"), "results": str(tmp_path / "set.partial/results")}
    (told,) = prepare_block(pa.table(fields), work={**work, "image": {}, "encoding": "raw"}).to_pylist()
    assert f"does not see {tmp_path / 'set.partial'}" in told["fault"]
    assert list(tmp_path.iterdir()) == []


class Cluster:
    """Stands in for Ray: which nodes there are, and what each answers."""

    def __init__(self, monkeypatch):
        self.nodes, self.says, self.asked = NODES[:2], {}, []
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        monkeypatch.setattr(sharing, "LOOK_S", 0.01)
        monkeypatch.setattr(sharing, "_nodes", lambda: self.nodes)
        monkeypatch.setattr(sharing, "_ask", self.ask)
        monkeypatch.setattr(sharing, "_checked", lambda probes, words, ray_id: list(words))

    def ask(self, nodes, probes, give_up):
        self.asked.append([node.ray_id for node in nodes])
        return {node.ray_id: [self.says.get(node.ray_id, [""]).pop(0)] for node in nodes}


def test_a_node_that_joins_later_is_asked(tmp_path, monkeypatch):
    """One that shares the folder is asked once; one that does not ends the study, which is told why."""
    cluster, stop, told = Cluster(monkeypatch), threading.Event(), []
    cluster.says = {"id4": [sharing.SILENT, f"there is no {tmp_path}"]}

    def work():
        with kept_shared({"--storage": tmp_path}, stop=stop, tell=told.append):
            cluster.nodes = NODES[:3]
            while len(cluster.asked) < 2:
                assert not stop.wait(0.01)
            cluster.nodes = NODES[:4]
            assert stop.wait(10)
            raise InterruptedStudy("runs have saved")

    with pytest.raises(NotShared, match=r"all 4 nodes of the cluster: on node 4 \(10.0.0.4\) there is no") as found:
        work()
    assert "resume" in found.value.fix
    assert cluster.asked == [["id1", "id2"], ["id3"], ["id4"], ["id4"]]
    assert len(told) == 1
    assert list(tmp_path.iterdir()) == []


def test_other_ends_stay_what_they_are(tmp_path, monkeypatch):
    """A study that the user stops, and one whose nodes do not share from the start."""
    cluster, stop = Cluster(monkeypatch), threading.Event()
    with pytest.raises(InterruptedStudy), kept_shared({"--storage": tmp_path}, stop=stop):
        raise InterruptedStudy("by the user")
    assert not stop.is_set()
    cluster.says = {"id2": ["there is none"]}
    with pytest.raises(NotShared, match="on node 2"), kept_shared({"--storage": tmp_path}, stop=stop):
        pytest.fail("it has begun")


def test_a_loading_task_that_does_not_see_the_dataset_costs_no_trial(tmp_path):
    """The fault of its node is tried again like a lost node, not taken for one of the configuration."""
    settings = StreamSettings(root=str(tmp_path / "set"), fingerprint="f", policy="none", seed=0)
    rows = np.zeros(2, np.int64)
    block = load_rows({"row": rows, "draw": rows}, settings, np.zeros((0, 1, 4, 4), np.uint8))
    with pytest.raises(DatasetUnseen, match=f"does not see {tmp_path / 'set'}") as found:
        _raise_fault(block)
    assert isinstance(found.value, StudyError)
    assert kind_of(found.value) == "preempted"
