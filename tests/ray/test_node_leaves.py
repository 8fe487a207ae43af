"""A node that leaves a real cluster in mid-run costs a run the steps since its last checkpoint, or none at all."""

import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study import checkpoint
from study.config import StudyConfig
from study.distributed import slots
from study.distributed.slots import SlotPool, run_directly
from study.distributed.specs import make_spec
from tests.metadata import MetadataService
from tests.ray.joining import add_node, alive_nodes, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.long]
STEPS = 12  # of an epoch of 48 images in batches of 4
EVERY = 5  # steps between two checkpoints
EPOCHS = 8


@pytest.fixture(scope="module")
def config(study_of):
    """A study that saves every few steps."""
    return study_of("leaves", train={"epochs": EPOCHS, "batch_size": 4, "checkpoint_every": f"{EVERY} steps"})


@ray.remote
class Occupant:
    """Takes the CPUs of a node, so that nothing else runs there."""

    def node(self):
        return ray.get_runtime_context().get_node_id()


def slow_loop(config):
    """The loop of a worker whose steps take long enough for a node to leave; each is noted when it begins."""
    import time
    from pathlib import Path

    from study.distributed import worker
    from study.training import loop

    step = loop.train_step

    def slow(run, batch):
        with (Path(run.directory) / "steps.txt").open("a") as file:
            file.write(f"{run.step}\n")
        time.sleep({"rough": 0.06, "elastic": 0.2}.get(Path(run.directory).name.partition("-")[0], 0.0))
        step(run, batch)

    loop.train_step = slow
    worker.slot_loop(config)


@pytest.fixture
def slowly(monkeypatch):
    """Slots that start now have slow steps."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(slots, "_loop", slow_loop)
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def pool(cluster, slowly, tmp_path):
    """A slot whose steps are slow."""
    pool = SlotPool(1, workers=1, cpus_per_worker=0.9, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
    yield pool
    pool.close()


def where(class_name):
    """The nodes of the living actors of a class."""
    actors = ray._private.state.actors().values()
    return [
        each["Address"]["NodeID"] for each in actors if (each["ActorClassName"], each["State"]) == (class_name, "ALIVE")
    ]


@pytest.fixture
def visitor(cluster, request):
    """A second node: its id, how it is killed, and how this node is freed, of which little is left."""
    here, home = alive_nodes(), ray.get_runtime_context().get_node_id()
    at_home = NodeAffinitySchedulingStrategy(home, soft=False)
    taken, cpus = getattr(request, "param", (2, 2))
    occupant = Occupant.options(num_cpus=taken, scheduling_strategy=at_home).remote()
    assert ray.get(occupant.node.remote()) == home
    node = add_node(cpus)
    wait_until(lambda: len(alive_nodes()) == len(here) + 1, "the second node does not come")
    try:
        yield (alive_nodes() - here).pop(), node, lambda: ray.kill(occupant)
    finally:
        ray.kill(occupant)
        node.kill_all_processes(check_alive=False)
        wait_until(lambda: alive_nodes() == here, "the second node is still in the cluster")


def drain(node_id):
    """What a cloud's notice of preemption makes of a node."""
    command = [Path(sys.executable).parent / "ray", "drain-node", "--node-id", node_id]
    command += ["--address", ray.get_runtime_context().gcs_address, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "a test", "--deadline-remaining-seconds", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run_one(pool, spec, on_event=lambda *_: None):
    """The events of a run."""
    heard = []

    def hear(_, kind, payload):
        heard.append((kind, payload))
        on_event(kind, payload)

    run_directly(pool, [spec], concurrent=1, on_event=hear, stop=threading.Event())
    return heard


def steps_of(spec):
    """The steps that were begun, in their order."""
    return [int(line) for line in (Path(spec.directory) / "steps.txt").read_text().splitlines()]


@pytest.mark.parametrize("how", ["killed", "drained"])
def test_a_node_that_leaves_costs_what_was_not_saved(visitor, pool, config, tmp_path, how):
    """A node that is killed costs more than the steps since the checkpoint; one that is drained costs any."""
    node_id, node, make_room = visitor
    calm = make_spec(tmp_path, "calm", 0, config=config, attempt=1)
    rough = make_spec(tmp_path, "rough", 0, config=config, attempt=1)
    assert run_one(pool, calm)[-1][1].state == "complete"
    nodes = []

    def leave(kind, payload):
        if kind == "epoch" and payload.epoch == 3:
            assert where("_AutoscalingCoordinatorActor") == [ray.get_runtime_context().get_node_id()]
            nodes.append(ray.get(pool.switchboard.nodes_of.remote(0)))
            make_room()
            if how == "drained":
                drain(node_id)
            else:
                threading.Timer(0.6, lambda: node.kill_all_processes(check_alive=False)).start()

    events = run_one(pool, rough, leave)
    assert nodes == [[node_id]], "the run was not on the node that left"
    assert events[-1][1].state == "complete", events[-1][1].reason
    assert [payload.epoch for kind, payload in events if kind == "epoch"] == list(range(1, EPOCHS + 1))
    retries = [payload for kind, payload in events if kind == "retry"]
    assert [retry.kind for retry in retries] == ["preempted"], retries
    assert 3 <= retries[0].epoch < EPOCHS, "the node left when the run was over"
    begun = steps_of(rough)
    again = len(begun) - STEPS * EPOCHS
    assert sorted(set(begun)) == list(range(STEPS * EPOCHS))
    assert again == 0 if how == "drained" else 0 <= again <= EVERY, f"{again} steps were made again"
    if how == "drained":
        wait_until(lambda: node_id not in alive_nodes(), "the drained node waits for something")
    states = [checkpoint.load_last(Path(spec.directory)) for spec in (calm, rough)]
    assert repr([dict(epoch.metrics) for epoch in states[0].history]) == repr(
        [dict(epoch.metrics) for epoch in states[1].history]
    )
    assert all(torch.equal(states[0].model[key], states[1].model[key]) for key in states[0].model)


def losses_of(spec):
    """The losses of every epoch, and how many workers each had."""
    history = checkpoint.load_last(Path(spec.directory)).history
    return [(epoch.metrics["train/loss"], epoch.metrics["val/loss"]) for epoch in history], [
        epoch.workers for epoch in history
    ]


def with_elastic_workers(config, epochs):
    """The study with one worker or two."""
    raw = config.model_dump(mode="json")
    raw["train"] |= {"epochs": epochs, "batch_size": 12}
    raw["resources"] |= {"workers": [1, 2], "cpus_per_worker": 0.4}
    raw["optim"] |= {"name": "sgd", "lr": 0.01}
    return StudyConfig.model_validate(raw)


@pytest.mark.parametrize("visitor", [(1.3, 1)], indirect=True)
def test_a_run_goes_on_with_fewer_workers(visitor, slowly, config, tmp_path):
    """The batches, the loss, the normalisation or the steps are others with one worker than with two."""
    node_id, _, _ = visitor
    elastic = with_elastic_workers(config, 12)
    specs = {name: make_spec(tmp_path, name, 0, config=elastic, attempt=1) for name in ("one", "two", "elastic")}
    pool = SlotPool(1, workers=2, cpus_per_worker=0.4, gpus_per_worker=0.0, scratch=tmp_path / "two")
    try:
        assert run_one(pool, specs["two"])[-1][1].state == "complete"
    finally:
        pool.close()

    # The nodes of this cluster have one address, so the watcher is told which of them goes.
    cloud = MetadataService()
    words = ["--cloud", "gcp", "--url", cloud.url, "--node-id", node_id, "--every", "0.5"]
    words += ["--address", ray.get_runtime_context().gcs_address]
    watcher = subprocess.Popen([sys.executable, "-m", "study.distributed.preemption", *words])

    def change(kind, payload):
        if kind == "epoch" and payload.epoch == 2:
            cloud.pages["/computeMetadata/v1/instance/preempted"] = "TRUE"
            assert watcher.wait(timeout=120) == 0

    pool = SlotPool(1, workers=(1, 2), cpus_per_worker=0.4, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
    try:
        events = run_one(pool, specs["elastic"], change)
        run_one(pool, specs["one"])  # in the slot as it is now
    finally:
        watcher.kill()
        watcher.wait()
        cloud.server.shutdown()
        pool.close()
    assert events[-1][1].state == "complete", events[-1][1].reason
    told = [payload for kind, payload in events if kind == "epoch"]
    assert [result.epoch for result in told] == list(range(1, 13))
    retries = [payload for kind, payload in events if kind == "retry"]
    assert [(retry.kind, retry.workers) for retry in retries] == [("preempted", 2)]
    curves = {name: losses_of(spec) for name, spec in specs.items()}
    assert set(curves["one"][1]) == {1}
    assert set(curves["two"][1]) == {2}
    numbers = curves["elastic"][1]
    assert numbers == sorted(numbers, reverse=True), numbers
    assert set(numbers) == {1, 2}
    for name in ("one", "elastic"):
        assert torch.allclose(torch.tensor(curves[name][0]), torch.tensor(curves["two"][0]), rtol=1e-4), name


@pytest.mark.parametrize("visitor", [(1.3, 1)], indirect=True)
def test_a_node_that_comes_back_is_used_again(visitor, slowly, config, tmp_path):
    """A run that lost a worker with its node stays small when there is room again, or that counts as a failure."""
    _, node, _ = visitor
    spec = make_spec(tmp_path, "elastic", 0, config=with_elastic_workers(config, 500), attempt=1)
    pool = SlotPool(1, workers=(1, 2), cpus_per_worker=0.4, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
    numbers, heard, returned, stop = [], [], [], threading.Event()

    def hear(_, kind, payload):
        heard.append((kind, payload))
        if kind != "epoch":
            return
        numbers.append(payload.workers)
        if len(numbers) == 2:
            node.kill_all_processes(check_alive=False)
        elif numbers[-1] == 1 and not returned:
            returned.append((add_node(1), time.monotonic()))
        elif numbers[-1] == 2 and 1 in numbers and not stop.is_set():
            print(f"\ntwo workers again {time.monotonic() - returned[0][1]:.0f} s after the node came back")
            stop.set()
            pool.interrupt()

    try:
        run_directly(pool, [spec], concurrent=1, on_event=hear, stop=stop)
        assert stop.is_set(), f"the run ended with {numbers}"
        assert heard[-1][1].state == "waiting", heard[-1][1].reason
        assert [payload.epoch for kind, payload in heard if kind == "epoch"] == list(range(1, len(numbers) + 1))
        assert [payload.kind for kind, payload in heard if kind == "retry"] == ["preempted"]
        changes = [pair for pair in pairwise(numbers) if pair[0] != pair[1]]
        assert (numbers[0], changes) == (2, [(2, 1), (1, 2)])
    finally:
        pool.close()
        for other, _ in returned:
            other.kill_all_processes(check_alive=False)
