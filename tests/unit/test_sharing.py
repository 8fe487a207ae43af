"""What the answers of a cluster's nodes mean, and what a probe leaves; the nodes themselves are stood in for."""

from pathlib import Path

import pyarrow as pa
import pytest

from study.config import DataConfig
from study.distributed import sharing
from study.distributed.preparing_blocks import BLOCK_FIELDS, prepare_block
from study.distributed.sharing import Node, NotShared, Probe, answer, check_mark, faults_of, leave_mark

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
