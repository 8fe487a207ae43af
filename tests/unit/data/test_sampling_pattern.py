"""The periodic pattern against the worked figures of paper periodic."""

import ast
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data.sampling_pattern import circular_gaps, periodic_pattern
from study.data.sampling_queues import Cycle, make_cycle
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


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(any))
def test_pattern_equals_the_word_by_word_version(turns):
    """The vectorised placement equals the slot-by-slot one for any number of turns."""
    assert periodic_pattern(turns).tolist() == _naive(turns)


@pytest.mark.parametrize("turns", [[], [0, 0], [3, -1]])
def test_no_turns_is_refused(turns):
    """A pattern without turns is refused."""
    with pytest.raises(InputError, match="turns per segment"):
        periodic_pattern(turns)


def test_trace_of_figure_2_with_all_phases_zero():
    """Segment and label of every draw of figure 2, binary labels, all phases 0, follow the stored trace."""
    turns = GOLDEN["figure2"]["n_min"]
    lanes = [[np.array([2 * lane]), np.array([2 * lane + 1])] for lane in range(4)]  # row = 2 * segment + label
    cycle = make_cycle(periodic_pattern(turns), lanes, seed=0)
    fields = {name: getattr(cycle, name) for name in Cycle.__slots__} | {"phases_m": np.zeros(4, dtype=np.int64)}
    rows = Cycle(**fields).rows(np.arange(37))
    assert [list(divmod(int(row), 2)) for row in rows] == GOLDEN["trace_fig2_Y0_zero"]


def test_phases_depend_on_the_seed():
    """The label a segment starts with is drawn from the seed."""
    lanes = [[np.array([0]), np.array([1])] for _ in range(6)]
    phases = {tuple(make_cycle(np.arange(6), lanes, seed=seed).phases_m) for seed in range(20)}
    assert len(phases) > 10
