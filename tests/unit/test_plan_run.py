"""From the study file's sampler section to the plan of a run."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from study.config import StudyConfig
from study.distributed.runs import plan_run, write_plan

ROWS = 60
SPLITS = np.where(np.arange(ROWS) % 4 == 3, "val", "train")


@pytest.fixture
def dataset():
    """Two sources of unlike size, three vendors as segments, patients of five images; a quarter validates."""
    return SimpleNamespace(
        labels_n=np.arange(ROWS) % 2,
        sources_n=np.where(np.arange(ROWS) < 40, "big", "small"),
        segments_n=np.array(["x", "y", "z"])[np.arange(ROWS) % 3],
        manifest=pd.DataFrame({"patient_id": [f"p{row // 5}" for row in range(ROWS)]}),
        rows=lambda split: np.flatnonzero(split == SPLITS),
    )


def config_of(**sampler):
    return StudyConfig.model_validate(
        {
            "study": "plan",
            "data": {"prepared": "nowhere", "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}]},
            "model": {"name": "test_efficientnet"},
            "sampler": sampler,
            "train": {"epochs": 3, "batch_size": 6},
        }
    )


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("source", "sources_n"),
        ("source_label", "sources_n"),
        ("segment", "segments_n"),
        ("bal_segments", "segments_n"),
        ("periodic", "segments_n"),
    ],
)
def test_what_a_sampler_balances(dataset, name, column):
    """The samplers of sources balance the source, the others the segments of the study file."""
    plan, _ = plan_run(config_of(name=name), dataset, seed=1)
    rows = dataset.rows("train")[plan.indices()]
    names, counts = np.unique(getattr(dataset, column)[rows], return_counts=True)
    assert plan.summary()["segment"].unique().tolist() == names.tolist()
    assert counts.max() - counts.min() <= (1 if name != "periodic" else counts.sum())


def test_steps_of_an_epoch(dataset):
    """An epoch has as many draws as the train split has images, or as many as the study file says."""
    plan, steps = plan_run(config_of(name="none"), dataset, seed=1)
    assert (steps, plan.num_steps) == (8, 24)  # 45 images, batches of 6, 3 epochs
    plan, steps = plan_run(config_of(name="none", epoch_draws=13), dataset, seed=1)
    assert (steps, plan.num_steps) == (3, 9)


def test_queue_and_unit_reach_the_plan(dataset):
    """Draws with replacement and draws of patients are what the study file asks for."""
    plan, _ = plan_run(config_of(name="label", queue="iid", unit="patient"), dataset, seed=1)
    assert (plan.queue, plan.unit, plan.name) == ("iid", "patient", "label")
    plan, _ = plan_run(config_of(name="none", unit="patient", epoch_draws=12), dataset, seed=1)
    patients = dataset.rows("train")[plan.indices(0, 2)] // 5
    assert sorted(patients.reshape(-1)) == list(range(12))


def test_an_equal_plan_is_not_drawn_again(dataset, tmp_path, monkeypatch):
    """Plans of equal content share one picture; another sampler or seed has its own."""
    drawn = []

    def draw(path, *, title, **parts):
        drawn.append(title)
        path.write_bytes(title.encode())

    monkeypatch.setattr("study.figures_plan.write_plan_figure", draw)
    monkeypatch.setattr("study.distributed.runs._pictures", {})
    for folder, name, seed in (("0", "label", 5), ("1", "label", 5), ("2", "label", 6), ("3", "none", 5)):
        plan, _ = plan_run(config_of(name=name), dataset, seed=seed)
        (tmp_path / folder).mkdir()
        write_plan(plan, tmp_path / folder, classes=("benign", "malignant"))
    content = [{file.name: file.read_bytes() for file in sorted(path.iterdir())} for path in sorted(tmp_path.iterdir())]
    assert content[0] == content[1]
    assert set(content[0]) == {"plan.json", "plan.png"}
    assert len({text for each in content for text in each.values()}) == 6
    assert len(drawn) == 3
