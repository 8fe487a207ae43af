"""Nodes that join the tests' cluster, and go."""

import time

import ray
from ray._private.node import Node
from ray._private.parameter import RayParams


def add_node(cpus):
    """Another node of this cluster, not by `ray start`, which would tell every program here to join this cluster."""
    return Node(
        RayParams(
            gcs_address=ray.get_runtime_context().gcs_address,
            num_cpus=cpus,
            object_store_memory=2**27,
            min_worker_port=0,
            max_worker_port=0,
            node_manager_port=0,
            include_log_monitor=False,
            dashboard_agent_listen_port=None,
        ),
        head=False,
    )


def alive_nodes():
    """The ids of the nodes that the cluster takes for living ones."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def wait_until(condition, what, timeout=60):
    """Wait until something holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
