"""What a person sees of a plan before anything is trained."""

import json

import numpy as np
import pytest

from study.data.sampling import make_plan
from study.data.sampling_summary import MOST_IN_BATCH, MOST_LINES

CLASSES = ("benign", "malignant")


def plan_of(name="bal_segments", *, num_steps=4, segments=2, **options):
    """Segments of 30 benign and 5 malignant images each, and one image without a label."""
    labels = [*([0] * 30 + [1] * 5) * segments, -1]
    names = [*np.repeat([f"s{number:02}" for number in range(segments)], 35), "s00"]
    return make_plan(name, labels=labels, segments=names, batch_size=10, num_steps=num_steps, seed=0, **options)


def test_record_counts_what_is_drawn():
    """Images, repeats and images never seen are those of the draws; the image without a label is none of them."""
    plan = plan_of()
    found = plan.describe()
    repeats = np.bincount(plan.indices().reshape(-1), minlength=71)[:70]
    assert found.images == 70
    assert found.repeats == (repeats.min(), np.median(repeats), repeats.max()) == (0, 0, 2)
    assert found.never_seen == (repeats == 0).sum() == 40
    assert found.table.equals(plan.summary())
    assert found.warnings == plan.warnings


def test_first_batches_place_by_place():
    """The first batches list segment and class of every place."""
    plan = plan_of()
    batches = plan.describe(batches=2).batches
    assert [len(batch) for batch in batches] == [10, 10]
    rows = plan.indices(0, 2)
    assert [label for _, label in batches[1]] == [int(row % 35 >= 30) for row in rows[1]]
    assert [segment for segment, _ in batches[0]] == [f"s{row // 35:02}" for row in rows[0]]


def test_a_plan_without_steps_can_be_described():
    """A plan of no steps draws nothing, and says so instead of failing."""
    found = plan_of(num_steps=0).describe()
    assert found.batches == ()
    assert (found.never_seen, found.repeats) == (70, (0, 0, 0))
    assert "0 draws, 0 batches of 10" in found.lines(CLASSES)[0]


def test_record_is_plain():
    """The record can be written as JSON and holds the table, the batches and the warnings."""
    record = json.loads(json.dumps(plan_of().describe().to_record()))
    assert record["cells"][1] == {
        "segment": "s00",
        "label": 1,
        "share": 0.25,
        "images": 5,
        "repeats_min": 2,
        "repeats_median": 2.0,
        "repeats_max": 2,
        "never_seen": 0,
    }
    assert record["repeats"] == {"min": 0, "median": 0.0, "max": 2}
    assert record["first_batches"][0][0][0] in {"s00", "s01"}
    assert record["warnings"][0] == "1 of 71 images have no label and are never drawn"


def test_lines():
    """The text has the sampler, the table, the mix of the first batches and the warnings."""
    lines = plan_of("periodic", queue="iid", patients=[f"p{n}" for n in range(71)]).describe().lines(CLASSES)
    assert lines[0] == "sampler periodic, iid draws of patients, seed 0: 40 draws, 4 batches of 10"
    assert lines[2].split() == ["segment", "class", "images", "share", "min", "median", "max", "never", "seen"]
    assert [line.split()[:3] for line in lines[3:7]] == [
        ["s00", "benign", "30"],
        ["s00", "malignant", "5"],
        ["s01", "benign", "30"],
        ["s01", "malignant", "5"],
    ]
    assert lines[7].startswith("batch 0: s0")
    assert lines[-1].startswith("note: segment 's01', class 1 has only 5 patients")


def test_the_mix_of_a_batch():
    """A batch is told as its segments, the largest first, with their classes."""
    lines = plan_of("source_label").describe().lines(CLASSES)
    batch = next(line for line in lines if line.startswith("batch 0"))
    assert batch in {
        f"batch 0: s00 5 ({a} benign, {5 - a} malignant); s01 5 ({b} benign, {5 - b} malignant)"
        for a in (2, 3)
        for b in (2, 3)
    }


def test_many_segments_are_cut():
    """Of many segments those with the largest shares are shown, and what the others get is said."""
    lines = plan_of("periodic", segments=50, num_steps=50).describe().lines(CLASSES)
    more = next(line for line in lines if line.startswith("..."))
    assert more == "... and 60 more, with 60.00% of the draws"
    assert len([line for line in lines if line.startswith("s") and "%" in line]) == MOST_LINES
    assert next(line for line in lines if line.startswith("batch 0")).endswith(f"{10 - MOST_IN_BATCH} more segments")


@pytest.mark.parametrize("classes", [(), ("benign",)])
def test_a_class_without_a_name(classes):
    """A class that has no name is told by its number."""
    assert "class 1" in "\n".join(plan_of().describe().lines(classes))
