"""Room for slots: what is lacking is named, the cluster's nodes come and go, and nothing is left behind."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from study import checkpoint
from study.config import StudyConfig
from study.distributed import claims, sizes
from study.distributed.cluster import Capacity
from study.distributed.slots import LOOK_S, SlotPool, run_directly
from study.distributed.specs import make_spec
from study.training.batch_log import read_batches
from tests.ray.joining import add_node, alive_nodes, wait_until

pytestmark = pytest.mark.ray
OURS = ("RayTrainWorker", "SlotController", "SynchronizationActor", "PlacementGroupCleaner", "Switchboard")
STEPS = 12  # of an epoch of 48 images in batches of 4


@pytest.fixture(scope="module")
def config(study_of):
    """A study that trains for three epochs and saves after every step."""
    search = {"trials": 1, "space": {"optim.lr": {"float": [1e-4, 1e-2]}}}
    return study_of("room", train={"epochs": 3, "batch_size": 4, "checkpoint_every": "1 step"}, search=search)


def changed(config, **sections):
    """The study with other values in some sections."""
    raw = config.model_dump(mode="json")
    for section, values in sections.items():
        raw[section] = values if section == "loss" else raw[section] | values
    return StudyConfig.model_validate(raw)


def run_all(pool, specs, on_event=lambda *_: None):
    """Run specifications side by side; the events of each, and how it ended."""
    heard = {spec.run_id: [] for spec in specs}

    def hear(spec, kind, payload):
        heard[spec.run_id].append((kind, payload))
        on_event(spec, kind, payload)

    run_directly(pool, specs, concurrent=len(specs), on_event=hear, stop=threading.Event())
    return heard


def kinds(events):
    return [kind for kind, _ in events]


def groups():
    """Placement groups that hold or wait for resources."""
    return {key for key, group in ray.util.placement_group_table().items() if group["state"] != "REMOVED"}


def living():
    """Class and process of the actors that live, from the cluster's own table."""
    table = ray._private.state.actors()
    return sorted((actor["ActorClassName"], actor["Pid"]) for actor in table.values() if actor["State"] != "DEAD")


def actors():
    """Actors of slots that live, by class."""
    return [name for name, _ in living() if name in OURS]


def pid_of(class_name):
    """The process of the only living actor of a class."""
    (pid,) = [pid for name, pid in living() if name == class_name]
    return pid


def same_weights(one, other):
    states = [checkpoint.load_last(Path(spec.directory)) for spec in (one, other)]
    curves = [repr([dict(epoch.metrics) for epoch in state.history]) for state in states]
    same = all(torch.equal(states[0].model[key], states[1].model[key]) for key in states[0].model)
    return same and curves[0] == curves[1]


def test_a_run_that_has_no_room_ends_the_wait_and_names_what_is_missing(cluster, config, tmp_path):
    """A worker group that cannot be placed is waited for without end, or leaves its request in the cluster."""
    before, told = groups(), []
    pool = SlotPool(
        1, workers=1, cpus_per_worker=0.1, gpus_per_worker=1.0, scratch=tmp_path, wait_s=2.0, tell=told.append
    )
    heard = run_all(pool, [make_spec(tmp_path, "0", 0, config=config, attempt=1)])
    pool.close()
    ((kind, outcome),) = heard["0-s0"]
    assert (kind, outcome.state) == ("end", "waiting")
    assert pool.lacks_room
    assert pool.failure.endswith("a worker needs 1 GPU, the largest node has 0: 1 GPU missing on a node")
    assert len(told) == 1
    assert "waiting for up to 2 s" in told[0]
    wait_until(lambda: groups() <= before, "the placement group that was waited for is still there", timeout=5)


def test_a_pool_that_is_closed_while_its_workers_start_gives_their_places_back(cluster, tmp_path):
    """The workers' places are kept, and the loading tasks of the next study wait for a processor for ever."""
    pool = SlotPool(1, workers=1, cpus_per_worker=0.5, gpus_per_worker=0.0, scratch=tmp_path)
    deadline = time.monotonic() + 60
    while not any(kind == "RayTrainWorker" for kind, _ in living()):
        assert time.monotonic() < deadline, "no worker was started"
        time.sleep(0.05)
    pool.close(timeout_s=0.0)
    while groups():
        assert time.monotonic() < deadline, f"left behind: {groups()}"
        time.sleep(0.2)


@pytest.mark.long
def test_idle_slots_go_to_a_study_that_can_use_them(cluster, config, tmp_path, monkeypatch):
    """Near its end a study keeps a slot for which it has no run, moves its last run for that, or starts slots anew."""
    monkeypatch.setattr(sizes, "IDLE_S", 3.0)
    one = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 1})})
    # A slot takes 0.4 CPUs with its loading task: of five that fit this study gets two, and then one.
    other = claims.Claim(job="ffff", study="other", priority=1.0, cpus=0.4, gpus=0.0, most=4)
    there = claims.Sharing(other, tell=lambda _: None)
    mine, told = replace(other, job=ray.get_runtime_context().get_job_id(), study="mine", most=2), []
    share = claims.Sharing(mine, tell=told.append)
    share.enter()
    there.enter()
    pool = SlotPool(2, workers=1, cpus_per_worker=0.2, gpus_per_worker=0.0, scratch=tmp_path / "scratch", share=share)
    board = pool.switchboard

    def busy():
        return set(ray.get(board.standing.remote())[1])

    def submit(name):
        ray.get(board.submit.remote(make_spec(tmp_path, name, 0, config=one, attempt=1)))

    try:
        submit("a")
        submit("b")
        wait_until(lambda: busy() == {0, 1}, "not both slots take a run", timeout=120)
        ray.get(board.drop.remote("a-s0"))
        wait_until(lambda: len(busy()) == 1, "the run that nobody wants keeps its slot")
        last = "b"
        if busy() == {0}:  # the last run is to be in the slot that would go if both were idle
            submit("c")
            wait_until(lambda: busy() == {0, 1}, "the free slot takes no run")
            ray.get(board.drop.remote("b-s0"))
            wait_until(lambda: busy() == {1}, "the run that nobody wants keeps its slot")
            last = "c"
        time.sleep(3 * sizes.IDLE_S)
        assert pool.width == 2, "a slot goes although further trials may begin"
        pool.open_room()
        began = time.monotonic()
        wait_until(lambda: set(pool._fits) == {1}, "the idle slot is kept")
        print(f"\nthe idle slot was given back after {time.monotonic() - began:.1f} s")
        assert there(Capacity(cpus=2.0, gpus=0.0, node_cpus=2.0, node_gpus=0.0), 4).cpus == pytest.approx(1.6)
        there.leave()
        events = []
        while not events or events[-1][0] != "end":
            events.append(ray.get(board.next_event.remote(f"{last}-s0")))
            if events[-1][0] == "epoch":
                time.sleep(3 * LOOK_S)  # nobody else is there now
                assert set(pool._fits) == {1}, "a slot is started for which there is no run"
                ray.get(board.decide.remote(f"{last}-s0", 1, True))
        assert kinds(events) == ["started", "epoch", "end"]
        assert events[-1][1].state == "complete"
        assert [text.rpartition(": ")[2] for text in told] == [
            "2 slots of it for this one",
            "1 slot of it for this one",
            "all of it is free for this one",
        ]
    finally:
        pool.close()
        share.leave()
        there.leave()


@pytest.mark.long
def test_nothing_is_left_of_runs_that_are_pruned_fail_or_lose_a_process(cluster, config, tmp_path):
    """Each of them leaves one slot as it was, and a run that lost a process goes on to the same weights."""
    before = groups(), actors()
    pool = SlotPool(1, workers=1, cpus_per_worker=0.4, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
    board = pool.switchboard

    def of_slot():
        return len(groups() - before[0]), [name for name in actors() if name not in before[1]]

    calm = make_spec(tmp_path, "calm", 0, config=config, attempt=1)
    assert kinds(run_all(pool, [calm])["calm-s0"]) == ["started", "epoch", "epoch", "epoch", "end"]
    alone = of_slot()
    assert alone[0] == 1

    pruned = make_spec(tmp_path, "pruned", 0, config=config, attempt=1)
    ray.get(board.submit.remote(pruned))
    assert [ray.get(board.next_event.remote("pruned-s0"))[0] for _ in range(2)] == ["started", "epoch"]
    ray.get(board.decide.remote("pruned-s0", 1, False))
    wild = make_spec(tmp_path, "wild", 0, config=changed(config, optim={"lr": 1e30, "clip_norm": None}), attempt=1)
    (*_, (_, outcome)) = run_all(pool, [wild])["wild-s0"]
    assert (outcome.state, outcome.failure) == ("failed", "bad_configuration")
    assert sorted(read_batches(Path(pruned.directory))) == list(range(STEPS))  # not one step after the decision
    assert of_slot() == alone

    for class_name in ("RayTrainWorker", "SlotController"):
        spec = make_spec(tmp_path, class_name, 0, config=config, attempt=1)

        def kill(_, kind, payload, victim=class_name):
            if kind == "epoch" and payload.epoch == 1:
                os.kill(pid_of(victim), signal.SIGKILL)

        events = run_all(pool, [spec], kill)[spec.run_id]
        assert [payload.epoch for kind, payload in events if kind == "epoch"] == [1, 2, 3]
        assert kinds(events).count("retry") == 1, class_name
        assert next(payload.kind for kind, payload in events if kind == "retry") == "crash"
        assert same_weights(calm, spec), class_name
        wait_until(lambda: of_slot() == alone, f"after the death of {class_name} there is {of_slot()}")

    pool.close()
    wait_until(lambda: (groups(), actors()) == before, f"the closed pool left {groups()}, {actors()}")


@pytest.mark.long
def test_a_run_in_a_worker_that_has_run_others_is_that_of_a_fresh_one(cluster, config, tmp_path):
    """What losses, samplers, augmentations, averages or faults leave in a process changes a later run."""
    short = {"epochs": 1, "batch_size": 12}
    others = [
        changed(config, loss={"name": "corn"}, sampler={"name": "periodic"}, train=short),
        changed(config, loss={"name": "soft_f1"}, augment={"policy": "mammogram"}, train=short),
        changed(config, loss={"name": "coral"}, augment={"policy": "fundus", "device": "train"}, train=short),
        changed(config, loss={"name": "slace"}, train=short | {"ema_decay": 0.9, "channels_last": True}),
        changed(config, optim={"lr": 1e30, "clip_norm": None}, train=short),
        changed(config, loss={"name": "focal", "gamma": 1.0}, optim={"name": "sgd"}, train=short),
    ]
    fresh = make_spec(tmp_path, "fresh", 0, config=config, attempt=1)
    between = [make_spec(tmp_path, str(i), i, config=other, attempt=1) for i, other in enumerate(others)]
    late = make_spec(tmp_path, "late", 0, config=config, attempt=1)
    pids = set()
    ends = {}
    pool = SlotPool(1, workers=1, cpus_per_worker=0.4, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
    try:
        for spec in (fresh, *between, late):
            ends[spec.trial] = run_all(pool, [spec])[spec.run_id][-1][1].state
            pids.add(pid_of("RayTrainWorker"))
    finally:
        pool.close()
    assert ends == {"fresh": "complete", "late": "complete", "4": "failed", **dict.fromkeys("01235", "complete")}
    assert len(pids) == 1, "the runs were not in one process"
    assert same_weights(fresh, late)
    tables = [(Path(spec.directory) / "predictions_val.parquet").read_bytes() for spec in (fresh, late)]
    assert tables[0] == tables[1]


@pytest.mark.long
def test_slots_follow_the_nodes_of_the_cluster(cluster, config, tmp_path):
    """A node that joins brings a slot while the study runs; one that is lost takes it along, and no run."""
    before, here = groups(), alive_nodes()
    long = changed(config, train={"epochs": 8})
    # A slot takes 1.8 CPUs with its loading task: one fits this node of two, and one the other.
    pool = SlotPool(1, workers=1, cpus_per_worker=0.9, gpus_per_worker=0.0, scratch=tmp_path / "scratch", most=3)
    specs = [make_spec(tmp_path, str(i), 0, config=long, attempt=1) for i in range(3)]
    nodes, widths, lost = [], [], []

    def on_event(spec, kind, payload):
        widths.append(pool.width)
        if kind == "epoch" and spec.trial == "0" and payload.epoch == 1:
            nodes.append(add_node(2))  # this run waits for its decision until the node works, however busy the machine
            wait_until(lambda: ray.get(pool.switchboard.standing.remote())[0] == 2, "the new node has no slot")
        if kind == "epoch" and spec.trial == "1" and payload.epoch == 2 and not lost:
            lost.append(spec.trial)
            nodes[0].kill_all_processes(check_alive=False)

    try:
        heard = run_all(pool, specs, on_event)
        assert {events[-1][1].state for events in heard.values()} == {"complete"}
        assert max(widths) == 2
        wait_until(lambda: pool.width == 1, "the slot of the lost node is still counted")
        retries = [payload for events in heard.values() for kind, payload in events if kind == "retry"]
        assert {retry.kind for retry in retries} == {"preempted"}
        for events in heard.values():
            assert [payload.epoch for kind, payload in events if kind == "epoch"] == list(range(1, 9))
        assert same_weights(specs[0], specs[1])
    finally:
        pool.close()
        for node in nodes:
            node.kill_all_processes(check_alive=False)
        wait_until(lambda: alive_nodes() == here, "the lost node is still in the cluster")
    wait_until(lambda: groups() == before, "a placement group is left")
