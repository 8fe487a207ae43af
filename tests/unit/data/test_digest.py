"""Digests of what batches hold: by hand, by their sums, and that they notice."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data.digest import as_text, batch_digest, combined, id_hashes

IDS = id_hashes([f"{number:016x}" for number in range(40)])


def splitmix(value):
    """SplitMix64's finaliser in Python's integers."""
    top = 2**64 - 1
    value = (value + 0x9E3779B97F4A7C15) & top
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & top
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & top
    return value ^ value >> 31


def test_the_digest_by_hand():
    """The sum modulo 2^64 of a mixture of id and draw, worked out in Python's integers; nothing for no images."""
    found = batch_digest(IDS[:5], first_draw=70)
    assert found == sum(splitmix(int(one) ^ splitmix(70 + place)) for place, one in enumerate(IDS[:5])) % 2**64
    assert batch_digest(IDS[:0], first_draw=70) == 0
    assert as_text(255) == "00000000000000ff"


def test_ids_have_the_same_hashes_on_every_machine():
    """Fixed values: a change would make the digests of older runs mean nothing."""
    content = id_hashes(["a", "00000000000000ff"]).astype("<u8").tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "b377d6616e079148"
    assert len(set(IDS.tolist())) == 40
    np.testing.assert_array_equal(id_hashes(np.array(["x", "y"])), id_hashes(["x", "y"]))


@given(cuts=st.lists(st.integers(0, 40), max_size=6), start=st.integers(0, 2**40))
@settings(max_examples=50)
def test_parts_add_up_to_the_whole(cuts, start):
    """However the draws are cut into ranks, steps or epochs, the parts' digests are combined to the same."""
    edges = [0, *sorted(cuts), 40]
    parts = [batch_digest(IDS[a:b], first_draw=start + a) for a, b in itertools.pairwise(edges)]
    assert combined(parts) == batch_digest(IDS, first_draw=start)


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [0, 0, 2, 3], [0, 1, 2], [3, 2, 1, 0], [0, 1, 2, 4]], ids=str)
def test_a_swapped_repeated_lost_or_wrong_image_is_noticed(order):
    """Each of them gives another digest, as does another place in the run."""
    right = batch_digest(IDS[:4], first_draw=8)
    assert batch_digest(IDS[order], first_draw=8) != right
    assert batch_digest(IDS[:4], first_draw=12) != right
