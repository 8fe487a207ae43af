"""What the first runs of a local cluster would wait for, done in processes that have nothing to do yet."""

import os

import ray


def warm_loading(processes: int) -> None:
    """Let idle processes of this machine import what loading tasks need while the slots start; nobody waits for them.

    Ray keeps as many idle processes as there are cores. In a cluster that others have started the tasks could be
    anywhere, and each job begins with processes of its own, so nothing is done there.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    warm = ray.remote(num_cpus=0)(_import_loading)
    for _ in range(processes):
        warm.remote()


def _import_loading() -> None:
    import ray.data  # noqa: F401 - the import is the work

    import study.distributed.loading  # noqa: F401 - the same
