"""Two nodes that do not share a file system: one of them lives in a mount namespace of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.nodes import nodes_apart, two_nodes
from tests.nodes import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.long]
NAMED = r"is not shared by all 2 nodes of the cluster: on node [12] \([0-9.]+\) "
# Which folders a joined driver finds unshared, as JSON.
LOOK = """
import json, sys
from pathlib import Path
from study.distributed.cluster import connected
from study.distributed.sharing import sharing_faults
with connected():
    faults = sharing_faults({name: Path(place) for name, place in json.loads(sys.argv[1]).items()})
print(json.dumps({fault.path: fault.message for fault in faults}))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders: one that both nodes see, and one that is empty on the worker node."""
    root = tmp_path_factory.mktemp("places")
    for name in ("shared", "hidden"):
        (root / name).mkdir()
    return root


@pytest.fixture(scope="module")
def nodes(places):
    """The cluster, for all tests of this module."""
    with two_nodes([places / "hidden"]) as found:
        yield found


def _python(nodes, code, *words, timeout=280):
    env = {**nodes.env, **nodes.joining}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_each_folder_is_tried_on_each_node(nodes, places):
    """What both see is fine, also below it; what one does not see is told with the node; no probe is left."""
    asked = {
        "good": places / "shared" / "yet" / "to" / "come",
        "hidden": places / "hidden",
        "below": places / "hidden" / "studies",
    }
    (places / "hidden" / "only-here").mkdir(exist_ok=True)
    asked["deep"] = places / "hidden" / "only-here" / "x"
    found = json.loads(_python(nodes, LOOK, json.dumps({name: str(place) for name, place in asked.items()})))
    assert set(found) == {"hidden", "below", "deep"}
    assert re.search(NAMED, found["hidden"])
    assert f"{places / 'hidden'} is another folder" in found["below"]
    assert f"there is no {places / 'hidden' / 'only-here'}" in found["deep"]
    assert [path.name for path in places.rglob(".study-*")] == []
    assert nodes.seen_there(places / "hidden") == []


def test_a_study_is_refused_before_anything_starts(nodes, places, cli, small_file):
    """Exit code 2, the reason and what to do; no study directory is made, here or there."""
    done = cli("run", str(small_file), "--storage", str(places / "hidden" / "studies"), env=nodes.joining)
    assert done.returncode == 2, done.stderr
    assert "--storage: " in done.stderr
    assert re.search(NAMED, done.stderr)
    assert "s3://" in done.stderr
    assert "nothing was started" in done.stderr
    assert not (places / "hidden" / "studies").exists()
    assert nodes.seen_there(places / "hidden") == []


def test_prepared_data_that_a_node_does_not_see_are_refused(nodes, places, cli, small_file):
    """By `run` at the path in the study file, and by `prepare`, which would write on nodes of its own."""
    change = f"data.prepared={places / 'hidden' / 'set'}"
    done = cli("run", str(small_file), "--storage", str(places / "shared"), "--set", change, env=nodes.joining)
    assert done.returncode == 2, done.stderr
    assert f"data.prepared: {places / 'hidden' / 'set'} is not shared" in done.stderr
    assert "--storage: " not in done.stderr
    done = cli("prepare", str(small_file), "--set", change, env=nodes.joining)
    assert done.returncode == 2, done.stderr
    assert f"data.prepared: {places / 'hidden' / 'set'} is not shared" in done.stderr
    assert nodes.seen_there(places / "hidden") == []


def test_a_folder_that_all_nodes_mount(nodes, places, cli, small_file):
    """A study in it is prepared and trained on the other node, killed, gone on with, and looked at."""
    storage, words = places / "shared" / "studies", ["--set", "search.trials=2", "--set", "confirm=null"]
    words += ["--set", f"data.prepared={places / 'shared' / 'set'}", "--storage", str(storage)]
    process = cli.start("run", str(small_file), *words, env=nodes.joining)
    cli.kill_when(process, lambda: any(storage.glob("small/runs/1-s0/checkpoints/step_*")))
    assert str(storage / "small" / "study.yaml") in nodes.seen_there(places / "shared")
    done = cli("resume", "small", "--storage", str(storage), env=nodes.joining)
    assert done.returncode == 0, done.stderr
    at = ["small", "--json", "--storage", str(storage)]
    assert sum(json.loads(cli("status", *at).stdout)["trials"].values()) == 2
    best = json.loads(cli("best", *at).stdout)
    assert best[0]["state"] == "complete"
    assert all(Path(row["checkpoint"]).is_dir() for row in best)


def test_a_node_that_joins_later_is_refused_too(tmp_path, cli, small_file, phantom_data):
    """The study saves and ends with the reason; without that node it goes on, and no trial has failed."""
    storage, words = tmp_path / "studies", ["--set", "train.epochs=60", "--set", "search.trials=1"]
    words += ["--set", "search.pruner.name=none", "--set", "confirm=null", "--set", "train.checkpoint_every=1 step"]
    assert cli("prepare", str(small_file)).returncode == 0
    with nodes_apart(cpus=2) as nodes:
        process = cli.start("run", str(small_file), *words, "--storage", str(storage), env=nodes.joining)
        journal, out = storage / "small" / "journal.jsonl", cli.folder / "out.txt"

        def is_training():
            assert process.poll() is None, out.read_text()
            return journal.exists() and '"kind": "epoch"' in journal.read_text()

        wait_for(is_training, "no epoch ends", timeout=200)
        number = nodes.join([tmp_path, phantom_data])
        code = process.wait(120)
        told = out.read_text()
        assert code == 2, told
        assert re.search(
            r"--storage: \S+ is not shared by all 2 nodes of the cluster: on node [12] \(127.0.0.3\) ", told
        )
        assert re.search(r"data.prepared: \S+ is not shared", told)
        assert "take the node out of the cluster" in told
        assert nodes.seen_there(tmp_path, number) == nodes.seen_there(phantom_data, number) == []
        at = ["--storage", str(storage)]
        status = json.loads(cli("status", "small", "--json", *at).stdout)
        assert (status["state"], status["trials"].get("failed", 0)) == ("interrupted", 0), status
        nodes.leave(number)
        nodes.wait_for(1)
        done = cli("resume", "small", *at, env=nodes.joining)
        assert done.returncode == 0, done.stderr
    status = json.loads(cli("status", "small", "--json", *at).stdout)
    assert (status["state"], status["trials"]) == ("done", {"complete": 1})
