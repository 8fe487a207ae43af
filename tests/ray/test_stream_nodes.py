"""The stream on two nodes: one loads, the other trains, and the batches are those of the plan."""

import numpy as np
import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.data.digest import batch_digest, combined, id_hashes
from study.data.sampling import make_plan
from study.distributed.stream import StreamSettings, batch_stream
from tests.ray.joining import add_node, alive_nodes, wait_until

pytestmark = pytest.mark.ray
BATCH, STEPS = 12, 30


@pytest.fixture
def second_node(cluster):
    """Another node of two CPUs for the time of a test."""
    here = alive_nodes()
    node = add_node(2)
    try:
        wait_until(lambda: len(alive_nodes()) == len(here) + 1, "the new node does not join")
        yield (alive_nodes() - here).pop()
    finally:
        node.kill_all_processes(check_alive=False)
        wait_until(lambda: alive_nodes() == here, "the new node does not leave")


@ray.remote
class Occupant:
    """Takes the CPUs of a node, so that nothing else runs there."""

    def node(self):
        return ray.get_runtime_context().get_node_id()


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.long), 2])
def test_blocks_that_another_node_loads_arrive_in_order(second_node, tiny_dataset, world_size):
    """With no CPU free on this node every block comes over the network; digests and pictures are the plan's."""
    home = ray.get_runtime_context().get_node_id()
    free = ray.state.available_resources_per_node()[home].get("CPU", 0.0)
    at_home = NodeAffinitySchedulingStrategy(home, soft=False)
    occupant = Occupant.options(num_cpus=free, scheduling_strategy=at_home).remote()
    assert ray.get(occupant.node.remote()) == home != second_node
    rows_n = tiny_dataset.rows("train")
    plan = make_plan(
        "source_label",
        labels=tiny_dataset.labels_n[rows_n],
        segments=tiny_dataset.sources_n[rows_n],
        batch_size=BATCH,
        num_steps=STEPS,
        seed=3,
    )
    settings = StreamSettings(
        root=str(tiny_dataset.root), policy="none", seed=5, fingerprint=tiny_dataset.fingerprint, task_cpus=0.5
    )
    ids_n, local = id_hashes(tiny_dataset.manifest["image_id"])[rows_n], BATCH // world_size
    streams = [batch_stream(plan, settings, rank=rank, world_size=world_size) for rank in range(world_size)]
    found = 0
    for step, (parts, rows) in enumerate(zip(zip(*streams, strict=True), plan.indices(), strict=True)):
        digests = [batch_digest(part.ids_n, first_draw=step * BATCH + rank * local) for rank, part in enumerate(parts)]
        assert combined(digests) == batch_digest(ids_n[rows], first_draw=step * BATCH)
        images = np.concatenate([part.images_nchw[:, 0].numpy() for part in parts])
        np.testing.assert_array_equal(images, tiny_dataset.pixels(rows_n[rows]))
        found += 1
    assert found == STEPS
    ray.kill(occupant)
