"""Two studies on one cluster share it: both go on side by side, and one that is killed leaves its part to the other."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from tests.e2e.test_driver_ends import HEAD

pytestmark = [pytest.mark.e2e, pytest.mark.long]
SETS = ["confirm=null", "search.pruner.name=none", "search.trials=4"]


@pytest.fixture
def head(tmp_path):
    """A cluster with room for two slots of two CPUs: how to join it, and how many training workers it has."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (tmp_path / "head.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD.replace("num_cpus=2", "num_cpus=4")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | token,
        )
    lines = iter(process.stdout.readline, "")
    address = next(line.strip() for line in lines if ":" in line)

    def workers():
        process.stdin.write("\n")
        process.stdin.flush()
        answer = next(line for line in lines if line.startswith("[["))  # Ray may print words of its own in between
        return json.loads(answer)[1].count("RayTrainWorker")

    yield token | {"RAY_ADDRESS": address}, workers
    process.stdin.close()
    process.wait(timeout=60)


def epochs(cli, name):
    """Epochs that a study has told of."""
    journal = cli.folder / "studies" / name / "journal.jsonl"
    return journal.read_text().count('"kind": "epoch"') if journal.exists() else 0


def pace(cli, name, since):
    """Of the epochs since a moment: how many, the longest time between two, the share that was spent on waiting."""
    journal = (cli.folder / "studies" / name / "journal.jsonl").read_text().splitlines()
    told = [record for record in map(json.loads, journal) if record["kind"] == "epoch"]
    told = [record for record in told if record["time_ms"] > 1000 * since]
    times = [record["time_ms"] / 1000 for record in told]
    waits = [record["payload"]["system"]["system/data_wait_share"] for record in told]
    return len(told), max(b - a for a, b in pairwise(times)), max(waits)


def wait_for(condition, what, cli, timeout=400):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}\n{(cli.folder / 'out.txt').read_text()[-4000:]}"
        time.sleep(0.2)


def start(cli, file, name, env, *more):
    sets = [word for each in [*SETS, f"study={name}", *more] for word in ("--set", each)]
    return cli.start("run", str(file), *sets, env=env)


def told(cli):
    """What both studies have said."""
    return (cli.folder / "out.txt").read_text()


def test_two_studies_go_on_side_by_side_and_a_dead_one_gives_its_part_back(cli, small_file, head):
    """One study waits until the other one ends, both wait for ever, or what a killed one had stays taken."""
    env, workers = head
    one = start(cli, small_file, "one", env, "train.epochs=200", "sampler.epoch_draws=600", "resources.concurrent=auto")
    wait_for(lambda: epochs(cli, "one") >= 2 and workers() == 2, "the first study does not take the whole cluster", cli)
    two = start(cli, small_file, "two", env, "train.epochs=12", "resources.concurrent=auto")
    try:
        wait_for(lambda: epochs(cli, "two") >= 2, "the second study gets no slot", cli)
        since, before = time.time(), (epochs(cli, "one"), epochs(cli, "two"))
        wait_for(lambda: epochs(cli, "one") >= before[0] + 3, "the first study has no slot any more", cli)
        wait_for(lambda: epochs(cli, "two") >= before[1] + 8, "the second study does not get on", cli)
        for name in ("one", "two"):
            count, longest_s, share = pace(cli, name, since)
            print(f"\nstudy {name}: {count} epochs, {longest_s:.1f} s the longest, {share:.0%} of one waiting at most")
            assert longest_s < 60, "the loading tasks of one study keep those of the other waiting"
        assert one.poll() is None
        assert two.poll() is None
        assert workers() == 2
        assert "the cluster is shared with study two by priority: 1 slot of it for this one" in told(cli)
        assert "the cluster is shared with study one by priority: 1 slot of it for this one" in told(cli)
        os.killpg(one.pid, signal.SIGKILL)
        one.wait(timeout=60)
        wait_for(lambda: "no other study is on the cluster any more" in told(cli), "the dead is not buried", cli)
        wait_for(lambda: workers() == 2 or two.poll() is not None, "the survivor does not take the other slot", cli)
        assert two.wait(timeout=400) == 0
        with contextlib.closing(cli.ledger("two")) as ledger:
            assert [row.state for row in ledger.rows()] == ["complete"] * 4
            assert [row.retries for row in ledger.rows()] == [()] * 4
    finally:
        for process in (one, two):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=60)
