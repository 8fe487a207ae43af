"""The periodic pattern against the worked figures of paper periodic."""

import ast
import dataclasses
import hashlib
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data.sampling_pattern import circular_gaps, periodic_pattern, stable_order
from study.data.sampling_queues import make_cycle, make_queues
from study.errors import InputError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "samplers.json").read_text())


def _naive(turns):
    """The specification word by word: first free slot at or after floor(j L / n), wrapping."""
    length = sum(turns)
    slots = [None] * length
    for segment in sorted(range(len(turns)), key=lambda i: (turns[i], i)):
        for turn in range(turns[segment]):
            place = turn * length // turns[segment]
            while slots[place] is not None:
                place = (place + 1) % length
            slots[place] = segment
    return slots


def test_figure_2_pattern():
    """The pattern of figure 2 (2, 5, 10, 20 turns) is the specified one, slot for slot."""
    figure = GOLDEN["figure2"]
    pattern = periodic_pattern(figure["n_min"])
    assert pattern.tolist() == figure["pattern"]
    for segment, places in figure["positions"].items():
        assert np.flatnonzero(pattern == int(segment)).tolist() == places
    assert [list(circular_gaps(pattern, segment)) for segment in range(4)] == GOLDEN["figure2_gaps"]


@pytest.mark.parametrize(("turns", "pattern"), GOLDEN["small"].items())
def test_small_cases(turns, pattern):
    """Small patterns, worked by hand, come out as written, with empty segments left out."""
    assert periodic_pattern(ast.literal_eval(turns)).tolist() == pattern


def test_table_1_pattern():
    """The pattern of table 1 (7258, 408, 160, 146) has the specified bytes and gaps."""
    table = GOLDEN["table1"]
    pattern = periodic_pattern(table["n_min"])
    assert len(pattern) == table["L"]
    assert pattern[:40].tolist() == table["first40"]
    assert hashlib.sha256(pattern.astype(np.uint8).tobytes()).hexdigest() == table["sha256_of_bytes"]
    assert [list(circular_gaps(pattern, segment)) for segment in range(4)] == GOLDEN["table1_gaps"]


TURNS = st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(any)


@settings(max_examples=200, deadline=None)
@given(TURNS)
def test_pattern_equals_the_word_by_word_version(turns):
    """The vectorised placement equals the slot-by-slot one for any number of turns."""
    assert periodic_pattern(turns).tolist() == _naive(turns)


@pytest.mark.parametrize("turns", [[500] * 40, list(range(1, 300, 7)), [3, 3000, 2999, 1, 700], [20_000]])
def test_long_patterns_equal_the_word_by_word_version(turns):
    """Crowded patterns of thousands of slots, where most turns find their slot taken, come out the same."""
    assert periodic_pattern(turns).tolist() == _naive(turns)


@settings(max_examples=200, deadline=None)
@given(TURNS)
def test_parking_never_wraps(turns):
    """At most L - q ideal slots lie at or after slot q, so a first free slot always exists before the end."""
    length = sum(turns)
    ideal = np.sort([turn * length // count for count in turns for turn in range(count)])
    for slot in range(length):
        assert length - np.searchsorted(ideal, slot) <= length - slot


@settings(max_examples=200, deadline=None)
@given(TURNS)
def test_counts_and_gaps(turns):
    """Every segment has exactly its turns; none comes early, and lateness is bounded until the last segment is placed.

    A turn is late by s - q slots only if more than that many turns wanted slots of a run that began before q. A run of
    r slots is wanted by at most r P + k turns, with P the share and k the number of the segments placed so far, hence
    r <= k / (1 - P). The rarest segment is never late: its gaps are L / n rounded down or up.
    """
    pattern, length = periodic_pattern(turns), sum(turns)
    assert np.bincount(pattern, minlength=len(turns)).tolist() == turns
    order = [i for i in sorted(range(len(turns)), key=lambda i: (turns[i], i)) if turns[i]]
    assert set(circular_gaps(pattern, order[0])) <= {length // turns[order[0]], -(-length // turns[order[0]])}
    share = Fraction(0)
    for number, segment in enumerate(order, start=1):
        late = np.flatnonzero(pattern == segment) - np.arange(turns[segment]) * length // turns[segment]
        assert late.min() >= 0
        share += Fraction(turns[segment], length)
        if share < 1:
            assert late.max() <= number / (1 - share)
            smallest, largest = circular_gaps(pattern, segment)
            assert smallest >= length // turns[segment] - late.max()
            assert largest <= -(-length // turns[segment]) + late.max()


@pytest.mark.parametrize("turns", [[], [0, 0], [3, -1]])
def test_no_turns_is_refused(turns):
    """A pattern without turns is refused."""
    with pytest.raises(InputError, match="turns per segment"):
        periodic_pattern(turns)


def _cycle(turns, *, seed=0):
    """Binary labels, one image for each segment and label; row = 2 * segment + label."""
    rows = np.arange(2 * len(turns))
    queues = make_queues(rows, len(rows), seed=seed)
    return make_cycle(periodic_pattern(turns), np.full(len(turns), 2), queues=queues, seed=seed)


def test_trace_of_figure_2_with_all_phases_zero():
    """Segment and label of every draw of figure 2, binary labels, all phases 0, follow the stored trace."""
    cycle = dataclasses.replace(_cycle(GOLDEN["figure2"]["n_min"]), phases_m=np.zeros(4, dtype=np.int64))
    rows = cycle.rows(np.arange(37))
    assert [list(divmod(int(row), 2)) for row in rows] == GOLDEN["trace_fig2_Y0_zero"]


def test_labels_of_a_segment_even_out_over_two_passes_of_figure_2():
    """Segment 1 shows its labels 3 and 2 times in one pass, 5 and 5 times in two."""
    cycle = dataclasses.replace(_cycle(GOLDEN["figure2"]["n_min"]), phases_m=np.zeros(4, dtype=np.int64))
    rows = cycle.rows(np.arange(2 * 37))
    assert np.bincount(rows[:37])[2:4].tolist() == [3, 2]
    assert np.bincount(rows)[2:4].tolist() == [5, 5]


def test_phases_depend_on_the_seed():
    """The label a segment starts with is drawn from the seed."""
    phases = {tuple(_cycle([1] * 6, seed=seed).phases_m) for seed in range(20)}
    assert len(phases) > 10


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=50))
def test_order_is_stable(keys):
    """Rows of one group keep their order."""
    found = stable_order(np.array(keys, dtype=np.int64), 6)
    assert found.tolist() == sorted(range(len(keys)), key=lambda i: keys[i])


def test_order_of_many_keys():
    """More groups than 16 bits count are ordered too."""
    keys = np.random.default_rng(0).integers(200_000, size=50_000)
    assert np.array_equal(stable_order(keys, 200_000), np.argsort(keys, kind="stable"))
