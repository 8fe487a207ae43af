"""What `study prepare --dry-run` counts."""

import numpy as np
import pandas as pd

from study.data.labels import LabelSettings, add_labels, finish_labels
from study.data.manifest import finish_manifest
from study.data.splits import SplitSettings, split_manifest
from study.data.summary import describe_manifest

CLASSES = ("normal", "benign", "malignant")
TASKS = {"birads3": CLASSES, "density": ("A", "B", "C", "D")}


def arranged(folds=0, grades=None):
    """Sixty patients of a site and ten of another, some images dropped, some without a density."""
    frames = []
    for source, patients in (("site", 60), ("films", 10)):
        frame = pd.DataFrame(
            {
                "patient_id": np.repeat([f"{source}{n}" for n in range(patients)], 2),
                "image_id": [f"{source}-i{n}" for n in range(2 * patients)],
                "birads": grades
                if grades is not None and source == "site"
                else np.tile([1, 2, 4, 1, 3, 1], 20)[: 2 * patients],
                "density": pd.Series(np.tile(["A", "B", None, "D"], 30)[: 2 * patients], dtype="str"),
                "view": np.tile(["CC", "MLO"], patients),
                "manufacturer": pd.Series(["GE" if n % 3 else None for n in range(2 * patients)], dtype="str"),
            }
        )
        frames.append(finish_manifest(frame, source=source))
    settings = LabelSettings(auxiliary=("density",))
    manifest = add_labels(pd.concat(frames, ignore_index=True), settings)
    scheme = SplitSettings(scheme="folds", folds=folds, fold=1) if folds else SplitSettings()
    result = split_manifest(manifest, scheme)
    return finish_labels(result.manifest, settings), result.notes


def test_counts():
    """A count does not add up to the images that are used, or a dropped image is counted among them."""
    manifest, _ = arranged()
    summary = describe_manifest(manifest, CLASSES, tasks=TASKS)
    used = manifest[manifest["drop_reason"] == ""]
    assert summary.counts["source"].unique().tolist() == ["site", "films"]
    assert summary.counts["images"].sum() == len(used) == summary.counts[list(CLASSES)].to_numpy().sum()
    assert summary.counts["patients"].sum() == used["patient_id"].nunique()
    assert summary.counts["unlabelled"].sum() == 0


def test_dropped_rows_by_reason():
    """A reason is lost, or counted for another source."""
    manifest, _ = arranged()
    dropped = describe_manifest(manifest, CLASSES).dropped
    assert dropped.to_dict("records") == [
        {"source": "site", "reason": "BI-RADS 3 is dropped", "images": 20},
        {"source": "films", "reason": "BI-RADS 3 is dropped", "images": 3},
    ]


def test_facts():
    """Density, view or vendor is missing, or an unknown value vanishes."""
    manifest, _ = arranged()
    facts = describe_manifest(manifest, CLASSES).facts
    used = manifest[(manifest["drop_reason"] == "") & (manifest["source"] == "site")]
    views = facts[(facts["source"] == "site") & (facts["fact"] == "view")]
    assert dict(zip(views["value"], views["images"], strict=True)) == used["view"].value_counts().to_dict()
    for fact in ("density", "view", "vendor", "kind"):
        assert facts.loc[(facts["source"] == "site") & (facts["fact"] == fact), "images"].sum() == len(used)
    assert "unknown" in set(facts.loc[facts["fact"] == "density", "value"])


def test_imbalance():
    """By hand: 60 normal, 20 benign and 20 malignant images of the site make three to one."""
    manifest, _ = arranged()
    table = describe_manifest(manifest, CLASSES).imbalance.set_index("source")
    assert table.loc["site", "commonest"] == "normal"
    assert table.loc["site", "ratio"] == 3.0
    assert list(table.index) == ["site", "films", "all"]
    none = describe_manifest(arranged(grades=np.tile([1, 2], 60))[0], CLASSES).imbalance.set_index("source")
    assert none.loc["site", "ratio"] == float("inf")
    assert none.loc["site", "rarest"] == "malignant"


def test_tasks_and_origins():
    """A label of another task is not counted, or one that is missing counts as a class."""
    manifest, _ = arranged()
    summary = describe_manifest(manifest, CLASSES, tasks=TASKS)
    used = manifest[manifest["drop_reason"] == ""]
    density = summary.tasks[summary.tasks["task"] == "density"].set_index("class")[["train", "val", "test"]].sum(axis=1)
    assert density.to_dict() == {**used["density"].value_counts().to_dict(), "C": 0}
    origins = summary.origins[summary.origins["task"] == "density"].set_index("origin")
    assert origins.loc["missing", ["train", "val", "test"]].sum() == used["density"].isna().sum() > 0


def test_warnings():
    """A class without validation, one with fewer patients than folds, or what splitting said goes unseen."""
    grades = [1] * 116 + [4, 4, 2, 2]
    manifest, notes = arranged(folds=5, grades=grades)
    films = manifest["source"] == "films"
    manifest.loc[films, "drop_reason"] = "not wanted"
    warnings = describe_manifest(manifest, CLASSES, folds=5, notes=("look here", *notes)).warnings
    assert warnings[0] == "look here"
    assert any("class malignant has no image in" in text for text in warnings)
    assert any(text.startswith("class malignant has ") and " outside test for 5 folds" in text for text in warnings)
    assert not any("class normal" in text for text in warnings)
    assert describe_manifest(arranged()[0], CLASSES).warnings == ()


def test_no_ids():
    """A table that is shown and logged names a patient, an image or a path."""
    manifest, _ = arranged()
    summary = describe_manifest(manifest, CLASSES, tasks=TASKS)
    tables = (summary.counts, summary.facts, summary.dropped, summary.imbalance, summary.tasks, summary.origins)
    text = " ".join(table.to_csv() for table in tables)
    assert not any(name in text for name in ("site0", "films0", "-i0"))
