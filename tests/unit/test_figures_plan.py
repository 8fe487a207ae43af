"""Pictures of a plan: they are there, and each field says what the table says."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from study.figures_plan import MOST_SEGMENTS, _cells, _repeats_text, _row_names, _texts, write_plan_figure
from study.figures_plan import write_turns_figure as write_turns

CLASSES = ("benign", "malignant")


def table_of(num_segments):
    """Every segment has 30 benign images; all but the first have 5 malignant ones."""
    rows = [(f"s{number:02}", label) for number in range(num_segments) for label in (0, 1) if number or not label]
    frame = pd.DataFrame(rows, columns=["segment", "label"])
    frame["images"] = np.where(frame["label"] == 0, 30, 5)
    return frame.assign(share=1 / len(frame), repeats_min=1, repeats_max=4, never_seen=frame["label"] * 1200)


def batches_of(num_segments, size=10, count=3):
    return [[(f"s{(size * n + place) % num_segments:02}", place % 2) for place in range(size)] for n in range(count)]


def draw(path, num_segments):
    write_plan_figure(
        path,
        title="a plan",
        table=table_of(num_segments),
        num_draws=300,
        batches=batches_of(num_segments),
        classes=CLASSES,
    )
    return imread(path)


@pytest.mark.parametrize("num_segments", [1, 3, 60])
def test_plan_figure(tmp_path, num_segments):
    """A picture is written whole, without a partial file, and is not blank, for any number of segments."""
    pixels = draw(tmp_path / "plan.png", num_segments)
    assert pixels.shape[1] == 1170
    assert pixels.shape[0] <= 1200
    assert pixels[..., :3].std() > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["plan.png"]


def test_equal_plans_equal_pictures(tmp_path):
    """Drawing twice gives the same pixels."""
    assert np.array_equal(draw(tmp_path / "a.png", 3), draw(tmp_path / "b.png", 3))


def test_many_segments_become_others():
    """Beyond the number that can be read, the segments with the smallest shares share one row, and nothing is lost."""
    table = table_of(60)
    rows = _row_names(table)
    assert len(rows) == MOST_SEGMENTS
    assert rows[-1] == "45 others"
    cells = _cells(table, "images", rows=rows, num_classes=2)
    assert cells.sum() == table["images"].sum()
    assert cells[-1].tolist() == [45 * 30, 44 * 5]


def test_texts():
    """A field says the range of repeats and how many images are never seen; an empty one that there is no image."""
    texts = _texts(table_of(3), _repeats_text, rows=["s00", "s01", "s02"], classes=CLASSES)
    assert texts == [["1 to 4", "none"], ["1 to 4", "1 to 4\n1,200 never"], ["1 to 4", "1 to 4\n1,200 never"]]


def test_a_plan_without_steps_is_drawn(tmp_path):
    """A plan that draws nothing gives a picture of the data instead of a failure."""
    table = table_of(3).assign(share=0.0)
    write_plan_figure(tmp_path / "plan.png", title="none", table=table, num_draws=0, batches=[], classes=CLASSES)
    assert imread(tmp_path / "plan.png").shape[1] == 1170


@pytest.mark.parametrize("count", [1, 40])
def test_turns_figure(tmp_path, count):
    """Turns of one batch or of many are drawn; what is too long to read is cut."""
    write_turns(tmp_path / "turns.png", title="turns", batches=batches_of(4, count=count), classes=CLASSES)
    assert imread(tmp_path / "turns.png").shape[1] == 990
