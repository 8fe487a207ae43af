"""Made-up manifests for tests of labels and splits: no pixels, only columns."""

import numpy as np
import pandas as pd

from study.data.labels import LabelSettings, add_labels
from study.data.manifest import finish_manifest

SPLITS = ("train", "val", "test")


def manifest_of(patients, *, labels, sources="a", drop=None, **columns):
    """The columns that splits read, one row per entry."""
    nothing = pd.Series([None] * len(patients), dtype="str")
    return pd.DataFrame(
        {
            "patient_id": pd.Series(patients, dtype="str"),
            **dict.fromkeys(("laterality", "breast_id", "split_official"), nothing),
            "label": pd.array(labels, dtype="Int64"),
            "source": sources,
            "drop_reason": drop if drop is not None else "",
            **columns,
        }
    )


def cohort(seed=0, patients=200, shares=(0.7, 0.25, 0.05), sources=("a", "b")):
    """Patients of four images each, two of either breast, classes drawn by breast."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        source = sources[patient % len(sources)]
        for side, label in zip("LR", rng.choice(3, 2, p=shares), strict=True):
            rows += [(f"{source}{patient}", int(label), source, side)] * 2
    frame = pd.DataFrame(rows, columns=["patient_id", "label", "source", "laterality"])
    return manifest_of(
        frame["patient_id"],
        labels=frame["label"],
        sources=frame["source"],
        laterality=frame["laterality"].astype("str"),
    )


def patients_of(done):
    """Split, worst class and source of each patient."""
    return done.groupby("patient_id").agg(split=("split", "first"), worst=("label", "max"), source=("source", "min"))


def labelled(frame, source):
    """A finished and labelled manifest from some columns."""
    return add_labels(finish_manifest(pd.DataFrame(frame), source=source), LabelSettings())


def vindr():
    """VinDr-Mammo in its published counts: 16,000 and 4,000 images, four of an exam, CC and MLO of a breast alike."""
    rows = []
    for word, grades in (("training", (10_724, 3_742, 744, 610, 180)), ("test", (2_682, 934, 186, 152, 46))):
        breasts = np.repeat(np.arange(1, 6), np.array(grades) // 2)
        breasts = np.random.default_rng(1).permutation(breasts)
        for number, grade in enumerate(breasts):
            exam, side = f"{word}{number // 2}", "LR"[number % 2]
            rows += [(exam, f"{exam}{side}{view}", int(grade), word, side, view) for view in ("CC", "MLO")]
    columns = ["patient_id", "image_id", "birads", "split_official", "laterality", "view"]
    return labelled(pd.DataFrame(rows, columns=columns), "vindr")


def inbreast(seed=0):
    """INbreast in its published counts: 410 images of 108 patients, grades per image, few patients normal at most."""
    rng = np.random.default_rng(seed)
    images = [4] * 88 + [3] * 18 + [2] * 2
    worst = rng.permutation(np.repeat([5, 2, 1, 3], [57, 42, 6, 3]))
    pool = {1: 67, 2: 220, 3: 23, 5: 100}
    grades = []
    for count, grade in zip(images, worst, strict=True):
        own = [int(grade)]
        pool[int(grade)] -= 1
        grades.append((own, count, int(grade)))
    rows = []
    for number, (own, count, limit) in sorted(enumerate(grades), key=lambda entry: entry[1][2]):
        while len(own) < count:
            options = [grade for grade in pool if grade <= limit and pool[grade] > 0]
            options = options or [grade for grade in pool if pool[grade] > 0]
            chances = np.array([pool[grade] for grade in options]) / sum(pool[grade] for grade in options)
            own.append(int(rng.choice(options, p=chances)))
            pool[own[-1]] -= 1
        rows += [(f"in{number}", f"in{number}-{i}", grade) for i, grade in enumerate(own)]
    return labelled(pd.DataFrame(rows, columns=["patient_id", "image_id", "birads"]), "inbreast")


def embed(patients=300, seed=0):
    """EMBED in small: nearly all images normal or benign."""
    rng = np.random.default_rng(seed)
    grades = rng.choice([1, 2, 4], patients * 4, p=[0.8, 0.19, 0.01])
    frame = {
        "patient_id": np.repeat([f"em{number}" for number in range(patients)], 4),
        "image_id": [f"em-i{number}" for number in range(patients * 4)],
        "birads": grades,
    }
    return labelled(frame, "embed")
