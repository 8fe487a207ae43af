"""How the stream cuts a plan: blocks of any size that hold whole batches, and executions that cover all steps once."""

from itertools import pairwise
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from study.distributed import stream

SIZES = st.integers(1, 300)


@given(rows=st.integers(1, 3000), local=SIZES, block_rows=SIZES)
@settings(max_examples=60)
def test_blocks_cover_the_rows_and_begin_small(rows, local, block_rows):
    """Each row is in one block, none is larger than asked for, and the first are small."""
    edges = stream._edges(rows, local=local, block_rows=block_rows)
    lengths = [end - at for at, end in pairwise(edges)]
    assert (edges[0], edges[-1]) == (0, rows)
    assert min(lengths) >= 1
    assert max(lengths) <= block_rows
    assert lengths[0] <= stream.FIRST_BLOCK_ROWS


@given(local=SIZES, most=st.integers(1, 1024), count=st.integers(1, 60))
@settings(max_examples=60)
def test_batches_that_fit_lie_in_one_block(local, most, count):
    """Where a block has room for a batch, no batch but the first, which is made in small parts, lies in two blocks."""
    dataset = SimpleNamespace(image_bytes=stream.BLOCK_BYTES // most)
    share = stream._Share(
        plan=SimpleNamespace(batch_size=local, num_steps=count),
        settings=None,
        dataset=dataset,
        rows_n=None,
        rank=0,
        world_size=1,
    )
    edges = set(stream._edges(count * local, local=local, block_rows=share.block_rows))
    if local <= most:
        assert all(edge % local == 0 for edge in edges if edge > local)


@given(local=SIZES, steps=st.integers(0, 10**7), start=st.integers(0, 10**7))
@settings(max_examples=60)
def test_executions_cover_the_steps_once(local, steps, start):
    """From the first step to the last, without a gap; a long plan takes few executions, each of bounded size."""
    share = stream._Share(
        plan=SimpleNamespace(batch_size=local, num_steps=steps),
        settings=None,
        dataset=SimpleNamespace(image_bytes=2**18),
        rows_n=None,
        rank=0,
        world_size=1,
    )
    pieces = list(stream._pieces(share, start))
    assert all(stop == begin for (_, stop), (begin, _) in pairwise(pieces))
    if start < steps:
        assert (pieces[0][0], pieces[-1][1]) == (start, steps)
    else:
        assert pieces == []
    largest = stream.MOST_BLOCKS * share.block_rows // local
    assert all(1 <= stop - begin <= max(largest, 1) for begin, stop in pieces)
