"""Losses under real process groups: two ranks with unequal, even empty, batches train as one process would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import study
from study.losses import make_criterion

WORLD_SIZE = 2
NUM_CLASSES = 4
CASES = [
    ("cross_entropy", {"class_weights": "balanced"}),
    ("cross_entropy", {"class_weights": "inv_sum1", "normaliser": "batch", "label_smoothing": 0.1}),
    ("emd", {"class_weights": "sqrt_inv"}),
    ("corn", {}),
    ("corn", {"normaliser": "batch", "class_weights": "balanced"}),
    ("focal", {"gamma": 0.5}),
]
# How many of the ten rows the first rank gets.
SPLITS = (7, 3, 10, 0)


def rows():
    rng = torch.Generator().manual_seed(5)
    features = torch.randn(10, 6, generator=rng)
    target = torch.randint(NUM_CLASSES, (10,), generator=rng)
    weight = torch.rand(10, generator=rng) + 0.1
    weight[2] = 0
    return features, target, weight


def make_parts(name, params):
    criterion = make_criterion(name, num_classes=NUM_CLASSES, class_counts=[40, 20, 10, 5], **params)
    network = nn.Linear(6, criterion.num_outputs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    return criterion, network


def train_step(criterion, network, batch, *, factor):
    """The loss and the gradients of one step."""
    features, target, weight = batch
    loss = criterion(network(features), target, weight)
    (loss * factor).backward()
    return loss.detach(), [parameter.grad.clone() for parameter in network.parameters()]


def run_rank(rank, folder):
    """What one process does: every case and split, as its own rank."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    results = {}
    for index, (name, params) in enumerate(CASES):
        for first in SPLITS:
            mine = slice(0, first) if rank == 0 else slice(first, None)
            criterion, network = make_parts(name, params)
            batch = [column[mine] for column in rows()]
            results[index, first] = train_step(criterion, DistributedDataParallel(network), batch, factor=WORLD_SIZE)
    criterion, network = make_parts("corn", {})
    empty = [column[:0] for column in rows()]
    results["empty"] = train_step(criterion, DistributedDataParallel(network), empty, factor=WORLD_SIZE)
    torch.save(results, Path(folder) / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    commands = [[sys.executable, __file__, str(rank), str(folder)] for rank in range(WORLD_SIZE)]
    environment = os.environ | {"PYTHONPATH": str(Path(study.__file__).parents[1])}
    ranks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for command in commands]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize("first", SPLITS)
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i][0]}{i}")
def test_two_ranks_equal_one_process(results, index, first):
    """Loss on every rank, and DDP's gradients after scaling by the world size, equal one process's to 1e-6."""
    criterion, network = make_parts(*CASES[index])
    loss, gradients = train_step(criterion, network, rows(), factor=1)
    for of_rank in results:
        rank_loss, rank_gradients = of_rank[index, first]
        torch.testing.assert_close(rank_loss, loss, atol=1e-6, rtol=0)
        for ours, reference in zip(rank_gradients, gradients, strict=True):
            torch.testing.assert_close(ours, reference, atol=1e-6, rtol=0)


def test_no_rows_on_any_rank(results):
    """A step without rows on any rank gives a loss of 0 and zero gradients instead of NaN or a hang."""
    for of_rank in results:
        loss, gradients = of_rank["empty"]
        assert loss.item() == 0
        assert all(gradient.abs().sum().item() == 0 for gradient in gradients)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
