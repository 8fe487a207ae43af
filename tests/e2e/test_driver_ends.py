"""A driver that is stopped or killed leaves nothing in the cluster that it had joined; one that loses its own tells."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import descendants, title

pytestmark = [pytest.mark.e2e, pytest.mark.long]
HEAD = """
import json, ray, sys
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
for _ in sys.stdin:
    groups = [key for key, group in ray.util.placement_group_table().items() if group["state"] != "REMOVED"]
    actors = [a["ActorClassName"] for a in ray._private.state.actors().values() if a["State"] != "DEAD"]
    print(json.dumps([groups, sorted(actors)]), flush=True)
"""
OF_THE_CLUSTER = {"_AutoscalingCoordinatorActor", "_StatsActor"}  # Ray has one of each for all jobs


@pytest.fixture
def head(tmp_path):
    """A cluster that outlives drivers: how to join it, and what it holds of placement groups and living actors."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (tmp_path / "head.txt").open("w") as log:
        command = [sys.executable, "-c", HEAD]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | token
        )
    lines = iter(process.stdout.readline, "")
    address = next(line.strip() for line in lines if ":" in line)
    yield token | {"RAY_ADDRESS": address}, lambda: ask(process, lines)
    process.stdin.close()
    process.wait(timeout=60)


def ask(process, lines):
    process.stdin.write("\n")
    process.stdin.flush()
    groups, actors = json.loads(next(lines))
    return groups, [name for name in actors if name not in OF_THE_CLUSTER]


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_ends_leaves_nothing_in_the_cluster(cli, small_file, head, sig):
    """Workers, controllers, followers of trials or their places stay behind, and the next study finds no room."""
    env, held = head
    name = f"gone-{sig.name.lower()}"
    process = cli.start("run", str(small_file), "--set", f"study={name}", "--set", "train.epochs=40", env=env)
    journal = cli.folder / "studies" / name / "journal.jsonl"
    code = cli.kill_when(process, lambda: journal.exists() and '"kind": "epoch"' in journal.read_text(), sig=sig)
    assert code == (130 if sig == signal.SIGINT else -signal.SIGKILL), (cli.folder / "out.txt").read_text()
    deadline = time.monotonic() + 60
    while held() != ([], []):
        assert time.monotonic() < deadline, f"left behind: {held()}"
        time.sleep(0.5)


@pytest.mark.parametrize("daemon", ["gcs_server", "raylet"])
def test_a_study_whose_own_cluster_dies_says_so_and_goes_on(cli, small_file, daemon):
    """Ray would abort the driver after a minute without a word about the study; whatever it had started is gone."""
    name = f"lost-{daemon.replace('_', '-')}"
    process = cli.start("run", str(small_file), "--set", f"study={name}", "--set", "search.trials=2")
    journal = cli.folder / "studies" / name / "journal.jsonl"
    while not (journal.exists() and '"kind": "epoch"' in journal.read_text()):
        assert process.poll() is None, (cli.folder / "out.txt").read_text()
        time.sleep(0.1)
    family = {pid: title(pid) for pid in descendants(process.pid)}
    victim = next(pid for pid, name in family.items() if name.endswith(f"/{daemon}"))
    shot = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    assert process.wait(timeout=50) == 1
    said = (cli.folder / "out.txt").read_text()
    assert time.monotonic() - shot < 40
    assert f"Ray's process {daemon} on this machine has died" in said
    assert f"study resume {name}" in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while [pid for pid, name in family.items() if name and title(pid) == name]:
        assert time.monotonic() < deadline, "processes of the cluster outlive the driver"
        time.sleep(0.5)
    assert cli("resume", name).returncode == 0
