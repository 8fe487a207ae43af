"""Losses under real process groups: one to three ranks with unequal, even empty, batches train as one process would.

One group of processes per number of ranks works through all losses; the tests then compare what each rank wrote down.
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import study
from tests.unit.losses.cases import IDS, VARIANTS, criterion_for

NUM_CLASSES = 4
NUM_ROWS = 12
# How many rows each rank gets.
SHARES = {1: [(12,)], 2: [(7, 5), (12, 0)], 3: [(1, 9, 2), (0, 12, 0)]}


def rows(kind):
    """Features, targets and weights; the first row has no weight, so that a rank can have an empty mask."""
    rng = torch.Generator().manual_seed(5)
    features = torch.randn(NUM_ROWS, 6, generator=rng, dtype=torch.float64)
    target = torch.randint(2 if kind == "absent" else NUM_CLASSES, (NUM_ROWS,), generator=rng)
    weight = torch.rand(NUM_ROWS, generator=rng, dtype=torch.float64) + 0.1
    weight[0] = 0
    if kind == "empty":
        return features, target, torch.zeros_like(weight)
    return features, target, weight


KINDS = ("all classes", "absent", "empty")


class Heads(nn.Module):
    """A head of its own for each loss, so that one step of one network tells the losses' gradients apart."""

    def __init__(self):
        super().__init__()
        self.criteria = [criterion_for(name, params, num_classes=NUM_CLASSES) for name, params in VARIANTS]
        heads = [each.make_head(6) or nn.Linear(6, each.num_outputs) for each in self.criteria]
        self.heads = nn.ModuleList(heads).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).sin().view_as(parameter))

    def forward(self, features):
        return [head(features) for head in self.heads]


def train_step(network, model, batch):
    """All losses of one step on every rank, and the gradients of their heads."""
    features, target, weight = batch
    outputs = model(features)
    losses = [criterion(logits, target, weight) for criterion, logits in zip(network.criteria, outputs, strict=True)]
    network.zero_grad()
    world_size = distributed.get_world_size() if distributed.is_initialized() else 1
    (world_size * sum(losses)).backward()
    gradients = [[parameter.grad for parameter in head.parameters()] for head in network.heads]
    return [loss.detach() for loss in losses], gradients


def kinds_of(share):
    """A step without any weight is tried once per group of ranks."""
    return KINDS if share in {shares[0] for shares in SHARES.values()} else KINDS[:2]


def run_rank(rank, world_size, folder):
    """What one process does: every loss, share and kind of batch, as its own rank."""
    store = f"file://{folder}/store{world_size}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    results, network = {}, Heads()
    model = DistributedDataParallel(network)
    for share in SHARES[world_size]:
        mine = slice(sum(share[:rank]), sum(share[: rank + 1]))
        for kind in kinds_of(share):
            losses, gradients = train_step(network, model, [column[mine] for column in rows(kind)])
            results[share, kind] = losses, [[each.clone() for each in of_head] for of_head in gradients]
    torch.save(results, Path(folder) / f"{world_size}-{rank}.pt")
    distributed.destroy_process_group()


def run_all(folder):
    """Fork the processes of every group from one that has imported torch."""
    context = multiprocessing.get_context("fork")
    jobs = [(rank, world_size, folder) for world_size in SHARES for rank in range(world_size)]
    processes = [context.Process(target=run_rank, args=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=100)
    sys.exit(max(1 if process.exitcode is None else abs(process.exitcode) for process in processes))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    environment = os.environ | {"PYTHONPATH": str(Path(study.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    jobs = [(world_size, rank) for world_size in SHARES for rank in range(world_size)]
    return {job: torch.load(folder / f"{job[0]}-{job[1]}.pt") for job in jobs}


@pytest.fixture(scope="module")
def references():
    """What one process gives for the whole batch."""
    networks = {kind: Heads() for kind in KINDS}
    return {kind: train_step(network, network, rows(kind)) for kind, network in networks.items()}


@pytest.mark.parametrize("index", range(len(VARIANTS)), ids=IDS)
def test_ranks_equal_one_process(results, references, index):
    """Eight GPUs train another network than one: loss or gradient depends on how the batch was cut."""
    for (world_size, _), of_rank in results.items():
        for share in SHARES[world_size]:
            for kind in kinds_of(share):
                loss, gradients = (part[index] for part in references[kind])
                rank_loss, rank_gradients = (part[index] for part in of_rank[share, kind])
                assert rank_loss.item() == pytest.approx(loss.item(), abs=1e-6), (kind, share)
                for ours, reference in zip(rank_gradients, gradients, strict=True):
                    assert (ours - reference).abs().max().item() < 1e-6, (kind, share)


def test_nothing_to_learn_from_on_any_rank(results):
    """A step without weights on any rank gives NaN or a hang instead of a loss of 0 and zero gradients."""
    for (world_size, _), of_rank in results.items():
        losses, gradients = of_rank[SHARES[world_size][0], "empty"]
        assert not any(loss.item() for loss in losses)
        assert not any(gradient.abs().sum().item() for of_head in gradients for gradient in of_head)


def test_the_comparison_can_fail(references):
    """The mean of two ranks' own losses is the loss of the union, too, so that the comparison proves nothing."""
    network = Heads()
    halves = [
        train_step(network, network, [column[part] for column in rows("all classes")])[0]
        for part in (slice(0, 7), slice(7, 12))
    ]
    for name in ("soft_mcc", "wk", "soft_f1", "corn"):
        index = [variant for variant, _ in VARIANTS].index(name)
        mean = (halves[0][index] + halves[1][index]).item() / 2
        assert abs(mean - references["all classes"][0][index].item()) > 1e-3


if __name__ == "__main__":
    run_all(sys.argv[1])
