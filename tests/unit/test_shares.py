"""Fewer workers than a run may have: the same batches, the same shares of them, and so the same step."""

from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp

from study.errors import StudyError
from study.training import Batch
from study.training.step import train_step
from tests.unit.test_accumulation import Normed, batch, prepared

SIZE = 16
STEPS = 3
CASES = [("cross_entropy", 1), ("cross_entropy", 2), ("mce_wk", 1)]


def weighted(size=SIZE):
    """A batch whose images count by different weights, some not at all: the whole third quarter, for example."""
    whole = batch(size)
    weights = torch.linspace(0.2, 2.0, size)
    weights[size // 2 : 3 * size // 4] = 0.0
    return replace(whole, weights_n=weights)


def trained(directory, name, accumulate, *, rank=0, world=1, shares=4):
    """Loss, weights and running statistics after a few steps of one rank."""
    whole, local = weighted(), SIZE // world
    own = slice(rank * local, (rank + 1) * local)
    part = Batch(images_nchw=whole.images_nchw[own], labels_n=whole.labels_n[own], weights_n=whole.weights_n[own])
    run = prepared(
        directory, name, net=Normed, accumulate=accumulate, batch_size=SIZE, shares=shares, optimiser="sgd", lr=0.05
    )
    for step in range(STEPS):
        run.step = step
        train_step(run, part)
    counts = run.parts.criterion.counts()
    return run.losses.total, {key: value.clone() for key, value in run.network.state_dict().items()}, counts


def same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[2] == other[2]
    for key, value in one[1].items():
        assert torch.allclose(value.double(), other[1][key].double(), rtol=1e-4, atol=1e-6), key


def on_rank(rank, world, directory):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/store{world}", rank=rank, world_size=world
    )
    found = {}
    for name, accumulate in CASES:
        where = directory / f"{world}-{name}-{accumulate}"
        found[name, accumulate] = trained(where, name, accumulate, rank=rank, world=world)
    if rank == 0:
        torch.save(found, directory / f"world{world}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.long
def test_any_number_of_workers_takes_the_same_step(tmp_path):
    """Normalisation, dropout, running statistics, loss or gradient depend on how many workers there are."""
    alone = {case: trained(tmp_path / f"1-{case[0]}-{case[1]}", *case) for case in CASES}
    for world in (2, 4):
        mp.spawn(on_rank, args=(world, tmp_path), nprocs=world)
        found = torch.load(tmp_path / f"world{world}.pt")
        for case in CASES:
            same(found[case], alone[case])


def test_shares_are_normalised_and_drop_units_each_for_itself(tmp_path):
    """One worker normalises over the whole batch where four would normalise over a quarter each."""
    seen = []

    class Watched(Normed):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    run = prepared(tmp_path / "run", "cross_entropy", net=Watched, batch_size=SIZE, shares=4)
    train_step(run, batch(SIZE))
    assert seen == [4, 4, 4, 4]
    assert int(run.network.body[-1].num_batches_tracked) == 1
    one, other = (trained(tmp_path / str(shares), "cross_entropy", 1, shares=shares) for shares in (1, 4))
    assert not torch.allclose(one[1]["head.weight"], other[1]["head.weight"])


def test_a_batch_without_weight_counts_once_and_only_as_a_whole(tmp_path):
    """A part without any weight counts as a batch without weight, or a batch as one for each part."""
    run = prepared(tmp_path / "run", "cross_entropy", batch_size=SIZE, shares=4)
    train_step(run, weighted())  # one of its shares has no weight
    assert run.parts.criterion.counts()["num_empty"] == 0
    run.step = 1
    train_step(run, replace(weighted(), weights_n=torch.zeros(SIZE)))
    assert run.parts.criterion.counts()["num_empty"] == 1


def test_workers_that_do_not_divide_the_shares_are_refused(tmp_path, monkeypatch):
    """Images of a batch are left out in silence."""
    monkeypatch.setattr("study.training.state.world_size", lambda: 3)
    with pytest.raises(StudyError, match="3 workers for a batch in 4 shares"):
        prepared(tmp_path / "run", "cross_entropy", batch_size=SIZE, shares=4)
