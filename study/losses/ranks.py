"""Exact sums over all ranks of a process group."""

from torch import Tensor, distributed


def sum_over_ranks(sums_s: Tensor) -> Tensor:
    """Add small sums over all ranks, with a gradient for the local part alone.

    The other ranks' part enters as a constant. A loss built from the result has the global value on every rank; because
    DistributedDataParallel averages gradients, the caller multiplies the loss by the world size before ``backward``.
    Every rank has to call this at every step. One forward collective; without a process group the sums come back as
    they are.

    Args:
        sums_s: local sums, shape [S], float64.

    Returns:
        Global sums, shape [S], the same on every rank.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return sums_s
    local_s = sums_s.detach()
    total_s = local_s.clone()
    distributed.all_reduce(total_s)
    return sums_s + (total_s - local_s)
