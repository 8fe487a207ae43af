"""Room for worker groups: whether the cluster has it now, what is lacking, and giving back what was taken."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.config import ResourcesConfig
from study.distributed.cluster import Capacity
from study.distributed.sizes import slot_cpus

logger = logging.getLogger(__name__)

PROBE_S: Final = 1  # between two looks whether the wait for room is to end
TRY_S: Final = 5.0  # for a number of workers, before fewer are tried


def start_actor(kind: type, *, arguments: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """An actor on the driver's node, which lives as long as the study, that takes no CPU from the workers."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote
    make = remote(num_cpus=0, scheduling_strategy=here, **options)
    return make(kind).remote(**(arguments or {}))


def find_room(resources: ResourcesConfig, *, name: str, give_up: Callable[[], bool]) -> bool:
    """Wait until the workers of a slot would find their places; false when ``give_up`` says so before.

    The places are asked for as a placement group of this process, so that a cluster that can grow does, and given back
    at once: a Ray Train controller that waited for them itself would leave its request behind when it is killed.
    """
    worker = {"CPU": resources.cpus_per_worker}
    worker |= {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    group = placement_group([worker] * resources.most_workers, strategy="PACK", name=name)
    try:
        while not give_up():
            if group.wait(PROBE_S):
                return True
        return False
    finally:
        remove_placement_group(group)


def has_free(resources: ResourcesConfig) -> bool:
    """Whether the cluster has, at the moment, what one more worker needs.

    Processors count as free unless a placement group has them: loading tasks take whatever nobody has reserved, and
    leave it when workers come.
    """
    groups = placement_group_table()
    bundles = [each for group in groups.values() if group["state"] == "CREATED" for each in group["bundles"].values()]
    total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    cpus = float(total.get("CPU", 0.0)) - sum(float(each.get("CPU", 0.0)) for each in bundles)
    gpus = float(free.get("GPU", 0.0))
    return cpus >= resources.cpus_per_worker - 1e-9 and gpus >= resources.gpus_per_worker - 1e-9


def find_size(resources: ResourcesConfig, size: int, *, name: str, give_up: Callable[[], bool]) -> int:
    """Wait for room for ``size`` workers, or for the next smaller number that a run may have when there is none soon.

    Returns:
        How many workers have room; 0 when ``give_up`` said so before. The fewest are waited for without end.
    """
    for tried in (number for number in reversed(resources.sizes) if number <= size):
        until = math.inf if tried == resources.sizes[0] else time.monotonic() + TRY_S

        def is_over(until: float = until) -> bool:
            return give_up() or time.monotonic() > until

        if find_room(resources.sized(tried), name=name, give_up=is_over):
            return tried
        if give_up():
            return 0
    return 0


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
            resources.most_gpus,
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
        unused, of_workers = float(free.get(name, 0.0)), each * resources.most_workers
        if of_workers > unused + 1e-9:
            missing = f"{_amount(of_workers - unused, name)} missing, in use by other work"
            return (
                f"the workers of one run need {_amount(of_workers, name)}, {unused:g} of {in_all:g} are free: {missing}"
            )
    return f"no nodes have room for {resources.most_workers} workers of a run at the same time"


def _amount(number: float, name: str) -> str:
    return f"{number:g} {name}" if number == 1 else f"{number:g} {name}s"
