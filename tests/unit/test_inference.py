"""Evaluation: every row once, and the same bits for any number of ranks."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from study.errors import InputError
from study.inference import forward_all, row_batches, rows_of_rank


@given(rows=st.integers(0, 60), ranks=st.integers(1, 7), size=st.integers(1, 9))
@settings(max_examples=60)
def test_shares_hold_each_row_once_in_whole_batches(rows, ranks, size):
    """Joined in rank order the shares are the rows; only the last batch of all may be smaller than the others."""
    rows_n = np.arange(rows) * 3
    shares = [rows_of_rank(rows_n, rank=rank, world_size=ranks, batch_size=size) for rank in range(ranks)]
    np.testing.assert_array_equal(np.concatenate(shares), rows_n)
    filled = [len(share) for share in shares if len(share)]
    assert all(length % size == 0 for length in filled[:-1])
    counts = [-(-length // size) for length in filled]
    assert max(counts, default=0) - min(counts, default=0) <= 1


@pytest.mark.parametrize("ranks", [2, 3, 40])
def test_outputs_do_not_depend_on_the_number_of_ranks(tiny_dataset, ranks):
    """The same bits from any number of ranks, also from more ranks than there are batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    device = torch.device("cpu")
    rows_n = tiny_dataset.rows("train")[:45]

    def outputs(ranks):
        shares = [rows_of_rank(rows_n, rank=rank, world_size=ranks, batch_size=4) for rank in range(ranks)]
        found = [
            forward_all(
                model,
                row_batches(tiny_dataset, share, batch_size=4),
                device=device,
                autocast=lambda: torch.autocast("cpu", enabled=False),
            )
            for share in shares
        ]
        return torch.cat([part for part in found if len(part)])

    assert torch.equal(outputs(ranks), outputs(1))


def test_reading_ahead_keeps_the_order_and_stops(tiny_dataset):
    """Batches come in order; a consumer that leaves early leaves no thread."""
    rows_n = tiny_dataset.rows("train")
    batches = list(row_batches(tiny_dataset, rows_n, batch_size=5))
    np.testing.assert_array_equal(torch.cat(batches)[:, 0].numpy(), tiny_dataset.pixels(rows_n))
    early = row_batches(tiny_dataset, rows_n, batch_size=1)
    next(early)
    early.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("row-batches")]


def test_a_fault_of_the_reading_thread_arrives(tiny_dataset):
    """A row that cannot be read ends the evaluation with its reason."""
    with pytest.raises(InputError, match="rows 0 to 1000"):
        list(row_batches(tiny_dataset, np.array([0, 1000]), batch_size=2))
