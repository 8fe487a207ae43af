"""Segments: names from columns, intervals of numbers, and their combinations."""

import numpy as np
import pandas as pd
import pytest

from study.data.manifest import finish_manifest
from study.data.segments import Binned, add_segments
from study.errors import InputError

AGES = [49.0, 50.0, 59.9, 60.0, np.nan, 12.0]


def table(**columns):
    rows = len(next(iter(columns.values())))
    return pd.DataFrame({"source": pd.Series(["site a"] * rows, dtype="str"), **columns})


def manifest_of(**columns):
    rows = len(next(iter(columns.values())))
    ids = [str(number) for number in range(rows)]
    return finish_manifest(pd.DataFrame({"patient_id": ids, "image_id": ids} | columns), source="s")


def segments_of(frame, *parts):
    return list(add_segments(frame, list(parts))["segment"])


def test_ages_in_decades():
    """A lower edge belongs to its interval, an upper one to the next, and a missing age is unknown."""
    assert segments_of(table(age=AGES), {"column": "age", "bins": [50, 60]}) == [
        "age_under_50",
        "age_50_to_60",
        "age_50_to_60",
        "age_60_up",
        "unknown",
        "age_under_50",
    ]


def test_one_edge_makes_two_segments():
    """A single edge splits a column in two, and an edge with a fraction is safe in a metric's name."""
    assert segments_of(table(age=[1.0, 3.0]), Binned(column="age", bins=(2.5,))) == ["age_under_2_5", "age_2_5_up"]


def test_large_edges_keep_their_digits():
    """Edges that differ only in late digits give different names."""
    names = Binned(column="file_bytes", bins=(1_000_000, 1_000_001)).names
    assert names == ("file_bytes_under_1000000", "file_bytes_1000000_to_1000001", "file_bytes_1000001_up")


def test_columns_and_intervals_join():
    """Parts stand in the order of the study file, and only combinations that occur are segments."""
    frame = table(age=[40.0, 70.0, 70.0], view=pd.Series(["CC", None, "M/LO"], dtype="str"))
    assert segments_of(frame, "source", {"column": "age", "bins": [50]}, "view") == [
        "site_a.age_under_50.CC",
        "site_a.age_50_up.unknown",
        "site_a.age_50_up.M_LO",
    ]


def test_nullable_and_whole_numbers():
    """Whole numbers with missing values are cut as others are."""
    ages = pd.Series([1, None, 3], dtype="Int64")
    assert segments_of(table(age=ages), {"column": "age", "bins": [2]}) == ["age_under_2", "unknown", "age_2_up"]


def test_two_names_of_one_spelling_are_one_segment():
    """Values that differ only in characters a metric's name cannot have fall together, and the index stays."""
    frame = table(model=pd.Series(["a b", "a_b"], dtype="str")).set_index(pd.Index([7, 3]))
    assert add_segments(frame, ["model"])["segment"].to_dict() == {7: "a_b", 3: "a_b"}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"column": "ages", "bins": [50]}, "did you mean 'age'"),
        ({"column": "source", "bins": [50]}, "'source' at numbers, but it holds text"),
        ({"column": "age", "bins": []}, "ascending numbers"),
        ({"column": "age", "bins": [60, 50]}, "ascending numbers"),
        ({"column": "age", "bins": [50, 50]}, "ascending numbers"),
        ({"column": "age", "bins": [50, float("nan")]}, "ascending numbers"),
        ({"column": "age", "bins": [50, "60"]}, "ascending numbers"),
        ({"column": "age", "bins": [True]}, "ascending numbers"),
        ({"column": "age", "edges": [50]}, "expected a column's name, or its column and bins"),
        ({"column": "age", "bins": 50}, "expected a column's name, or its column and bins"),
    ],
)
def test_wrong_parts_are_refused(part, words):
    """What cannot be cut is refused in words that name the column and what was found."""
    with pytest.raises(InputError, match=words):
        add_segments(table(age=AGES), [part])


class TestSegments:
    """Segments are names that are safe in metrics, files and URLs."""

    def test_joined(self):
        """Values are not joined by a dot, or unsafe characters stay."""
        manifest = manifest_of(manufacturer=["HOLOGIC, Inc.", "GE", None], view=["CC", "MLO", "CC"])
        assert list(add_segments(manifest, ["source", "manufacturer"])["segment"]) == [
            "s.HOLOGIC__Inc_",
            "s.GE",
            "s.unknown",
        ]
        assert list(add_segments(manifest, ["view"])["segment"]) == ["CC", "MLO", "CC"]

    def test_numbers_and_blanks(self):
        """A number is written with a fraction that is not there, or a blank is not unknown."""
        manifest = manifest_of(bits_stored=[12.0, np.nan], model=["x/y", "  "])
        assert list(add_segments(manifest, ["bits_stored", "model"])["segment"]) == ["12.x_y", "unknown.unknown"]

    def test_none(self):
        """Without columns there is not one segment."""
        assert set(add_segments(manifest_of(birads=[1, 2]), [])["segment"]) == {"all"}

    def test_unknown_column(self):
        """A column that is not there is ignored."""
        with pytest.raises(InputError, match="did you mean 'manufacturer'"):
            add_segments(manifest_of(birads=[1]), ["manufacturers"])
