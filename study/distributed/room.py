"""Room for worker groups: whether the cluster has it now, what is lacking, and giving back what was taken."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from study.config import ResourcesConfig
from study.distributed.cluster import Capacity
from study.distributed.preflight import slot_cpus

logger = logging.getLogger(__name__)

PROBE_S: Final = 1  # between two looks whether the wait for room is to end


def find_room(resources: ResourcesConfig, *, name: str, give_up: Callable[[], bool]) -> bool:
    """Wait until the workers of a slot would find their places; false when ``give_up`` says so before.

    The places are asked for as a placement group of this process, so that a cluster that can grow does, and given back
    at once: a Ray Train controller that waited for them itself would leave its request behind when it is killed.
    """
    worker = {"CPU": resources.cpus_per_worker}
    worker |= {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    group = placement_group([worker] * resources.workers, strategy="PACK", name=name)
    try:
        while not give_up():
            if group.wait(PROBE_S):
                return True
        return False
    finally:
        remove_placement_group(group)


def remove_group(group_id: str) -> None:
    """Give back the places of a slot whose controller did not; nothing happens when they are free already."""
    try:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group_id)))
    except (ray.exceptions.RayError, ValueError) as error:
        logger.warning("the placement group %s could not be removed: %s", group_id, error)


def lacking(resources: ResourcesConfig, available: Capacity, free: Mapping[str, Any]) -> str:
    """What the cluster lacks for one run, in words that name resource and amount.

    Args:
        resources: of a run.
        available: what the cluster has in all.
        free: what of it nobody uses, by Ray's names.
    """
    wanted = {
        "CPU": (resources.cpus_per_worker, slot_cpus(resources), available.node_cpus, available.cpus),
        "GPU": (
            resources.gpus_per_worker,
            resources.workers * resources.gpus_per_worker,
            available.node_gpus,
            available.gpus,
        ),
    }
    for name, (each, of_run, on_node, in_all) in wanted.items():
        if each > on_node:
            missing = f"{_amount(each - on_node, name)} missing on a node"
            return f"a worker needs {_amount(each, name)}, the largest node has {on_node:g}: {missing}"
        if of_run > in_all + 1e-9:
            loading = " with its data loading" if name == "CPU" else ""
            missing = f"{_amount(of_run - in_all, name)} missing"
            return f"one run needs {_amount(of_run, name)}{loading}, the cluster has {in_all:g}: {missing}"
    for name, (each, _, _, in_all) in wanted.items():
        unused, of_workers = float(free.get(name, 0.0)), each * resources.workers
        if of_workers > unused + 1e-9:
            missing = f"{_amount(of_workers - unused, name)} missing, in use by other work"
            return (
                f"the workers of one run need {_amount(of_workers, name)}, {unused:g} of {in_all:g} are free: {missing}"
            )
    return f"no nodes have room for {resources.workers} workers of a run at the same time"


def _amount(number: float, name: str) -> str:
    return f"{number:g} {name}" if number == 1 else f"{number:g} {name}s"
