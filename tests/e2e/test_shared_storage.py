"""Two nodes that do not share a file system: one of them lives in a mount namespace of its own."""

import json
import re
import subprocess
import sys

import pytest

from tests.e2e.nodes import two_nodes

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
